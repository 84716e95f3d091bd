"""The numbers of `hv bench` about labs: how soon a save is answered, and how fast pieces of Python are graded."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from hv.commands.files import labs_folder
from hv.commands.lab_work import LOOK_SECONDS
from hv.commands.metrics import Round, metric
from hv.commands.metrics_grade import without_cache

SAVES = 12
PIECES = 8


@metric("lab_check_ms", "ms", 1000, "from a save until `hv lab watch` has its verdict on the first lab, slowest of 12")
def _lab_check_ms() -> Round:
    from hv.image.worker import kept_warm
    from hv.lab.exercise import find, read_all
    from hv.lab.runner import check

    exercise = find(read_all(labs_folder()), "1")
    source = exercise.solution.read_text(encoding="utf-8")
    slowest = 0.0
    with TemporaryDirectory() as name, without_cache(), kept_warm():
        place = Path(name) / exercise.data.file
        for number in range(SAVES):
            place.write_text(f"{source}\n    .long {number}\n", encoding="utf-8")
            start = perf_counter()
            assert check(exercise, place).passed, "the solution passes"
            slowest = max(slowest, perf_counter() - start)
    return (slowest + LOOK_SECONDS) * 1e3, None


@metric("python_grade_per_s", "1/s", 5, "submissions of a lab of kind python, each in a process of its own, one by one")
def _python_grade_per_s() -> Round:
    from hv.image.worker import kept_warm
    from hv.lab.exercise import find, read_all
    from hv.lab.grading import Submission, grade

    exercise = find(read_all(labs_folder()), "ept_walk")
    one = Submission("one", exercise.solution)
    with kept_warm():
        assert grade(exercise, one).passed, "the solution passes"     # what is looked for once, such as bubblewrap
        start = perf_counter()
        for _ in range(PIECES):
            grade(exercise, one)
        return PIECES / (perf_counter() - start), None
