"""Inputs of hypercalls, made from their layouts field by field.

Two ways. `near`: each field for itself is what a caller would say most of the time. `right`: a caller that has read the
hypervisor's books says what is true (`truth.py`) in every field, or in all but one: so it comes past the first checks
even where there are sixty fields, and the last one is reached as often as the first.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hv.hypervisor.hypercalls.registry import Declaration
from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.partitions.partition import Partition
from hv.spec.layout import FieldType, Layout
from hv.spec.partition import PARTITION_ID_SELF
from tests.hypervisor import truth
from tests.hypervisor.near import (
    A_CHILDS,
    NEAR,
    PARTITION_FIELDS,
    PARTITION_OF,
    RIGHT,
    ROOT,
    SELDOM,
    UNITS,
    Draw,
    row_of,
)

Known = Mapping[str, int | Layout]
FLAWLESS = 0.45                         # of the inputs that are right: how many have nothing wrong


class Words(NamedTuple):
    """The input block of a call, and what its control word says of it."""

    block: bytes = b""
    reps: int = 0
    start: int = 0
    units: int = 0                      # of the variable header


def input_of(chance: random.Random, declaration: Declaration, caller: int, books: Hypervisor | None) -> Words:
    """The input of a call; with *books* one that is right, or wrong in one field."""
    code = int(declaration.code)
    partition = books and _subject(chance, books, code, caller)
    if books is None or partition is None:
        return _near(chance, declaration, PARTITION_OF["root" if caller == ROOT else "child"])
    known = _known(chance, declaration, books, partition, caller)
    reps = chance.randrange(1, 4) if declaration.rep else 0
    start = chance.randrange(reps) if reps and chance.random() < 0.1 else 0
    block = bytearray(_right(chance, declaration.input, known) if declaration.input else b"")
    units, header = _variable_header(chance, code, block) if declaration.variable else (0, b"")
    lists = [declaration.rep_input] * reps if declaration.rep_input else []
    block += header + b"".join(_right(chance, layout, known) for layout in lists)
    if chance.random() >= FLAWLESS:
        _spoil(chance, declaration, block)
    return Words(bytes(block), reps, start, units)


# --- Near the truth in each field --------------------------------------------------------------------------------

def _near(chance: random.Random, declaration: Declaration, whose: Draw) -> Words:
    code = int(declaration.code)
    known = row_of(chance, code)
    reps = chance.randrange(1, 5) if declaration.rep else 0
    start = chance.randrange(reps) if reps and chance.random() < 0.2 else 0
    block, units = _block(chance, declaration.input, known, whose) if declaration.input else b"", 0
    if declaration.variable:
        units, header = _variable_header(chance, code, block)
        block += header
    if declaration.rep_input is not None:
        block += b"".join(_block(chance, declaration.rep_input, {}, whose) for _ in range(reps))
    return Words(block, reps, start, units)


def _block(chance: random.Random, layout: type[Layout], known: Mapping[str, int], whose: Draw) -> bytes:
    return b"".join(_field(chance, name, kind, known, whose) for name, (_, kind) in layout.FIELDS.items())


def _field(chance: random.Random, name: str, kind: FieldType, known: Mapping[str, int], whose: Draw) -> bytes:
    if kind.layout is not None:
        return b"".join(_block(chance, kind.layout, known, whose) for _ in range(kind.count))
    if name in known:
        return _bytes(known[name], kind.size)
    near = whose if name in PARTITION_FIELDS else NEAR.get(name)
    if name.rstrip("012") in SELDOM:
        return bytes(kind.size) if chance.random() < 0.99 else chance.randbytes(kind.size)
    if near is None or chance.random() < 0.02:
        return chance.choice((bytes(kind.size), bytes(kind.size), chance.randbytes(kind.size), b"\xff" * kind.size))
    return _bytes(near(chance), kind.size)


def _bytes(value: int, size: int) -> bytes:
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def _variable_header(chance: random.Random, code: int, block: bytes | bytearray) -> tuple[int, bytes]:
    """Units that follow the fixed input: mostly as many as the bank mask in its last field says."""
    if code in UNITS:
        counts, unit = UNITS[code]
        units = chance.choice(counts)
        return units, b"".join(unit(chance).to_bytes(8, "little") for _ in range(units))
    wanted = int.from_bytes(block[-8:], "little").bit_count()
    units = wanted if wanted <= 64 and chance.random() < 0.9 else chance.randrange(4)
    return units, b"".join(chance.choice((0, 1, 3, chance.getrandbits(64))).to_bytes(8, "little") for _ in range(units))


# --- Right in all fields, or in all but one ----------------------------------------------------------------------

def _subject(chance: random.Random, books: Hypervisor, code: int, caller: int) -> Partition | None:
    """Whom the call is about: a child of the caller's or, of what anybody may do for himself, itself."""
    own = books.partitions.get(caller)
    if own is None:
        return None
    children = sorted(own.children)
    if code in A_CHILDS and (not children or chance.random() < (0.2 if own.is_root else 0.8)):
        return own
    return books.partitions.get(chance.choice(children)) if children else None


