"""The virtual APIC by MSR: the synthetic ones, the x2APIC's, APIC_BASE; and the VP assist page.

TLFS "Virtual Interrupt Controller", "Virtual VP Assist Page"; SDM "x2APIC Register Address Space".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.interrupts.assisted_apic import AssistedApic
from hv.hypervisor.msrs.registry import provide, refuse
from hv.spec.apic import ApicRegister
from hv.spec.cpuid import HvPrivilege
from hv.spec.msrs import X2APIC_MSRS, Msr

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

_U32 = 0xFFFF_FFFF


def _write_assist_page(vp: VirtualProcessor, index: int, value: int) -> None:
    if isinstance(vp.apic, AssistedApic):
        vp.apic.settle()                # while its bit is what the guest made of it
    vp.synic.set_assist_page(value)


def _write_eoi(vp: VirtualProcessor, index: int, value: int) -> None:
    if value >> 32:
        raise refuse()
    _require_apic(vp)
    vp.apic.eoi()


def _read_icr(vp: VirtualProcessor, index: int) -> int:
    _require_apic(vp)
    return vp.apic.icr.raw


def _write_icr(vp: VirtualProcessor, index: int, value: int) -> None:
    _require_apic(vp)
    if vp.apic.is_x2apic:
        vp.apic.write_msr(Msr.X2APIC_ICR, value)
        return
    vp.apic.write(ApicRegister.ICR_HIGH, value >> 32)
    vp.apic.write(ApicRegister.ICR_LOW, value & _U32)


def _read_tpr(vp: VirtualProcessor, index: int) -> int:
    _require_apic(vp)
    return vp.apic.tpr


def _write_tpr(vp: VirtualProcessor, index: int, value: int) -> None:
    if value >> 8:
        raise refuse()
    _require_apic(vp)
    if vp.apic.is_x2apic:
        vp.apic.write_msr(Msr.X2APIC_TPR, value)
    else:
        vp.apic.write(ApicRegister.TPR, value)


def _require_apic(vp: VirtualProcessor) -> None:
    if not vp.apic.is_present:
        raise refuse()


P = HvPrivilege
provide(Msr.HV_EOI, None, _write_eoi, privilege=P.ACCESS_INTR_CTRL_REGS)
provide(Msr.HV_ICR, _read_icr, _write_icr, privilege=P.ACCESS_INTR_CTRL_REGS)
provide(Msr.HV_TPR, _read_tpr, _write_tpr, privilege=P.ACCESS_INTR_CTRL_REGS)
provide(Msr.HV_VP_ASSIST_PAGE, lambda vp, _: vp.synic.assist.raw, _write_assist_page,
        privilege=P.ACCESS_INTR_CTRL_REGS)
for _index in (Msr.APIC_BASE, Msr.TSC_DEADLINE, *X2APIC_MSRS):
    provide(_index, lambda vp, index: vp.apic.read_msr(index),
            lambda vp, index, value: vp.apic.write_msr(index, value))
