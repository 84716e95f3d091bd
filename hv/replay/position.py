"""A place in the past of a machine, as it is written: `E120`, `E120:7`, `E120+3`."""

from __future__ import annotations

import re
from typing import NamedTuple

_FORM = re.compile(r"[Ee](\d{1,15})(?:([:+])(\d{1,15}))?")


class PositionError(Exception):
    """There is no such place; the message says what there is instead."""


class Position(NamedTuple):
    """VM exit number *exits* (from 1, of all processors together) of the run, before it is handled; 0 is the beginning.

    With *instructions*, the exit was handled and whoever runs then is about to execute the one of that number. With
    *events*, the event of that number after the exit has just been told.
    """

    exits: int = 0
    instructions: int = 0
    events: int = 0

    @classmethod
    def parse(cls, text: str) -> Position:
        """PositionError for what is no position."""
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise PositionError(f"`{text}` is no position; write E120 (exit 120), E120:7 (the 7th instruction after "
                                "it) or E120+3 (the 3rd event after it)")
        number = int(found[3] or 0)
        return cls(int(found[1]), number if found[2] == ":" else 0, number if found[2] == "+" else 0)

    def __str__(self) -> str:
        if self.instructions:
            return f"E{self.exits}:{self.instructions}"
        return f"E{self.exits}+{self.events}" if self.events else f"E{self.exits}"
