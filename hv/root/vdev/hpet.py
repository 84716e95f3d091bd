"""The high precision event timers: one counter of 10 ns, and three comparators. "IA-PC HPET Specification" 1.0a.

Counter and comparators follow from the machine's time when somebody looks. An alarm is set for the next interrupt that
is enabled: one for all timers, and none for a level that is asserted already.
With "legacy replacement" timer 0 has the interval timer's line and timer 1 the real-time clock's, and those two devices
have none: they are wired through here (`legacy_line`).
# Simplified: an alarm comes at most every 50 us, as hypervisors limit it, whatever period the guest asks for; a
comparator that is written with the counter's value of that moment has missed it. No messages (FSB).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from hv.root.lines import InterruptLines, Line
from hv.root.timers import TSC_HZ, Alarm, RootTimers
from hv.spec.hpet import (
    TIMER_SIZE,
    HpetCapabilities,
    HpetConfiguration,
    HpetRegister,
    HpetTimer,
    HpetTimerRegister,
)
from hv.spec.pc import HPET_LINES, Irq

TIMERS = 3
PERIOD_FS = 10_000_000
TICKS = TSC_HZ // 100_000_000           # of the time-stamp counter, for one of ours
SHORTEST_TICKS = TSC_HZ // 20_000
BLOCK_ID = HpetCapabilities(revision=1, last_timer=TIMERS - 1, wide=1, legacy=1, vendor=0x8086).raw
_CAPABILITIES = BLOCK_ID | HpetCapabilities(period=PERIOD_FS).raw
_ENABLED, _LEGACY = HpetConfiguration(enabled=1).raw, HpetConfiguration(legacy=1).raw
_CAN = HpetTimer(can_be_periodic=1, wide=1, routes=sum(1 << line for line in HPET_LINES)).raw
_WRITABLE = HpetTimer(level=1, enabled=1, periodic=1, set_accumulator=1, narrow=1).raw
_SET = HpetTimer(set_accumulator=1).raw
_REPLACED = (Irq.TIMER, Irq.RTC)        # by timer 0 and by timer 1
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1
_NEVER = 1 << 62                        # an alarm that is farther away is not set: 73 years


class Comparator:
    """One timer; `value` is what the counter has to reach, `period` what is added then."""

    def __init__(self) -> None:
        self.config = HpetTimer(_CAN)
        self.value, self.period = _U64, 0

    @property
    def mask(self) -> int:
        """The bits that are compared."""
        return _U32 if self.config.narrow else _U64

    def next_match(self, after: int) -> int:
        """The first count behind *after* that it waits for; counts go on behind 64 bits here."""
        return after + 1 + (self.value - after - 1 & self.mask)

    def pass_by(self, first: int, now: int) -> None:
        """The counter has matched it at *first*, and goes on to *now*: a periodic one waits for the next time."""
        if self.config.periodic and self.period:
            self.value = first + ((now - first) // self.period + 1) * self.period & self.mask

    def configure(self, value: int) -> None:
        """"Timer N Configuration": a route that it does not have is not taken."""
        route = HpetTimer(value).route
        if route not in HPET_LINES:
            route = self.config.route
        self.config = HpetTimer(_CAN | value & _WRITABLE | HpetTimer(route=route).raw)
        self.value &= self.mask
        self.period &= self.mask

    def compare(self, written: int, kept: int) -> None:
        """The bits *written*, and those of *kept* of what was there: of a periodic timer they are the period, and with
        `set_accumulator` the first match too."""
        if self.config.periodic:
            self.period = (self.period & kept | written) & self.mask
        if self.config.set_accumulator or not self.config.periodic:
            self.value = (self.value & kept | written) & self.mask
        self.config.set_accumulator = 0


class Hpet:
    """The block; *lines* are the board's."""

    def __init__(self, lines: InterruptLines, timers: RootTimers) -> None:
        self._lines, self._timers = lines, timers
        self._alarm: Alarm | None = None
        self._last_alarm = -SHORTEST_TICKS
        self.behind = dict.fromkeys(map(int, _REPLACED), False)     # what the replaced devices drive
        self._asserted: set[int] = set()                            # the lines that we hold
        self._power_on()

    def _power_on(self) -> None:
        self.config = self.status = 0
        self.comparators = [Comparator() for _ in range(TIMERS)]
        self.count, self.since = 0, 0           # the counter at a moment of the clock, in its own periods
        self.looked = 0                         # up to this count it is known who has matched

    def reset(self) -> None:
        """As after power-on."""
        self._replace(False)
        self._power_on()
        self._follow()

    # --- time ------------------------------------------------------------------------------------------------

    def _count(self) -> int:
        """The counter; it stands while the block is not enabled."""
        return self.count + (self._timers.now() // TICKS - self.since if self.config & _ENABLED else 0)

    def _set_count(self, count: int) -> None:
        self.count = self.looked = count
        self.since = self._timers.now() // TICKS

    # --- registers -------------------------------------------------------------------------------------------

    def read_memory(self, offset: int, size: int) -> int:
        """A register, or a part of it; what is none reads 0."""
        self._look()
        return self._read(offset & ~7) >> 8 * (offset & 7) & (1 << 8 * size) - 1

    def _read(self, register: int) -> int:
        number, of_timer = divmod(register - HpetRegister.TIMERS, TIMER_SIZE)
        if 0 <= number < TIMERS:
            comparator = self.comparators[number]
            return {HpetTimerRegister.CONFIGURATION.value: comparator.config.raw & ~_SET,
                    HpetTimerRegister.COMPARATOR.value: comparator.value}.get(of_timer, 0)
        return {HpetRegister.CAPABILITIES.value: _CAPABILITIES, HpetRegister.CONFIGURATION.value: self.config,
                HpetRegister.STATUS.value: self.status, HpetRegister.COUNTER.value: self._count() & _U64,
                }.get(register, 0)

    def write_memory(self, offset: int, size: int, value: int) -> None:
        """A register, or half of it; "Register Model": software uses no narrower accesses, and they do nothing."""
        if size < 4:
            return
        self._look()
        shift = 8 * (offset & 7)
        written = (value & (1 << 8 * size) - 1) << shift
        self._write(offset & ~7, written, _U64 & ~(((1 << 8 * size) - 1) << shift))
        self._follow()

    def _write(self, register: int, written: int, kept: int) -> None:
        number, of_timer = divmod(register - HpetRegister.TIMERS, TIMER_SIZE)
        if 0 <= number < TIMERS:
            comparator = self.comparators[number]
            if of_timer == HpetTimerRegister.CONFIGURATION:
                comparator.configure(comparator.config.raw & kept | written)
                if not comparator.config.level:
                    self.status &= ~(1 << number)
            elif of_timer == HpetTimerRegister.COMPARATOR:
                comparator.compare(written, kept)
        elif register == HpetRegister.CONFIGURATION:
            self._configure(self.config & kept | written)
        elif register == HpetRegister.STATUS:
            self.status &= ~written
        elif register == HpetRegister.COUNTER:
            self._set_count(self._count() & _U64 & kept | written)

    def _configure(self, value: int) -> None:
        count = self._count()
        self._replace(bool(value & _LEGACY))
        self.config = value & (_ENABLED | _LEGACY)
        self._set_count(count)

    # --- interrupts ------------------------------------------------------------------------------------------

    def legacy_line(self, number: int) -> Line:
        """The line *number* of the board, for the device that has it while it is not replaced."""
        return partial(self._from_device, number)

    def _from_device(self, number: int, asserted: bool) -> None:
        self.behind[number] = asserted
        if not self.config & _LEGACY:
            self._lines.set(number, asserted)

    def _replace(self, replaced: bool) -> None:
        """From now on the two lines are the timers', or the devices' again."""
        if replaced == bool(self.config & _LEGACY):
            return
        self.config ^= _LEGACY
        for number, asserted in self.behind.items():
            self._asserted.discard(number)
            self._lines.set(number, asserted and not replaced)

    def _line_of(self, number: int) -> int | None:
        """Where timer *number* interrupts; None is nowhere, as after reset."""
        if self.config & _LEGACY and number < len(_REPLACED):
            return _REPLACED[number]
        return self.comparators[number].config.route or None

    def _look(self) -> None:
        """Find out who has matched since somebody looked: a level has its status, an edge is sent."""
        before, now = self.looked, self._count()
        self.looked = now
        for number, comparator in enumerate(self.comparators):
            first = comparator.next_match(before)
            if first > now:
                continue
            comparator.pass_by(first, now)
            if comparator.config.level:
                self.status |= 1 << number
            elif comparator.config.enabled:
                self._pulse(self._line_of(number))
        self._drive()

    def _pulse(self, line: int | None) -> None:
        if line is not None and line not in self._asserted:
            self._lines.pulse(line)

    def _drive(self) -> None:
        """Our lines have the levels of the status; several timers may have one line."""
        wanted = {line for number, comparator in enumerate(self.comparators)
                  if self.config & _ENABLED and self.status >> number & 1 and comparator.config.enabled
                  and (line := self._line_of(number)) is not None}
        changed = sorted(wanted ^ self._asserted)
        self._asserted = wanted
        for line in changed:
            self._lines.set(line, line in wanted)

    def _follow(self) -> None:
        """The lines have their levels, and the next interrupt is waited for."""
        self._drive()
        self._timers.cancel(self._alarm)
        self._alarm = None
        due = self._next_interrupt()
        if due is not None and due - self._timers.now() < _NEVER:
            self._alarm = self._timers.at(max(due, self._last_alarm + SHORTEST_TICKS), self._comes)

    def _next_interrupt(self) -> int | None:
        """When somebody has to look, by the time-stamp counter."""
        if not self.config & _ENABLED:
            return None
        matches = [comparator.next_match(self.looked) for number, comparator in enumerate(self.comparators)
                   if comparator.config.enabled and not self.status >> number & 1]
        return (min(matches) - self.count + self.since) * TICKS if matches else None

    def _comes(self) -> None:
        self._alarm, self._last_alarm = None, self._timers.now()
        self._look()
        self._follow()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"config": HpetConfiguration(self.config).inspect(), "count": self._count() & _U64,
                "status": self.status,
                "timers": [{**comparator.config.inspect(), "value": comparator.value, "period": comparator.period}
                           for comparator in self.comparators]}
