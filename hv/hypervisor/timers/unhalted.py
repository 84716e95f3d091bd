"""The timer of a VP that counts only while the VP executes; TLFS "Synthetic Time-Unhalted Timer".

An operating system takes samples with it, or watches for processors that are stuck: a VP that sleeps, or waits for its
turn, gets nowhere in its period. What it counts is the VP's own run time (HV_VP_RUNTIME), in ticks here. While the VP
executes, one timer of the virtual clock stands for the next expiry; while it does not, there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hv.hypervisor.timers.stimer import SHORTEST_GAP
from hv.machine.clock import TICKS_PER_100NS, Timer
from hv.machine.faults import GuestFault
from hv.spec.apic import LOWEST_LEGAL_VECTOR
from hv.spec.assist_page import HvVpAssist
from hv.spec.msrs import HvUnhaltedTimerConfig
from hv.spec.x86 import Vector
from hv.trace.events import UnhaltedTimerExpired

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

_EXPIRED = HvVpAssist.offset_of("synthetic_time_unhalted_timer_expired")


class UnhaltedTimer:
    """That of *vp*. `start` and `stop` are called as the VP begins to execute, and ends."""

    def __init__(self, vp: VirtualProcessor) -> None:
        self.vp = vp
        self.config, self.count = HvUnhaltedTimerConfig(), 0
        self._due = 0                           # the VP's run time at the next expiry
        self._counts = False                    # the VP executes
        self._timer: Timer | None = None

    def set_config(self, value: int) -> None:
        """Store the configuration, and begin a period. #GP(0) for a reserved bit, and when there is no such vector."""
        new = HvUnhaltedTimerConfig(value)
        if value & HvUnhaltedTimerConfig.RESERVED:
            raise GuestFault(Vector.GP, 0)
        if new.enabled and new.vector != Vector.NMI and new.vector < LOWEST_LEGAL_VECTOR:
            raise GuestFault(Vector.GP, 0)
        self.config = new
        self._begin_period()

    def set_count(self, value: int) -> None:
        """Begin a period of *value* (100 ns); 0 stops the timer."""
        self.count = value
        self._begin_period()

    def reset(self) -> None:
        """Both registers are 0."""
        self.config, self.count = HvUnhaltedTimerConfig(), 0
        self._begin_period()

    def _begin_period(self) -> None:
        vp = self.vp
        vp.clock_of_work = self if self.config.enabled and self.count else None
        vp.partition.clock.cancel(self._timer)
        self._timer, self._counts = None, False
        if vp.clock_of_work is not None:
            self._due = vp.runtime + self.count * TICKS_PER_100NS
            if vp.running:
                self.start()

    # --- while the VP executes -------------------------------------------------------------------------

    def start(self) -> None:
        """The VP executes from now on."""
        self._counts = True
        if self._timer is None:
            clock = self.vp.partition.clock
            self._timer = clock.at(clock.tsc + self._left, self._expire)

    def stop(self) -> None:
        """The VP executes no more; an expiry that is due comes nevertheless."""
        self._counts = False
        if self._timer is not None and self._timer.tsc > self.vp.partition.clock.tsc:
            self.vp.partition.clock.cancel(self._timer)
            self._timer = None

    def limit(self, until: int) -> int:
        """*until*, or the expiry, if that comes before: where a run that begins now is to end."""
        return min(until, self.vp.partition.clock.tsc + self._left)

    @property
    def _left(self) -> int:
        """Ticks that the VP executes until the next expiry."""
        return max(0, self._due - self.vp.runtime)

    def _expire(self) -> None:
        """The period is over, and the next one has begun; it is so much shorter as this one was longer.

        # Simplified: as with synthetic timers, what expires within `SHORTEST_GAP` is told once.
        """
        self._timer = None
        period = self.count * TICKS_PER_100NS
        periods = (self.vp.runtime - self._due) // period + max(1, -(-SHORTEST_GAP // self.count))
        self._due += periods * period
        if self._counts:
            self.start()
        self._tell()

    def _tell(self) -> None:
        vp = self.vp
        if vp.trace.listening:
            vp.trace.emit(UnhaltedTimerExpired(vp.partition.id, vp.index, vp.runtime_100ns))
        if vp.synic.assist.enable:
            vp.partition.memory.write(vp.synic.assist_page + _EXPIRED, b"\1")
        if self.config.vector == Vector.NMI:
            vp.apic.on_nmi()
        else:
            vp.apic.accept(self.config.vector)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {**self.config.inspect(), "count": self.count,
                "left": self._left // TICKS_PER_100NS if self.vp.clock_of_work is self else None}
