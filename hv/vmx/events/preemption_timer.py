"""The VMX-preemption timer; SDM "VMX-Preemption Timer".

It counts down by one whenever bit X of the time-stamp counter changes, X being `VmxMisc.preemption_timer_shift`: so
when it is zero follows from the counter at VM entry, and nothing counts.
"""

from __future__ import annotations

from hv.machine.clock import VirtualClock
from hv.vmx.capabilities import PROCESSOR

SHIFT: int = PROCESSOR.misc.preemption_timer_shift
NEVER = 1 << 63


class PreemptionTimer:
    """Runs from VM entry to VM exit while its control is set. *deadline* is the counter's value when it is zero."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.deadline = NEVER

    def load(self, value: int) -> None:
        """VM entry with *value* in the field."""
        self.deadline = (self._clock.tsc >> SHIFT) + value << SHIFT

    def stop(self) -> None:
        """It does not run."""
        self.deadline = NEVER

    @property
    def value(self) -> int:
        """What is left."""
        return max(0, (self.deadline >> SHIFT) - (self._clock.tsc >> SHIFT))

    @property
    def expired(self) -> bool:
        """It has reached zero."""
        return self._clock.tsc >= self.deadline
