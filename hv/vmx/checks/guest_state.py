"""VM entry's checks of the guest's state that is no register; SDM "Checks on Guest Non-Register State".

Activity, interruptibility, pending debug exceptions, and the VMCS link pointer.

# Simplified: an NMI may be injected into a guest in which STI blocks events; the manual lets a processor refuse that,
# with qualification 3.
"""

from __future__ import annotations

from hv.spec.exits import EntryFailure, InterruptionType
from hv.spec.msrs import Debugctl, Msr
from hv.spec.vmcs import (
    NO_VMCS,
    ActivityState,
    EntryControls,
    Interruptibility,
    PendingDebugExceptions,
    PinControls,
    SecondaryControls,
    VmcsField,
)
from hv.spec.x86 import Rflags, Vector
from hv.vmx.checks.findings import one, physical, within, zero
from hv.vmx.checks.rule import (
    BY_INJECTION,
    BY_SECONDARY,
    ENTRY,
    GUEST_RFLAGS,
    NO_MEMORY,
    PIN,
    Broken,
    Entry,
    Finding,
    Group,
    rules_of,
)
from hv.vmx.checks.words import event_in_words

_F = VmcsField
_SS, _ACTIVITY, _BLOCKING = (_F.GUEST_SS_ACCESS_RIGHTS, _F.GUEST_ACTIVITY_STATE,
                            _F.GUEST_INTERRUPTIBILITY_STATE)
_PENDING, _DEBUGCTL, _LINK = _F.GUEST_PENDING_DEBUG_EXCEPTIONS, _F.GUEST_IA32_DEBUGCTL, _F.VMCS_LINK_POINTER
_DPL = 0x60
_IF, _TF = Rflags.IF.value, Rflags.TF.value
_BTF = Debugctl(btf=1).raw
_SMM = EntryControls.ENTRY_TO_SMM.value
_VIRTUAL_NMIS, _SHADOWING = PinControls.VIRTUAL_NMIS.value, SecondaryControls.VMCS_SHADOWING.value
_ACTIVE, _HLT = ActivityState.ACTIVE.value, ActivityState.HLT.value
_SHUTDOWN, _WAIT = ActivityState.SHUTDOWN.value, ActivityState.WAIT_FOR_SIPI.value
_STI, _MOV_SS = Interruptibility.BLOCKING_BY_STI.value, Interruptibility.BLOCKING_BY_MOV_SS.value
_BY_SMI, _BY_NMI = Interruptibility.BLOCKING_BY_SMI.value, Interruptibility.BLOCKING_BY_NMI.value
_ENCLAVE = Interruptibility.ENCLAVE_INTERRUPTION.value
_BLOCKING_RESERVED = 0xFFFF_FFE0
_TYPE, _VECTOR = 0x700, 0xFF
_EXTERNAL, _NMI = InterruptionType.EXTERNAL_INTERRUPT.value, InterruptionType.NMI.value
_EXCEPTION, _OTHER = InterruptionType.HARDWARE_EXCEPTION.value, InterruptionType.OTHER_EVENT.value
_DB, _MC = Vector.DB.value, Vector.MC.value
_BS = PendingDebugExceptions(bs=1).raw
_PENDING_RESERVED, _OPTIONAL = PendingDebugExceptions.RESERVED, PendingDebugExceptions(bus_lock=1, rtm=1).raw
_RTM, _ENABLED = PendingDebugExceptions(rtm=1).raw, PendingDebugExceptions(enabled_breakpoint=1).raw
_NOT_WITH_RTM, _U64 = 0xFFF | _BS, (1 << 64) - 1
_REVISION = 0x7FFF_FFFF
_BASIC_MSR, _MISC_MSR, _SECONDARY_MSR = Msr.VMX_BASIC, Msr.VMX_MISC, Msr.VMX_PROCBASED_CTLS2
_ENCLS, _BUS_LOCK = SecondaryControls.ENCLS_EXITING.value, SecondaryControls.BUS_LOCK_DETECTION.value

rule = rules_of(Group.GUEST_STATE, "Checks on Guest Non-Register State")


# --- Activity state ----------------------------------------------------------------------------------------------

@rule("guest-activity-state-supported", _ACTIVITY)
def activity(entry: Entry) -> Finding:
    """The activity state is 0 (active), or 1 (HLT), 2 (shutdown) or 3 (wait-for-SIPI) where IA32_VMX_MISC offers it."""
    state = entry.values[_ACTIVITY]
    if not state:
        return None
    misc = entry.msrs[_MISC_MSR]
    offered = [_ACTIVE, *(kind for kind in (_HLT, _SHUTDOWN, _WAIT) if misc >> 5 + kind & 1)]
    if state in offered:
        return None
    return Broken(f"{state}", f"one of {', '.join(map(str, offered))} (IA32_VMX_MISC bits 8:6)", {_ACTIVITY: _ACTIVE})


