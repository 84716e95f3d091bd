"""Gradescope: `/autograder/results/results.json`.

Hidden checks keep their details and are marked `hidden`: staff see them, students do not. Gradescope then hides the
total from students too, by its own rule. It has no word for "could not be graded": such a submission has 0 points, and
the text on top says why. What the container prints is for staff only, for the grader may print anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hv.lab.formats import text
from hv.lab.formats.registry import json_text, one_submission, told
from hv.lab.result import CheckResult, Outcome, Result, Status
from hv.lab.words import plain


def seen(one: Result) -> str:
    """What Gradescope shows to the student: no hidden test, and no total when there is one."""
    shown = tuple(check for check in one.checks if not check.hidden)
    if len(shown) == len(one.checks):
        return text.full(one)
    lines = [_headline(one), "", *text.checks(replace(one, checks=shown))]
    return "\n".join([*lines, "Score: not shown, because there are hidden checks", ""])


@one_submission("gradescope", "results.json", seen)
def write(one: Result) -> str:
    """One object; `score` is the sum of the tests."""
    return json_text({
        "score": plain(one.score), "output": _headline(one), "output_format": "text",
        "test_output_format": "text", "test_name_format": "text", "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [_test(number, check) for number, check in enumerate(one.checks, 1)],
        "extra_data": {"tool": one.tool, "exercise": one.exercise, "lab_sha256": one.lab_sha256,
                       "sha256": one.sha256, "status": str(one.status)},
    })


def _headline(one: Result) -> str:
    """What stands above the tests: no word about the hidden ones but how many there are."""
    if one.status is not Status.GRADED:
        return one.message
    shown = [check for check in one.checks if not check.hidden]
    line = f"{one.title}: {sum(check.passed for check in shown)} of {len(shown)} checks passed"
    hidden = len(one.checks) - len(shown)
    return f"{line}; {hidden} more are hidden" if hidden else line


def _test(number: int, check: CheckResult) -> dict[str, Any]:
    test: dict[str, Any] = {"number": str(number), "name": check.name, "score": plain(check.score),
                            "max_score": plain(check.max_score), "status": "passed" if check.passed else "failed"}
    if not check.passed:
        test["output"] = "\n".join(told(check))
    if check.outcome is Outcome.WAITING:
        test["tags"] = ["not judged"]
    if check.hidden:
        test["visibility"] = "hidden"
    return test
