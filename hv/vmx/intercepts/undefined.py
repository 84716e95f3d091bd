"""Instructions of this processor that are undefined to the engine: they are decoded at its #UD, and done here.

SDM "Instructions That Cause VM Exits Unconditionally".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.decode import Decoded, Undecodable, decode, decode_at
from hv.spec.exits import ExitReason
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import advance
from hv.vmx.intercepts.system_calls import fast_call_in_long_mode
from hv.vmx.vm_functions import vmfunc

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_VMX_REASONS = {
    "vmcall": ExitReason.VMCALL, "vmclear": ExitReason.VMCLEAR, "vmlaunch": ExitReason.VMLAUNCH,
    "vmptrld": ExitReason.VMPTRLD, "vmptrst": ExitReason.VMPTRST, "vmread": ExitReason.VMREAD,
    "vmresume": ExitReason.VMRESUME, "vmwrite": ExitReason.VMWRITE, "vmxoff": ExitReason.VMXOFF,
    "vmxon": ExitReason.VMXON, "invept": ExitReason.INVEPT, "invvpid": ExitReason.INVVPID,
}


def undefined_here(vcpu: Vcpu) -> Decoded | None:
    """The instruction that is undefined to the engine; None when it is none to anybody."""
    code = vcpu.engine.code_bytes()
    try:
        return decode(code, vcpu.state.bits) if code else decode_at(vcpu.state, vcpu.memory)
    except Undecodable:
        return None


def carry_out(vcpu: Vcpu, decoded: Decoded | None) -> VmExit | bool:
    """Do what is undefined to the engine alone: the exit, True when it is done, False when it is undefined here too."""
    if decoded is not None and decoded.mnemonic == "vmfunc":
        return _vmfunc(vcpu, decoded)
    found = _vmx_instruction(vcpu, decoded) if decoded is not None else None
    return found if found is not None else fast_call_in_long_mode(vcpu)


def _vmfunc(vcpu: Vcpu, decoded: Decoded) -> VmExit | bool:
    exit = vmfunc(vcpu, vcpu.state.eax, vcpu.state.ecx)
    if exit is None:
        advance(vcpu, decoded.length)
        return True
    exit.instruction_length = decoded.length
    return exit


def _vmx_instruction(vcpu: Vcpu, decoded: Decoded) -> VmExit | None:
    """The exit of a VMX instruction, which the engine does not know; None for any other."""
    reason = _VMX_REASONS.get(decoded.mnemonic)
    if reason is None or (reason is not ExitReason.VMCALL and not vcpu.state.protected):
        return None
    return VmExit(reason, decoded.memory.displacement & (1 << 64) - 1 if decoded.memory else 0, decoded.length)
