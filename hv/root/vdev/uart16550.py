"""A 16550 serial port: what is written to it comes out as text. National Semiconductor "PC16550D", register names.

Models: data, line status, scratch, line control with the divisor latch, modem registers with loop-back off.
# Simplified: nothing is ever received, transmission takes no time, and interrupts are not raised: programs poll.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

COM1 = range(0x3F8, 0x400)
TRANSMITTER_EMPTY = 0x60        # THR and shift register empty
NO_INTERRUPT = 0x01             # IIR: none pending
FIFO_ENABLED = 0xC0
DIVISOR_LATCH = 0x80            # LCR.DLAB
MODEM_READY = 0xB0              # CTS, DSR, DCD


class Register(IntEnum):
    """Offsets from the base port; some mean something else while LCR.DLAB is set, or when written."""

    DATA = 0                    # DLAB: divisor low
    INTERRUPT_ENABLE = 1        # DLAB: divisor high
    INTERRUPT_ID = 2            # written: FIFO control
    LINE_CONTROL = 3
    MODEM_CONTROL = 4
    LINE_STATUS = 5
    MODEM_STATUS = 6
    SCRATCH = 7


class Uart16550:
    """One port at *base*; *output* is called with each byte sent."""

    def __init__(self, base: int, output: Callable[[int], None]) -> None:
        self.base, self.output = base, output
        self.interrupt_enable = self.line_control = self.modem_control = self.scratch = 0
        self.divisor, self.fifo_enabled, self.sent = 12, False, 0

    def read_port(self, port: int, size: int) -> int:
        """One register; a wider access gets ones above it."""
        return self._read(port - self.base) | (1 << 8 * size) - 0x100

    def write_port(self, port: int, size: int, value: int) -> None:
        """The low byte goes to the register, the rest is lost."""
        self._write(port - self.base, value & 0xFF)

    def _read(self, offset: int) -> int:
        latch = bool(self.line_control & DIVISOR_LATCH)
        match offset:
            case Register.DATA:
                return self.divisor & 0xFF if latch else 0
            case Register.INTERRUPT_ENABLE:
                return self.divisor >> 8 if latch else self.interrupt_enable
            case Register.INTERRUPT_ID:
                return NO_INTERRUPT | (FIFO_ENABLED if self.fifo_enabled else 0)
            case Register.LINE_CONTROL:
                return self.line_control
            case Register.MODEM_CONTROL:
                return self.modem_control
            case Register.LINE_STATUS:
                return TRANSMITTER_EMPTY
            case Register.MODEM_STATUS:
                return MODEM_READY
        return self.scratch

    def _write(self, offset: int, value: int) -> None:
        latch = bool(self.line_control & DIVISOR_LATCH)
        match offset:
            case Register.DATA if latch:
                self.divisor = self.divisor & 0xFF00 | value
            case Register.DATA:
                self.sent += 1
                self.output(value)
            case Register.INTERRUPT_ENABLE if latch:
                self.divisor = self.divisor & 0xFF | value << 8
            case Register.INTERRUPT_ENABLE:
                self.interrupt_enable = value & 0xF
            case Register.INTERRUPT_ID:
                self.fifo_enabled = bool(value & 1)
            case Register.LINE_CONTROL:
                self.line_control = value
            case Register.MODEM_CONTROL:
                self.modem_control = value & 0x1F
            case Register.SCRATCH:
                self.scratch = value

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"base": self.base, "line_control": self.line_control, "divisor": self.divisor, "sent": self.sent,
                "interrupt_enable": self.interrupt_enable, "modem_control": self.modem_control, "scratch": self.scratch}
