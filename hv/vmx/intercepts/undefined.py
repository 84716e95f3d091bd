"""Instructions of this processor that are undefined to the engine: they are decoded at its #UD, and done here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Decoded, Undecodable, decode
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.invalidation import invpcid
from hv.vmx.intercepts.system_calls import fast_call_in_long_mode
from hv.vmx.intercepts.vmx_instructions import VMX_INSTRUCTIONS
from hv.vmx.intercepts.waiting import monitor, mwait

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_CARRY_OUT = {**VMX_INSTRUCTIONS, "invpcid": invpcid, "monitor": monitor, "mwait": mwait}


def undefined_here(vcpu: Vcpu) -> Decoded | None:
    """The instruction that is undefined to the engine; None when it is none to anybody."""
    state, code = vcpu.state, vcpu.engine.code_bytes()
    try:
        return decode(code, state.bits)
    except Undecodable:
        if len(code) == MAX_INSTRUCTION_LENGTH:
            return None
    try:        # the engine has fetched it from two pages
        return decode(vcpu.memory.fetch(state.linear_rip, MAX_INSTRUCTION_LENGTH), state.bits)
    except Undecodable:
        return None


def carry_out(vcpu: Vcpu, decoded: Decoded | None) -> VmExit | bool:
    """Do what is undefined to the engine alone: the exit, True when it is done, False when it is undefined here too."""
    instruction = _CARRY_OUT.get(decoded.mnemonic) if decoded is not None else None
    return instruction(vcpu, decoded) if instruction is not None and decoded is not None \
        else fast_call_in_long_mode(vcpu)
