"""CR8 and the x2APIC MSRs, where there is a virtual APIC behind them.

SDM "Virtualizing CR8-Based TPR Accesses", "Virtualizing MSR-Based APIC Accesses". Exits that other controls ask for
(CR8-load and CR8-store exiting, the MSR bitmaps) come first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import ControlAccess, ControlRegisterAccess
from hv.machine.faults import GuestFault
from hv.spec.vmcs import PrimaryControls
from hv.spec.x86 import Vector
from hv.vmx.apic.access_page import TPR_MSR, X2APIC_RESERVED, read_x2apic, write_x2apic
from hv.vmx.intercepts.operands import advance, length_of

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_LOAD_EXITING, _STORE_EXITING = PrimaryControls.CR8_LOAD_EXITING.value, PrimaryControls.CR8_STORE_EXITING.value
_LOW = 0xFFFF_FFFF


def cr8_exits(vcpu: Vcpu, access: ControlRegisterAccess) -> bool:
    """The access to CR8 is a VM exit by its own control."""
    return bool(vcpu.controls.primary & (_LOAD_EXITING if access.kind is ControlAccess.MOV_TO else _STORE_EXITING))


def access_cr8(vcpu: Vcpu, access: ControlRegisterAccess, length: int) -> None:
    """MOV to or from CR8 that does not exit: the task priority is that of the TPR shadow.

    # Simplified: without one it is a register that holds nothing back, not the processor's own task priority.
    """
    apic, gpr = vcpu.apic.virtual, vcpu.state.gpr
    if access.kind is not ControlAccess.MOV_TO:
        gpr[access.gpr] = vcpu.cr8 if apic is None else apic.vtpr >> 4
    elif gpr[access.gpr] >> 4:
        raise GuestFault(Vector.GP, 0)
    elif apic is None:
        vcpu.cr8 = gpr[access.gpr]
    else:
        vcpu.trap_like, vcpu.apic_acted = apic.set_vtpr(gpr[access.gpr] << 4), True
    advance(vcpu, length)


def reads_x2apic(vcpu: Vcpu) -> bool:
    """RDMSR of an x2APIC MSR, which no bitmap refused: done, when it is virtualized."""
    controls, index = vcpu.apic, vcpu.state.ecx
    if not controls.x2apic or index >> 8 != 8 or not (controls.registers or index == TPR_MSR):
        return False
    assert controls.virtual is not None, "only with a TPR shadow"
    value = read_x2apic(controls.virtual, index)
    vcpu.state.rax, vcpu.state.rdx = value & _LOW, value >> 32
    advance(vcpu, length_of(vcpu))
    return True


def writes_x2apic(vcpu: Vcpu) -> bool:
    """The same of WRMSR."""
    controls, state = vcpu.apic, vcpu.state
    index = state.ecx
    if not controls.x2apic or index not in X2APIC_RESERVED:
        return False
    apic, value = controls.virtual, state.edx << 32 | state.eax
    assert apic is not None, "only with a TPR shadow"
    if index != TPR_MSR and not apic.delivers:
        return False
    if value & X2APIC_RESERVED[index]:
        raise GuestFault(Vector.GP, 0)
    vcpu.trap_like, vcpu.apic_acted = write_x2apic(apic, index, value), True
    advance(vcpu, length_of(vcpu))
    return True
