"""Pieces of the hypervisor that a learner writes in Python: what each job gets, what it must give, and what is true.

A piece is a function with the job's name for it. It is called in a process of its own (`sandbox/`), with plain data and
with *doors*: functions of ours which it uses by name. How much it may do is counted in lines and in uses of a door.

    def walk(eptp, gpa, read_u64):      # the job `ept_walk`
        ...
        return spa, rights              # or None when nothing is mapped there
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hv.image.errors import ImageError
from hv.image.source import read_text
from hv.lab.sandbox.limits import Limits as PieceLimits
from hv.lab.sandbox.outcome import Ending, Outcome
from hv.lab.sandbox.piece import Piece
from hv.spec.ept import EptEntry, EptMemoryType, Eptp
from hv.spec.x86 import PAGE_SIZE
from hv.vmx.translation.ept_walk import EptWalk, walk

FUNCTIONS = {"ept_walk": "walk"}        # the jobs there are, and the function that each asks for
_WB = int(EptMemoryType.WB)
_LEVEL_BITS, _PAGE_BITS = 9, 12


class Words(NamedTuple):
    """Physical memory for a walk: *words* by address, nothing but zeros elsewhere, up to *size* bytes."""

    words: Mapping[int, int]
    size: int

    def read_u64(self, spa: int) -> int:
        """The 64-bit word at *spa*."""
        return self.words.get(spa, 0)


def open_piece(path: Path, steps: int, asks: int) -> Piece:
    """The piece in *path*, loaded; ImageError says what is wrong with it, and on which line."""
    piece = Piece(read_text(path), PieceLimits(steps=steps, asks=asks), path.name)
    try:
        outcome = piece.load()
    except BaseException:
        piece.close()
        raise
    if not outcome.returned:
        piece.close()
        raise ImageError(outcome.message)
    return piece


def walked(piece: Piece, memory: Any, eptp: int, gpa: int) -> tuple[Outcome, list[int]]:
    """What the piece says of *gpa*, and the addresses that it read. Where no RAM is, all bits are ones."""
    reads: list[int] = []

    def read_u64(spa: Any) -> int:
        if not isinstance(spa, int) or isinstance(spa, bool) or spa % 8:
            raise ValueError(f"read_u64 takes a physical address, a multiple of 8; found {spa!r:.40}")
        reads.append(spa)
        return int(memory.read_u64(spa)) if 0 <= spa <= memory.size - 8 else (1 << 64) - 1

    return piece.call(FUNCTIONS["ept_walk"], eptp, gpa, doors={"read_u64": read_u64}), reads


def truth(memory: Any, eptp: int, gpa: int) -> tuple[EptWalk, list[int] | None]:
    """What the processor finds, and the same as a piece would say it."""
    found = walk(memory, eptp, gpa)
    return found, None if found.spa is None else [found.spa, int(found.rights)]


def mistake(found: EptWalk, said: Any) -> str:
    """In what way *said* is wrong, where that is a usual way; empty otherwise."""
    if found.spa is None:
        return "something is said to be mapped, where the walk ends" if said is not None else ""
    if said is None:
        return "nothing is said to be mapped, where something is"
    if not (isinstance(said, list) and len(said) == 2 and all(type(one) is int for one in said)):
        return "no pair of physical address and rights"
    spa, rights = said
    return _wrong_address(found, spa) or _wrong_rights(found, rights)


def _wrong_address(found: EptWalk, spa: int) -> str:
    assert found.spa is not None
    offset = found.gpa & found.page_size - 1
    if spa == found.spa:
        return ""
    if offset and spa == found.spa - offset:
        return "the offset in the page is missing"
    if found.page_size > PAGE_SIZE and spa == (found.spa & -found.page_size) + found.gpa % PAGE_SIZE:
        return "a large page has the offset of a small one"
    if spa == found.entries[-1].entry.raw & -PAGE_SIZE | found.gpa % PAGE_SIZE:
        return "bits above the address are taken for address"
    if spa == found.entries[-1].entry.raw or spa & ~0xFFF == found.entries[-1].entry.raw & ~0xFFF:
        return "rights and types of the entry are left in the address"
    return "another physical address"


def _wrong_rights(found: EptWalk, rights: int) -> str:
    each = [step.entry.raw & 7 for step in found.entries]
    union = 0
    for one in each:
        union |= one
    if rights == int(found.rights):
        return ""
    if rights == each[-1]:
        return "the rights of the last entry alone"
    return "the rights of any entry" if rights == union else "other rights"


# --- tables that nobody knows beforehand ------------------------------------------------------------


def random_tables(seed: int, count: int) -> tuple[Words, int, list[int]]:
    """Tables made from *seed*, their EPT pointer, and *count* addresses that meet every kind of entry in turn."""
    chance = random.Random(seed)
    words: dict[int, int] = {}
    pages = iter(chance.sample(range(0x100, 0x8000), 4 * count + 1))
    root = next(pages) * PAGE_SIZE
    gpas = []
    for number in range(count):
        gpa = chance.randrange(1 << 48)
        _make_way(chance, words, pages.__next__, root, gpa, *_KINDS[number % len(_KINDS)])
        gpas.append(gpa)
    eptp = Eptp(memory_type=_WB, walk_length=3, root=root >> _PAGE_BITS).raw
    return Words(words, 0x8000 * PAGE_SIZE), eptp, gpas


# The level of the last entry of a walk, and whether it maps something.
_KINDS = ((1, True), (2, True), (3, True), (1, False), (2, False), (4, False), (1, True), (3, False))


def _make_way(chance: random.Random, words: dict[int, int], new_page: Callable[[], int], root: int, gpa: int,
              last: int, present: bool) -> None:
    """Entries for *gpa* down to the level *last*; what earlier ones made stays."""
    table = root
    for level in range(4, 0, -1):
        shift = _PAGE_BITS + _LEVEL_BITS * (level - 1)
        at = table + 8 * (gpa >> shift & 511)
        known = EptEntry(words.get(at, 0))
        if known.present and known.large:
            return
        if level == last and not known.raw:
            words[at] = _leaf(chance, level) if present else chance.getrandbits(40) << _PAGE_BITS
            return
        if not known.present:
            rights = chance.choice((7, 7, 5, 3, 1))
            words[at] = new_page() * PAGE_SIZE | rights | chance.getrandbits(1) << 8
        table = EptEntry(words[at]).address


def _leaf(chance: random.Random, level: int) -> int:
    """A page somewhere below 512 GiB; bits that the processor ignores are set now and then, bit 63 too."""
    shift = _PAGE_BITS + _LEVEL_BITS * (level - 1)
    page = chance.randrange(1, 1 << 39 - shift) << shift
    ignored = chance.getrandbits(1) << 63 | chance.getrandbits(1) << 52
    return page | ignored | chance.choice((7, 3, 5, 1)) | _WB << 3 | (level > 1) << 7


__all__ = ["FUNCTIONS", "Ending", "mistake", "open_piece", "random_tables", "truth", "walked"]
