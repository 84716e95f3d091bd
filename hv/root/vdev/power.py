"""The power switch: a 16-bit port where writing SLP_EN turns the VM off, as ACPI's PM1a control register does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PORTS = range(0x604, 0x606)
SLEEP_ENABLE = 1 << 13          # ACPI "PM1 Control Registers", SLP_EN


class PowerSwitch:
    """*off* is called when the guest switches off."""

    def __init__(self, off: Callable[[], None]) -> None:
        self.off, self.control = off, 0

    def read_port(self, port: int, size: int) -> int:
        """SLP_EN reads 0."""
        return self.control & ~SLEEP_ENABLE

    def write_port(self, port: int, size: int, value: int) -> None:
        """SLP_EN sleeps; here there is one sleep: off."""
        self.control = value & 0xFFFF
        if value & SLEEP_ENABLE:
            self.off()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"control": self.control}
