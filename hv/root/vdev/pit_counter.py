"""One counter of the 8254: what its count and its output are at a moment. Intel "82C54", "Mode Definitions".

Nothing counts here: the state is the moment when the count was loaded, and the rest is arithmetic. Moments are periods
of the counter's clock since the machine began.
"""

from __future__ import annotations

from typing import Any

INTERRUPT_ON_TERMINAL_COUNT, ONE_SHOT, RATE_GENERATOR, SQUARE_WAVE, SOFTWARE_STROBE, HARDWARE_STROBE = range(6)
_PERIODIC = (RATE_GENERATOR, SQUARE_WAVE)
_TRIGGERED = (ONE_SHOT, HARDWARE_STROBE)        # a rising gate starts them, whatever was written
_LOW, _HIGH, _BOTH = 1, 2, 3                    # bytes that are read and written; control word bits 5:4


class PitCounter:
    """A counter with its gate, its read and write latches, and its output."""

    def __init__(self) -> None:
        self.gate = True
        self.program(INTERRUPT_ON_TERMINAL_COUNT, _BOTH, False)

    # --- programming -----------------------------------------------------------------------------------------

    def program(self, mode: int, access: int, bcd: bool) -> None:
        """A control word: the counter stops, and waits for its count."""
        self.mode, self.access, self.bcd = mode, access, bcd
        self.reload: int | None = None          # 1..65536, or 10000 and its like in BCD
        self.start: int | None = None           # the moment when it was loaded; None: it does not count
        self.stopped: int | None = None         # how far it was when the gate fell
        self.next_reload: int | None = None     # of a periodic one that counts: loaded at the moment next_start
        self.next_start = 0
        self.written: int | None = None         # the low byte, while the high one is to come
        self.high_next = False                  # the next byte read is the high one
        self.latched: list[int] = []            # bytes of a latched count, in the order they are read
        self.latched_status: int | None = None

    def write(self, value: int, now: int) -> None:
        """A byte of the count."""
        if self.access == _BOTH and self.written is None:
            self.written = value
            if self.mode == INTERRUPT_ON_TERMINAL_COUNT:
                self.start = self.stopped = None        # the first byte stops it; "Mode 0"
            return
        low, self.written = self.written or 0, None
        self._load({_LOW: value, _HIGH: value << 8}.get(self.access, low | value << 8), now)

    def _load(self, raw: int, now: int) -> None:
        count = _from_bcd(raw) or 10_000 if self.bcd else raw or 0x1_0000
        self.settle(now)
        if self.mode in _PERIODIC and self.start is not None and self.gate:
            self.next_reload, self.next_start = count, self._period_end(now)
            return
        self.reload = count
        if self.mode not in _TRIGGERED:
            self.start, self.stopped = now + 1, None if self.gate else 0

    def _period_end(self, now: int) -> int:
        """When the count that was written meanwhile is loaded: with the period, or the half of a square wave, over."""
        assert self.start is not None, "it does not count"
        assert self.reload is not None, "it has no count"
        if now < self.start:
            return self.start
        phase, period = (now - self.start) % self.reload, self.reload
        half = (period + 1) // 2
        if self.mode == SQUARE_WAVE and phase < half:
            return now - phase + half
        return now - phase + period

    def settle(self, now: int) -> None:
        """Load the count that was waiting for the end of a period, if that is past."""
        if self.next_reload is None or now < self.next_start:
            return
        high_half = (self.next_reload + 1) // 2 if self._loads_low() else 0
        self.reload, self.next_reload = self.next_reload, None
        self.start = self.next_start - high_half

    def set_gate(self, gate: bool, now: int) -> None:
        """The gate input has this level; "Gate Pin Operations Summary"."""
        if gate is self.gate:
            return
        self.settle(now)
        self.gate = gate
        if self.reload is None:
            return
        if self.mode in _TRIGGERED:
            if gate:
                self.start = now + 1
        elif not gate:
            self.stopped = self._elapsed(now)
        elif self.mode in _PERIODIC:
            self._restart(now)
        elif self.stopped is not None:
            self.start, self.stopped = now - self.stopped, None

    def _restart(self, now: int) -> None:
        if self.next_reload is not None:
            self.reload, self.next_reload = self.next_reload, None
        self.start, self.stopped = now + 1, None

    # --- what it is at a moment --------------------------------------------------------------------------------

    def _elapsed(self, now: int) -> int:
        if self.stopped is not None:
            return self.stopped
        return 0 if self.start is None else max(now - self.start, 0)

    def count(self, now: int) -> int:
        """What its 16 bits hold."""
        self.settle(now)
        if self.reload is None:
            return 0
        elapsed, reload = self._elapsed(now), self.reload
        if self.mode == RATE_GENERATOR:
            value = reload - elapsed % reload
        elif self.mode == SQUARE_WAVE:
            value = _square_count(reload, elapsed % reload)
        else:
            value = reload - elapsed
        return _to_bcd(value % 10_000) if self.bcd else value & 0xFFFF

    def output(self, now: int) -> bool:
        """The level of OUT."""
        self.settle(now)
        if self.reload is None or self.start is None:
            return self.mode != INTERRUPT_ON_TERMINAL_COUNT
        if self.stopped is not None and self.mode in _PERIODIC:
            return True
        if now < self.start:
            return self.mode != INTERRUPT_ON_TERMINAL_COUNT
        elapsed, reload = self._elapsed(now), self.reload
        match self.mode:
            case 0 | 1:
                return elapsed >= reload
            case 2:
                return elapsed % reload != reload - 1 or reload == 1
            case 3:
                return elapsed % reload < (reload + 1) // 2
        return elapsed != reload

    def next_rise(self, now: int) -> int | None:
        """The first moment after *now* when OUT goes from low to high; None when it does not, left to itself."""
        self.settle(now)
        if self.reload is None or self.start is None or self.stopped is not None:
            return None
        if self.next_reload is not None:
            return self.next_start + (self.next_reload // 2 if self._loads_low() else 0)
        if self.mode in _PERIODIC:
            begun = max(now, self.start)
            return begun + self.reload - (begun - self.start) % self.reload
        rise = self.start + self.reload + (self.mode in (SOFTWARE_STROBE, HARDWARE_STROBE))
        return rise if rise > now else None

    def _loads_low(self) -> bool:
        """The waiting count of a square wave begins with its low half."""
        assert self.start is not None, "it does not count"
        assert self.reload is not None, "it has no count"
        return self.mode == SQUARE_WAVE and (self.next_start - self.start) % self.reload != 0

    # --- reading -----------------------------------------------------------------------------------------------

    def status(self, now: int) -> int:
        """The status byte of the read-back command: OUT, null count, and the control word."""
        output = self.output(now)
        null = self.reload is None or self.next_reload is not None or self.start is None or now < self.start
        return output << 7 | null << 6 | self.access << 4 | self.mode << 1 | self.bcd

    def latch_status(self, now: int) -> None:
        """Hold the status for the next read; one that is held already stays."""
        if self.latched_status is None:
            self.latched_status = self.status(now)

    def latch_count(self, now: int) -> None:
        """Hold the count until it was read; one that is held already stays."""
        if not self.latched:
            self.latched = self._bytes(self.count(now))
            self.high_next = False

    def _bytes(self, count: int) -> list[int]:
        low, high = count & 0xFF, count >> 8
        return {_LOW: [low], _HIGH: [high]}.get(self.access, [low, high])

    def read(self, now: int) -> int:
        """The next byte of what is latched, or of the count as it is."""
        if self.latched_status is not None:
            status, self.latched_status = self.latched_status, None
            return status
        if self.latched:
            return self.latched.pop(0)
        parts = self._bytes(self.count(now))
        if len(parts) == 1:
            return parts[0]
        self.high_next = not self.high_next
        return parts[not self.high_next]

    def inspect(self, now: int) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"mode": self.mode, "reload": self.reload, "bcd": self.bcd, "gate": self.gate,
                "count": self.count(now), "output": self.output(now)}


def _square_count(reload: int, phase: int) -> int:
    """It goes down by two, twice in a period, from the even number at or below *reload*; "Mode 3"."""
    half = (reload + 1) // 2
    return reload - reload % 2 - 2 * (phase if phase < half else phase - half)


def _from_bcd(raw: int) -> int:
    return sum((raw >> 4 * digit & 0xF) * 10 ** digit for digit in range(4))


def _to_bcd(value: int) -> int:
    return int(str(value), 16)
