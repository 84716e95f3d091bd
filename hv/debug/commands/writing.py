"""write: memory is changed, by any of its three kinds of address."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from hv.debug.completion import Word, numbers
from hv.debug.errors import DebugError
from hv.debug.looking import MOST_BYTES, page_walk, read_spa
from hv.debug.registry import command, first_word
from hv.debug.render import Changed
from hv.debug.session import Session
from hv.hypervisor.partitions.partition import Partition
from hv.machine.faults import Access
from hv.machine.ram import pages_of
from hv.replay.changes import SetMemory, SetPhysicalMemory
from hv.replay.refusal import ChangeRefused, spans

SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
_KINDS = {"bytes": "hexadecimal: 90 90, or 9090", "text": '"hello\\n", without a zero at its end',
          **{kind: f"numbers of {size} bytes" for kind, size in SIZES.items()}}


def _spaces(session: Session, typed: str) -> list[Word]:
    return [Word("gva", "linear"), Word("gpa", "guest-physical"), Word("spa", "system-physical")]


def _values(session: Session, typed: str) -> Iterator[Word]:
    if len(typed.split()) + typed.endswith(" ") <= 3:
        yield from (Word(kind, meaning) for kind, meaning in _KINDS.items())
    else:
        yield from numbers(session)


@command("write", "w", space=_spaces, text=_values)
def write(session: Session, space: str, address: int, text: str) -> Changed:
    """Write to memory at a linear (gva), guest-physical (gpa) or system-physical (spa) address.

    What is written: `bytes 90 90`, `u8`, `u16`, `u32` or `u64` and numbers, `text "hello\\n"`. A linear address goes
    through the VP's own tables as they stand. Rights hold for guests, not here: what the guest itself could not do is
    said. Code that was translated from there is dropped; of tables, caches may hold what was, until they are flushed.

    Example: `write gva rsp u64 1 2`, `write gpa 0x10000 bytes 90 90 f4`, `write gva rsp text "hello"`
    """
    data = _data(session, text)
    if space == "spa":
        return _physical(session, address, data)
    partition = session.vp.partition
    notes: list[str] = []
    if space == "gva":
        pieces = _translated(session, address, len(data), notes)
    elif space == "gpa":
        pieces = [(address, len(data))]
    else:
        raise DebugError(f"`{space}` is no kind of address", "there are gva (linear), gpa, spa")
    before = b"".join(_seen(partition, gpa, length, notes) for gpa, length in pieces)
    done = 0
    for gpa, length in pieces:
        session.change(SetMemory(partition.id, gpa, data[done : done + length]))
        done += length
    return Changed(f"{space} {address:#x}", before, data, tuple(notes))


def _physical(session: Session, spa: int, data: bytes) -> Changed:
    before = read_spa(session.vp.partition, spa, len(data))
    session.change(SetPhysicalMemory(spa, data))
    owners = session.machine.hypervisor.owners
    taken = [at for at, _ in pages_of(spa, len(data)) if owners.is_taken(at >> 12)]
    return Changed(f"spa {spa:#x}", before, data,
                   ("this page is the hypervisor's: no partition sees it at an address of its own",) if taken else ())


def _translated(session: Session, gva: int, size: int, notes: list[str]) -> list[tuple[int, int]]:
    """(gpa, length) of each page's part of *size* bytes at *gva*."""
    found = []
    for at, length in pages_of(gva, size):
        walk = page_walk(session.vp, at)
        found.append((walk.gpa, length))
        if not walk.writable:
            notes.append(f"the guest's tables have {at:#x} read-only")
    return found


def _seen(partition: Partition, gpa: int, size: int, notes: list[str]) -> bytes:
    """What stands there; a note where the EPT would not let the guest write."""
    try:
        parts = spans(partition, gpa, size)
    except ChangeRefused as error:
        raise DebugError(str(error), "`map` shows what is there") from None
    if any(not rights & Access.WRITE for _, _, rights in parts):
        notes.append(f"the EPT does not let the guest write to {gpa:#x}")
    return b"".join(read_spa(partition, spa, length) for spa, length, _ in parts)


def _data(session: Session, text: str) -> bytes:
    """The bytes that *text* says; DebugError."""
    kind, rest = first_word(text)
    if kind in SIZES:
        data = b"".join(_number(session, word, SIZES[kind]) for word in rest.split())
    elif kind == "bytes":
        data = _hexadecimal(rest)
    elif kind == "text":
        data = _text(rest)
    else:
        raise DebugError(f"`{kind}` is nothing to write", f"there are {', '.join(_KINDS)}: write gva rsp u64 1")
    if not 1 <= len(data) <= MOST_BYTES:
        raise DebugError(f"{len(data)} bytes are out of range 1..{MOST_BYTES}")
    return data


def _number(session: Session, word: str, size: int) -> bytes:
    value = session.number(word)
    if not -(1 << 8 * size - 1) <= value < 1 << 8 * size:
        raise DebugError(f"{value:#x} does not fit u{8 * size}", "write a smaller number, or a wider kind")
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def _hexadecimal(text: str) -> bytes:
    words = [word.removeprefix("0x") for word in text.split()]
    if not all(re.fullmatch(r"[0-9a-fA-F]+", word) for word in words):
        raise DebugError(f"`{text}` are no hexadecimal bytes", "write 90 90 f4, or 9090f4")
    if not all(len(word) % 2 == 0 for word in words):
        raise DebugError("a byte has two digits", "write 0f, not f")
    return bytes.fromhex("".join(words))


def _text(text: str) -> bytes:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, str):
        raise DebugError(f"`{text}` is no text", 'write it in quotes, as Python does: "hello\\n"')
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise DebugError("the text has what UTF-8 cannot say") from None
