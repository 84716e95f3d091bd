"""What was typed in earlier sessions: a file of one JSON text a line, in the user's state directory.

A file that cannot be read never keeps a session from starting. What is broken in it is kept aside, so that nothing is
lost, and the readable lines go on.
"""

from __future__ import annotations

import json
from pathlib import Path

KEPT_LINES = 2000
LONGEST_ENTRY = 10_000          # characters of one entry; longer ones are not remembered


def default_place() -> Path:
    """Where the history of this user is."""
    from platformdirs import user_state_path

    return user_state_path("hvlab", appauthor=False) / "repl_history.jsonl"


class HistoryFile:
    """The entries in the file *place*, oldest first. *trouble* says in words what was wrong with it, or nothing."""

    def __init__(self, place: Path) -> None:
        self.place, self.trouble = place, ""
        self.entries = self._read()

    def add(self, entry: str) -> None:
        """Remember *entry*, unless it says what the last one says. A file that refuses is trouble, and no error."""
        if not entry.strip() or len(entry) > LONGEST_ENTRY or self.entries[-1:] == [entry]:
            return
        self.entries.append(entry)
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            with self.place.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            self.trouble = f"the history is not kept: {error.strerror or error}"

    def _read(self) -> list[str]:
        try:
            data = self.place.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            self.trouble = f"the history cannot be read: {error.strerror or error}"
            return []
        lines = [line for line in data.split(b"\n") if line]
        found = [entry for entry in map(_entry, lines) if entry is not None]
        if len(found) < len(lines):
            self._set_aside(len(lines) - len(found))
        if len(found) < len(lines) or len(found) > 2 * KEPT_LINES:
            found = found[-KEPT_LINES:]
            self._write(found)
        return found

    def _set_aside(self, broken: int) -> None:
        """Keep the file as it was found, under a name that nobody has."""
        number = 1
        while (aside := self.place.with_name(f"{self.place.name}.broken-{number}")).exists():
            number += 1
        self.trouble = f"the history had {broken} broken lines"
        try:
            self.place.replace(aside)
            self.trouble += f"; as it was, it is kept as {aside.name}"
        except OSError as error:
            self.trouble += f", and cannot be kept aside: {error.strerror or error}"

    def _write(self, entries: list[str]) -> None:
        """Write the file anew: whole, or not at all."""
        fresh = self.place.with_name(f"{self.place.name}.new")
        try:
            fresh.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8", newline="\n")
            fresh.replace(self.place)
        except OSError as error:
            self.trouble = self.trouble or f"the history is not kept: {error.strerror or error}"


def _entry(line: bytes) -> str | None:
    """The text of one line of the file; None when it is none."""
    try:
        entry = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, str) and len(entry) <= LONGEST_ENTRY else None
