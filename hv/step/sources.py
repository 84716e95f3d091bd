"""The lines of the programs' source files, as far as they are still there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hv.printable import printable

LARGEST = 1 << 22               # bytes: no source file is larger


class Sources:
    """Looks for files in *folders*, the first one that has it."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = list(folders)
        self._lines: dict[str, list[str]] = {}

    def line(self, place: str) -> str:
        """The text at `file:31`; empty where there is none."""
        name, _, number = place.rpartition(":")
        if not name or not number.isdecimal():
            return ""
        lines = self._lines.get(name)
        if lines is None:
            lines = self._lines[name] = self._read(name)
        position = int(number) - 1
        return lines[position] if 0 <= position < len(lines) else ""

    def _read(self, name: str) -> list[str]:
        for folder in self._folders:
            place = folder / name
            try:
                if place.stat().st_size <= LARGEST:
                    text = place.read_text(encoding="utf-8", errors="replace")
                    return [printable(line.expandtabs(8).rstrip()) for line in text.splitlines()]
            except (OSError, ValueError):
                continue
        return []
