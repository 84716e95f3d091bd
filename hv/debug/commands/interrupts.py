"""apic, synic, timers, iommu: what may interrupt the VP looked at."""

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


@command("timers")
def timers(session: Session) -> dict[str, Any]:
    """Show what counts for the VP: its APIC timer, each synthetic timer in use, and the reference time (100 ns).

    Example: `timers`
    """
    vp = session.vp
    shown = {"reference_time": vp.partition.reference_time, "apic_timer": vp.apic.timer.inspect()}
    for name, timer in vp.timers.inspect().items():
        if timer.get("enable") or timer.get("enabled") or timer.get("count") or timer.get("message_waits"):
            shown[name] = timer
    return shown


@command("iommu")
def iommu(session: Session) -> dict[str, Any]:
    """Show the IOMMU: what is on, the devices and pages it has looked up, its interrupts, and its fault records.

    Example: `iommu`
    """
    shown: dict[str, Any] = session.machine.iommu.inspect()
    return shown
