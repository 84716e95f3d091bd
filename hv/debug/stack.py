"""The stack of the VP looked at, and who is to be returned to.

Assembly keeps no frames, so a return address is known by what it is: an address right behind a CALL in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hv.debug.errors import DebugError
from hv.debug.looking import read_gva, text_of
from hv.machine.faults import GuestFault, NestedFault

_CALL_LENGTHS = (5, 2, 3, 6, 7, 4)      # the usual first
MOST_SLOTS = 512                        # so far up one looks


class Slot(NamedTuple):
    """One element of the stack at linear address *gva*; *returns*: it is an address behind a CALL."""

    gva: int
    value: int
    returns: bool


def slots(vp: Any, count: int) -> Iterator[Slot]:
    """The elements from the top of the stack on, as far as memory goes."""
    regs = vp.regs
    size = regs.bits // 8
    base = 0 if regs.bits == 64 else regs.ss.base
    for number in range(count):
        gva = base + regs.rsp + number * size & (1 << 64) - 1
        try:
            value = int.from_bytes(read_gva(vp, gva, size), "little")
        except (GuestFault, NestedFault, DebugError):
            return
        yield Slot(gva, value, is_return_address(vp, value))


def is_return_address(vp: Any, offset: int) -> bool:
    """An instruction ends at *offset* of the code segment, and it is a CALL."""
    return call_site(vp, offset if vp.regs.bits == 64 else vp.regs.cs.base + offset) is not None


def call_site(vp: Any, gva: int) -> int | None:
    """Linear address of the CALL that ends at *gva*; None when no such instruction does."""
    for length in _CALL_LENGTHS:
        if gva < length:
            continue
        try:
            code = read_gva(vp, gva - length, length)
        except (GuestFault, NestedFault, DebugError):
            continue
        text, size = text_of(code, vp.regs.bits, gva - length)
        if size == length and text.startswith(("call ", "lcall ")):
            return gva - length
    return None


def caller(vp: Any) -> Slot | None:
    """The first return address on the stack; None when there is none."""
    return next((slot for slot in slots(vp, MOST_SLOTS) if slot.returns), None)
