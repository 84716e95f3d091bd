"""A submission of which there is a receipt, graded again as it was then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hv.lab import scratch
from hv.lab.errors import LabError
from hv.lab.exercise import Exercise
from hv.lab.grading import Submission, grade, submissions
from hv.lab.receipt import Receipt, receipt
from hv.lab.whole_class import unpacked


def again(exercise: Exercise, then: Receipt, path: Path, key: bytes) -> Receipt:
    """The receipt that the submission at *path* gets now: under the name it had, with the student's own values."""
    found = submissions([path], exercise)
    if len(found) != 1:
        raise LabError(f"{path} holds {len(found)} submissions", "a receipt is about one: name it")
    own = exercise.variant(key, then.student) if then.student else exercise
    with scratch.folder("handed-in") as folder:
        (one,) = unpacked(found, own, Path(folder, "unpacked"))
        named = Submission(then.file, Path(folder, "again", then.file), then.student, one.problem)
        named.path.parent.mkdir()
        _copy(one.path, named.path)
        return receipt(grade(own, named).result, key)


def _copy(path: Path, place: Path) -> None:
    """What is handed in, a link as a link; what is missing stays missing."""
    try:
        if os.path.lexists(path):
            shutil.copy(path, place, follow_symlinks=False)
    except OSError as error:
        raise LabError(f"{path} cannot be copied: {error.strerror or error}", "name the file of the receipt") from None
