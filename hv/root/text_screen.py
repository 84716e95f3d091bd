"""The text screen of a PC: 80 x 25 cells at 0xB8000, each a character of code page 437 and its colours.

It is memory of the VM, nothing else: a program writes there, and who wants to see it reads. IBM "VGA" text mode 3.
"""

from __future__ import annotations

COLUMNS, ROWS = 80, 25
SCREEN_BYTES = COLUMNS * ROWS * 2
# What the adapter shows for the codes that are controls elsewhere; 0 is as empty as a space.
_GLYPHS = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"


def text_of(cells: bytes) -> str:
    """What stands on the screen: its lines without the spaces at their ends, and without the empty lines below."""
    shown = "".join(_GLYPHS[code] if code < len(_GLYPHS) else "⌂" if code == 0x7F else bytes((code,)).decode("cp437")
                    for code in cells[: SCREEN_BYTES : 2])
    lines = [shown[at : at + COLUMNS].rstrip(" \N{NO-BREAK SPACE}") for at in range(0, len(shown), COLUMNS)]
    return "\n".join(lines).rstrip("\n")