@rule("guest-hlt-needs-ss-dpl-zero", _ACTIVITY, _SS)
def hlt_privilege(entry: Entry) -> Finding:
    """The activity state is not HLT if DPL of SS is not 0."""
    rights = entry.values[_SS]
    if entry.values[_ACTIVITY] != _HLT or not rights & _DPL:
        return None
    return Broken(f"HLT with SS.DPL = {rights >> 5 & 3}", "SS.DPL is 0, or the state is active (0)",
                  {_ACTIVITY: _ACTIVE})


@rule("guest-blocking-needs-active-state", _ACTIVITY, _BLOCKING)
def blocked_is_active(entry: Entry) -> Finding:
    """The activity state is active if STI or MOV SS blocks events."""
    state = entry.values[_ACTIVITY]
    if not state or not entry.values[_BLOCKING] & (_STI | _MOV_SS):
        return None
    return Broken(f"activity state {state} with blocking by STI or MOV SS", "active (0)", {_ACTIVITY: _ACTIVE})


@rule("guest-activity-state-takes-the-event", _ACTIVITY, when=BY_INJECTION)
def activity_takes_event(entry: Entry) -> Finding:
    """If an event is injected, HLT allows external interrupts, NMIs, #DB, #MC and pending MTF; shutdown allows NMIs and
    #MC; wait-for-SIPI allows none."""
    state, info = entry.values[_ACTIVITY], entry.injection
    if not state or not info or _is_allowed(state, (info & _TYPE) >> 8, info & _VECTOR):
        return None
    name = {_HLT: "HLT", _SHUTDOWN: "shutdown", _WAIT: "wait-for-SIPI"}[state]
    return Broken(f"{event_in_words(info)}, into {name}", f"an event that {name} allows, or the active state",
                  {_ACTIVITY: _ACTIVE})


def _is_allowed(state: int, kind: int, vector: int) -> bool:
    machine_check = kind == _EXCEPTION and vector == _MC
    if state == _HLT:
        return kind in (_EXTERNAL, _NMI) or machine_check or (kind == _EXCEPTION and vector == _DB) \
            or (kind == _OTHER and not vector)
    if state == _SHUTDOWN:
        return kind == _NMI or machine_check
    return state != _WAIT


@rule("guest-wait-for-sipi-not-into-smm", _ACTIVITY, when=(ENTRY,))
def wait_outside_smm(entry: Entry) -> Finding:
    """If "entry to SMM" is 1, the activity state is not wait-for-SIPI."""
    if entry.values[_ACTIVITY] != _WAIT or not entry.entry & _SMM:
        return None
    return Broken("wait-for-SIPI", "another state: SMM is entered", {_ACTIVITY: _ACTIVE})


# --- Interruptibility state --------------------------------------------------------------------------------------

@rule("guest-interruptibility-reserved-bits", _BLOCKING)
def blocking_reserved(entry: Entry) -> Finding:
    """Bits 31:5 of the interruptibility state are 0."""
    value = entry.values[_BLOCKING]
    return zero(_BLOCKING, value, _BLOCKING_RESERVED) if value & _BLOCKING_RESERVED else None


@rule("guest-blocking-by-sti-or-mov-ss-not-both", _BLOCKING)
def blocking_both(entry: Entry) -> Finding:
    """Bit 0 (blocking by STI) and bit 1 (blocking by MOV SS) are not both 1."""
    value = entry.values[_BLOCKING]
    if value & 3 != 3:
        return None
    return Broken("both are 1", "at most one of them", {_BLOCKING: value & ~_STI})


@rule("guest-blocking-by-sti-needs-if", _BLOCKING, GUEST_RFLAGS)
def blocking_by_sti(entry: Entry) -> Finding:
    """Bit 0 (blocking by STI) is 0 if RFLAGS.IF is 0."""
    value = entry.values[_BLOCKING]
    if not value & _STI or entry.values[GUEST_RFLAGS] & _IF:
        return None
    return zero(_BLOCKING, value, _STI, "RFLAGS.IF is 0")


