"""The local APIC's registers by name: number 0x84800 + n is what the x2APIC's MSR 0x800 + n is, in any mode.

TLFS "HV_REGISTER_NAME"; SDM "x2APIC Register Address Space". They are read in the form that software of the VP would
see, and a write does what its own write would, IPIs included. Reserved bits are refused in both modes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.registers.table import Get, Put, as_bytes, integer, provide
from hv.machine.apic_registers import X2APIC_RESERVED, find, value_of
from hv.machine.faults import GuestFault
from hv.spec.apic import ApicRegister
from hv.spec.hv_registers import HvRegisterName
from hv.spec.msrs import Msr
from hv.spec.x86 import Vector

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

N, R = HvRegisterName, ApicRegister
_FIRST, _FIRST_MSR, _U32 = N.APIC_ID & ~0xFF, 0x800, 0xFFFF_FFFF
_WRITE_ONLY = (N.APIC_EOI, N.APIC_SELF_IPI)
_XAPIC_WRITABLE = frozenset({*X2APIC_RESERVED, R.LDR})


def _get(offset: int) -> Get:
    return lambda vp: as_bytes(value_of(vp.apic, offset))


def _put(offset: int) -> Put:
    register = find(offset)

    def put(vp: VirtualProcessor, value: bytes) -> None:
        apic, number = vp.apic, integer(value)
        if apic.is_x2apic:
            apic.write_msr(_FIRST_MSR + (offset >> 4), number)
            return
        if not apic.is_present or register not in _XAPIC_WRITABLE or number & X2APIC_RESERVED.get(register, 0) \
                or number > _U32:
            raise GuestFault(Vector.GP, 0)
        apic.write(offset, number)
    return put


def _get_icr(vp: VirtualProcessor) -> bytes:
    return as_bytes(vp.apic.icr.raw)


def _set_icr(vp: VirtualProcessor, value: bytes) -> None:
    """Both halves at once, and so one IPI."""
    apic, number = vp.apic, integer(value)
    if apic.is_x2apic:
        apic.write_msr(Msr.X2APIC_ICR, number)
        return
    if not apic.is_present or number & X2APIC_RESERVED[R.ICR_LOW]:
        raise GuestFault(Vector.GP, 0)
    apic.write(R.ICR_HIGH, number >> 32)
    apic.write(R.ICR_LOW, number & _U32)


def _set_self_ipi(vp: VirtualProcessor, value: bytes) -> None:
    """A register of the x2APIC only."""
    vp.apic.write_msr(_FIRST_MSR + (R.SELF_IPI >> 4), integer(value))


def _offset(name: int) -> int:
    return (name - _FIRST) << 4


for _name in (name for name in N if _FIRST <= name <= _FIRST + 0xFF):
    if _name is N.APIC_ICR:
        provide(_name, _get_icr, _set_icr)
    elif _name is N.APIC_SELF_IPI:
        provide(_name, None, _set_self_ipi)
    else:
        _writable = find(_offset(_name)) in _XAPIC_WRITABLE
        provide(_name, None if _name in _WRITE_ONLY else _get(_offset(_name)),
                _put(_offset(_name)) if _writable else None)
