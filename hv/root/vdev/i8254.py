"""The 8254 interval timer: three counters at 1.193182 MHz. Intel "82C54 CHMOS Programmable Interval Timer".

Counter 0 drives Irq.TIMER; counter 2 has its gate and its output in port 0x61 (`system_control.py`); counter 1, which
once refreshed the memory, is there to be read. Counts follow from the time (`pit_counter.py`): an alarm is set for the
next rise of counter 0's output alone.
# Simplified: the interrupt line falls only to rise again, so the low half of a square wave is not seen on it; and it
rises at most every 50 us, as hypervisors limit it, whatever count the guest asks for. What the guest reads is exact.
"""

from __future__ import annotations

from typing import Any

from hv.root.lines import Line
from hv.root.timers import TSC_HZ, Alarm, RootTimers
from hv.root.vdev.byte_ports import BytePorts
from hv.root.vdev.pit_counter import PitCounter
from hv.spec.pc import PIT, PIT_HZ

SHORTEST_TICKS = TSC_HZ // 20_000
_CONTROL = PIT.start + 3
_READ_BACK, _LATCH = 3, 0               # where a counter, or an access, is named


class I8254(BytePorts):
    """The three counters; *line* is OUT 0."""

    def __init__(self, line: Line, timers: RootTimers) -> None:
        super().__init__(PIT)
        self._line, self._timers = line, timers
        self._alarm: Alarm | None = None
        self._last_rise = 0
        self.counters = [PitCounter() for _ in range(3)]
        self.reset()

    def reset(self) -> None:
        """As after power-on: no counter has a count. The manual leaves their modes undefined."""
        self.counters[:] = [PitCounter() for _ in range(3)]
        self.counters[2].gate = False           # port 0x61 is 0
        self._follow()

    @property
    def now(self) -> int:
        """Periods of the counters' clock."""
        return self._timers.now() * PIT_HZ // TSC_HZ

    def read_byte(self, port: int) -> int:
        """A counter; the control register is written only."""
        return 0xFF if port == _CONTROL else self.counters[port & 3].read(self.now)

    def write_byte(self, port: int, value: int) -> None:
        """A byte of a count, or a control word."""
        if port == _CONTROL:
            self._control(value)
        else:
            self.counters[port & 3].write(value, self.now)
        if port == PIT.start or (port == _CONTROL and value < 0x40 and value & 0x30):
            self._follow()

    def _control(self, value: int) -> None:
        """"Control Word Format", "Counter Latch Command", "Read-Back Command"."""
        number, access, mode = value >> 6, value >> 4 & 3, value >> 1 & 7
        if number == _READ_BACK:
            self._read_back(value)
        elif access == _LATCH:
            self.counters[number].latch_count(self.now)
        else:
            self.counters[number].program(mode & 3 if mode > 5 else mode, access, bool(value & 1))

    def _read_back(self, value: int) -> None:
        for number, counter in enumerate(self.counters):
            if value & 2 << number:
                if not value & 0x20:
                    counter.latch_count(self.now)
                if not value & 0x10:
                    counter.latch_status(self.now)

    def set_gate_2(self, gate: bool) -> None:
        """The gate of counter 2, from port 0x61."""
        self.counters[2].set_gate(gate, self.now)

    @property
    def output_2(self) -> bool:
        """OUT of counter 2."""
        return self.counters[2].output(self.now)

    # --- counter 0's line --------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Counter 0 was programmed: its line has its level, and the next rise is waited for."""
        self._line(self.counters[0].reload is not None and self.counters[0].output(self.now))
        self._arm()

    def _arm(self) -> None:
        self._timers.cancel(self._alarm)
        rise, self._alarm = self.counters[0].next_rise(self.now), None
        if rise is not None:
            due = -(-rise * TSC_HZ // PIT_HZ)
            self._alarm = self._timers.at(max(due, self._last_rise + SHORTEST_TICKS), self._rises)

    def _rises(self) -> None:
        self._alarm, self._last_rise = None, self._timers.now()
        self._line(False)
        self._line(True)
        self._arm()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {f"counter{number}": counter.inspect(self.now) for number, counter in enumerate(self.counters)}
