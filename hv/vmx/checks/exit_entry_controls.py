"""VM entry's checks of the VM-exit and VM-entry controls, with the event that is injected.

SDM "VM-Exit Control Fields", "VM-Entry Control Fields" (of "Checks on VMX Controls").
"""

from __future__ import annotations

from hv.spec.exits import SOFTWARE_TYPES, InterruptionType
from hv.spec.msrs import Msr
from hv.spec.vmcs import EntryControls, ExitControls, PinControls, PrimaryControls, VmcsField, VmxBasic, VmxMisc
from hv.spec.x86 import ENTRY_DELIVERS_ERROR_CODE, Cr0, Vector
from hv.vmx.checks.findings import allowed, allowed_1, msr_area, zero
from hv.vmx.checks.rule import (
    BY_INJECTION,
    BY_SECONDARY,
    ENTRY,
    EXIT,
    GUEST_CR0,
    INJECTION,
    PIN,
    Broken,
    Entry,
    Finding,
    Group,
    rules_of,
)

_F = VmcsField
_EXIT_2, _ERROR_CODE, _LENGTH = (_F.SECONDARY_VM_EXIT_CONTROLS, _F.VM_ENTRY_EXCEPTION_ERROR_CODE,
                                 _F.VM_ENTRY_INSTRUCTION_LENGTH)
_EXIT_MSR, _EXIT_2_MSR, _ENTRY_MSR = Msr.VMX_TRUE_EXIT_CTLS, Msr.VMX_EXIT_CTLS2, Msr.VMX_TRUE_ENTRY_CTLS
_PRIMARY_MSR, _BASIC_MSR, _MISC_MSR = Msr.VMX_TRUE_PROCBASED_CTLS, Msr.VMX_BASIC, Msr.VMX_MISC
_ANY_ERROR_CODE, _ZERO_LENGTH = VmxBasic(any_error_code=1).raw, VmxMisc(zero_length_injection=1).raw
_SECONDARY_EXIT, _SAVE_TIMER = (ExitControls.ACTIVATE_SECONDARY_CONTROLS.value,
                                ExitControls.SAVE_PREEMPTION_TIMER.value)
_TIMER, _MTF = PinControls.ACTIVATE_PREEMPTION_TIMER.value, PrimaryControls.MONITOR_TRAP_FLAG.value
_SMM, _DUAL_MONITOR = EntryControls.ENTRY_TO_SMM.value, EntryControls.DEACTIVATE_DUAL_MONITOR.value
_NMI, _EXCEPTION, _OTHER = (InterruptionType.NMI.value, InterruptionType.HARDWARE_EXCEPTION.value,
                            InterruptionType.OTHER_EVENT.value)
_RESERVED_TYPE = 1
_SOFTWARE = frozenset(int(kind) for kind in SOFTWARE_TYPES)
_PE, _DELIVER = Cr0.PE.value, 1 << 11
_TYPE, _VECTOR, _INFO_RESERVED = 0x700, 0xFF, 0x7FFF_F000
_CP = Vector.CP.value
_WITH_CODE = frozenset(int(vector) for vector in ENTRY_DELIVERS_ERROR_CODE)
_LAST_EXCEPTION, _MOST_BYTES = 31, 15

rule = rules_of(Group.EXIT_CONTROLS, "VM-Exit Control Fields")


@rule("vm-exit-controls", EXIT)
def exit_controls(entry: Entry) -> Finding:
    """Reserved bits in the primary VM-exit controls are as the capability MSR says."""
    return allowed(entry, EXIT, entry.exit, _EXIT_MSR)


@rule("secondary-vm-exit-controls", _EXIT_2, when=(EXIT,))
def secondary_exit_controls(entry: Entry) -> Finding:
    """If "activate secondary controls" is 1, the secondary VM-exit controls are among those that are offered."""
    return allowed_1(entry, _EXIT_2, entry.values[_EXIT_2], _EXIT_2_MSR) if entry.exit & _SECONDARY_EXIT else None


@rule("save-preemption-timer-needs-the-timer", EXIT, PIN)
def save_timer(entry: Entry) -> Finding:
    """If "activate VMX-preemption timer" is 0, "save VMX-preemption timer value" is 0."""
    return None if entry.pin & _TIMER else zero(EXIT, entry.exit, _SAVE_TIMER, '"activate VMX-preemption timer" is 0')


def _area(id: str, address: VmcsField, count: VmcsField, name: str) -> None:
    @rule(id, address, count, text=f"If the VM-{name} count is not 0, the address of the area is 16-byte aligned, and "
                                   "the area is within the physical-address width.")
    def check(entry: Entry) -> Finding:
        entries = entry.values[count]
        return msr_area(entry, address, entry.values[address], entries) if entries else None


_area("exit-msr-store-area", _F.VM_EXIT_MSR_STORE_ADDR, _F.VM_EXIT_MSR_STORE_COUNT, "exit MSR-store")
_area("exit-msr-load-area", _F.VM_EXIT_MSR_LOAD_ADDR, _F.VM_EXIT_MSR_LOAD_COUNT, "exit MSR-load")

rule = rules_of(Group.ENTRY_CONTROLS, "VM-Entry Control Fields")


@rule("vm-entry-controls", ENTRY)
def entry_controls(entry: Entry) -> Finding:
    """Reserved bits in the VM-entry controls are as the capability MSR says."""
    return allowed(entry, ENTRY, entry.entry, _ENTRY_MSR)


# --- Event injection ---------------------------------------------------------------------------------------------