@rule("guest-no-blocking-for-an-external-interrupt", _BLOCKING, when=BY_INJECTION)
def blocking_external(entry: Entry) -> Finding:
    """If an external interrupt is injected, bit 0 (blocking by STI) and bit 1 (blocking by MOV SS) are 0."""
    if not entry.injection or entry.injection & _TYPE:
        return None
    return zero(_BLOCKING, entry.values[_BLOCKING], _STI | _MOV_SS, "an external interrupt is injected")


@rule("guest-no-blocking-by-mov-ss-for-an-nmi", _BLOCKING, when=BY_INJECTION)
def blocking_nmi(entry: Entry) -> Finding:
    """If an NMI is injected, bit 1 (blocking by MOV SS) is 0."""
    if (entry.injection & _TYPE) >> 8 != _NMI:
        return None
    return zero(_BLOCKING, entry.values[_BLOCKING], _MOV_SS, "an NMI is injected")


@rule("guest-blocking-by-smi-is-smm", _BLOCKING, when=(ENTRY,))
def blocking_smi(entry: Entry) -> Finding:
    """Bit 2 (blocking by SMI) is 0 if the processor is not in SMM, and 1 if "entry to SMM" is 1."""
    value = entry.values[_BLOCKING]
    if entry.entry & _SMM:
        return one(_BLOCKING, value, _BY_SMI, '"entry to SMM" is 1')
    return zero(_BLOCKING, value, _BY_SMI, "the processor is not in SMM") if value & _BY_SMI else None


@rule("guest-no-virtual-nmi-blocking-for-an-nmi", _BLOCKING, when=(*BY_INJECTION, PIN))
def blocking_virtual_nmi(entry: Entry) -> Finding:
    """If "virtual NMIs" is 1 and an NMI is injected, bit 3 (blocking by NMI) is 0."""
    if (entry.injection & _TYPE) >> 8 != _NMI or not entry.pin & _VIRTUAL_NMIS:
        return None
    return zero(_BLOCKING, entry.values[_BLOCKING], _BY_NMI, "an NMI is injected")


@rule("guest-enclave-interruption", _BLOCKING)
def enclave(entry: Entry) -> Finding:
    """If bit 4 (enclave interruption) is 1, bit 1 (blocking by MOV SS) is 0 and the processor has SGX."""
    value = entry.values[_BLOCKING]
    if not value & _ENCLAVE:
        return None
    if not entry.msrs[_SECONDARY_MSR] >> 32 & _ENCLS:
        return zero(_BLOCKING, value, _ENCLAVE, "the processor has no SGX")
    return zero(_BLOCKING, value, _MOV_SS, "bit 4 (enclave interruption) is 1")


# --- Pending debug exceptions ------------------------------------------------------------------------------------

@rule("guest-pending-debug-exceptions-reserved-bits", _PENDING)
def pending_reserved(entry: Entry) -> Finding:
    """Bits 63:17, 15, 13 and 10:4 of the pending debug exceptions are 0; and 11 (bus lock) and 16 (RTM) on a processor
    without bus-lock detection or RTM."""
    value = entry.values[_PENDING]
    if not value:
        return None
    reserved = _PENDING_RESERVED if _has_optional(entry) else _PENDING_RESERVED | _OPTIONAL
    return zero(_PENDING, value, reserved, "every reserved bit")


def _has_optional(entry: Entry) -> bool:
    """Bus-lock detection, which a capability MSR tells, stands for RTM too, which only CPUID would."""
    return bool(entry.msrs[_SECONDARY_MSR] >> 32 & _BUS_LOCK)


@rule("guest-pending-rtm", _PENDING, _BLOCKING)
def pending_rtm(entry: Entry) -> Finding:
    """If bit 16 (RTM) of the pending debug exceptions is 1, bits 11:0 and 14 are 0, bit 12 (enabled breakpoint) is 1,
    and MOV SS does not block events."""
    value = entry.values[_PENDING]
    if not value & _RTM or not _has_optional(entry):
        return None
    wrong = within(_PENDING, value, _ENABLED, _U64 & ~_NOT_WITH_RTM, "bit 16 (RTM)", "bit 16 (RTM)")
    if not entry.values[_BLOCKING] & _MOV_SS:
        return wrong
    blocked = zero(_BLOCKING, entry.values[_BLOCKING], _MOV_SS, "a #DB of a transactional region pends")
    assert blocked is not None
    return blocked if wrong is None else blocked._replace(fix=blocked.fix | wrong.fix)


def _steps(entry: Entry) -> bool | None:
    """BS must be 1 (True) or 0 (False); None where the manual does not say."""
    values = entry.values
    if not values[_BLOCKING] & (_STI | _MOV_SS) and values[_ACTIVITY] != _HLT:
        return None
    return bool(values[GUEST_RFLAGS] & _TF) and not values[_DEBUGCTL] & _BTF


