"""Our own JSON: everything that is known about a result. For staff, for scripts, and for receipts.

One submission is an object; several are an object with a list. `version` changes when a field changes its meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hv.lab.formats.registry import json_text, whole_class
from hv.lab.result import CheckResult, Result
from hv.lab.words import plain

VERSION = 2


def write_alone(one: Result) -> str:
    """A submission that was graded alone is its own file."""
    return json_text(as_data(one))


@whole_class("json", "results.json", alone=write_alone)
def write(results: Sequence[Result]) -> str:
    """Several submissions, with how many earned all points."""
    return json_text({"version": VERSION, "count": len(results), "passed": sum(one.passed for one in results),
                      "submissions": [as_data(one) for one in results]})


def as_data(one: Result) -> dict[str, Any]:
    """A result as plain data."""
    return {
        "version": VERSION, "tool": one.tool, "exercise": one.exercise, "lab_sha256": one.lab_sha256,
        "file": one.file, "trace_sha256": one.trace_sha256, "student": one.student, "variant": one.variant,
        "submission": one.submission, "sha256": one.sha256, "status": str(one.status),
        "score": plain(one.score), "max_score": plain(one.max_score), "passed": one.passed, "message": one.message,
        "tests": [_test(check) for check in one.checks],
    }


def _test(check: CheckResult) -> dict[str, Any]:
    return {
        "name": check.name, "score": plain(check.score), "max_score": plain(check.max_score), "passed": check.passed,
        "outcome": str(check.outcome), "hidden": check.hidden, "message": check.message, "hint": check.hint,
        "expected": check.expected, "found": check.found, "where": check.where, "details": list(check.details),
    }