def _known(chance: random.Random, declaration: Declaration, books: Hypervisor, it: Partition, caller: int) -> Known:
    """Values that belong together: what `truth` says of *it*, and a row of what fits the call."""
    own = it.id == caller and chance.random() < 0.5
    known: dict[str, int | Layout] = dict.fromkeys(PARTITION_FIELDS, PARTITION_ID_SELF if own else it.id)
    known["connection_partition"] = chance.choice(sorted(books.partitions))
    known["previous_child_id"] = 0
    if declaration.input is not None:
        code, layout = int(declaration.code), declaration.input
        known |= truth.of_input(chance, books, code, layout, it, truth.GENERAL) | row_of(chance, code)
        known |= truth.of_input(chance, books, code, layout, it, truth.PARTICULAR)
    return known


def _right(chance: random.Random, layout: type[Layout], known: Known) -> bytes:
    """*layout* with nothing wrong in it, as far as is known."""
    parts = []
    for name, (_, kind) in layout.FIELDS.items():
        value = known.get(name)
        if isinstance(value, Layout) and kind.layout is type(value):
            parts.append(value.pack())
        elif kind.layout is not None:
            parts += [_right(chance, kind.layout, known) for _ in range(kind.count)]
        elif isinstance(value, int):
            parts.append(_bytes(value, kind.size))
        else:
            draw = None if name.rstrip("012") in SELDOM else RIGHT.get(name) or NEAR.get(name)
            parts.append(_bytes(draw(chance), kind.size) if draw else bytes(kind.size))
    return b"".join(parts)


def _leaves(layout: type[Layout], at: int = 0) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of each field that holds a value."""
    for name, (offset, kind) in layout.FIELDS.items():
        if kind.layout is None:
            yield name, at + offset, kind.size
        else:
            for n in range(kind.count):
                yield from _leaves(kind.layout, at + offset + n * kind.layout.SIZE)


def _spoil(chance: random.Random, declaration: Declaration, block: bytearray) -> None:
    """One field is another value: one that a caller might say, a bit that is wrong, or anything."""
    leaves = list(_leaves(declaration.input)) if declaration.input else []
    step = declaration.rep_input.SIZE if declaration.rep_input else 8
    for at in range(declaration.input_size, len(block) - step + 1, step):
        leaves += list(_leaves(declaration.rep_input, at)) if declaration.rep_input else [("unit", at, 8)]
    if not leaves:
        return
    name, at, size = chance.choice(leaves)
    old = int.from_bytes(block[at : at + size], "little")
    near = NEAR.get(name)
    values = [0, (1 << 8 * size) - 1, old ^ 1 << chance.randrange(8 * size), old + 1, chance.getrandbits(8 * size)]
    value = near(chance) if near is not None and chance.random() < 0.5 else chance.choice(values)
    block[at : at + size] = _bytes(value, size)
