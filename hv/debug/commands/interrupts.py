"""apic, synic: what may interrupt the VP looked at."""

from __future__ import annotations

from typing import Any

from hv.debug.registry import command
from hv.debug.session import Session


@command("apic")
def apic(session: Session) -> dict[str, Any]:
    """Show the VP's local APIC: what is requested, in service, and masked.

    Example: `apic`
    """
    return session.vp.apic.inspect()


@command("synic")
def synic(session: Session) -> dict[str, Any]:
    """Show the VP's synthetic interrupt controller: its pages, and each SINT that is in use.

    Example: `synic`
    """
    shown = session.vp.synic.inspect()
    unused = {"masked": 1, "queued": 0}
    return {name: value for name, value in shown.items()
            if not name.startswith("sint") or any(value.get(key) != idle for key, idle in unused.items())}
