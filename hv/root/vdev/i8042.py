"""The keyboard controller of the PC/AT, with a keyboard behind it. IBM "PC/AT Technical Reference", "Keyboard
Controller"; Intel "8042".

Port 0x60 is data, port 0x64 is status when read and commands when written. What the keyboard sends comes one byte at a
time, and line 1 is asserted while a byte waits that nobody has read. Output port bit 0 is the processor's reset.
# Simplified: a byte takes no time on its way; at the mouse port there is nothing, and the controller says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from hv.root.lines import Line
from hv.root.vdev.byte_ports import BytePorts
from hv.root.vdev.keyboard import Keyboard, strokes, translated
from hv.spec.pc import KEYBOARD_COMMAND, KEYBOARD_DATA

# Status
OUTPUT_FULL, SYSTEM_FLAG, WAS_COMMAND, UNLOCKED, FROM_MOUSE, TIMED_OUT = 0x01, 0x04, 0x08, 0x10, 0x20, 0x40
# The command byte, which is byte 0 of the controller's memory
INTERRUPTS, TESTED, KEYBOARD_OFF, MOUSE_OFF, TRANSLATES = 0x01, 0x04, 0x10, 0x20, 0x40
# The output port
NO_RESET, A20 = 0x01, 0x02
SELF_TEST_PASSED, RESEND = 0x55, 0xFE
MEMORY = 32                             # bytes
LONGEST_QUEUE = 4096                    # bytes that wait to be read; what comes then is lost


class I8042(BytePorts):
    """The controller. *line* is the keyboard's interrupt, *restart* resets the machine."""

    def __init__(self, line: Line, restart: Callable[[], None]) -> None:
        super().__init__(range(KEYBOARD_DATA, KEYBOARD_COMMAND + 1))
        self._line, self._restart = line, restart
        self.keyboard = Keyboard()
        self._last = 0                  # the byte that was read last
        self.reset()

    def reset(self) -> None:
        """As firmware leaves it: tested, the keyboard on, its scan codes translated."""
        self.keyboard.reset()
        self.memory = bytearray(MEMORY)
        self.memory[0] = TESTED | TRANSLATES | INTERRUPTS | MOUSE_OFF
        self.output_port = NO_RESET | A20
        self._command = 0               # that waits for its data byte
        self._was_command = False
        self._waiting: deque[tuple[int, int]] = deque()     # what is to be read, and its bits of the status
        self._follow()

    def strike(self, text: str) -> None:
        """Somebody types *text*, which is lost while nobody listens; ValueError for what is on no key."""
        codes = b"".join(strokes(text))
        if self.keyboard.is_scanning and not self.memory[0] & KEYBOARD_OFF:
            self._send(self._as_wanted(codes))

    # --- ports ---------------------------------------------------------------------------------------------

    def read_byte(self, port: int) -> int:
        """Status, or the next byte; the last one again when there is none."""
        if port == KEYBOARD_COMMAND:
            return self._status()
        if port != KEYBOARD_DATA:
            return 0xFF
        if self._waiting:
            self._last = self._waiting.popleft()[0]
            self._line(False)
            self._follow()
        return self._last

    def write_byte(self, port: int, value: int) -> None:
        """A command; or the data of one, or what is for the keyboard."""
        if port == KEYBOARD_COMMAND:
            self._was_command = True
            self._obey(value)
        elif port == KEYBOARD_DATA:
            self._was_command = False
            command, self._command = self._command, 0
            if command:
                self._take(command, value)
            else:
                self._send(self._as_wanted(self.keyboard.take(value)))

    def _status(self) -> int:
        bits = UNLOCKED | (self.memory[0] & SYSTEM_FLAG) | (WAS_COMMAND if self._was_command else 0)
        return bits | (OUTPUT_FULL | self._waiting[0][1] if self._waiting else 0)

    # --- commands ------------------------------------------------------------------------------------------

    def _obey(self, command: int) -> None:
        match command:
            case _ if 0x20 <= command < 0x40:
                self._answer(self.memory[command - 0x20])
            case 0xA7 | 0xA8 | 0xAD | 0xAE:
                off = MOUSE_OFF if command < 0xAD else KEYBOARD_OFF
                self.memory[0] = self.memory[0] & ~off | (off if command in (0xA7, 0xAD) else 0)
            case 0xAA:
                self.memory[0] |= TESTED
                self._answer(SELF_TEST_PASSED)
            case 0xAB:
                self._answer(0)         # the keyboard's lines are good
            case 0xA9:
                self._answer(1)         # the mouse's clock is stuck: there is no mouse
            case 0xC0:
                self._answer(0x80)      # input port: not locked
            case 0xD0:
                self._answer(self.output_port)
            case _ if 0x60 <= command < 0x80 or 0xD1 <= command <= 0xD4:
                self._command = command
            case _ if command >= 0xF0 and not command & NO_RESET:
                self._restart()         # pulse output port: bit 0 goes down

    def _take(self, command: int, value: int) -> None:
        """The data byte of *command*."""
        match command:
            case 0xD1:
                self.output_port = value
                if not value & NO_RESET:
                    self._restart()
            case 0xD2:
                self._answer(value)
            case 0xD3:
                self._answer(value, FROM_MOUSE)
            case 0xD4:
                self._answer(RESEND, FROM_MOUSE | TIMED_OUT)
            case _:
                self.memory[command - 0x60] = value
                self._follow()

    # --- what is to be read ----------------------------------------------------------------------------------

    def _as_wanted(self, codes: bytes) -> bytes:
        return translated(codes) if self.memory[0] & TRANSLATES else codes

    def _send(self, codes: bytes) -> None:
        for code in codes:
            self._answer(code)

    def _answer(self, value: int, bits: int = 0) -> None:
        if len(self._waiting) < LONGEST_QUEUE:
            self._waiting.append((value, bits))
        self._follow()

    def _follow(self) -> None:
        """The line is asserted while a byte of the keyboard's waits, and the command byte says so."""
        ours = bool(self._waiting) and not self._waiting[0][1] & FROM_MOUSE
        self._line(ours and bool(self.memory[0] & INTERRUPTS))

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"command_byte": self.memory[0], "output_port": self.output_port, "status": self._status(),
                "waiting": len(self._waiting), "keyboard": self.keyboard.inspect()}
