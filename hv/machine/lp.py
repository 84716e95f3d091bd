"""A logical processor of the box: its physical local APIC, and the work that is its clock.

The machine has one. Guests of all partitions take turns on it, so virtual time is the work done by all of them. Only
where partitions run in parallel there are more, each with a clock of its own: `gate.py`.
"""

from __future__ import annotations

from hv.machine.apic import LocalApic
from hv.machine.clock import VirtualClock
from hv.machine.interconnect import Interconnect
from hv.machine.stubs import WorkCounter
from hv.spec.apic import ApicRegister

_SOFTWARE_ENABLE = 0x1FF        # spurious vector FF


class LogicalProcessor:
    """Counts work, keeps time, and takes physical interrupts; a guest that runs is stopped for them."""

    def __init__(self, number: int = 0, interconnect: Interconnect | None = None) -> None:
        self.number = number            # its physical APIC id too
        self.counter = WorkCounter()
        self.clock = VirtualClock(self.counter)
        self.interconnect = interconnect or Interconnect()
        self.apic = LocalApic(number, self.clock, bsp=number == 0)
        self.interconnect.add(self.apic)
        self.apic.write(ApicRegister.SVR, _SOFTWARE_ENABLE)
        self.apic.on_pending = self._interrupt_arrived
        self.clock.on_earlier = self.stop_by

    def _interrupt_arrived(self) -> None:
        if self.apic.deliverable() is not None:
            self.counter.limit = self.counter.deadline = 0

    def stop_by(self, tsc: int) -> None:
        """A guest that runs stops at *tsc* at the latest: for a timer that was just set, or for another VP."""
        counter = self.counter
        if tsc < counter.until:
            counter.until = tsc
        if tsc < counter.deadline:
            counter.deadline = tsc
            counter.limit = min(counter.limit, tsc)

    def run_until(self, tsc: int) -> None:
        """A guest that runs goes on until *tsc*, whatever it was told before."""
        counter = self.counter
        counter.until = counter.deadline = tsc
        counter.limit = 0 if counter.window or counter.skip else tsc

    def interrupt_waits(self) -> bool:
        """A physical interrupt may be taken."""
        return bool(self.apic.irr) and self.apic.deliverable() is not None

    def acknowledge(self) -> int | None:
        """The physical interrupt that waits, acknowledged and ended; None when there is none.

        The hypervisor ends it at once: the owner's virtual APIC keeps the guest's own order of service.
        """
        return self.apic.acknowledge_and_end() if self.apic.irr else None
