"""The real-time clock and its CMOS memory, ports 0x70 (index) and 0x71 (data). Motorola "MC146818A"; the bytes of the
PC/AT's memory as "Bochs", "CMOS map" lists them.

Time is the machine's virtual time, and it begins at BEGINNING: 1 January 2024, 00:00:00. Flags and the time follow from
the clock when somebody looks; an alarm is set for the next interrupt that is enabled, and none while one is pending.
# Simplified: summer time (register B, bit 0) and the square wave are kept without effect; the day of the week is the
date's.
"""

from __future__ import annotations

from typing import Any

from hv.root.lines import Line
from hv.root.timers import TSC_HZ, Alarm, RootTimers
from hv.root.vdev import rtc_time
from hv.root.vdev.byte_ports import BytePorts
from hv.spec.pc import CMOS

BEGINNING = 1_704_067_200               # 2024-01-01T00:00:00Z
OSCILLATOR_HZ = 32_768
SIZE = 128
SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR = range(10)
REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D, DIAGNOSTIC, SHUTDOWN = range(10, 16)
EQUIPMENT, BASE_MEMORY, EXTENDED_MEMORY, CHECKSUM = 0x14, 0x15, 0x17, 0x2E
EXTENDED_MEMORY_FOUND, CENTURY, MEMORY_ABOVE_16_MIB = 0x30, 0x32, 0x34
MEMORY_ABOVE_4_GIB, LAST_PROCESSOR = 0x5B, 0x5F
TIME = (SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY)
ALARM = (SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM)
UPDATE_IN_PROGRESS = 0x80               # A: the last 2228 us of a second; "Update Cycle"
UPDATE_TICKS = TSC_HZ * 2228 // 1_000_000
DIVIDER, DIVIDER_RESET, RATE = 0x70, 0x60, 0x0F     # A: 11x holds the clock
SET = 0x80                              # B: the time is being written, and stands
PERIODIC, ALARMED, UPDATED = 0x40, 0x20, 0x10       # in B enabled, in C come
REQUEST = 0x80                          # C: the line is asserted
VALID = 0x80                            # D: the battery was never empty
NMI_DISABLED = 0x80                     # in the index


