"""Task switches: which there are, and what is checked before one; SDM "Task Switching".

The switch itself is nobody's here: in VMX non-root operation every attempt is a VM exit, after these checks (SDM
"Treatment of Task Switches").
"""

from __future__ import annotations

from hv.machine.faults import GuestFault
from hv.machine.linear import LinearMemory
from hv.machine.registers import Registers, Segment
from hv.spec.exits import TaskSwitchSource
from hv.spec.x86 import SystemType, Vector

_AVAILABLE = (SystemType.TSS16_AVAILABLE.value, SystemType.TSS_AVAILABLE.value)
_BUSY = (SystemType.TSS16_BUSY.value, SystemType.TSS_BUSY.value)
_LIMITS = {SystemType.TSS16_AVAILABLE.value: 0x2B, SystemType.TSS16_BUSY.value: 0x2B}    # of the others it is 0x67


class TaskSwitch(Exception):
    """An instruction asks for a switch to the TSS *selector*, and may; nothing is changed yet."""

    def __init__(self, selector: int, source: TaskSwitchSource) -> None:
        self.selector, self.source = selector, source
        super().__init__(f"{source.name} asks for a task switch to {selector:#x}")


def check_new_task(state: Registers, memory: LinearMemory, selector: int, source: TaskSwitchSource,
                   ext: int = 0) -> None:
    """GuestFault when *selector* is not that of a TSS to switch to; SDM "Exception Conditions Checked During a Task
    Switch". IRET goes back to a busy one, everything else to one that is not. *ext* is bit 0 of the error code.
    """
    returning = source is TaskSwitchSource.IRET
    wrong, error_code = Vector.TS if returning else Vector.GP, selector & ~3 | ext
    if selector & 4 or (selector & ~7) + 7 > state.gdtr.limit:
        raise GuestFault(wrong, error_code)
    tss = Segment.from_descriptor(selector, memory.read_system(state.gdtr.base + (selector & ~7), 8))
    if tss.code_or_data or tss.type not in (_BUSY if returning else _AVAILABLE):
        raise GuestFault(wrong, error_code)
    if not tss.present:
        raise GuestFault(Vector.NP, error_code)
    if tss.limit < _LIMITS.get(tss.type, 0x67):
        raise GuestFault(Vector.TS, error_code)