@rule("injected-event-type", INJECTION)
def event_type(entry: Entry) -> Finding:
    """If an event is injected, its type is not 1 (reserved), nor 7 (other event) on a processor without the monitor
    trap flag."""
    info = entry.injection
    if not info:
        return None
    kind = (info & _TYPE) >> 8
    if kind != _RESERVED_TYPE and (kind != _OTHER or entry.msrs[_PRIMARY_MSR] >> 32 & _MTF):
        return None
    return Broken(f"type {kind}", "0 (external interrupt), 2 (NMI), 3 (hardware exception), 4 (software interrupt), "
                  "5 (privileged software exception) or 6 (software exception)", {INJECTION: info & ~_TYPE})


@rule("injected-event-vector", INJECTION)
def event_vector(entry: Entry) -> Finding:
    """If an event is injected, the vector of an NMI is 2, of a hardware exception at most 31, of an other event 0."""
    info = entry.injection
    if not info:
        return None
    kind, vector = (info & _TYPE) >> 8, info & _VECTOR
    if kind == _NMI and vector != Vector.NMI.value:
        return Broken(f"an NMI with vector {vector}", "vector 2", {INJECTION: info & ~_VECTOR | 2})
    if kind == _EXCEPTION and vector > _LAST_EXCEPTION:
        return Broken(f"a hardware exception with vector {vector}", "0..31; 32..255 are interrupts (type 0)",
                      {INJECTION: info & ~_TYPE})
    if kind == _OTHER and vector:
        return Broken(f"an other event with vector {vector}", "vector 0: a pending MTF VM exit",
                      {INJECTION: info & ~_VECTOR})
    return None


def _takes_error_code(entry: Entry, info: int) -> bool | None:
    """The event must have an error code (True), must not (False), or either is right (None)."""
    if (info & _TYPE) >> 8 != _EXCEPTION or (entry.unrestricted and not entry.values[GUEST_CR0] & _PE):
        return False
    if entry.msrs[_BASIC_MSR] & _ANY_ERROR_CODE:
        return None
    vector = info & _VECTOR
    return vector in _WITH_CODE and (vector != _CP or entry.cet)


@rule("injected-error-code-missing", INJECTION, when=(*BY_SECONDARY, GUEST_CR0))
def error_code_missing(entry: Entry) -> Finding:
    """If an event is injected, "deliver error code" is 1 for a hardware exception that has one (8, 10-14, 17, and 21
    with CET) unless the guest is in real mode."""
    info = entry.injection
    if not info or info & _DELIVER or not _takes_error_code(entry, info):
        return None
    return Broken(f"vector {info & _VECTOR} without an error code", "bit 11 (deliver error code) is 1",
                  {INJECTION: info | _DELIVER})


@rule("injected-error-code-not-allowed", INJECTION, when=(*BY_SECONDARY, GUEST_CR0))
def error_code_not_allowed(entry: Entry) -> Finding:
    """If an event is injected, "deliver error code" is 0 for what is no hardware exception, for one that has no error
    code, and in a guest that is in real mode ("unrestricted guest" is 1 and CR0.PE is 0)."""
    info = entry.injection
    if not info & _DELIVER or _takes_error_code(entry, info) is not False:
        return None
    kind = (info & _TYPE) >> 8
    what = f"vector {info & _VECTOR} of type {kind} with an error code"
    real = kind == _EXCEPTION and entry.unrestricted and not entry.values[GUEST_CR0] & _PE
    return Broken(what + (" in a guest with CR0.PE = 0" if real else ""), "bit 11 (deliver error code) is 0",
                  {INJECTION: info & ~_DELIVER})


@rule("injected-event-reserved-bits", INJECTION)
def event_reserved(entry: Entry) -> Finding:
    """If an event is injected, bits 30:12 of the interruption information are 0."""
    return zero(INJECTION, entry.injection, _INFO_RESERVED) if entry.injection & _INFO_RESERVED else None


@rule("injected-error-code-width", _ERROR_CODE, when=BY_INJECTION)
def error_code_width(entry: Entry) -> Finding:
    """If an error code is delivered, its bits 31:16 are 0."""
    return zero(_ERROR_CODE, entry.values[_ERROR_CODE], 0xFFFF_0000) if entry.injection & _DELIVER else None


@rule("injected-instruction-length", _LENGTH, when=BY_INJECTION)
def instruction_length(entry: Entry) -> Finding:
    """If a software interrupt or software exception is injected, the instruction length is 1..15, or 0 where
    IA32_VMX_MISC bit 30 is 1."""
    info = entry.injection
    if not info or (info & _TYPE) >> 8 not in _SOFTWARE:
        return None
    length, least = entry.values[_LENGTH], 0 if entry.msrs[_MISC_MSR] & _ZERO_LENGTH else 1
    if least <= length <= _MOST_BYTES:
        return None
    return Broken(f"{length} bytes", f"{least}..{_MOST_BYTES}", {_LENGTH: min(max(length, least), _MOST_BYTES)})


_area("entry-msr-load-area", _F.VM_ENTRY_MSR_LOAD_ADDR, _F.VM_ENTRY_MSR_LOAD_COUNT, "entry MSR-load")


@rule("no-entry-to-smm-outside-smm", ENTRY)
def outside_smm(entry: Entry) -> Finding:
    """If the processor is not in SMM, "entry to SMM" and "deactivate dual-monitor treatment" are 0."""
    return zero(ENTRY, entry.entry, _SMM | _DUAL_MONITOR, "the processor is not in SMM")
