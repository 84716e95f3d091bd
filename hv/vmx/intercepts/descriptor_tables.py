"""GDTR, IDTR, LDTR and TR; SDM "Secondary Processor-Based VM-Execution Controls", descriptor-table exiting.

The exit comes before the operand is read. Without the control the engine runs all of them but LTR.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.spec.exits import ExitReason
from hv.spec.vmcs import SecondaryControls
from hv.vmx.exit import VmExit, operand_exit
from hv.vmx.intercepts import system_calls
from hv.vmx.intercepts.operands import decoded_at

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_EXITING = SecondaryControls.DESCRIPTOR_TABLE_EXITING.value
_REASONS = {**dict.fromkeys(("sgdt", "sidt", "lgdt", "lidt"), ExitReason.GDTR_IDTR_ACCESS),
            **dict.fromkeys(("sldt", "str", "lldt", "ltr"), ExitReason.LDTR_TR_ACCESS)}


def descriptor_table(vcpu: Vcpu, detail: int) -> VmExit | None:
    """One of them, which leaves the guest only to exit."""
    decoded = decoded_at(vcpu)
    if decoded.mnemonic not in _REASONS:    # what the engine executed does not stand there any more
        vcpu.engine.distrust_code()
        return None
    return operand_exit(_REASONS[decoded.mnemonic], decoded, vcpu.state.rip)


def ltr(vcpu: Vcpu, detail: int) -> VmExit | None:
    if vcpu.controls.secondary & _EXITING:
        return descriptor_table(vcpu, detail)
    return system_calls.ltr(vcpu, detail)
