"""Assembly source to a `Program`: Intel syntax, one statement a line, with a small set of directives of our own.

    .bits 16|32|64        the mode of the code that follows; the first one says how the VP starts
    .org ADDRESS          a new segment at this guest-physical address
    .entry label          where the VP starts (default: `start`, else the first instruction)
    .equ NAME, value      a constant; `NAME = value` is the same
    .include "file"       from the folder of the source, or from guests/
    .byte .word .long .quad .ascii .asciz .align .skip      data; .align N[, fill], .skip N[, fill]

Comments begin with `;`, `#` or `//`. `label:` and local `.label:` (local to the label before it); `$` is the address
of the statement. `jmp 0x8:label` is a far jump, `[rip + label]` or `[rel label]` an address relative to RIP.
docs/guests.md has the conventions of a guest. What Keystone gets wrong is mended or refused, see `verify.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hv.image import cache
from hv.image.errors import ImageError
from hv.image.source import MAX_SOURCE_BYTES, Statement, read_statements


@dataclass(frozen=True, slots=True)
class Program:
    """An assembled program; addresses are guest-physical and equal to the labels' values."""

    segments: list[tuple[int, bytes]]    # sorted by address, never overlapping, never empty
    entry: int
    bits: int                            # the mode of the code at *entry*
    symbols: dict[str, int]              # labels; local ones as `outer.local`
    lines: dict[int, int]                # address of a statement -> its line in the source file itself
    places: dict[int, str]               # address of a statement -> "file:line", included files too


def assemble(source: str, name: str = "source", defines: Mapping[str, int] | None = None, *, bits: int = 64,
             origin: int | None = None, folders: tuple[Path, ...] = ()) -> Program:
    """*source* as a Program; ImageError names file and line, and says what to write.

    *defines* are constants the source may use; *bits* and *origin* (default 0x7C00 in 16-bit code, 0x10000
    elsewhere) hold until a directive says otherwise; *folders* are where `.include` may look.
    """
    if bits not in (16, 32, 64):
        raise ImageError(f"bits is {bits}", "16, 32 or 64")
    if len(source) > MAX_SOURCE_BYTES:
        raise ImageError(f"{name} is larger than {MAX_SOURCE_BYTES >> 20} MiB")
    statements = read_statements(source, name, folders)
    key = cache.key(statements, name, dict(defines or {}), bits, origin)
    known = cache.load(key, Program)
    if known is not None:
        return known
    program = _assemble(statements, name, dict(defines or {}), bits, origin)
    cache.store(key, program)
    return program


def _assemble(statements: list[Statement], name: str, defines: dict[str, int], bits: int,
              origin: int | None) -> Program:
    # Here and not above: Capstone and Keystone are not needed when the program is known.
    from hv.image.passes import Assembly
    from hv.image.worker import Worker

    assembly = Assembly(bits, origin, defines)
    with Worker() as worker:
        assembly.run(statements, worker)
    segments = sorted((gpa, bytes(data)) for gpa, data in assembly.segments if data)
    if not segments:
        raise ImageError(f"{name} has no instruction and no data", "write at least one instruction, such as hlt")
    for (gpa, data), (after, _) in pairwise(segments):
        if gpa + len(data) > after:
            raise ImageError(f"{name}: the segment at {gpa:#x} ({len(data):#x} bytes) overlaps the one at {after:#x}",
                             "move one of them with .org")
    items = zip(assembly.addresses, assembly.items, strict=False)
    code = {address: item for address, item in items if item.instruction}
    entry, entry_bits = assembly.find_entry(name)
    symbols = {label: assembly.addresses[index] for label, (index, _) in assembly.labels.items()}
    return Program(
        segments, entry, entry_bits, symbols,
        {address: item.statement.line for address, item in code.items() if item.statement.file == name},
        {address: f"{item.statement.file}:{item.statement.line}" for address, item in code.items()},
    )
