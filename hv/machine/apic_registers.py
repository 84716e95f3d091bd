"""Software's face of the local APIC: the xAPIC page, the x2APIC MSRs, and what a write to each register does.

Both faces reach the same registers: an x2APIC MSR is 0x800 + (offset >> 4). They differ in how they refuse: the page
ignores and notes it in ESR, an MSR raises #GP(0). SDM "Local APIC Register Address Map", "x2APIC Register Address
Space".
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING

from hv.machine.faults import GuestFault
from hv.spec.apic import (
    LVT_READ_ONLY,
    LVT_WRITABLE,
    VERSION,
    X2APIC_MSR_FIRST,
    X2APIC_MSR_LAST,
    DivideConfiguration,
    Esr,
    Icr,
    Shorthand,
    Svr,
    XapicDestination,
)
from hv.spec.apic import ApicRegister as R
from hv.spec.msrs import Msr
from hv.spec.x86 import PAGE_SIZE, Vector

if TYPE_CHECKING:
    from hv.machine.apic import LocalApic

ALL_ONES = 0xFFFFFFFF
DFR_FIXED = 0x0FFFFFFF          # read as ones
XAPIC_ONLY = frozenset({R.APR, R.RRD, R.DFR, R.ICR_HIGH})
WRITE_ONLY = frozenset({R.EOI, R.SELF_IPI})
_BY_OFFSET = {int(register): register for register in R}

# What a write through an MSR must leave 0. A register that is not here cannot be written that way.
X2APIC_RESERVED: dict[R, int] = {
    R.TPR: ALL_ONES & ~0xFF,
    R.EOI: ALL_ONES,
    R.SVR: Svr.RESERVED,
    R.ESR: ALL_ONES,
    R.ICR_LOW: Icr.RESERVED,
    R.TIMER_INITIAL: 0,
    R.TIMER_DIVIDE: DivideConfiguration.RESERVED,
    R.SELF_IPI: ALL_ONES & ~0xFF,
    **{entry: ALL_ONES & ~(writable | LVT_READ_ONLY) for entry, writable in LVT_WRITABLE.items()},
}


def read_refused(apic: LocalApic) -> int:
    """`LocalApic.read` where there is no page, or no register that can be read."""
    if not apic.is_present or apic.is_x2apic:
        return ALL_ONES
    apic.error(Esr.ILLEGAL_REGISTER)
    return 0


def write_page(apic: LocalApic, offset: int, value: int) -> None:
    """`LocalApic.write`."""
    if not apic.is_present or apic.is_x2apic:
        return
    register = find(offset)
    if register not in SETTERS or register is R.SELF_IPI:
        apic.error(Esr.ILLEGAL_REGISTER)
    else:
        SETTERS[register](apic, value & ALL_ONES)


def read_msr(apic: LocalApic, index: int) -> int:
    """`LocalApic.read_msr`."""
    if index == Msr.APIC_BASE:
        return apic.base.raw
    if index == Msr.TSC_DEADLINE:
        return apic.timer.deadline
    offset = _x2apic_offset(apic, index)
    register = find(offset)
    if register is None or register in WRITE_ONLY or register in XAPIC_ONLY:
        raise GuestFault(Vector.GP, 0)
    return apic.icr.raw if register is R.ICR_LOW else _get(apic, register, offset)


def write_msr(apic: LocalApic, index: int, value: int) -> None:
    """`LocalApic.write_msr`."""
    if index == Msr.APIC_BASE:
        apic.set_base(value)
    elif index == Msr.TSC_DEADLINE:
        apic.timer.set_deadline(value)
    else:
        _write_x2apic(apic, find(_x2apic_offset(apic, index)), value)


def _write_x2apic(apic: LocalApic, register: R | None, value: int) -> None:
    if register not in X2APIC_RESERVED or value & X2APIC_RESERVED[register]:
        raise GuestFault(Vector.GP, 0)
    if register is R.ICR_LOW:
        send(apic, value)                      # one write of 64 bits
    elif value > ALL_ONES:
        raise GuestFault(Vector.GP, 0)
    else:
        SETTERS[register](apic, value)


def _x2apic_offset(apic: LocalApic, index: int) -> int:
    if not apic.is_x2apic or not X2APIC_MSR_FIRST <= index <= X2APIC_MSR_LAST:
        raise GuestFault(Vector.GP, 0)
    return index - X2APIC_MSR_FIRST << 4


def find(offset: int) -> R | None:
    """The register at *offset*, or None; ISR, TMR and IRR stand for all eight of theirs."""
    if R.ISR <= offset < R.ESR and offset & 0xF == 0:
        return R(offset & ~0x7F)
    return _BY_OFFSET.get(offset)


def value_of(apic: LocalApic, offset: int) -> int:
    """What stands at *offset*, a register that can be read, however software reaches it now."""
    register = find(offset)
    assert register is not None, f"there is no register at {offset:#x}"
    return _get(apic, register, offset)


def _get(apic: LocalApic, register: R, offset: int) -> int:
    if register in ARRAYS:
        return ARRAYS[register](apic) >> (offset - register) * 2 & ALL_ONES      # 0x10 bytes for 32 vectors
    if register in apic.lvt:
        return apic.lvt[register]
    return GETTERS[register](apic)


def send(apic: LocalApic, value: int) -> None:
    """A write of the interrupt command, both halves: it is kept, and carried out."""
    icr = apic.icr = Icr(value & ~Icr.RESERVED, delivery_status=0)
    apic.send(icr)


def _set_icr_low(apic: LocalApic, value: int) -> None:
    send(apic, apic.icr.destination << 32 | value)


def _set_icr_high(apic: LocalApic, value: int) -> None:
    apic.icr = Icr(apic.icr.raw, destination=value & ~XapicDestination.RESERVED)


def _set_ldr(apic: LocalApic, value: int) -> None:
    apic.ldr = value & ~XapicDestination.RESERVED


def _set_dfr(apic: LocalApic, value: int) -> None:
    apic.dfr = value | DFR_FIXED


def _self_ipi(apic: LocalApic, value: int) -> None:
    apic.send(Icr(vector=value & 0xFF, level=1, shorthand=Shorthand.SELF))


def _lvt_setter(entry: R) -> Callable[[LocalApic, int], None]:
    return lambda apic, value: apic.set_lvt(entry, value)


ARRAYS: dict[R, Callable[[LocalApic], int]] = {
    R.ISR: lambda apic: apic.isr,
    R.TMR: lambda apic: apic.tmr,
    R.IRR: lambda apic: apic.irr,
}

GETTERS: dict[R, Callable[[LocalApic], int]] = {
    R.ID: lambda apic: apic.apic_id if apic.is_x2apic else XapicDestination(id=apic.apic_id & 0xFF).raw,
    R.VERSION: lambda apic: VERSION,
    R.TPR: lambda apic: apic.tpr,
    R.APR: lambda apic: 0,
    R.PPR: lambda apic: apic.ppr,
    R.RRD: lambda apic: 0,
    R.LDR: lambda apic: apic.logical_id,
    R.DFR: lambda apic: apic.dfr,
    R.SVR: lambda apic: apic.svr.raw,
    R.ESR: lambda apic: apic.esr,
    R.ICR_LOW: lambda apic: apic.icr.raw & ALL_ONES,
    R.ICR_HIGH: lambda apic: apic.icr.destination,
    R.TIMER_INITIAL: lambda apic: apic.timer.initial,
    R.TIMER_CURRENT: attrgetter("timer.current"),
    R.TIMER_DIVIDE: lambda apic: apic.timer.divide,
}



def _reader(register: R, offset: int) -> Callable[[LocalApic], int]:
    """What a read of the page at *offset*, which is *register* or a part of it, gives."""
    if register is R.EOI:
        return lambda apic: 0
    if register in ARRAYS or register in LVT_WRITABLE:
        return lambda apic: _get(apic, register, offset)
    return GETTERS[register]


_READABLE = ((offset, find(offset)) for offset in range(0, PAGE_SIZE, 0x10))
READERS = {offset: _reader(register, offset) for offset, register in _READABLE
            if register is not None and register is not R.SELF_IPI}

SETTERS: dict[R | None, Callable[[LocalApic, int], None]] = {
    R.TPR: lambda apic, value: apic.set_tpr(value & 0xFF),
    R.EOI: lambda apic, value: apic.eoi(),
    R.LDR: _set_ldr,
    R.DFR: _set_dfr,
    R.SVR: lambda apic, value: apic.set_svr(value),
    R.ESR: lambda apic, value: apic.latch_errors(),
    R.ICR_LOW: _set_icr_low,
    R.ICR_HIGH: _set_icr_high,
    R.TIMER_INITIAL: lambda apic, value: apic.timer.set_initial(value),
    R.TIMER_DIVIDE: lambda apic, value: apic.timer.set_divide(value),
    R.SELF_IPI: _self_ipi,
    **{entry: _lvt_setter(entry) for entry in LVT_WRITABLE},
}
