"""Which labs are done and which hints were read: one small JSON file in the user's data folder.

HVLAB_STATE names another folder. The file is replaced as a whole, so that a crash leaves the old one or the new one. A
file that makes no sense is set aside under another name and the learner starts with an empty list: nothing is lost and
nothing stops.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

FILE = "progress.json"
MOST_BYTES = 1 << 20


class LabProgress(msgspec.Struct, forbid_unknown_fields=True):
    """What is remembered of one lab."""

    done: bool = False
    hints: int = 0                      # how many were read


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """The file."""

    version: int = 1
    labs: dict[str, LabProgress] = {}


class Progress:
    """The learner's progress. `notes` are lines the learner should see about the file itself."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else state_folder()
        self.notes: list[str] = []
        self._kept = self._read()

    def of(self, lab: str) -> LabProgress:
        """What is known of *lab*."""
        return self._kept.labs.get(lab, LabProgress())

    def mark_done(self, lab: str) -> None:
        """*lab* was passed."""
        self._entry(lab).done = True
        self._write()

    def next_hint(self, lab: str, count: int) -> int:
        """Number of the next unread hint of *count*, from 0; after the last one, the last again."""
        entry = self._entry(lab)
        number = max(0, min(entry.hints, count - 1))
        entry.hints = number + 1
        self._write()
        return number

    def _entry(self, lab: str) -> LabProgress:
        return self._kept.labs.setdefault(lab, LabProgress())

    def _read(self) -> _Kept:
        place = self.folder / FILE
        try:
            with place.open("rb") as file:
                data = file.read(MOST_BYTES)
            kept = msgspec.json.decode(data, type=_Kept)
            if kept.version == 1:
                return kept
            problem = f"it has version {kept.version}; this hvlab knows version 1"
        except FileNotFoundError:
            return _Kept()
        except OSError as error:
            self.notes.append(f"your progress cannot be read ({error.strerror}: {place}); going on without it")
            return _Kept()
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            problem = str(error)
        self._set_aside(place, problem)
        return _Kept()

    def _set_aside(self, place: Path, problem: str) -> None:
        number = 1
        while (aside := place.with_name(f"{FILE}.damaged-{number}")).exists():
            number += 1
        try:
            place.rename(aside)
        except OSError as error:
            self.notes.append(f"your progress file makes no sense and cannot be set aside ({error.strerror}: {place})")
            return
        self.notes.append(f"your progress file made no sense ({problem}); it is kept as {aside}, the list starts anew")

    def _write(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=FILE)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(self._kept, order="sorted"), indent=1) + b"\n")
                Path(name).replace(self.folder / FILE)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            self.notes.append(f"your progress cannot be kept ({error.strerror}: {self.folder}); "
                              "HVLAB_STATE names another folder")


def state_folder() -> Path:
    """Where progress is kept."""
    named = os.environ.get("HVLAB_STATE")
    if named:
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("hvlab", appauthor=False)
