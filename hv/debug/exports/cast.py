"""A session as asciinema plays it: asciicast v2, one JSON value a line.

The first line is the header, then come events `[time, "o", text]`: what a terminal was sent, and when. Nobody's
typing was timed: each key takes 50 ms, each answer comes after 200 ms, and is given the time to read it. So the same
session is the same file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from hv.debug.transcript import Spoken

_KEY, _ENTER, _ANSWER, _READING, _LINE = 50, 300, 200, 1000, 150     # ms; the last two for each answer, each line
_NARROWEST, _WIDEST, _HEIGHT = 80, 160, 30
_BOLD, _RED, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[0m"


def cast(spoken: Iterable[Spoken], title: str) -> str:
    """The file's text."""
    said = list(spoken)
    header = {"version": 2, "width": _width(said), "height": _HEIGHT, "title": title,
              "env": {"TERM": "xterm-256color"}}
    lines = [json.dumps(header), *(json.dumps([ms / 1000, "o", text]) for ms, text in _events(said))]
    return "\n".join(lines) + "\n"


def _width(said: list[Spoken]) -> int:
    """Columns, so that few lines are broken."""
    longest = max((len(line) for one in said for line in (one.prompt + one.line, *one.answer.split("\n"))), default=0)
    return min(max(longest, _NARROWEST), _WIDEST)


def _events(said: list[Spoken]) -> Iterator[tuple[int, str]]:
    """(milliseconds since the beginning, what is written)."""
    now = 0
    for one in said:
        yield now, f"{_BOLD}{one.prompt}{_PLAIN}"
        for key in one.line:
            now += _KEY
            yield now, "\r\n" if key == "\n" else key
        now += _ENTER
        yield now, "\r\n"
        if one.answer:
            now += _ANSWER
            text = one.answer.replace("\n", "\r\n")
            yield now, f"{_RED}{text}{_PLAIN}\r\n" if one.refused else f"{text}\r\n"
            now += _READING + _LINE * one.answer.count("\n")
