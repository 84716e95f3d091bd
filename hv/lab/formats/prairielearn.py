"""PrairieLearn's external grader: `/grade/results/results.json` (whose folder does not exist: `--output` makes it).

The score is a fraction. What cannot be graded, by the student's mistake or by ours, is `gradable: false`, which uses
up no attempt. Its pages have no hidden tests, so hidden checks are one row that tells their points only.
Every test has points and max_points: when one had none, the points of all would be left out.
"""

from __future__ import annotations

from typing import Any

from hv.lab.formats import text
from hv.lab.formats.registry import json_text, one_submission, told
from hv.lab.result import CheckResult, Result, Status, for_student
from hv.lab.words import plain

LARGEST = 1 << 20               # bytes of a result that PrairieLearn takes
PLACES = 6                      # decimal places of the score


def seen(one: Result) -> str:
    """What the student is shown."""
    return text.full(for_student(one))


@one_submission("prairielearn", "results.json", seen)
def write(one: Result) -> str:
    """One object. Details go first when it would be too large."""
    seen = for_student(one)
    whole = json_text(_data(seen, True))
    return whole if len(whole.encode()) <= LARGEST else json_text(_data(seen, False))


def _data(seen: Result, with_output: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"gradable": seen.status is Status.GRADED, "message": seen.message}
    if seen.status is not Status.GRADED:
        return {**data, "format_errors": [seen.message or "it could not be graded"]}
    tests = [_test(check, with_output) for check in seen.checks]
    return {**data, "score": _fraction(seen), "tests": tests}


def _fraction(seen: Result) -> float:
    """0 to 1; 1 for all points only, however many there are. A lab without points is passed or not."""
    if not seen.max_score:
        return float(seen.passed)
    rounded = round(float(seen.score / seen.max_score), PLACES)
    return rounded if seen.score == seen.max_score else min(rounded, 1 - 10 ** -PLACES)


def _test(check: CheckResult, with_output: bool) -> dict[str, Any]:
    test = {"name": check.name, "points": plain(check.score), "max_points": plain(check.max_score)}
    if check.message:
        test["message"] = check.message
    if with_output and told(check)[1:]:
        test["output"] = "\n".join(told(check)[1:])
    return test
