"""The processor's own registers by name: general, control, debug, segments, tables, and MSRs it works with.

A value that no register of the kind can hold is INVALID_REGISTER_VALUE at once; whether all of them together make a
state that a processor can be in is asked by the next VM entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.intercepts.shown import segment_of, segment_register
from hv.hypervisor.msrs import processor
from hv.hypervisor.registers.table import Get, Put, as_bytes, integer, provide
from hv.machine.msrs import EFER_WRITABLE, READERS, WRITERS
from hv.machine.registers import Table
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus
from hv.spec.msrs import FIXED_MTRRS, VARIABLE_MTRRS, Msr
from hv.spec.synic import HvSegmentAttributes, HvSegmentRegister, HvTableRegister
from hv.spec.x86 import RFLAGS_DEFINED, Cr4
from hv.vmx.capabilities import PROCESSOR

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

N = HvRegisterName
_U32, _U64 = 0xFFFF_FFFF, (1 << 64) - 1
# What each register can hold. VMX is not offered to guests, so no CR4 has VMXE.
_LEGAL = {N.RFLAGS: RFLAGS_DEFINED, N.CR0: PROCESSOR.msrs[Msr.VMX_CR0_FIXED1],
          N.CR4: PROCESSOR.msrs[Msr.VMX_CR4_FIXED1] & ~Cr4.VMXE.value, N.CR3: (1 << PROCESSOR.physical_bits) - 1,
          N.EFER: EFER_WRITABLE, N.DR6: _U32, N.DR7: _U32, N.TSC_AUX: _U32}
_RESERVED_ATTRIBUTES = int(HvSegmentAttributes(reserved=0xF))


def _legal(name: HvRegisterName, value: bytes) -> int:
    """The number in *value*; INVALID_REGISTER_VALUE when register *name* has no such bit."""
    number = integer(value)
    if number & ~_LEGAL.get(name, _U64):
        raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"{name.name} {number:#x} has reserved bits")
    return number


def _attribute(name: HvRegisterName, attribute: str) -> tuple[Get, Put]:
    def put(vp: VirtualProcessor, value: bytes) -> None:
        setattr(vp.regs, attribute, _legal(name, value))
    return lambda vp: as_bytes(getattr(vp.regs, attribute)), put


def _segment(attribute: str) -> tuple[Get, Put]:
    def put(vp: VirtualProcessor, value: bytes) -> None:
        register = HvSegmentRegister.parse(value)
        if register.attributes & _RESERVED_ATTRIBUTES:
            raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"{register!r}: reserved attributes")
        setattr(vp.regs, attribute, segment_of(register))
    return lambda vp: segment_register(getattr(vp.regs, attribute)).pack(), put


def _table(attribute: str) -> tuple[Get, Put]:
    def get(vp: VirtualProcessor) -> bytes:
        table = getattr(vp.regs, attribute)
        return HvTableRegister(limit=table.limit, base=table.base).pack()

    def put(vp: VirtualProcessor, value: bytes) -> None:
        register = HvTableRegister.parse(value)
        setattr(vp.regs, attribute, Table(register.base, register.limit))
    return get, put


def _kept_msr(name: HvRegisterName, msr: Msr) -> tuple[Get, Put]:
    """An MSR the processor itself works with; what WRMSR refuses is refused."""
    write = WRITERS.get(msr)

    def put(vp: VirtualProcessor, value: bytes) -> None:
        if write is None:
            vp.regs.msrs[msr] = _legal(name, value)
        else:
            write(vp.regs, msr, integer(value))
    return lambda vp: as_bytes(vp.regs.msrs[msr]), put


def _value_msr(msr: int) -> tuple[Get, Put | None]:
    """An MSR that is nothing but its value."""
    def put(vp: VirtualProcessor, value: bytes) -> None:
        WRITERS[msr](vp.regs, msr, integer(value))
    return lambda vp: as_bytes(READERS[msr](vp.regs, msr)), put if msr in WRITERS else None


def _set_tsc_adjust(vp: VirtualProcessor, value: bytes) -> None:
    vp.tsc_adjust = integer(value)


def _as_the_guest_knows_it(name: HvRegisterName, attribute: str) -> tuple[Get, Put]:
    """CR0 or CR4."""
    def put(vp: VirtualProcessor, value: bytes) -> None:
        setattr(vp.guest_regs, attribute, _legal(name, value))
    return lambda vp: as_bytes(getattr(vp.guest_regs, attribute)), put


def _set_debugctl(vp: VirtualProcessor, value: bytes) -> None:
    WRITERS[Msr.DEBUGCTL](vp.regs, Msr.DEBUGCTL, integer(value))


def _get_tsc(vp: VirtualProcessor) -> bytes:
    return as_bytes(vp.partition.clock.tsc + vp.tsc_offset)


def _set_tsc(vp: VirtualProcessor, value: bytes) -> None:
    """By its offset. A VP without machine code reads the machine's own counter."""
    if not vp.partition.runs_code:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"vp {vp.index} has no time-stamp counter of its own")
    processor.set_tsc(vp, integer(value))


