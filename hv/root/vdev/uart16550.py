"""A 16550 serial port: what is written to it comes out, what is typed comes in. National Semiconductor "PC16550D".

Models: all registers, both modes (with and without FIFOs), the four interrupts in their order, loop-back, line errors.
The interrupt line passes through OUT2, as the PC/AT has it wired. A port without a line is polled.
# Simplified: transmission takes no time, so the transmitter is always empty. What is received comes as fast as the
divisor says, a FIFO at a time (`receive`), and the time-out of four silent characters is over at once.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import Any

from hv.root.lines import Line
from hv.root.timers import TSC_HZ, Alarm, RootTimers

COM1 = range(0x3F8, 0x400)
FIFO_SIZE = 16
CLOCK_HZ = 1_843_200            # of the crystal; a bit is 16 * divisor of its periods
BITS_OF_CHARACTER = 10          # start, eight, stop


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


class LineStatus(IntFlag):
    """LSR; PC16550D "Line Status Register"."""

    DATA_READY = 0x01
    OVERRUN = 0x02
    PARITY = 0x04
    FRAMING = 0x08
    BREAK = 0x10
    TRANSMITTER_EMPTY = 0x60    # THR, and shift register
    ERROR_IN_FIFO = 0x80


# IIR, the most urgent first; and the bits of IER that enable each.
NO_INTERRUPT, LINE_ERROR, RECEIVED, TIME_OUT, TRANSMITTED, MODEM = 0x01, 0x06, 0x04, 0x0C, 0x02, 0x00
ON_RECEIVED, ON_TRANSMITTED, ON_LINE_ERROR, ON_MODEM = 0x01, 0x02, 0x04, 0x08
FIFO_ENABLED = 0xC0             # in IIR
CLEAR_RECEIVER = 0x02           # in FCR, with bit 0
TRIGGER_LEVELS = (1, 4, 8, 14)  # by FCR bits 7:6
DIVISOR_LATCH, SEND_BREAK = 0x80, 0x40          # LCR.DLAB, LCR bit 6
DTR, RTS, OUT1, OUT2, LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
CTS, DSR, RING, CARRIER = 0x10, 0x20, 0x40, 0x80
RING_ENDED = 0x04               # the delta bit of RING is for its end only
PEER_READY = CTS | DSR | CARRIER
# As plain numbers: a program that prints asks for these with each character.
_DATA, _INTERRUPT_ENABLE, _INTERRUPT_ID, _LINE_CONTROL = range(4)
_MODEM_CONTROL, _LINE_STATUS, _MODEM_STATUS, _SCRATCH = range(4, 8)
_READY, _OVERRUN, _ERRORS, _EMPTY, _ERROR_IN_FIFO = 0x01, 0x02, 0x1E, 0x60, 0x80
_BREAK = 0x1000                 # a received character is its byte, with its errors, bits of LineStatus, above


class Uart16550:
    """One port at *base*; *output* is called with each byte sent. *line* is its interrupt, and with *timers* what it
    receives takes time."""

    def __init__(self, base: int, output: Callable[[int], None], line: Line | None = None,
                 timers: RootTimers | None = None) -> None:
        self.base, self.output, self._line, self._timers = base, output, line, timers
        self.waiting = bytearray()              # what is still on the wire
        self.loading: Alarm | None = None
        self.reset()
        self.sent = self.received = 0

    def reset(self) -> None:
        """Master reset: registers as after power-on. What is on the wire still comes."""
        self.interrupt_enable = self.line_control = self.modem_control = self.scratch = 0
        self.divisor, self.fifo_enabled, self.trigger = 12, False, 1
        self.fifo: list[int] = []
        self.errors = self.deltas = 0           # of LSR, and of MSR, until read
        self.modem_lines = PEER_READY
        self.transmitted = False                # the transmitter has become empty, and nobody was told
        self.asserted = False
        if self._line is not None:
            self._line(False)
        self._load_later()

    def read_port(self, port: int, size: int) -> int:
        """One register; a wider access gets ones above it."""
        return self._read(port - self.base) | (1 << 8 * size) - 0x100

    def write_port(self, port: int, size: int, value: int) -> None:
        """The low byte goes to the register, the rest is lost."""
        self._write(port - self.base, value & 0xFF)

    def receive(self, data: bytes) -> None:
        """*data* comes in, at the pace of the line: as much as the receiver has room for, the rest when that was read.
        """
        self.waiting += data
        self._load_later()

    def receive_break(self) -> None:
        """The line is held at 0 for longer than a character."""
        self._take(_BREAK)
        self._tell()

    # --- registers ---------------------------------------------------------------------------------------

    def _read(self, offset: int) -> int:
        if offset == _LINE_STATUS:
            return self._read_line_status()
        latch = self.line_control & DIVISOR_LATCH
        if offset == _DATA:
            return self.divisor & 0xFF if latch else self._read_data()
        if offset == _INTERRUPT_ENABLE:
            return self.divisor >> 8 if latch else self.interrupt_enable
        if offset == _INTERRUPT_ID:
            return self._read_interrupt()
        if offset == _MODEM_STATUS:
            return self._read_modem_status()
        return {_LINE_CONTROL: self.line_control, _MODEM_CONTROL: self.modem_control, _SCRATCH: self.scratch}[offset]

    def _read_line_status(self) -> int:
        status = _EMPTY | self.errors
        if self.fifo:
            status |= _READY | self.fifo[0] >> 8
            if self.fifo_enabled and any(character >> 8 for character in self.fifo):
                status |= _ERROR_IN_FIFO
            self.fifo[0] &= 0xFF                # its errors are told once
        if status & _ERRORS:
            self.errors = 0
            self._tell()
        return status

    def _read_data(self) -> int:
        if not self.fifo:
            return 0
        character = self.fifo.pop(0)
        if not self.fifo:
            self._load_later()
        self._tell()
        return character & 0xFF

    def _read_interrupt(self) -> int:
        cause = self._cause()
        if cause == TRANSMITTED:
            self.transmitted = False            # told
            self._tell()
        return cause | (FIFO_ENABLED if self.fifo_enabled else 0)

    def _read_modem_status(self) -> int:
        status = self.modem_lines | self.deltas
        if self.deltas:
            self.deltas = 0
            self._tell()
        return status

    def _write(self, offset: int, value: int) -> None:
        latch = self.line_control & DIVISOR_LATCH
        if offset == _DATA:
            if latch:
                self.divisor = self.divisor & 0xFF00 | value
            else:
                self._send(value)
        elif offset == _INTERRUPT_ENABLE:
            if latch:
                self.divisor = self.divisor & 0xFF | value << 8
            else:
                self._enable_interrupts(value & 0xF)
        elif offset == _INTERRUPT_ID:
            self._control_fifos(value)
        elif offset == _LINE_CONTROL:
            self._control_line(value)
        elif offset == _MODEM_CONTROL:
            self._control_modem(value & 0x1F)
        elif offset == _SCRATCH:
            self.scratch = value

    def _send(self, byte: int) -> None:
        """Out it goes, and the transmitter is empty again: an edge, for who listens."""
        if self.transmitted:
            self.transmitted = False
            self._tell()
        if self.modem_control & LOOP:
            self._take(byte)
        else:
            self.sent += 1
            self.output(byte)
        self.transmitted = True
        if self.interrupt_enable:
            self._tell()

    def _enable_interrupts(self, value: int) -> None:
        if value & ON_TRANSMITTED and not self.interrupt_enable & ON_TRANSMITTED:
            self.transmitted = True             # it is empty: that is told to who asks from now on
        self.interrupt_enable = value
        self._tell()

    def _control_fifos(self, value: int) -> None:
        enabled = bool(value & 1)
        if enabled is not self.fifo_enabled or (enabled and value & CLEAR_RECEIVER):
            self.fifo.clear()
        self.fifo_enabled = enabled
        if enabled:                             # else the other bits are not programmed
            self.trigger = TRIGGER_LEVELS[value >> 6]
        self._load_later()
        self._tell()

    def _control_line(self, value: int) -> None:
        if value & ~self.line_control & SEND_BREAK and self.modem_control & LOOP:
            self._take(_BREAK)
        self.line_control = value
        self._tell()

    def _control_modem(self, value: int) -> None:
        self.modem_control = value
        self._modem_lines_are(self._looped_lines() if value & LOOP else PEER_READY)
        self._load_later()

    def _looped_lines(self) -> int:
        """MSR in loop-back: the outputs are the inputs; PC16550D "Modem Control Register", bit 4."""
        outputs = self.modem_control
        return ((CTS if outputs & RTS else 0) | (DSR if outputs & DTR else 0)
                | (RING if outputs & OUT1 else 0) | (CARRIER if outputs & OUT2 else 0))

    def _modem_lines_are(self, lines: int) -> None:
        changed = (lines ^ self.modem_lines) >> 4
        if lines & RING:                        # it rings: only the end is told
            changed &= ~RING_ENDED
        self.modem_lines = lines
        self.deltas |= changed
        self._tell()

    # --- receiving ---------------------------------------------------------------------------------------

    def _room(self) -> int:
        return FIFO_SIZE if self.fifo_enabled else 1

    def _take(self, character: int) -> None:
        """One character has come in. Without room, a FIFO keeps what it has, a single register the newer one."""
        if len(self.fifo) < self._room():
            self.fifo.append(character)
            return
        self.errors |= _OVERRUN
        if not self.fifo_enabled:
            self.fifo[0] = character

    def _load_later(self) -> None:
        """The next characters on the wire come once the receiver is empty, and after the time that they take."""
        if not self.waiting or self.fifo or self.loading is not None:
            return
        if self._timers is None:
            self._load()
            return
        count = min(self._room(), len(self.waiting))
        ticks = count * BITS_OF_CHARACTER * 16 * max(self.divisor, 1) * TSC_HZ // CLOCK_HZ
        self.loading = self._timers.at(self._timers.now() + ticks, self._load)

    def _load(self) -> None:
        self.loading = None
        if self.modem_control & LOOP or self.fifo:
            return                              # the receiver is not on the line, or hears itself: later
        count = min(self._room(), len(self.waiting))
        self.fifo += self.waiting[:count]
        del self.waiting[:count]
        self.received += count
        self._tell()

    # --- interrupts --------------------------------------------------------------------------------------

    def _cause(self) -> int:
        """What is told first; PC16550D "Interrupt Identification Register". Nobody is told of what nobody enabled."""
        enabled = self.interrupt_enable if self._line is not None else 0
        if enabled & ON_LINE_ERROR and (self.errors or (self.fifo and self.fifo[0] >> 8)):
            return LINE_ERROR
        if enabled & ON_RECEIVED and self.fifo:
            return RECEIVED if not self.fifo_enabled or len(self.fifo) >= self.trigger else TIME_OUT
        if enabled & ON_TRANSMITTED and self.transmitted:
            return TRANSMITTED
        return MODEM if enabled & ON_MODEM and self.deltas else NO_INTERRUPT

    def _tell(self) -> None:
        """The line has the level that it ought to have. OUT2 gates it, and is off in loop-back."""
        if self._line is None:
            return
        asserted = self.modem_control & (OUT2 | LOOP) == OUT2 and self._cause() != NO_INTERRUPT
        if asserted is not self.asserted:
            self.asserted = asserted
            self._line(asserted)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"base": self.base, "line_control": self.line_control, "divisor": self.divisor, "sent": self.sent,
                "interrupt_enable": self.interrupt_enable, "modem_control": self.modem_control, "scratch": self.scratch,
                "received": self.received}
