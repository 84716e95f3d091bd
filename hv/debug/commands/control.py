"""vmcs: the control structure of the VP looked at, by name."""

from __future__ import annotations

from hv.debug.errors import DebugError
from hv.debug.registry import command
from hv.debug.session import Session
from hv.spec.vmcs import FieldEncoding, FieldKind, VmcsField

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
