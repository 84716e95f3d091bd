"""What a test does to a local APIC: let time pass, take an interrupt."""

from __future__ import annotations

from hv.machine.apic import LocalApic
from hv.machine.clock import VirtualClock


def passes(clock: VirtualClock, ticks: int) -> None:
    clock.advance(ticks)
    clock.run_due()


def serve(apic: LocalApic) -> bool:
    """Take one interrupt; was there one?"""
    if apic.deliverable() is None:
        return False
    apic.acknowledge()
    apic.eoi()
    return True
