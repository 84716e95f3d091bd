"""GDTR, IDTR, LDTR and TR; SDM "Secondary Processor-Based VM-Execution Controls", descriptor-table exiting.

The exit comes before the operand is read. Without the control the engine runs those that store; what loads is done
here, since the engine takes a base that is not canonical.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Decoded, linear_address
from hv.machine.system_instructions import descriptor_table as table_of
from hv.machine.system_instructions import load_local_table
from hv.spec.exits import ExitReason
from hv.spec.vmcs import SecondaryControls
from hv.vmx.exit import VmExit, operand_exit
from hv.vmx.intercepts import system_calls
from hv.vmx.intercepts.operands import advance, decoded_at, read_operand

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_EXITING = SecondaryControls.DESCRIPTOR_TABLE_EXITING.value
_REASONS = {**dict.fromkeys(("sgdt", "sidt", "lgdt", "lidt"), ExitReason.GDTR_IDTR_ACCESS),
            **dict.fromkeys(("sldt", "str", "lldt", "ltr"), ExitReason.LDTR_TR_ACCESS)}


def descriptor_table(vcpu: Vcpu, detail: int) -> VmExit | None:
    """One of them: those that store leave the guest only to exit."""
    decoded = decoded_at(vcpu)
    if decoded.mnemonic not in _REASONS:    # what the engine executed does not stand there any more
        vcpu.engine.distrust_code()
        return None
    if vcpu.controls.secondary & _EXITING:
        return operand_exit(_REASONS[decoded.mnemonic], decoded, vcpu.state.rip)
    if decoded.mnemonic == "lldt":
        load_local_table(vcpu.state, vcpu.memory, read_operand(vcpu, decoded) & 0xFFFF)
    else:
        _load_table(vcpu, decoded)
    advance(vcpu, decoded.length)
    return None


def _load_table(vcpu: Vcpu, decoded: Decoded) -> None:
    state = vcpu.state
    raw = vcpu.memory.read(linear_address(decoded, state), 10 if state.bits == 64 else 6)
    table = table_of(raw, state.bits, decoded.operand_override is not (state.bits == 16))
    if decoded.mnemonic == "lgdt":
        state.gdtr = table
    else:
        state.idtr = table


def ltr(vcpu: Vcpu, detail: int) -> VmExit | None:
    if vcpu.controls.secondary & _EXITING:
        return descriptor_table(vcpu, detail)
    return system_calls.ltr(vcpu, detail)
