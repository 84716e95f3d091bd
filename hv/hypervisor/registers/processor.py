"""The processor's own registers by name: general, control, debug, segments, tables, and MSRs it works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor import intercepts
from hv.hypervisor.errors import HypercallError
from hv.hypervisor.registers.table import Get, Put, as_bytes, integer, provide
from hv.machine.registers import Table
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus
from hv.spec.msrs import Msr
from hv.spec.synic import HvSegmentRegister, HvTableRegister
from hv.spec.x86 import Cr4

if TYPE_CHECKING:
    from hv.hypervisor.vp import VirtualProcessor

N = HvRegisterName
_VMXE = Cr4.VMXE.value


def _attribute(name: str) -> tuple[Get, Put]:
    def put(vp: VirtualProcessor, value: bytes) -> None:
        setattr(vp.regs, name, integer(value))
    return lambda vp: as_bytes(getattr(vp.regs, name)), put


def _segment(name: str) -> tuple[Get, Put]:
    def put(vp: VirtualProcessor, value: bytes) -> None:
        setattr(vp.regs, name, intercepts.segment_of(HvSegmentRegister.parse(value)))
    return lambda vp: intercepts.segment_register(getattr(vp.regs, name)).pack(), put


def _table(name: str) -> tuple[Get, Put]:
    def get(vp: VirtualProcessor) -> bytes:
        table = getattr(vp.regs, name)
        return HvTableRegister(limit=table.limit, base=table.base).pack()

    def put(vp: VirtualProcessor, value: bytes) -> None:
        register = HvTableRegister.parse(value)
        setattr(vp.regs, name, Table(register.base, register.limit))
    return get, put


def _kept_msr(msr: Msr) -> tuple[Get, Put]:
    """An MSR the processor itself works with."""
    def put(vp: VirtualProcessor, value: bytes) -> None:
        vp.regs.msrs[msr] = integer(value)
    return lambda vp: as_bytes(vp.regs.msrs[msr]), put


def _as_the_guest_knows_it(name: str) -> tuple[Get, Put]:
    """CR0 or CR4; VMX is not offered to guests, so no CR4 has VMXE."""
    def put(vp: VirtualProcessor, value: bytes) -> None:
        if name == "cr4" and integer(value) & _VMXE:
            raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"CR4 {integer(value):#x} has VMXE")
        setattr(vp.guest_regs, name, integer(value))
    return lambda vp: as_bytes(getattr(vp.guest_regs, name)), put


def _set_cr8(vp: VirtualProcessor, value: bytes) -> None:
    vp.apic.cr8 = integer(value)


_GENERAL = [N(number) for number in range(N.RAX, N.RFLAGS + 1)]
_CONTROL = (N.CR2, N.CR3, N.EFER, N.DR0, N.DR1, N.DR2, N.DR3, N.DR6, N.DR7)
_SEGMENTS = [N(number) for number in range(N.ES, N.TR + 1)]
_KEPT = {N.KERNEL_GS_BASE: Msr.KERNEL_GS_BASE, N.PAT: Msr.PAT, N.SYSENTER_CS: Msr.SYSENTER_CS,
         N.SYSENTER_EIP: Msr.SYSENTER_EIP, N.SYSENTER_ESP: Msr.SYSENTER_ESP, N.STAR: Msr.STAR, N.LSTAR: Msr.LSTAR,
         N.CSTAR: Msr.CSTAR, N.SFMASK: Msr.SFMASK, N.TSC_AUX: Msr.TSC_AUX}

for _name in (*_GENERAL, *_CONTROL):
    provide(_name, *_attribute(_name.name.lower()))
for _name in (N.CR0, N.CR4):
    provide(_name, *_as_the_guest_knows_it(_name.name.lower()))
for _name in _SEGMENTS:
    provide(_name, *_segment(_name.name.lower()))
for _name in (N.IDTR, N.GDTR):
    provide(_name, *_table(_name.name.lower()))
for _name, _msr in _KEPT.items():
    provide(_name, *_kept_msr(_msr))
provide(N.TSC, lambda vp: as_bytes(vp.partition.clock.tsc))
provide(N.INITIAL_APIC_ID, lambda vp: as_bytes(vp.apic.apic_id))
provide(N.CR8, lambda vp: as_bytes(vp.apic.cr8), _set_cr8)
