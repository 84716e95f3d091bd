"""The interrupt lines of a PC board: devices drive them, the interrupt controllers listen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hv.spec.pc import IO_APIC_PINS

Line = Callable[[bool], None]               # what a device calls: True asserts, False takes it back


class InterruptLines:
    """Lines 0..15 are the ISA's, `spec.pc.Irq`; those above are the I/O APIC's alone. A line is a level; who listens
    makes edges of it."""

    def __init__(self) -> None:
        self.asserted = [False] * IO_APIC_PINS
        self._listeners: list[Callable[[int, bool], None]] = []

    def listen(self, listener: Callable[[int, bool], None]) -> None:
        """*listener(number, asserted)* hears of every change."""
        self._listeners.append(listener)

    def line(self, number: int) -> Line:
        """The wire that one device drives."""
        return partial(self.set, number)

    def pulse(self, number: int) -> None:
        """An edge: asserted, and at once no more."""
        self.set(number, True)
        self.set(number, False)

    def set(self, number: int, asserted: bool) -> None:
        """The wire has this level now."""
        if self.asserted[number] is not asserted:
            self.asserted[number] = asserted
            for listener in self._listeners:
                listener(number, asserted)
