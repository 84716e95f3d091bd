"""A synthetic timer, one of four: one-shot or periodic, with a message on a SINT or an interrupt of its own.

TLFS "Synthetic Timers". Times are in units of 100 ns of the partition's reference counter. A timer expires when the
counter has reached its time, never before; it has one message, which waits in the queue of its SINT while the slot is
taken, and until that is delivered a one-shot timer stays enabled and a periodic one does not expire again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hv.hypervisor.synic.synic import QueuedMessage
from hv.machine.clock import Timer
from hv.machine.faults import GuestFault
from hv.spec.msrs import HvStimerConfig
from hv.spec.synic import HvMessageType, TimerMessage
from hv.spec.vp_state import StimerState
from hv.spec.x86 import Vector
from hv.trace.events import SyntheticTimerExpired, SyntheticTimerSkipped

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

# Simplified: a periodic timer expires at most once per `SHORTEST_GAP`; the ticks in between are coalesced.
SHORTEST_GAP = 100              # units of 100 ns: an interrupt, its EOI and EOM cost a few exits
_SHORTLY = 4                    # a lazy tick is skipped when less than a quarter of its period is left
_NEVER = 1 << 62                # ticks: 73 years
RESERVED = HvStimerConfig(reserved_15_13=7, reserved_63_20=(1 << 44) - 1).raw
_HYPERVISOR = 0                 # the sender of a message that no partition sent


class SyntheticTimer:
    """Timer *index* (0..3) of *vp*."""

    def __init__(self, vp: VirtualProcessor, index: int) -> None:
        self.vp, self.index, self.partition = vp, index, vp.partition
        self.config, self.count = HvStimerConfig(), 0
        self._timer: Timer | None = None
        self._expiration = 0                    # when it expires next, or did
        self._message: QueuedMessage | None = None      # expired, not delivered

    # --- software's face: the MSRs ---------------------------------------------------------------------

    def set_config(self, value: int) -> None:
        """Store the configuration; an enabled timer starts anew by it. #GP(0) for a reserved bit.

        TLFS "Synthetic Timer Configuration Register": a timer without SINT and without a vector cannot be enabled.
        """
        if value & RESERVED:
            raise GuestFault(Vector.GP, 0)
        self._stop()
        self.config = HvStimerConfig(value)
        self._enable(bool(self.config.enable))
        self._start()

    def set_count(self, value: int) -> None:
        """Store the count, 0 stops; one that is enabled, or auto-enabled by this, starts anew.

        TLFS "Synthetic Timer Count Register".
        """
        self._stop()
        self.count = value
        self._enable(bool(value) and bool(self.config.enable or self.config.auto_enable))
        self._start()

    def _enable(self, wanted: bool) -> None:
        self.config.enable = int(wanted and bool(self.config.direct_mode or self.config.sintx))

    # --- on the clock ----------------------------------------------------------------------------------

    def _start(self) -> None:
        """Let it expire at its count, or a period from now."""
        if self.config.enable and self.count:
            now = self.partition.reference_time
            self._expire_at(now + self.count if self.config.periodic else self.count, now)

    def _expire_at(self, moment: int, now: int) -> None:
        self._expiration = moment
        if moment <= now:                       # "... it will expire immediately"
            self._expire()
            return
        tsc = self.partition.tsc_at(moment)
        self._timer = self.partition.clock.at(tsc, self._expire) if tsc < _NEVER else None
        if self.partition.time.frozen:
            self.pause()

    def pause(self) -> None:
        """The partition's time stands still: nothing expires until `resume`."""
        self.partition.clock.cancel(self._timer)

    def resume(self) -> None:
        """It goes on: an expiry to come comes as much later as time stood."""
        if self._timer is not None:
            self._expire_at(self._expiration, self.partition.reference_time)

    def _stop(self) -> None:
        """Nothing of it is left: no expiry to come, and none that waits to be told."""
        self.partition.clock.cancel(self._timer)
        self._timer = None
        if self._message is not None:
            self.vp.synic.withdraw(self.config.sintx, self._message)
            self._message = None
        if self in self.vp.late_timers:
            self.vp.late_timers.remove(self)

    def _expire(self) -> None:
        """The moment has come. A lazy periodic timer waits for a VP that does not run; TLFS "Periodic Timers"."""
        self._timer = None
        if self.config.lazy and self.config.periodic and not self.vp.is_available:
            self.vp.late_timers.append(self)
        else:
            self._signal()

    def catch_up(self) -> None:
        """The VP runs at last: signal now, or not at all when the next tick comes shortly."""
        left = self.count - (self.partition.reference_time - self._expiration) % self.count
        if left * _SHORTLY < self.count:
            self._tell(SyntheticTimerSkipped)
            self._next()
        else:
            self._signal()

    def _signal(self) -> None:
        self._tell(SyntheticTimerExpired)
        if self.config.direct_mode:
            self._next()
            self.vp.apic.accept(self.config.apic_vector)
        else:
            self._message = QueuedMessage(HvMessageType.TIMER_EXPIRED, self._payload, _HYPERVISOR, self._delivered)
            self.vp.synic.post(self.config.sintx, self._message)

    def _tell(self, event: type[SyntheticTimerExpired | SyntheticTimerSkipped]) -> None:
        if self.partition.trace.listening:
            self.partition.trace.emit(event(self.partition.id, self.vp.index, self.index, self._expiration))

    def _payload(self) -> bytes:
        """TLFS "Timer Expiration Messages": when it was to expire, and when the message is delivered."""
        return TimerMessage(timer_index=self.index, expiration_time=self._expiration,
                            delivery_time=self.partition.reference_time).pack()

    def _delivered(self) -> None:
        self._message = None
        self._next()

    def _next(self) -> None:
        """It has expired and said so. Periodic: the next tick by the period that is yet to come.

        TLFS "Periodic Timers": ticks that nobody could be told of meanwhile are coalesced into the one that was.
        """
        if not self.config.periodic:
            self.config.enable = 0
            return
        now, period = self.partition.reference_time, self.count
        last = self._expiration + (now - self._expiration) // period * period
        self._expire_at(last + max(1, -(-SHORTEST_GAP // period)) * period, now)

    # --- for the REPL and for saved state --------------------------------------------------------------

    def inspect(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.config.inspect(), "count": self.count, "expires": self._expiration if self._timer else None,
                "message_waits": self._message is not None}

    def save(self) -> StimerState:
        """Its state; the adjustment of a periodic timer is the reference time of its next tick."""
        undelivered = self._message is not None or self in self.vp.late_timers
        return StimerState(
            undelivered_message_pending=int(undelivered), config=self.config.raw, count=self.count,
            adjustment=self._expiration if self._timer is not None and self.config.periodic else 0,
            undelivered_expiration_time=self._expiration if undelivered else 0)

    def restore(self, state: StimerState) -> None:
        """Take over what `save` gave, in a partition whose reference counter goes on from there.

        No RESERVED bit is set in the configuration: who takes bytes from outside has looked.
        """
        self._stop()
        self.config, self.count = HvStimerConfig(state.config), state.count
        self._enable(bool(self.config.enable))
        if not self.config.enable or not self.count:
            return
        now = self.partition.reference_time
        if state.undelivered_message_pending:
            self._expiration = min(state.undelivered_expiration_time, now)
            self._signal()
        elif self.config.periodic and state.adjustment:
            self._expire_at(state.adjustment, now)
        else:
            self._start()
