"""vmcs, vmentry: the control structure of the VP looked at, by name, and what VM entry makes of it."""

from __future__ import annotations

from hv.debug.entry_text import plain, told
from hv.debug.errors import DebugError
from hv.debug.registry import command
from hv.debug.session import Session
from hv.spec.vmcs import FieldEncoding, FieldKind, VmcsField
from hv.vmx.checks.explain import explain
from hv.vmx.checks.reading import BadVmcs, read

GROUPS = {
    "controls": FieldKind.CONTROL, "exit": FieldKind.READ_ONLY_DATA, "guest": FieldKind.GUEST_STATE,
    "host": FieldKind.HOST_STATE,
}


@command("vmcs")
def vmcs(session: Session, which: str = "") -> dict[str, str]:
    """Show the VMCS fields that are not 0: all, of a group (controls, exit, guest, host), or by part of a name."""
    fields = chosen(which)
    structure = session.vp.vcpu.vmcs
    values = {field: structure.read(field) for field in fields}
    if len(fields) > 4:
        values = {field: value for field, value in values.items() if value}
    return {f"{field.name} ({int(field):#06x})": f"{value:#x}" for field, value in values.items()}


@command("vmentry", "entry")
def vmentry(session: Session, text: str = "") -> str:
    """Explain the VM entry that comes next: every rule that would fail.

    With FIELD=VALUE ..., what would be if these fields had these values: `vmentry GUEST_CR0=0x30 GUEST_RFLAGS=0x202`.
    A value is an expression of numbers, registers and symbols without blanks.
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
    if which.lower() in GROUPS:
        return [field for field in VmcsField if FieldEncoding(field).kind == GROUPS[which.lower()]]
    exact = [field for field in VmcsField if field.name == which.upper()]
    found = exact or [field for field in VmcsField if which.upper() in field.name]
    if not found:
        raise DebugError(f"no VMCS field is called `{which}`", f"write a part of a name, or one of {', '.join(GROUPS)}")
    return found
