"""What shall happen at a moment of root's time: devices' timers, on root's synthetic timer 0.

Times are ticks of root's time-stamp counter. The synthetic timer counts units of 100 ns, so a callback may come up to
200 ticks late, as it may on silicon; never early. TLFS "Synthetic Timers", "Direct Mode".
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from hv.root.processor import RootProcessor
from hv.spec.msrs import HvStimerConfig, Msr

TIMER_VECTOR = 0x31
TSC_HZ = 2_000_000_000
_TICKS_PER_UNIT = TSC_HZ // 10_000_000


class Alarm:
    """One callback; `due` is None once it was called or cancelled."""

    def __init__(self, due: int, order: int, callback: Callable[[], None]) -> None:
        self.due: int | None = due
        self.callback = callback
        self._key = due, order

    def __lt__(self, other: Alarm) -> bool:
        return self._key < other._key


class RootTimers:
    """All alarms of root's devices. Those of the same moment come in the order in which they were set."""

    def __init__(self, processor: RootProcessor) -> None:
        self._processor = processor
        self._alarms: list[Alarm] = []
        self._order = 0
        self._armed: int | None = None          # what the synthetic timer waits for
        processor.connect_interrupt(TIMER_VECTOR, self._expired)
        self._is_set_up = False

    def now(self) -> int:
        """Root's time-stamp counter."""
        return self._processor.rdtsc()

    def at(self, tsc: int, callback: Callable[[], None]) -> Alarm:
        """Call *callback* once, when the counter has reached *tsc*; soon, when that is past."""
        self._order += 1
        alarm = Alarm(tsc, self._order, callback)
        heapq.heappush(self._alarms, alarm)
        self._arm()
        return alarm

    def cancel(self, alarm: Alarm | None) -> None:
        """*alarm*, if there is one and it was not called yet, is not called."""
        if alarm is not None and alarm.due is not None:
            alarm.due = None
            self._arm()

    def _expired(self) -> None:
        """The synthetic timer: call what is due."""
        self._armed = None
        while self._alarms and (due := self._alarms[0].due or 0) <= self.now():
            alarm = heapq.heappop(self._alarms)
            if due:
                alarm.due = None
                alarm.callback()
        self._arm()

    def _arm(self) -> None:
        while self._alarms and self._alarms[0].due is None:
            heapq.heappop(self._alarms)
        wanted = self._alarms[0].due if self._alarms else None
        if wanted == self._armed:
            return
        self._armed = wanted
        if not self._is_set_up:
            config = HvStimerConfig(auto_enable=1, direct_mode=1, apic_vector=TIMER_VECTOR)
            self._processor.wrmsr(Msr.HV_STIMER0_CONFIG, config.raw)
            self._is_set_up = True
        self._processor.wrmsr(Msr.HV_STIMER0_COUNT, 0 if wanted is None else max(1, -(-wanted // _TICKS_PER_UNIT)))
