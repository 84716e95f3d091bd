"""The students' tree: every lab, without what only staff may see.

What is copied is listed, so nothing slips through: the pages, the starter, the given programs, and pictures. Of
lab.toml hidden checks, the list of wrong answers and the words about the starter are left out. In a lab of kind
`diagnose` lab.toml still names the bug, for its machine must be run.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hv.lab.errors import LabError
from hv.lab.exercise import Exercise, read
from hv.lab.toml import dumps
from hv.lab.tree import mark

PAGES = ("README.md", "why.md")
ALONGSIDE = (".inc", ".png", ".svg")    # what programs include, and what pages show
STAFF = ("wrong", "starter_says")       # keys of lab.toml


def export(exercises: list[Exercise], folder: Path, student: str = "") -> list[Path]:
    """Make *folder*, which is not there or empty, with the students' labs; LabError. Answers the files, in order.

    *student* is whose values *exercises* have, if they are somebody's. Equal labs give equal bytes.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise LabError(f"{folder} is not empty", "name a new folder: an older export could hold what is hidden now")
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".export-", dir=folder.parent))
    except (OSError, ValueError) as error:
        raise LabError(f"{folder} cannot be written: {_reason(error)}", "name another folder") from None
    try:
        for exercise in exercises:
            _export_one(exercise, made / exercise.name)
        mark(made, student)
        made.chmod(0o755)
        if folder.exists():
            folder.rmdir()              # it is empty
        made.replace(folder)
    except (OSError, ValueError) as error:
        raise LabError(f"{folder} cannot be written: {_reason(error)}", "name another folder") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _export_one(exercise: Exercise, place: Path) -> None:
    place.mkdir()
    for name in _open_files(exercise):
        (place / name).write_bytes((exercise.folder / name).read_bytes())
    data = tomllib.loads(exercise.text("lab.toml"))
    (place / "lab.toml").write_text(dumps(for_students(data)), encoding="utf-8", newline="\n")
    read(place)                         # it is a lab still


def _open_files(exercise: Exercise) -> list[str]:
    """Names of the files that students get; links are not followed."""
    data = exercise.data
    named = {*PAGES, exercise.starter.name, data.program, *(vm.program for vm in data.machine.vm)}
    return sorted(path.name for path in exercise.folder.iterdir() if path.is_file() and not path.is_symlink()
                  and not path.name.startswith(".") and (path.name in named or path.suffix in ALONGSIDE))


def for_students(data: dict[str, Any]) -> dict[str, Any]:
    """What lab.toml says, without what only staff may see."""
    kept = {key: value for key, value in data.items() if key not in STAFF}
    return kept | {"checks": [check for check in data["checks"] if not check.get("hidden")]}


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
