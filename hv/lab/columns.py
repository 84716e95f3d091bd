"""The column of what the assembler complains about: it names the line, the statement, and often the word in it."""

from __future__ import annotations

import re

_COMPLAINT = re.compile(r"(?P<file>[^:]+):(?P<line>\d+): `(?P<text>.*?)(?:\.\.\.)?`: (?P<says>.*)", re.DOTALL)
_WORD = re.compile(r"`([^`]+)`")


def with_column(complaint: str, name: str, source: str) -> str:
    """*complaint* about the file *name*, which holds *source*, as `name:line:column: ...` where the column is known."""
    found = _COMPLAINT.fullmatch(complaint)
    if found is None or found["file"] != name:
        return complaint
    lines = re.split(r"\r\n|\n|\r", source)
    number = int(found["line"])
    line = lines[number - 1] if number <= len(lines) else ""
    start = line.find(found["text"])
    if start < 0:                       # the statement is told otherwise than it was written
        return complaint
    word = _WORD.match(found["says"])
    inside = found["text"].find(word[1]) if word is not None else 0
    column = start + max(inside, 0) + 1
    return f"{name}:{number}:{column}: {complaint.partition(': ')[2]}"
