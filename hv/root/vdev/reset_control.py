"""The reset control register, port 0xCF9. Intel "82371AB (PIIX4)", "Reset Control Register".

A rising bit 2 resets; bit 1 says whether hard (the whole machine) or soft (the processors), which are one here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.root.vdev.byte_ports import BytePorts
from hv.spec.pc import RESET_CONTROL

SYSTEM_RESET, RESET_CPU, FULL_RESET = 0x02, 0x04, 0x08


class ResetControl(BytePorts):
    """*restart* is called when RESET_CPU rises."""

    def __init__(self, restart: Callable[[], None]) -> None:
        super().__init__(range(RESET_CONTROL, RESET_CONTROL + 1))
        self._restart = restart
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        self.value = 0

    def read_byte(self, port: int) -> int:
        """What was written; the bit that resets is a trigger."""
        return self.value

    def write_byte(self, port: int, value: int) -> None:
        """Bit 2 rising restarts."""
        rises = value & ~self.value & RESET_CPU
        self.value = value & (SYSTEM_RESET | RESET_CPU | FULL_RESET)
        if rises:
            self._restart()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"value": self.value}
