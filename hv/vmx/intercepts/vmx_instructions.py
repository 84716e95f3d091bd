"""VMX instructions of a guest: each is a VM exit, in the modes that have it; SDM "VMX Instruction Reference".

The exit comes before the check of the privilege level and before any fault of an operand; SDM "Relative Priority of
Faults and VM Exits".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Decoded
from hv.spec.exits import ExitReason
from hv.spec.vmcs import SecondaryControls
from hv.vmx import vm_functions
from hv.vmx.exit import VmExit, operand_exit
from hv.vmx.intercepts import vmcs_shadowing
from hv.vmx.intercepts.operands import advance

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_REASONS = {
    "vmclear": ExitReason.VMCLEAR, "vmlaunch": ExitReason.VMLAUNCH, "vmptrld": ExitReason.VMPTRLD,
    "vmptrst": ExitReason.VMPTRST, "vmread": ExitReason.VMREAD, "vmresume": ExitReason.VMRESUME,
    "vmwrite": ExitReason.VMWRITE, "vmxoff": ExitReason.VMXOFF, "vmxon": ExitReason.VMXON,
    "invept": ExitReason.INVEPT, "invvpid": ExitReason.INVVPID,
}
_SHADOWING, _SHADOWED = SecondaryControls.VMCS_SHADOWING.value, ("vmread", "vmwrite")


def vmx_instruction(vcpu: Vcpu, decoded: Decoded) -> VmExit | bool:
    """The exit, or True for what a shadow VMCS has answered.

    False in real, virtual-8086 and compatibility mode, where it is an invalid opcode.
    """
    state = vcpu.state
    if not state.protected or state.virtual_8086 or (state.in_long_mode and state.bits != 64):
        return False
    if vcpu.controls.secondary & _SHADOWING and decoded.mnemonic in _SHADOWED and vcpu.vmx is not None \
            and not vmcs_shadowing.exits(vcpu, decoded):
        vmcs_shadowing.access_shadow(vcpu, vcpu.vmx, decoded)
        return True
    return operand_exit(_REASONS[decoded.mnemonic], decoded, state.rip)


def vmcall(vcpu: Vcpu, decoded: Decoded) -> VmExit | bool:
    """An exit in every mode."""
    return VmExit(ExitReason.VMCALL, 0, decoded.length)


def vmfunc(vcpu: Vcpu, decoded: Decoded) -> VmExit | bool:
    """SDM "General Operation of the VMFUNC Instruction": at any privilege level, in any mode."""
    exit = vm_functions.vmfunc(vcpu, vcpu.state.eax, vcpu.state.ecx)
    if exit is None:
        advance(vcpu, decoded.length)
        return True
    exit.instruction_length = decoded.length
    return exit


VMX_INSTRUCTIONS = {**dict.fromkeys(_REASONS, vmx_instruction), "vmcall": vmcall, "vmfunc": vmfunc}
