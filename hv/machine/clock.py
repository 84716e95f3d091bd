"""Virtual time: it moves with executed work and with exits, never with the host's clock.

The time-stamp counter is the machine's one clock. A byte of executed guest code is one tick of a 2 GHz counter;
an exit costs `EXIT_TICKS` more, so that a guest polling a clock always gets on. Everything else derives from it: the
100 ns reference time (200 ticks), the local APIC's bus clock (10 ticks).

While an engine runs, the count lives in the word that its native block hook adds to (`hv/machine/stubs.py`), so the
clock is that word.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol

TSC_HZ = 2_000_000_000
TICKS_PER_100NS = TSC_HZ // 10_000_000
APIC_BUS_HZ = TSC_HZ // 10
EXIT_TICKS = 1000
_SWEEP = 256


class WorkCounter(Protocol):
    """Counts executed work, in ticks."""

    done: int


class _Counter:
    done = 0


class Timer:
    """One future moment. `fired` and `cancelled` say what became of it."""

    __slots__ = ("callback", "cancelled", "fired", "order", "tsc")

    def __init__(self, tsc: int, order: int, callback: Callable[[], None]) -> None:
        self.tsc, self.order, self.callback = tsc, order, callback
        self.cancelled = self.fired = False

    def __lt__(self, other: Timer) -> bool:
        return (self.tsc, self.order) < (other.tsc, other.order)


class VirtualClock:
    """The machine's time, and what is due at which moment. Timers fire in order of time, then of creation."""

    def __init__(self, counter: WorkCounter | None = None) -> None:
        self.counter: WorkCounter = counter if counter is not None else _Counter()
        self.on_earlier: Callable[[int], None] = lambda tsc: None    # a new deadline came before all others
        self._timers: list[Timer] = []
        self._sweep_at = _SWEEP                 # how many timers are so many that the cancelled ones are looked for
        self._order = 0

    @property
    def tsc(self) -> int:
        """Ticks of the 2 GHz counter since the machine was made."""
        return self.counter.done

    @property
    def time_100ns(self) -> int:
        """The reference time, in units of 100 ns."""
        return self.counter.done // TICKS_PER_100NS

    def advance(self, ticks: int) -> None:
        """Let *ticks* pass; timers that became due wait for `run_due`."""
        self.counter.done += ticks

    def at(self, tsc: int, callback: Callable[[], None]) -> Timer:
        """Call *callback* once the counter has reached *tsc* (at the next `run_due` if it has already)."""
        earliest = self.next_deadline()
        if len(self._timers) >= self._sweep_at:
            self._sweep()
        timer = Timer(tsc, self._order, callback)
        self._order += 1
        heapq.heappush(self._timers, timer)
        if earliest is None or tsc < earliest:
            self.on_earlier(tsc)
        return timer

    def _sweep(self) -> None:
        """Forget the cancelled timers, so that setting one again and again costs no memory."""
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        heapq.heapify(self._timers)
        self._sweep_at = max(_SWEEP, 2 * len(self._timers))

    def cancel(self, timer: Timer | None) -> None:
        """Forget *timer*; one that fired, was cancelled or is None is left as it is."""
        if timer is not None:
            timer.cancelled = True

    def next_deadline(self) -> int | None:
        """When the next timer is due, or None."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0].tsc if self._timers else None

    def run_due(self) -> int:
        """Fire what is due, including what the callbacks add; returns how many fired."""
        fired = 0
        while (deadline := self.next_deadline()) is not None and deadline <= self.counter.done:
            timer = heapq.heappop(self._timers)
            timer.fired = True
            timer.callback()
            fired += 1
        return fired

    def hand_over(self, other: VirtualClock) -> None:
        """What is to come by this clock comes by *other*."""
        for timer in sorted(self._timers):
            if not timer.cancelled:
                other.keep(timer)
        self._timers.clear()

    def keep(self, timer: Timer) -> None:
        """*timer* was another clock's."""
        heapq.heappush(self._timers, timer)

    def skip_to_next(self) -> bool:
        """Nobody can run: jump to the next deadline. False when there is none."""
        deadline = self.next_deadline()
        if deadline is None:
            return False
        self.counter.done = max(self.counter.done, deadline)
        return True


class CurrentClock(VirtualClock):
    """Of a machine with several processors: the clock of the one that is looked from, `now`."""

    def __init__(self, now: VirtualClock) -> None:
        self.now = now

    @property
    def counter(self) -> WorkCounter:
        """The work that is the time."""
        return self.now.counter

    @counter.setter
    def counter(self, counter: WorkCounter) -> None:
        self.now.counter = counter

    @property
    def tsc(self) -> int:
        """Ticks of the 2 GHz counter since the machine was made."""
        return self.now.counter.done

    @property
    def time_100ns(self) -> int:
        """The reference time, in units of 100 ns."""
        return self.tsc // TICKS_PER_100NS

    def at(self, tsc: int, callback: Callable[[], None]) -> Timer:
        """Call *callback* once the clock that is looked at now has reached *tsc*."""
        return self.now.at(tsc, callback)

    def next_deadline(self) -> int | None:
        """When the next timer of that clock is due, or None."""
        return self.now.next_deadline()

    def run_due(self) -> int:
        """Fire what is due by that clock."""
        return self.now.run_due()


class MonotonicClock(CurrentClock):
    """The same for somebody who runs on any of the processors, one after the other: time never goes back."""

    def __init__(self, now: CurrentClock) -> None:
        super().__init__(now)
        self._latest = 0

    @property
    def tsc(self) -> int:
        """Ticks of the 2 GHz counter since the machine was made; not less than it has said before."""
        self._latest = max(self._latest, self.now.tsc)
        return self._latest
