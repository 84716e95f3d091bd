"""Lines of styled text: what panes are made of, whoever shows them.

A line is pieces of (style, text). Styles say what something is, not how it looks:

| style | what it is |
|---|---|
| "" | plain |
| dim | beside the point: units, headings of the manual, zeroes |
| head | a heading |
| name | a name of the manual, a symbol, a VM |
| new | it has just changed |
| old | what it was before |
| here | where one is: the instruction that comes next, the row of the timeline |
| at | an address that can be looked at in memory |
| good, bad | as it should be, and not |
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from hv.printable import printable

Piece = tuple[str, str]
Line = list[Piece]
STYLES = ("", "dim", "head", "name", "new", "old", "here", "at", "good", "bad")
_MORE = "…"


def plain(line: Sequence[Piece]) -> str:
    """The text alone, without what would command a terminal."""
    return printable("".join(text for _, text in line).rstrip(), 2000)


def columns(text: str) -> int:
    """Columns that it takes: a letter of some scripts takes two."""
    return len(text) if text.isascii() else cell_len(text)


def width_of(line: Sequence[Piece]) -> int:
    """Columns that it takes."""
    return sum(columns(text) for _, text in line)


def cut(line: Sequence[Piece], width: int) -> Line:
    """*line* in *width* columns, without what would command a terminal; what is left out is marked by `…`."""
    clean = [(style, text if text.isprintable() else printable(text)) for style, text in line]
    if width_of(clean) <= width:
        return clean
    room, kept = max(width, 1) - 1, list[Piece]()
    for style, text in clean:
        kept.append((style, text if columns(text) <= room else set_cell_size(text, room)))
        room -= columns(text)
        if room <= 0:
            break
    return [*kept, ("dim", _MORE)]


def padded(line: Sequence[Piece], width: int) -> Line:
    """*line* in exactly *width* columns."""
    shorter = cut(line, width)
    return [*shorter, ("", " " * (width - width_of(shorter)))]


def beside(left: Sequence[Line], right: Sequence[Line], width: int, gap: int = 3) -> list[Line]:
    """Two columns, the left one *width* wide."""
    rows = max(len(left), len(right))
    return [[*padded(left[row] if row < len(left) else [], width), ("", " " * gap),
             *(right[row] if row < len(right) else [])] for row in range(rows)]


def filled(text: str, width: int, indent: str = "", style: str = "") -> list[Line]:
    """*text* in lines of *width*, each behind *indent*."""
    lines, words = [indent], text.split()
    for word in words:
        if len(lines[-1]) + 1 + len(word) > width and lines[-1] != indent:
            lines.append(indent)
        lines[-1] += ("" if lines[-1] == indent else " ") + word
    return [[(style, line)] for line in lines]
