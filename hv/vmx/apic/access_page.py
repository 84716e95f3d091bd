"""The registers of the APIC-access page: which accesses go to the virtual-APIC page, and what follows a write there.

SDM "Virtualizing Memory-Mapped APIC Accesses". An access that is not virtualized is an APIC-access VM exit; one that
is reads or writes the virtual-APIC page, and a write is then emulated, which may end in a trap-like VM exit. The
instruction that makes the access is the affair of `intercepts/apic_access.py`.
"""

from __future__ import annotations

from hv.spec.apic import LOWEST_LEGAL_VECTOR, LVT_WRITABLE, ApicRegister, Icr, Shorthand
from hv.spec.exits import ExitReason
from hv.vmx.apic.virtual_apic import VirtualApic
from hv.vmx.exit import VmExit

R = ApicRegister
_TPR, _EOI, _ICR_LOW, _ICR_HIGH, _SELF_IPI = (
    register.value for register in (R.TPR, R.EOI, R.ICR_LOW, R.ICR_HIGH, R.SELF_IPI))
_LVT = frozenset(LVT_WRITABLE) - {R.LVT_CMCI}       # the page's virtualization dates from before that one
_WITH_REGISTERS = frozenset({R.ID, R.TPR, R.EOI, R.LDR, R.DFR, R.SVR, R.ESR, R.ICR_LOW, R.ICR_HIGH, R.TIMER_INITIAL,
                             R.TIMER_DIVIDE} | _LVT)
_ARRAYS = frozenset(range(R.ISR, R.ESR, 0x10))

# Offsets of the dwords that can be reached without "APIC-register virtualization", and with it.
READABLE = (frozenset({_TPR}), frozenset(map(int, _WITH_REGISTERS | {R.VERSION})) | _ARRAYS)
WRITABLE = (frozenset({_TPR}), frozenset(map(int, _WITH_REGISTERS)))
WRITABLE_WITH_DELIVERY = frozenset({_TPR, _EOI, _ICR_LOW})

_NOT_SELF = Icr.RESERVED & 0xFFFF_FFFF | Icr(delivery_status=1, trigger=1, delivery_mode=7).raw
_SHORTHAND = Icr(shorthand=3).raw
_SELF = Icr(shorthand=Shorthand.SELF).raw


def is_one_register(offset: int, size: int) -> bool:
    """All *size* bytes at *offset* are of one register: of the low dword of its 16 bytes."""
    return (offset & 0xF) + size <= 4


def is_self_ipi(icr_low: int) -> bool:
    """The interrupt command is a fixed, edge-triggered interrupt to this processor, as self-IPI virtualization does it.

    SDM "Virtualizing Certain APIC Accesses", APIC-write emulation of offset 300H.
    """
    return not icr_low & _NOT_SELF and icr_low & _SHORTHAND == _SELF and bool(icr_low & 0xF0)


def written(apic: VirtualApic, offset: int) -> VmExit | None:
    """The guest has written the virtual-APIC page at *offset*: APIC-write emulation; SDM "APIC-Write Emulation"."""
    dwords, register = apic.page.dwords, offset & ~3
    place = offset >> 2
    if register == _TPR:
        dwords[place] &= 0xFF
        return apic.virtualize_tpr()
    if register == _EOI and apic.delivers:
        return apic.virtualize_eoi()
    if register == _ICR_LOW and apic.delivers and is_self_ipi(dwords[place]):
        apic.virtualize_self_ipi(dwords[place] & 0xFF)
        return None
    if register == _ICR_HIGH:
        dwords[place] &= 0xFF00_0000
        return None
    return VmExit(ExitReason.APIC_WRITE, offset)


# --- By MSR ----------------------------------------------------------------------------------------------------

TPR_MSR = R.TPR.msr
_U64 = (1 << 64) - 1
# The MSRs to which writes are virtualized, the two last ones with virtual-interrupt delivery: what they must leave 0.
X2APIC_RESERVED = {TPR_MSR: _U64 & ~0xFF, R.EOI.msr: _U64, R.SELF_IPI.msr: _U64 & ~0xFF}


def read_x2apic(apic: VirtualApic, index: int) -> int:
    """RDMSR of an x2APIC MSR (800H..8FFH): the 8 bytes of the page, whatever they are."""
    place = (index & 0xFF) << 2
    return apic.page.dwords[place] | apic.page.dwords[place + 1] << 32


def write_x2apic(apic: VirtualApic, index: int, value: int) -> VmExit | None:
    """WRMSR of the TPR, EOI or self-IPI MSR, whose reserved bits are clear in *value*."""
    offset = (index & 0xFF) << 4
    if offset == _SELF_IPI and value >= LOWEST_LEGAL_VECTOR:
        apic.virtualize_self_ipi(value)
        return None
    apic.page.dwords[offset >> 2] = value
    return written(apic, offset)
