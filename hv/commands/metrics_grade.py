"""The number of `hv bench` about grading."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hv.commands.files import labs_folder
from hv.commands.metrics import Round, metric

SUBMISSIONS = 48


@metric("grade_per_s_per_core", "1/s", 20,
        "submissions of the first lab, all different, for a second of a processor's time, the assembler's included")
def _grade_per_s_per_core() -> Round:
    from hv.image.worker import kept_warm
    from hv.lab.exercise import find, read_all
    from hv.lab.grading import grade, submissions

    exercise = find(read_all(labs_folder()), "1")
    with TemporaryDirectory() as name, without_cache():
        folder = Path(name)
        sources = [exercise.solution, *(exercise.folder / "wrong" / one.file for one in exercise.data.wrong)]
        for number in range(SUBMISSIONS):
            source = sources[number % len(sources)].read_text(encoding="utf-8")
            (folder / f"s{number:03}.asm").write_text(f"{source}\n    .long {number}\n", encoding="utf-8")
        start = _processor_seconds()
        with kept_warm():                   # what it starts is counted when it has ended
            for submission in submissions([folder], exercise):
                assert grade(exercise, submission).result.max_score, "a result has points"
        return SUBMISSIONS / (_processor_seconds() - start), None


def _processor_seconds() -> float:
    """Of this process, and of its children that have ended."""
    return sum(os.times()[:4])


@contextmanager
def without_cache() -> Iterator[None]:
    """Every program is assembled, as for a class that hands in for the first time."""
    before = os.environ.get("HVLAB_CACHE")
    os.environ["HVLAB_CACHE"] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ["HVLAB_CACHE"]
        else:
            os.environ["HVLAB_CACHE"] = before
