"""Task switches, and the far transfers that could be one; SDM "Treatment of Task Switches"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Decoded, linear_address
from hv.machine.far_transfer import interrupt_return, through_system_descriptor
from hv.machine.tasks import TaskSwitch
from hv.spec.exits import ExitReason, TaskSwitchQualification, TaskSwitchSource
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import decoded_at, single_stepped

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_OPERAND_SIZE = 0x66
_DIRECT = {0xEA: TaskSwitchSource.JMP, 0x9A: TaskSwitchSource.CALL}
_INDIRECT = {5: TaskSwitchSource.JMP, 3: TaskSwitchSource.CALL}     # FF, by the register field of the byte that follows


def task_switch(switch: TaskSwitch, length: int) -> VmExit:
    """The exit of an instruction that asks for a task switch."""
    qualification = TaskSwitchQualification(selector=switch.selector, source=int(switch.source))
    return VmExit(ExitReason.TASK_SWITCH, qualification.raw, length)


def iret(vcpu: Vcpu, detail: int) -> VmExit | None:
    """IRET: it unblocks NMIs, even if it faults; SDM "IRET/IRETD/IRETQ - Interrupt Return".

    In protected mode outside IA-32e mode the engine leaves it to us: it would switch tasks when NT is set.
    """
    if vcpu.unblock_nmis() or not vcpu.state.transfers_in_software:
        return None             # the second time it is done
    decoded, stepped = decoded_at(vcpu), vcpu.state.single_stepping
    try:
        interrupt_return(vcpu.state, vcpu.memory, 2 if decoded.mnemonic == "iret" else 4)
    except TaskSwitch as switch:
        return task_switch(switch, decoded.length)
    if stepped:                 # by the TF it began with
        single_stepped(vcpu)
    return None


def far_transfer(vcpu: Vcpu) -> VmExit | bool:
    """After a #GP of the engine: do the far JMP or CALL that it refused. False when it was none, or is refused."""
    state = vcpu.state
    decoded = decoded_at(vcpu)
    code = vcpu.memory.fetch(state.linear_rip, decoded.length)
    opcode = next((n for n, byte in enumerate(code) if byte not in _PREFIXES), 0)
    source = _DIRECT.get(code[opcode])
    if source is None and code[opcode] == 0xFF and decoded.memory is not None:
        source = _INDIRECT.get(code[opcode + 1] >> 3 & 7)
    if source is None or decoded.lock:
        return False
    selector = _selector(vcpu, decoded, code, 4 if (state.bits == 32) is not (_OPERAND_SIZE in code[:opcode]) else 2)
    try:
        done = through_system_descriptor(state, vcpu.memory, selector, source, state.rip + decoded.length)
    except TaskSwitch as switch:
        return task_switch(switch, decoded.length)
    if done and state.single_stepping:
        single_stepped(vcpu)
    return done


def _selector(vcpu: Vcpu, decoded: Decoded, code: bytes, offset_size: int) -> int:
    """The selector of a far pointer: behind its offset of *offset_size* bytes, in the instruction or in memory."""
    if decoded.memory is None:
        return int.from_bytes(code[-2:], "little")
    return vcpu.memory.read_integer(linear_address(decoded, vcpu.state) + offset_size & 0xFFFF_FFFF, 2)
