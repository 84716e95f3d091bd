"""When output may be coloured, and how numbers of time are read and shown."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

from hv.commands.errors import CommandError
from hv.debug import numbers
from hv.debug.errors import DebugError

if TYPE_CHECKING:
    from rich.console import Console


def is_plain(asked: bool, stream: TextIO | None = None) -> bool:
    """Plain text: when asked for, under NO_COLOR or a dumb terminal, and when nobody reads it on a terminal."""
    stream = sys.stdout if stream is None else stream
    return asked or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not stream.isatty()


def console(plain: bool) -> Console:
    """A rich console; a plain one has no colours and is 100 columns wide wherever it goes."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError       # rich would end the program with 1, which means that checks failed

    if plain:
        return Screen(no_color=True, force_terminal=False, color_system=None, width=100, highlight=False, emoji=False)
    return Screen(highlight=False, emoji=False)


def ticks(text: str) -> int:
    """Virtual time as ticks of the 2 GHz counter: `10ms`, `2s`, `500us`, or a number of ticks. CommandError."""
    try:
        return numbers.ticks(text)
    except DebugError as error:
        raise CommandError(error.message, error.hint) from None


def shown_time(count: int) -> str:
    """Ticks for people: `1.234 ms`."""
    unit = "s" if count >= numbers.TICKS["s"] else "ms" if count >= numbers.TICKS["ms"] else "us"
    return f"{count / numbers.TICKS[unit]:.3f} {unit}"
