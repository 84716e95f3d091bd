"""Event injection: an event as the VM-entry interruption-information fields, and whether VM entry takes it.

SDM "Event Injection". All that VM entry checks is in `checks/`.
"""

from __future__ import annotations

from hv.machine.idt import BY_INSTRUCTION, Event, EventKind
from hv.spec.exits import InterruptionInfo
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.spec.x86 import Cr0
from hv.vmx.checks import RULES, Entry, entry_result
from hv.vmx.checks.example import valid_guest

_RULES = tuple(rule for rule in RULES if rule.id.startswith("injected-"))
_GUEST = valid_guest() | {
    VmcsField.SECONDARY_PROC_CONTROLS: int(SecondaryControls.ENABLE_EPT | SecondaryControls.UNRESTRICTED_GUEST)}
_PE = Cr0.PE.value


def is_injectable(event: Event, protected: bool = True) -> bool:
    """VM entry takes *event*, into a guest that is in protected mode or in real mode; SDM "VM-Entry Control Fields"."""
    values = _GUEST | {
        VmcsField.GUEST_CR0: _PE if protected else 0, VmcsField.VM_ENTRY_INTERRUPTION_INFO: info_of(event),
        VmcsField.VM_ENTRY_EXCEPTION_ERROR_CODE: event.error_code or 0,
        VmcsField.VM_ENTRY_INSTRUCTION_LENGTH: event.instruction_length}
    return entry_result(Entry(values), _RULES).entered


def event_of(info: int, error_code: int, instruction_length: int) -> Event:
    """The event that interruption-information fields ask for, of a type that is delivered (not `OTHER_EVENT`)."""
    fields = InterruptionInfo(info)
    wanted = error_code if fields.error_code_valid else None
    kind = EventKind(fields.type)
    return Event(fields.vector, kind, wanted, instruction_length if kind in BY_INSTRUCTION else 0)


def info_of(event: Event) -> int:
    """*event* as an interruption-information field: what exits during its delivery record."""
    return InterruptionInfo(vector=event.vector, type=int(event.kind), valid=1,
                            error_code_valid=int(event.error_code is not None)).raw