def _set_tsc_offset(vp: VirtualProcessor, value: bytes) -> None:
    _set_tsc(vp, as_bytes(vp.partition.clock.tsc + integer(value)))


def _get_cr8(vp: VirtualProcessor) -> bytes:
    return as_bytes(vp.apic.cr8)


def _set_cr8(vp: VirtualProcessor, value: bytes) -> None:
    vp.apic.cr8 = integer(value)


_GENERAL = [N(number) for number in range(N.RAX, N.RFLAGS + 1)]
_CONTROL = (N.CR2, N.CR3, N.EFER, N.DR0, N.DR1, N.DR2, N.DR3, N.DR6, N.DR7)
_SEGMENTS = [N(number) for number in range(N.ES, N.TR + 1)]
_KEPT = {N.KERNEL_GS_BASE: Msr.KERNEL_GS_BASE, N.PAT: Msr.PAT, N.SYSENTER_CS: Msr.SYSENTER_CS,
         N.SYSENTER_EIP: Msr.SYSENTER_EIP, N.SYSENTER_ESP: Msr.SYSENTER_ESP, N.STAR: Msr.STAR, N.LSTAR: Msr.LSTAR,
         N.CSTAR: Msr.CSTAR, N.SFMASK: Msr.SFMASK, N.TSC_AUX: Msr.TSC_AUX}

_VALUES = {N.MTRR_CAP: Msr.MTRRCAP, N.MTRR_DEF_TYPE: Msr.MTRR_DEF_TYPE, N.SPEC_CTRL: Msr.SPEC_CTRL,
           **{N(N.MTRR_PHYS_BASE0 + n): base for n, (base, _) in enumerate(VARIABLE_MTRRS)},
           **{N(N.MTRR_PHYS_MASK0 + n): mask for n, (_, mask) in enumerate(VARIABLE_MTRRS)},
           **{N(N.MTRR_FIX64K00000 + n): msr for n, msr in enumerate(FIXED_MTRRS)}}

for _name in (*_GENERAL, *_CONTROL):
    provide(_name, *_attribute(_name, _name.name.lower()))
for _name in _SEGMENTS:
    provide(_name, *_segment(_name.name.lower()))
for _name in (N.IDTR, N.GDTR):
    provide(_name, *_table(_name.name.lower()))
for _name, _msr in _KEPT.items():
    provide(_name, *_kept_msr(_name, _msr))
for _name, _msr in _VALUES.items():
    provide(_name, *_value_msr(_msr))
provide(N.TSC, _get_tsc, _set_tsc)
provide(N.TSC_ADJUST, lambda vp: as_bytes(vp.tsc_adjust), _set_tsc_adjust)
provide(N.TSC_VIRTUAL_OFFSET, lambda vp: as_bytes(vp.tsc_offset), _set_tsc_offset)
provide(N.INITIAL_APIC_ID, lambda vp: as_bytes(vp.apic.apic_id))
provide(N.DEBUG_CTL, lambda vp: as_bytes(vp.regs.debugctl), _set_debugctl)
# No trust level above the guest changes what it writes into a control register: the value in between is the guest's.
for _name in (N.CR0, N.INTERMEDIATE_CR0):
    provide(_name, *_as_the_guest_knows_it(N.CR0, "cr0"))
for _name in (N.CR4, N.INTERMEDIATE_CR4):
    provide(_name, *_as_the_guest_knows_it(N.CR4, "cr4"))
provide(N.INTERMEDIATE_CR3, *_attribute(N.CR3, "cr3"))
for _name in (N.CR8, N.INTERMEDIATE_CR8):
    provide(_name, _get_cr8, _set_cr8)
