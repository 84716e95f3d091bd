"""Instructions that never exit, but which the engine leaves undone or does wrongly: they are done here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Undecodable, decode
from hv.machine import system_instructions
from hv.machine.faults import GuestFault, NestedFault
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import advance, decoded_at, length_of, read_operand, single_stepped

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu


def syscall(vcpu: Vcpu, detail: int) -> VmExit | None:
    system_instructions.syscall(vcpu.state, vcpu.state.rip + length_of(vcpu))
    _step(vcpu)         # by the TF that IA32_FMASK left
    return None


def sysenter(vcpu: Vcpu, detail: int) -> VmExit | None:
    system_instructions.sysenter(vcpu.state, vcpu.state.rip + length_of(vcpu))
    _step(vcpu)
    return None


def _step(vcpu: Vcpu) -> None:
    if vcpu.state.single_stepping:
        single_stepped(vcpu)


def fast_call_in_long_mode(vcpu: Vcpu) -> bool:
    """SYSENTER and SYSEXIT in long mode, which the engine does not know there."""
    state = vcpu.state
    if not state.in_long_mode:
        return False
    try:
        code = vcpu.engine.code_bytes() or vcpu.memory.fetch(state.linear_rip, MAX_INSTRUCTION_LENGTH)
        if b"\x0f" not in code[:14]:
            return False
        decoded = decode(code, state.bits)
    except (Undecodable, GuestFault, NestedFault):
        return False
    if decoded.mnemonic in ("sysenter", "sysexit", "sysexitq") and not decoded.lock:
        if decoded.mnemonic == "sysenter":
            system_instructions.sysenter(vcpu.state, vcpu.state.rip + decoded.length)
        else:
            wide = vcpu.state.bits == 64 and code[decoded.length - 3] & 0xF8 == 0x48
            system_instructions.sysexit(vcpu.state, wide)
        _step(vcpu)
        return True
    return False


def ltr(vcpu: Vcpu, detail: int) -> VmExit | None:
    """Done here whole: of a null selector the engine would make a TSS over which it ends the process."""
    decoded = decoded_at(vcpu)
    selector = read_operand(vcpu, decoded) & 0xFFFF
    system_instructions.load_task_register(vcpu.state, vcpu.memory, selector)
    advance(vcpu, decoded.length)
    return None
