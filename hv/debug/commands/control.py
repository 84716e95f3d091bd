"""vmcs, vmentry: the control structure of the VP looked at, by name, and what VM entry makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hv.debug.completion import Word
from hv.debug.entry_text import plain, told
from hv.debug.errors import DebugError
from hv.debug.registry import command
from hv.debug.session import Session
from hv.spec.vmcs import FieldEncoding, FieldKind, VmcsField
from hv.vmx.checks.explain import explain
from hv.vmx.checks.reading import BadVmcs, read
from hv.vmx.checks.words import decoded


def _of_kind(kind: FieldKind, within: Callable[[str], bool] = lambda name: True) -> tuple[VmcsField, ...]:
    return tuple(field for field in VmcsField if FieldEncoding(field).kind == kind and within(field.name))


def _is_exit(name: str) -> bool:
    return name.startswith("VM_EXIT") or name == "SECONDARY_VM_EXIT_CONTROLS"


def _is_entry(name: str) -> bool:
    return name.startswith("VM_ENTRY") or name == "INJECTED_EVENT_DATA"


# SDM "Organization of VMCS Data": six logical groups; "controls" are three of them together.
GROUPS: dict[str, tuple[VmcsField, ...]] = {
    "guest": _of_kind(FieldKind.GUEST_STATE), "host": _of_kind(FieldKind.HOST_STATE),
    "controls": _of_kind(FieldKind.CONTROL),
    "execution": _of_kind(FieldKind.CONTROL, lambda name: not _is_exit(name) and not _is_entry(name)),
    "exit-controls": _of_kind(FieldKind.CONTROL, _is_exit), "entry": _of_kind(FieldKind.CONTROL, _is_entry),
    "exit": _of_kind(FieldKind.READ_ONLY_DATA),
}
_MEANINGS = {
    "guest": "guest-state area", "host": "host-state area", "controls": "all controls",
    "execution": "VM-execution control fields", "exit-controls": "VM-exit control fields",
    "entry": "VM-entry control fields", "exit": "VM-exit information fields",
    "events": "what may come at the next instruction, and what blocks it",
}


# What may come at the next instruction boundary, and what keeps it from coming.
EVENTS = (
    VmcsField.GUEST_ACTIVITY_STATE, VmcsField.GUEST_INTERRUPTIBILITY_STATE, VmcsField.GUEST_PENDING_DEBUG_EXCEPTIONS,
    VmcsField.GUEST_INTERRUPT_STATUS, VmcsField.GUEST_RFLAGS, VmcsField.VM_ENTRY_INTERRUPTION_INFO,
    VmcsField.EXIT_INTERRUPTION_INFO, VmcsField.IDT_VECTORING_INFO, VmcsField.TPR_THRESHOLD,
    VmcsField.VMX_PREEMPTION_TIMER_VALUE,
)


def _groups_and_fields(session: Session, typed: str) -> Iterator[Word]:
    for group, meaning in _MEANINGS.items():
        yield Word(group, meaning)
    for field in VmcsField:
        yield Word(field.name.lower(), f"{int(field):#06x}")


def _assignments(session: Session, typed: str) -> Iterator[Word]:
    for field in VmcsField:
        yield Word(field.name, f"{int(field):#06x}")


@command("vmcs", which=_groups_and_fields)
def vmcs(session: Session, which: str = "") -> dict[str, str] | str:
    """Show VMCS fields with their bits by name: all, a group of the manual's, or those that have a part of a name.

    The groups are guest, host (the state areas), execution, exit-controls, entry (the controls; all three: controls),
    exit (the VM-exit information). `events` is what may come at the next instruction, and what blocks it. Of many
    fields only those that are not 0 are shown.

    Example: `vmcs guest_cr4`, `vmcs execution`, `vmcs exit`, `vmcs events`
    """
    fields = chosen(which)
    structure = session.vp.vcpu.vmcs
    values = {field: structure.read(field) for field in fields}
    if len(fields) > 4 and which.lower() != "events":
        values = {field: value for field, value in values.items() if value}
    if not values:
        return f"all {len(fields)} fields are 0"
    return {f"{field.name} ({int(field):#06x})": shown(field, value) for field, value in values.items()}


def shown(field: VmcsField, value: int) -> str:
    """The number, and what it means: `0x2620   PAE OSFXSR OSXMMEXCPT VMXE`; of 0 only the activity state has words."""
    words = decoded(field, value) if value or field is VmcsField.GUEST_ACTIVITY_STATE else ""
    return f"{value:#x}   {words}".rstrip()


@command("vmentry", "entry", text=_assignments)
def vmentry(session: Session, text: str = "") -> str:
    """Explain the VM entry that comes next: every rule that would fail.

    With FIELD=VALUE ..., what would be if these fields had these values: `vmentry GUEST_CR0=0x30 GUEST_RFLAGS=0x202`.
    A value is an expression of numbers, registers and symbols without blanks.

    Example: `vmentry`, `vmentry GUEST_CR0=0x30`
    """
    entry = session.vp.vcpu.entry()
    pairs = []
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals:
            raise DebugError(f"`{word}` changes nothing", "write FIELD=VALUE, such as GUEST_CR0=0x30")
        pairs.append((name.upper(), session.number(value)))
    try:
        return plain(told(explain(read(pairs, over=entry).entry if pairs else entry)))
    except BadVmcs as error:
        raise DebugError(str(error), "`vmcs` shows the fields") from None


def chosen(which: str) -> list[VmcsField]:
    """The fields that *which* names; DebugError when there are none."""
    if not which:
        return list(VmcsField)
    if "=" in which:
        raise DebugError("vmcs writes nothing", f"`vmentry {which.upper()}` tells what VM entry would make of it, "
                         "`vmwrite FIELD VALUE` writes a field")
    if which.lower() == "events":
        return list(EVENTS)
    if which.lower() in GROUPS:
        return list(GROUPS[which.lower()])
    exact = [field for field in VmcsField if field.name == which.upper()]
    found = exact or [field for field in VmcsField if which.upper() in field.name]
    if not found:
        raise DebugError(f"no VMCS field is called `{which}`",
                         f"write a part of a name, or one of {', '.join(GROUPS)}, events")
    return found
