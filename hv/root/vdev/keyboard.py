"""The keyboard at the other end of the cable: what it answers to commands, and the scan codes of its keys.

IBM "Personal System/2 Hardware Interface Technical Reference", "Keyboard". It sends scan codes of set 2; the
controller translates them to those of set 1, which programs for the PC expect.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ACKNOWLEDGE, RESEND, ECHO, TEST_PASSED = 0xFA, 0xFE, 0xEE, 0xAA
IDENTITY = bytes((0xAB, 0x83))          # an MF2 keyboard
RELEASED, SHIFT = 0xF0, 0x12
_LIGHTS, _SET, _REPETITION = 0xED, 0xF0, 0xF3
_DEFAULT_SET = 2

# What the controller makes of a code 0x00..0x8F of set 2, sixteen in a row; those above stay as they are.
_SET_1 = bytes.fromhex("""
ff 43 41 3f 3d 3b 3c 58 64 44 42 40 3e 0f 29 59
65 38 2a 70 1d 10 02 5a 66 71 2c 1f 1e 11 03 5b
67 2e 2d 20 12 05 04 5c 68 39 2f 21 14 13 06 5d
69 31 30 23 22 15 07 5e 6a 72 32 24 16 08 09 5f
6b 33 25 17 18 0b 0a 60 6c 34 35 26 27 19 0c 61
6d 73 28 74 1a 0d 62 6e 3a 36 1c 1b 75 2b 63 76
55 56 77 78 79 7a 0e 7b 7c 4f 7d 4b 47 7e 7f 6f
52 53 50 4c 4d 48 01 45 57 4e 51 4a 37 49 46 54
80 81 82 41 54 85 86 87 88 89 8a 8b 8c 8d 8e 8f
""")

# The keys of a US keyboard: codes, and what is on them without and with Shift, row by row.
_ROWS = (("0e161e26252e363d3e46454e55", "`1234567890-=", "~!@#$%^&*()_+"),
         ("151d242d2c353c43444d545b5d", "qwertyuiop[]\\", "QWERTYUIOP{}|"),
         ("1c1b232b34333b424b4c52", "asdfghjkl;'", 'ASDFGHJKL:"'), ("1a22212a32313a41494a", "zxcvbnm,./", "ZXCVBNM<>?"))
_KEYS = {character: code for codes, plain, _ in _ROWS
         for character, code in zip(plain, bytes.fromhex(codes), strict=True)}
_KEYS |= {" ": 0x29, "\n": 0x5A, "\t": 0x0D, "\b": 0x66, "\x1b": 0x76}      # Enter, Tab, Backspace, Esc
_WITH_SHIFT = {character: code for codes, _, shifted in _ROWS
               for character, code in zip(shifted, bytes.fromhex(codes), strict=True)}


class Keyboard:
    """What is behind the cable. `take` is a byte that comes to it, and gives what it answers."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As after power-on: it scans its keys, by set 2."""
        self.is_scanning, self.scan_set, self.lights = True, _DEFAULT_SET, 0
        self._command = 0               # that waits for its data byte
        self._last = b""                # what it sent, for who asks again

    def take(self, value: int) -> bytes:
        """A command, or the data byte of one."""
        command, self._command = self._command, 0
        answer = self._obey(value) if not command or value >= 0xED else self._data_of(command, value)
        if answer != bytes((RESEND,)):
            self._last = answer
        return answer

    def _obey(self, command: int) -> bytes:
        match command:
            case 0xFF:
                self.reset()
                return bytes((ACKNOWLEDGE, TEST_PASSED))
            case 0xFE:
                return self._last
            case 0xF2:
                return bytes((ACKNOWLEDGE, *IDENTITY))
            case 0xEE:
                return bytes((ECHO,))
            case 0xF4 | 0xF5 | 0xF6:        # scan; stop, with defaults; defaults
                if command != 0xF4:
                    self.scan_set = _DEFAULT_SET
                self.is_scanning = command != 0xF5
            case 0xED | 0xF0 | 0xF3:
                self._command = command
            case _ if not 0xF7 <= command <= 0xFD:      # ... which are of set 3: what keys repeat
                return bytes((RESEND,))
        return bytes((ACKNOWLEDGE,))

    def _data_of(self, command: int, value: int) -> bytes:
        if command == _SET and not value:
            return bytes((ACKNOWLEDGE, self.scan_set))
        if command == _SET:
            if value != _DEFAULT_SET:       # Simplified: sets 1 and 3 are not there
                return bytes((RESEND,))
        elif command == _LIGHTS:
            self.lights = value & 7
        return bytes((ACKNOWLEDGE,))

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"scanning": self.is_scanning, "lights": self.lights}


def translated(codes: bytes) -> bytes:
    """Codes of set 2 as the controller hands them on: by set 1, a release as bit 7."""
    made, released = bytearray(), 0
    for code in codes:
        if code == RELEASED:
            released = 0x80
        else:
            made.append((_SET_1[code] if code < len(_SET_1) else code) | released)
            released = 0
    return bytes(made)


def strokes(text: str) -> Iterator[bytes]:
    """The codes of set 2 that somebody sends who types *text*, key by key; ValueError for what is on no key."""
    for character in text:
        shifted = character in _WITH_SHIFT
        code = (_WITH_SHIFT if shifted else _KEYS).get(character)
        if code is None:
            raise ValueError(f"{character!r} is on no key")
        stroke = bytes((code, RELEASED, code))
        yield bytes((SHIFT, *stroke, RELEASED, SHIFT)) if shifted else stroke
