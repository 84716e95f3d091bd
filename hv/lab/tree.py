"""A tree of labs that was made for students: `course.toml` in its folder says so, and for whom.

    student = "alice"                   # whose values its labs have; empty when everybody gets the same

`hv lab` in such a folder works on its labs.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from hv.lab.errors import LabError
from hv.lab.toml import dumps

FILE = "course.toml"
_WORDS = "# The labs of this folder are what `hv lab` works on when it is started here.\n"
_LARGEST = 10_000               # bytes


def mark(folder: Path, student: str) -> None:
    """*folder* holds labs for *student*, or for everybody; OSError."""
    (folder / FILE).write_text(_WORDS + dumps({"student": student}), encoding="utf-8", newline="\n")


def whose(folder: Path) -> str | None:
    """Whose labs are in *folder*: empty for everybody's, None when it is no such tree; LabError for a broken mark."""
    place = folder / FILE
    if not os.path.isfile(place):       # which, unlike Path.is_file, takes a name that no file can have
        return None
    try:
        with place.open("rb") as file:
            found: Any = tomllib.loads(file.read(_LARGEST).decode("utf-8")).get("student")
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(place, getattr(error, "strerror", None) or str(error)) from None
    if not isinstance(found, str):
        raise _broken(place, "it does not say `student`")
    return found


def _broken(place: Path, why: str) -> LabError:
    return LabError(f"{place} makes no sense: {why}", "put back the one that came with the labs, or say --labs DIR")
