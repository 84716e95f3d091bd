"""Reading a guest's memory without leaving a trace: no accessed flags, no device registers, no cached translations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from hv.debug.errors import DebugError
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.paging import PagingMode, Walk, walk
from hv.machine.ram import pages_of

MOST_BYTES = 4096
_LONGEST_INSTRUCTION = 15


def load(vp: Any, gpa: int, size: int) -> int:
    """The integer of *size* bytes at *gpa* of *vp*'s partition."""
    return int.from_bytes(read_gpa(vp.partition, gpa, size), "little")


def page_walk(vp: Any, gva: int, access: Access = Access.READ) -> Walk:
    """The guest's own translation of *gva* as its kernel would get it; GuestFault or NestedFault."""
    mode = PagingMode.of(vp.regs)._replace(smap=False)
    return walk(mode, gva, access, 0, lambda gpa, size: load(vp, gpa, size))


def read_spa(partition: Any, spa: int, size: int) -> bytes:
    """*size* bytes of RAM; DebugError where there is none."""
    if spa + size > partition.memory.size:
        raise DebugError(f"system-physical {spa:#x} is no RAM (0..{partition.memory.size:#x})",
                         "device registers are not read: that would change them")
    data: bytes = partition.memory.read(spa, size)
    return data


def read_gpa(partition: Any, gpa: int, size: int) -> bytes:
    """*size* bytes of *partition*'s memory as it sees it, overlays included; NestedFault, DebugError."""
    return b"".join(read_spa(partition, partition.space.translate(at, Access.READ), length)
                    for at, length in pages_of(gpa, size))


def read_gva(vp: Any, gva: int, size: int) -> bytes:
    """*size* bytes at a linear address of *vp*, as its kernel would read them; GuestFault, NestedFault, DebugError."""
    return b"".join(read_gpa(vp.partition, page_walk(vp, at).gpa, length) for at, length in pages_of(gva, size))


def dump(address: int, data: bytes) -> list[str]:
    """Sixteen bytes a line: address, hexadecimal, text."""
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{address + at:016x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  {text}")
    return lines


def readable(read: Callable[[int, int], bytes], address: int, size: int) -> bytes:
    """What *read* gives of *size* bytes, as far as it gives anything; its exception when that is nothing."""
    data = b""
    for at, length in pages_of(address, size):
        try:
            data += read(at, length)
        except (GuestFault, NestedFault, DebugError):
            if not data:
                raise
            return data
    return data


def instructions(vp: Any, gva: int, count: int) -> Iterator[tuple[int, bytes, str]]:
    """(address, bytes, text) of *count* instructions from *gva*, or fewer where memory ends; bad bytes one by one."""
    code = readable(lambda at, size: read_gva(vp, at, size), gva, count * _LONGEST_INSTRUCTION)
    at = 0
    for _ in range(count):
        window = code[at : at + _LONGEST_INSTRUCTION]
        if not window:
            return
        text, length = text_of(window, vp.regs.bits, gva + at)
        yield gva + at, window[:length], text
        at += length


def text_of(code: bytes, bits: int, gva: int) -> tuple[str, int]:
    """The instruction at the start of *code*, and its length; `.byte` for what is none."""
    found = next(_disassembler(bits).disasm_lite(code, gva, 1), None)
    if found is None:
        return f".byte {code[0]:#04x}", 1
    _, length, mnemonic, operands = found
    return f"{mnemonic} {operands}".strip(), length


@cache
def _disassembler(bits: int) -> Any:
    import capstone

    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    return capstone.Cs(capstone.CS_ARCH_X86, mode)


__all__ = ["dump", "instructions", "load", "page_walk", "read_gpa", "read_gva", "read_spa", "readable"]
