"""The labs of a folder, where somebody may have changed one by hand: the others can be worked on all the same."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hv.lab.errors import LabError
from hv.lab.exercise import Exercise, is_called, no_labs, read

_NUMBERED = re.compile(r"[0-9]+_\w+")


def read_course(folder: Path | None) -> tuple[list[Exercise], dict[str, LabError]]:
    """Every lab below *folder* that can be read, in order of their names; and what is wrong with the others, by name.

    LabError when there is none to work on.
    """
    found: list[Exercise] = []
    broken: dict[str, LabError] = {}
    for place in _places(folder):
        try:
            found.append(read(place))
        except LabError as error:
            broken[place.name] = error
    if not found:
        raise next(iter(broken.values()), no_labs(folder))
    return found, broken


def _places(folder: Path | None) -> list[Path]:
    """Folders with a lab.toml, whatever that is, and those that are called as labs are."""
    try:
        inside = sorted(folder.iterdir()) if folder is not None else []
    except (OSError, ValueError):
        return []
    return [place for place in inside if os.path.lexists(place / "lab.toml")
            or (_NUMBERED.fullmatch(place.name) and place.is_dir() and any(place.glob("[!._]*")))]


def refuse_broken(broken: dict[str, LabError], wanted: str) -> None:
    """LabError when *wanted* is a lab that cannot be read: what is wrong with it."""
    for name, error in broken.items():
        if is_called(name, wanted):
            raise error
