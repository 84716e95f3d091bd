"""VMX instructions of a guest: each is a VM exit, in the modes that have it; SDM "VMX Instruction Reference".

The exit comes before the check of the privilege level and before any fault of an operand; SDM "Relative Priority of
Faults and VM Exits".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.machine.decode import Decoded
from hv.spec.exits import ExitReason
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.vmx.exit import VmExit, operand_exit
from hv.vmx.intercepts.operands import advance

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_REASONS = {
    "vmclear": ExitReason.VMCLEAR, "vmlaunch": ExitReason.VMLAUNCH, "vmptrld": ExitReason.VMPTRLD,
    "vmptrst": ExitReason.VMPTRST, "vmread": ExitReason.VMREAD, "vmresume": ExitReason.VMRESUME,
    "vmwrite": ExitReason.VMWRITE, "vmxoff": ExitReason.VMXOFF, "vmxon": ExitReason.VMXON,
    "invept": ExitReason.INVEPT, "invvpid": ExitReason.INVVPID,
}
_VM_FUNCTIONS = SecondaryControls.ENABLE_VM_FUNCTIONS.value

# What VMFUNC does, by its number: False when the function itself fails, which is an exit. SDM "VM Functions".
VM_FUNCTIONS: dict[int, Callable[[Vcpu], bool]] = {}


def vmx_instruction(vcpu: Vcpu, decoded: Decoded) -> VmExit | bool:
    """The exit; False in real, virtual-8086 and compatibility mode, where it is an invalid opcode."""
    state = vcpu.state
    if not state.protected or state.virtual_8086 or (state.in_long_mode and state.bits != 64):
        return False
    return operand_exit(_REASONS[decoded.mnemonic], decoded, state.rip)


def vmcall(vcpu: Vcpu, decoded: Decoded) -> VmExit | bool:
    """An exit in every mode."""
    return VmExit(ExitReason.VMCALL, 0, decoded.length)


def vmfunc(vcpu: Vcpu, decoded: Decoded) -> VmExit | bool:
    """SDM "General Operation of the VMFUNC Instruction": at any privilege level, in any mode."""
    number = vcpu.state.eax
    if not vcpu.controls.secondary & _VM_FUNCTIONS or number >= 64:
        return False
    if not vcpu.vmcs.read(VmcsField.VM_FUNCTION_CONTROLS) >> number & 1 or not VM_FUNCTIONS[number](vcpu):
        return VmExit(ExitReason.VMFUNC, 0, decoded.length)
    advance(vcpu, decoded.length)
    return True


VMX_INSTRUCTIONS = {**dict.fromkeys(_REASONS, vmx_instruction), "vmcall": vmcall, "vmfunc": vmfunc}
