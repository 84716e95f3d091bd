"""System control ports A and B: odds and ends of the PC/AT. Intel "82371AB (PIIX4)", "NMI Status and Control
Register", "Port 92 Register".

Port 0x61 (B) holds the gate and the output of the timer's counter 2, which the speaker is on, and a bit that the memory
refresh turned over. Port 0x92 (A) holds the gate of address line 20, and a fast reset.
# Simplified: A20 is never masked: processors since 2008 have no such pin. The bit is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.root.timers import TSC_HZ, RootTimers
from hv.root.vdev.byte_ports import BytePorts
from hv.root.vdev.i8254 import I8254
from hv.spec.pc import SYSTEM_CONTROL_A, SYSTEM_CONTROL_B

GATE_2, SPEAKER, REFRESH, OUTPUT_2 = 0x01, 0x02, 0x10, 0x20
A20_ENABLED, FAST_RESET = 0x02, 0x01
REFRESH_TICKS = TSC_HZ * 15 // 1_000_000        # the bit turns over every 15 us


class SystemControlB(BytePorts):
    """Port 0x61."""

    def __init__(self, pit: I8254, timers: RootTimers) -> None:
        super().__init__(range(SYSTEM_CONTROL_B, SYSTEM_CONTROL_B + 1))
        self._pit, self._timers, self.kept = pit, timers, 0

    def reset(self) -> None:
        """All bits that can be written are 0."""
        self.write_byte(SYSTEM_CONTROL_B, 0)

    def read_byte(self, port: int) -> int:
        """Bits 7:6, parity and channel check, are never set."""
        refresh = REFRESH if self._timers.now() // REFRESH_TICKS & 1 else 0
        return self.kept | refresh | (OUTPUT_2 if self._pit.output_2 else 0)

    def write_byte(self, port: int, value: int) -> None:
        """Bits 3:0 are kept; bit 0 is the gate."""
        self.kept = value & 0x0F
        self._pit.set_gate_2(bool(value & GATE_2))

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"gate2": bool(self.kept & GATE_2), "speaker": bool(self.kept & SPEAKER)}


class SystemControlA(BytePorts):
    """Port 0x92. *restart* is called when the fast reset rises from 0 to 1."""

    def __init__(self, restart: Callable[[], None]) -> None:
        super().__init__(range(SYSTEM_CONTROL_A, SYSTEM_CONTROL_A + 1))
        self._restart = restart
        self.reset()

    def reset(self) -> None:
        """A20 is on: nothing here masks it."""
        self.kept = A20_ENABLED

    def read_byte(self, port: int) -> int:
        """What was written."""
        return self.kept

    def write_byte(self, port: int, value: int) -> None:
        """Bit 0 restarts."""
        rises = value & ~self.kept & FAST_RESET
        self.kept = value
        if rises:
            self._restart()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"a20": bool(self.kept & A20_ENABLED)}
