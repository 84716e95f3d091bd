"""The local APIC's timer: one-shot, periodic and TSC-deadline, on virtual time.

Nothing ticks. The count at a moment is computed from the moment it was loaded, and one `VirtualClock` timer stands for
the next expiry, if an unmasked entry would deliver it. SDM "APIC Timer".

The count goes down once per *divisor* bus clocks; a bus clock is `BUS_TICKS` ticks of the time-stamp counter.
"""

# Simplified: a periodic timer delivers at most once per `SHORTEST_GAP`; the count is exact, the deliveries in between
# are lost, as they would be in an IRR bit that nobody had time to take.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.machine.clock import APIC_BUS_HZ, TSC_HZ, Timer, VirtualClock
from hv.spec.apic import DivideConfiguration, TimerMode

BUS_TICKS = TSC_HZ // APIC_BUS_HZ
SHORTEST_GAP = 20_000           # ticks, 10 us: an interrupt and its EOI cost a few exits
_WORD = (1 << 64) - 1
_NEVER = 1 << 62                # ticks: 73 years
_TSC_DEADLINE, _PERIODIC = TimerMode.TSC_DEADLINE, TimerMode.PERIODIC       # naming a member costs a call
_UNITS = tuple(DivideConfiguration(raw).divisor * BUS_TICKS for raw in range(16))


