"""ACPI's fixed hardware: PM1 event and control blocks, and the PM timer. ACPI "ACPI Hardware Specification", "Fixed
Hardware Features".

The machine is in ACPI mode from the beginning (SCI_EN reads 1), so there is no SMI. The SCI is Irq.ACPI, level-
triggered. The timer has 32 bits at 3.579545 MHz; an alarm is set only while the change of its highest bit interrupts.
# Simplified: there is one sleep state, S5: off. SLP_EN with the type of another state does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.root.lines import Line
from hv.root.timers import TSC_HZ, Alarm, RootTimers
from hv.root.vdev.byte_ports import BytePorts
from hv.spec.pc import ACPI_CONTROL, ACPI_EVENT, ACPI_S5, ACPI_TIMER, ACPI_TIMER_HZ

# PM1 status and enable; "PM1 Event Grouping".
TIMER, GLOBAL_LOCK, POWER_BUTTON, SLEEP_BUTTON, REAL_TIME_CLOCK = 1 << 0, 1 << 5, 1 << 8, 1 << 9, 1 << 10
EVENTS = TIMER | GLOBAL_LOCK | POWER_BUTTON | SLEEP_BUTTON | REAL_TIME_CLOCK
WAKE = 1 << 15                                  # status only
# PM1 control; "PM1 Control Registers".
SCI_ENABLED, SLEEP_TYPE_SHIFT, SLEEP_ENABLE = 1 << 0, 10, 1 << 13
KEPT_CONTROL = 0x1C02                           # SLP_TYP and BM_RLD; GBL_RLS and SLP_EN read 0
TOP_BIT_PERIOD = 1 << 31                        # periods of the timer between two changes of its highest bit


class AcpiPm(BytePorts):
    """The registers of ACPI. *sci* is the interrupt line, *off* is called when the guest switches off."""

    def __init__(self, sci: Line, timers: RootTimers, off: Callable[[], None]) -> None:
        super().__init__(range(ACPI_EVENT.start, ACPI_TIMER.stop))
        self._sci, self._timers, self._off = sci, timers, off
        self._alarm: Alarm | None = None
        self.reset()

    def reset(self) -> None:
        """Nothing has happened, and nothing is enabled. The timer counts on."""
        self.status = self.enable = self.control = 0
        self.top_changes = self._ticks // TOP_BIT_PERIOD        # that `status` knows of
        self._follow()

    @property
    def _ticks(self) -> int:
        return self._timers.now() * ACPI_TIMER_HZ // TSC_HZ

    def press_power_button(self) -> None:
        """Somebody asks the operating system to shut down; "Control Method versus Fixed Power Button"."""
        self._look()
        self.status |= POWER_BUTTON
        self._follow()

    def read_port(self, port: int, size: int) -> int:
        """A word or dword of the timer is one moment's."""
        if port in ACPI_TIMER and size > 1:
            return (self._ticks & 0xFFFF_FFFF) >> 8 * (port - ACPI_TIMER.start)
        return super().read_port(port, size)

    def read_byte(self, port: int) -> int:
        """A byte of a register."""
        if port in ACPI_TIMER:
            return self._ticks >> 8 * (port - ACPI_TIMER.start) & 0xFF
        if port in ACPI_CONTROL:
            return (self.control | SCI_ENABLED) >> 8 * (port & 1) & 0xFF
        if port not in ACPI_EVENT:
            return 0
        self._look()
        return (self.status | self.enable << 16) >> 8 * (port - ACPI_EVENT.start) & 0xFF

    def write_byte(self, port: int, value: int) -> None:
        """A byte of a register: ones clear the status; the timer is read only."""
        at = 8 * (port & 1)
        if port in ACPI_CONTROL:
            self.control = (self.control & ~(0xFF << at) | value << at) & KEPT_CONTROL
            if value << at & SLEEP_ENABLE and self.control >> SLEEP_TYPE_SHIFT & 7 == ACPI_S5:
                self._off()
        elif port in ACPI_EVENT:
            self._look()
            if port < ACPI_EVENT.start + 2:
                self.status &= ~(value << at)
            else:
                self.enable = (self.enable & ~(0xFF << at) | value << at) & EVENTS
            self._follow()

    # --- the interrupt ---------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Has the timer's highest bit changed since somebody looked? "Power Management Timer"."""
        changes = self._ticks // TOP_BIT_PERIOD
        if changes != self.top_changes:
            self.top_changes = changes
            self.status |= TIMER

    def _follow(self) -> None:
        """The SCI has its level; if it is not asserted, the timer is waited for when it is enabled."""
        asserted = bool(self.status & self.enable)
        self._sci(asserted)
        self._timers.cancel(self._alarm)
        self._alarm = None
        if not asserted and self.enable & TIMER:
            due = (self.top_changes + 1) * TOP_BIT_PERIOD
            self._alarm = self._timers.at(-(-due * TSC_HZ // ACPI_TIMER_HZ), self._changes)

    def _changes(self) -> None:
        self._alarm = None
        self._look()
        self._follow()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"status": self.status, "enable": self.enable, "control": self.control | SCI_ENABLED,
                "timer": self._ticks & 0xFFFF_FFFF}