@rule("guest-pending-single-step-missing", _PENDING, GUEST_RFLAGS, _BLOCKING, _ACTIVITY, when=(_DEBUGCTL,))
def pending_step_missing(entry: Entry) -> Finding:
    """If STI or MOV SS blocks events, or the activity state is HLT: BS (bit 14) is 1 if RFLAGS.TF is 1 and
    IA32_DEBUGCTL.BTF is 0."""
    value = entry.values[_PENDING]
    if value & _BS or not _steps(entry):
        return None
    return one(_PENDING, value, _BS, "RFLAGS.TF is 1 and IA32_DEBUGCTL.BTF is 0")


@rule("guest-pending-single-step-not-allowed", _PENDING, GUEST_RFLAGS, _BLOCKING, _ACTIVITY, when=(_DEBUGCTL,))
def pending_step_not_allowed(entry: Entry) -> Finding:
    """If STI or MOV SS blocks events, or the activity state is HLT: BS (bit 14) is 0 if RFLAGS.TF is 0 or
    IA32_DEBUGCTL.BTF is 1."""
    value = entry.values[_PENDING]
    if not value & _BS or _steps(entry) is not False:
        return None
    return zero(_PENDING, value, _BS, "RFLAGS.TF is 0, or IA32_DEBUGCTL.BTF is 1")


# --- VMCS link pointer -------------------------------------------------------------------------------------------

rule = rules_of(Group.GUEST_STATE, "Checks on Guest Non-Register State", EntryFailure.VMCS_LINK_POINTER)


@rule("vmcs-link-pointer-address", _LINK)
def link_address(entry: Entry) -> Finding:
    """If the VMCS link pointer is not FFFFFFFF_FFFFFFFFH, it is 4-KByte aligned and not too wide."""
    value = entry.values[_LINK]
    if value == NO_VMCS or physical(entry, _LINK, value) is None:
        return None
    found = physical(entry, _LINK, value)
    assert found is not None
    return Broken(found.found, f"{found.required}, or {NO_VMCS:#x} (none)", {_LINK: NO_VMCS})


def _linked(entry: Entry) -> int | bool | None:
    """The first dword of the linked VMCS; None without memory, False when there is no such VMCS to look at."""
    value = entry.values[_LINK]
    if value == NO_VMCS or physical(entry, _LINK, value) is not None:
        return False
    return entry.load(value, 4)


@rule("vmcs-link-pointer-revision", _LINK, reads_memory=True)
def link_revision(entry: Entry) -> Finding:
    """If the VMCS link pointer is not FFFFFFFF_FFFFFFFFH, bits 30:0 of the dword there are the processor's VMCS
    revision identifier."""
    dword = _linked(entry)
    if dword is False:
        return None
    if dword is None:
        return NO_MEMORY
    wanted = entry.msrs[_BASIC_MSR] & _REVISION
    if dword & _REVISION == wanted:
        return None
    return Broken(f"revision identifier {dword & _REVISION:#x} at {entry.values[_LINK]:#x}",
                  f"{wanted:#x}, as IA32_VMX_BASIC bits 30:0 say", {_LINK: NO_VMCS})


@rule("vmcs-link-pointer-shadow-indicator", _LINK, when=BY_SECONDARY, reads_memory=True)
def link_shadow(entry: Entry) -> Finding:
    """If the VMCS link pointer is not FFFFFFFF_FFFFFFFFH, bit 31 of the dword there (shadow-VMCS indicator) is "VMCS
    shadowing"."""
    dword = _linked(entry)
    if dword is False:
        return None
    if dword is None:
        return NO_MEMORY
    shadowing = bool(entry.secondary & _SHADOWING)
    if bool(dword >> 31) is shadowing:
        return None
    return Broken(f"bit 31 is {dword >> 31} at {entry.values[_LINK]:#x}",
                  f'{int(shadowing)}, as "VMCS shadowing" is {int(shadowing)}', {_LINK: NO_VMCS})


@rule("vmcs-link-pointer-is-not-the-current-vmcs", _LINK)
def link_not_current(entry: Entry) -> Finding:
    """Outside SMM, the VMCS link pointer is not the current-VMCS pointer."""
    value = entry.values[_LINK]
    if value == NO_VMCS or value != entry.current_vmcs:
        return None
    return Broken(f"{value:#x}, the current VMCS", f"another VMCS, or {NO_VMCS:#x} (none)", {_LINK: NO_VMCS})