class Rtc(BytePorts):
    """The clock of a machine with *memory_bytes* and *processors*; *line* is Irq.RTC."""

    def __init__(self, line: Line, timers: RootTimers, memory_bytes: int, processors: int) -> None:
        super().__init__(CMOS)
        self._line, self._timers = line, timers
        self.index = 0
        self.memory = bytearray(SIZE)
        self.memory[REGISTER_A], self.memory[REGISTER_B] = 0x26, rtc_time.BY_24_HOURS
        self.memory[CENTURY] = 0x20
        self._describe(memory_bytes, processors)
        self.moment, self.since = BEGINNING, 0      # the time of day at a moment of the clock
        self.held: list[int] | None = None          # the bytes of TIME while SET
        self.flags, self.looked = 0, timers.now()   # of C; until when they are known
        self._alarm: Alarm | None = None

    def _describe(self, memory_bytes: int, processors: int) -> None:
        """What the power-on self test leaves for an operating system to find."""
        kib, mib = 1 << 10, 1 << 20
        extended = min(max(memory_bytes - mib, 0) // kib, 0xFFFF)
        low, high = min(memory_bytes, 4 << 30), max(memory_bytes - (4 << 30), 0)
        self._store(EQUIPMENT, 0x06, 1)                         # a coprocessor, a PS/2 mouse port
        self._store(BASE_MEMORY, min(memory_bytes // kib, 640), 2)
        self._store(EXTENDED_MEMORY, extended, 2)
        self._store(EXTENDED_MEMORY_FOUND, extended, 2)
        self._store(MEMORY_ABOVE_16_MIB, min(max(low - 16 * mib, 0) >> 16, 0xFFFF), 2)
        self._store(MEMORY_ABOVE_4_GIB, high >> 16, 3)
        self._store(LAST_PROCESSOR, processors - 1 & 0xFF, 1)
        self.memory[CHECKSUM : CHECKSUM + 2] = sum(self.memory[0x10:CHECKSUM]).to_bytes(2, "big")

    def _store(self, at: int, value: int, size: int) -> None:
        self.memory[at : at + size] = value.to_bytes(size, "little")

    def reset(self) -> None:
        """The RESET pin: interrupts off. Time and memory have a battery."""
        self.index = 0
        self._write_b(self.memory[REGISTER_B] & ~(PERIODIC | ALARMED | UPDATED | 0x08))
        self.flags = 0
        self._follow()

    # --- time ------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        """The divider is not held in reset."""
        return self.memory[REGISTER_A] & DIVIDER_RESET != DIVIDER_RESET

    def _moment_at(self, tsc: int) -> int:
        return self.moment + (max(tsc - self.since, 0) // TSC_HZ if self.runs else 0)

    def _time(self) -> list[int]:
        if self.held is not None:
            return self.held
        return rtc_time.to_bytes(self._moment_at(self._timers.now()), self.memory[REGISTER_B])

    def _begin(self, values: list[int]) -> None:
        """It is the time of *values*, from now on."""
        self.moment, self.since = rtc_time.from_bytes(values, self.memory[REGISTER_B]), self._timers.now()
        self.looked = self.since

    # --- ports -----------------------------------------------------------------------------------------------

    def read_byte(self, port: int) -> int:
        """The byte that the index names; the index itself is written only."""
        if port == CMOS.start:
            return 0xFF
        index = self.index & 0x7F
        if index in TIME:
            return self._time()[TIME.index(index)]
        if index == REGISTER_A:
            return self.memory[index] | (UPDATE_IN_PROGRESS if self._updates() else 0)
        if index == REGISTER_C:
            return self._read_c()
        return VALID if index == REGISTER_D else self.memory[index]

    def _updates(self) -> bool:
        """The registers are about to change: do not read them; "Update Cycle"."""
        into = (self._timers.now() - self.since) % TSC_HZ
        return self.held is None and self.runs and into >= TSC_HZ - UPDATE_TICKS

    def _read_c(self) -> int:
        self._look()
        found = self.flags | (REQUEST if self.flags & self.memory[REGISTER_B] else 0)
        self.flags = 0
        self._follow()
        return found

    def write_byte(self, port: int, value: int) -> None:
        """The index, or the byte that it names."""
        index = self.index & 0x7F
        if port == CMOS.start:
            self.index = value
        elif index in TIME:
            self._write_time(index, value)
        elif index == REGISTER_A:
            self._write_a(value & ~UPDATE_IN_PROGRESS)
        elif index == REGISTER_B:
            self._look()
            self._write_b(value)
            self._follow()
        elif index not in (REGISTER_C, REGISTER_D):
            self._look()
            self.memory[index] = value
            self._follow()

    def _write_time(self, index: int, value: int) -> None:
        self._look()
        values = self._time()
        values[TIME.index(index)] = value
        if self.held is None:
            self._begin(values)
            self._follow()

    def _write_a(self, value: int) -> None:
        """The rate; and the divider, which stops the time or begins it."""
        self._look()
        moment, ran = self._moment_at(self._timers.now()), self.runs
        self.memory[REGISTER_A] = value
        if self.runs is not ran:
            self.moment, self.since = moment, self._timers.now()
            if self.runs:
                self.since -= TSC_HZ // 2               # the first update comes half a second later; "Divider"
        self._follow()

    def _write_b(self, value: int) -> None:
        """SET stops the time for who writes it, in the format of then."""
        held = self._time()
        if value & SET:
            value &= ~UPDATED                           # "Register B": SET clears the update interrupt's enable
            self.held = held
        self.memory[REGISTER_B] = value
        if not value & SET and self.held is not None:
            self.held = None
            self._begin(held)

    # --- interrupts ------------------------------------------------------------------------------------------

    @property
    def _period(self) -> int:
        """Of the periodic interrupt, in periods of the oscillator; 0 is off. "Periodic Interrupt Rate"."""
        rate = self.memory[REGISTER_A] & RATE if self.runs else 0
        return 1 << (rate + 6 if rate in (1, 2) else rate - 1) if rate else 0

    def _look(self) -> None:
        """Set the flags of what has come since somebody looked."""
        before, now = self.looked, self._timers.now()
        self.looked = now
        period, first, last = self._period, self._moment_at(before), self._moment_at(now)
        if period and before * OSCILLATOR_HZ // TSC_HZ // period != now * OSCILLATOR_HZ // TSC_HZ // period:
            self.flags |= PERIODIC
        if self.held is None and last > first:
            self.flags |= UPDATED
            alarm = self._next_alarm(first)
            if alarm is not None and alarm <= last:
                self.flags |= ALARMED

    def _next_alarm(self, moment: int) -> int | None:
        return rtc_time.next_alarm(moment, [self.memory[index] for index in ALARM], self.memory[REGISTER_B])

    def _follow(self) -> None:
        """The line has its level; if it is not asserted, the next interrupt is waited for."""
        asserted = bool(self.flags & self.memory[REGISTER_B] & (PERIODIC | ALARMED | UPDATED))
        self._line(asserted)
        self._timers.cancel(self._alarm)
        due = None if asserted else self._next_interrupt()
        self._alarm = None if due is None else self._timers.at(due, self._comes)

    def _next_interrupt(self) -> int | None:
        """When the next one that is enabled comes."""
        enabled, now, dues = self.memory[REGISTER_B], self._timers.now(), []
        if enabled & PERIODIC and self._period:
            periods = now * OSCILLATOR_HZ // TSC_HZ // self._period + 1
            dues.append(-(-periods * self._period * TSC_HZ // OSCILLATOR_HZ))
        if self.held is None and self.runs:
            moment = self._moment_at(now)
            if enabled & UPDATED:
                dues.append(self._tsc_of(moment + 1))
            if enabled & ALARMED and (alarm := self._next_alarm(moment)) is not None:
                dues.append(self._tsc_of(alarm))
        return min(dues, default=None)

    def _tsc_of(self, moment: int) -> int:
        return self.since + (moment - self.moment) * TSC_HZ

    def _comes(self) -> None:
        self._alarm = None
        self._look()
        self._follow()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        second, minute, hour, _, day, month, year, century = rtc_time.to_bytes(
            self._moment_at(self._timers.now()), rtc_time.BY_24_HOURS | rtc_time.BINARY)
        return {"time": f"{century:02}{year:02}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}",
                "index": self.index, "a": self.memory[REGISTER_A], "b": self.memory[REGISTER_B], "c": self.flags,
                "shutdown": self.memory[SHUTDOWN]}
