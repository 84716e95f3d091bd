"""What each student of a course is handed: the starter and the page, with the values that are theirs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from hv.lab.errors import LabError
from hv.lab.exercise import Exercise

_ID = re.compile(r"[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]{0,79}")


def check_student(student: str) -> None:
    """LabError when *student* could not name a folder everywhere."""
    if not _ID.fullmatch(student):
        raise LabError(f"`{student}` is no student id; expected up to 80 of A-Z a-z 0-9 . _ - + @, not a point first",
                       "a login name or a number does")


def hand_out(exercise: Exercise, seed: bytes, students: Sequence[str], target: Path) -> None:
    """A folder for each of *students* in *target*; what is there already is an error, for it may have work in it."""
    for student in students:
        check_student(student)
    for student in students:
        place, own = target / student, exercise.variant(seed, student)
        try:
            place.mkdir(parents=True)
            shutil.copyfile(own.starter, place / own.data.file)
            shutil.copyfile(own.folder / "README.md", place / "README.md")
            if own.data.program and (own.folder / own.data.program).is_file():
                shutil.copyfile(own.folder / own.data.program, place / own.data.program)
        except OSError as error:
            raise LabError(f"{place} cannot be made: {error.strerror}", "name another folder with --output") from None