class ApicTimer:
    """Calls *fire* at each expiry while unmasked.

    `tsc_offset` is what the guest's time-stamp counter is ahead of the machine's, in ticks.
    """

    def __init__(self, clock: VirtualClock, fire: Callable[[], object]) -> None:
        self.clock, self.fire = clock, fire
        self.tsc_offset = 0
        self._timer: Timer | None = None
        self._paused_at: int | None = None
        self.reset()

    def reset(self) -> None:
        """Stop; registers as after INIT."""
        self.clock.cancel(self._timer)
        self._timer = None
        self.mode, self.masked = TimerMode.ONE_SHOT, True
        self.initial = self.divide = 0
        self._deadline = 0                      # guest tsc, 0 = disarmed
        self._count, self._since = 0, 0         # the count, and the tsc at which it was that
        self._gate = 0                          # tsc before which a periodic timer delivers nothing more

    @property
    def unit(self) -> int:
        """Ticks per count."""
        return _UNITS[self.divide & 0xF]

    @property
    def current(self) -> int:
        """The current-count register: 0 when stopped, and in TSC-deadline mode."""
        if self.mode is _TSC_DEADLINE:
            return 0
        now = self.clock.tsc if self._paused_at is None else self._paused_at
        left = self._count - (now - self._since) // _UNITS[self.divide & 0xF]
        return left if left > 0 else self._count_at(now)

    @property
    def deadline(self) -> int:
        """IA32_TSC_DEADLINE: 0 in the other modes, and once it has passed."""
        return 0 if self._deadline <= self._now + self.tsc_offset else self._deadline

    def set_initial(self, count: int) -> None:
        """Start at *count* (32 bits), or stop with 0; ignored in TSC-deadline mode."""
        if self.mode is TimerMode.TSC_DEADLINE:
            return
        self._settle()
        self.initial = self._count = count
        self._since, self._gate = self._now, 0
        self._arm()

    def set_divide(self, value: int) -> None:
        """Change the divide configuration; a running count goes on from where it is at the new rate."""
        self._settle()
        self.divide = value & ~DivideConfiguration.RESERVED
        self._arm()

    def set_entry(self, mode: TimerMode, masked: bool) -> None:
        """Follow the LVT entry. Into and out of TSC-deadline mode disarms; SDM "TSC-Deadline Mode"."""
        self._settle()
        if (mode is TimerMode.TSC_DEADLINE) != (self.mode is TimerMode.TSC_DEADLINE):
            self.initial = self._count = self._deadline = 0
        self.mode, self.masked = mode, masked
        self._arm()

    def set_deadline(self, value: int) -> None:
        """Arm for guest time *value*, or disarm with 0; in the past it fires at once; ignored in the other modes."""
        if self.mode is not TimerMode.TSC_DEADLINE:
            return
        self._settle()
        self._deadline = value & _WORD
        if self._deadline and self.deadline == 0:
            self._deadline = 0
            self._arm()
            if not self.masked:
                self.fire()
        else:
            self._arm()

    def _count_at(self, tsc: int) -> int:
        elapsed = (tsc - self._since) // _UNITS[self.divide & 0xF]
        if elapsed < self._count:
            return self._count - elapsed
        if self.mode is _PERIODIC and self.initial and self._count:
            return self.initial - (elapsed - self._count) % self.initial
        return 0

    def _settle(self) -> None:
        """Make now the moment from which the count goes; an expiry that is due but not yet delivered is."""
        if self._timer is not None and self._timer.tsc <= self._now:
            self._expire()
        now = self._now
        self._count = self._count_at(now)
        self._since = now - (now - self._since) % self.unit
        self._deadline = self.deadline

    def _expiry(self) -> int | None:
        """The tsc of the next delivery, or None when there is none in the life of the machine."""
        if self.masked:
            return None
        if self.mode is TimerMode.TSC_DEADLINE:
            at = self._deadline - self.tsc_offset
            return at if self._deadline and at < _NEVER else None
        if not self._count:
            return None
        at = self._since + self._count * self.unit
        if self.mode is TimerMode.PERIODIC and self.initial and at < self._gate:
            period = self.initial * self.unit
            at += -((at - self._gate) // period) * period
        return at

    def _arm(self) -> None:
        self.clock.cancel(self._timer)
        at = self._expiry() if self._paused_at is None else None
        self._timer = None if at is None else self.clock.at(at, self._expire)

    def _expire(self) -> None:
        """The moment has come (or is past): reload or stop, then deliver once."""
        self.clock.cancel(self._timer)
        self._timer = None
        self._deadline = 0
        if self.mode is TimerMode.PERIODIC and self.initial:
            self._reload()
        else:
            self._count = 0
        self._arm()
        self.fire()

    def _reload(self) -> None:
        """Go on from the last reload that is past."""
        period = self.initial * self.unit
        first = self._since + self._count * self.unit
        self._since = first + (self._now - first) // period * period
        self._count, self._gate = self.initial, self._since + SHORTEST_GAP

    @property
    def _now(self) -> int:
        """The moment it is for this timer, in ticks of the machine's clock."""
        return self.clock.tsc if self._paused_at is None else self._paused_at

    def pause(self) -> None:
        """Time stands still for this timer until `resume`: nothing expires."""
        self._settle()
        self._paused_at = self.clock.tsc
        self._arm()

    def resume(self) -> None:
        """Go on from where it stood; the guest's time-stamp counter does, too."""
        assert self._paused_at is not None, "the timer is not paused"
        stood, self._paused_at = self.clock.tsc - self._paused_at, None
        self._since += stood
        self._gate += stood
        self.tsc_offset -= stood
        self._arm()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"mode": self.mode.name, "masked": self.masked, "initial": self.initial, "current": self.current,
                "divisor": DivideConfiguration(self.divide).divisor, "deadline": self.deadline}

    def save(self) -> dict[str, int]:
        """The state as plain data; moments are in ticks of the machine's clock."""
        self._settle()
        return {"mode": self.mode, "masked": int(self.masked), "initial": self.initial, "divide": self.divide,
                "deadline": self._deadline, "count": self._count, "since": self._since, "gate": self._gate,
                "tsc_offset": self.tsc_offset}

    def restore(self, state: dict[str, int]) -> None:
        """Take over what `save` gave, on a clock that shows the time of the save or later."""
        self.mode, self.masked = TimerMode(state["mode"]), bool(state["masked"])
        self.initial, self.divide = state["initial"], state["divide"]
        self._deadline, self._count, self._since = state["deadline"], state["count"], state["since"]
        self._gate, self.tsc_offset = state["gate"], state["tsc_offset"]
        self._arm()
