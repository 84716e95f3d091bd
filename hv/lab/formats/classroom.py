"""GitHub Classroom's reporter: one line `result=BASE64` for the file that GITHUB_OUTPUT names (append it with `>>`).

The JSON inside has the points of each check. The reporter prints for a step the share of tests that passed, and adds
up the tests' scores for the total: the two differ where checks weigh differently, and the total is the right one.
Everything in it is in the student's own log, so hidden checks are one test that tells their points only.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from hv.lab.formats import text
from hv.lab.formats.registry import one_submission, told
from hv.lab.result import CheckResult, Result, Status, for_student
from hv.lab.words import plain

VERSION = 1


def seen(one: Result) -> str:
    """What the student is shown."""
    return text.full(for_student(one))


@one_submission("classroom", "result.txt", seen)
def write(one: Result) -> str:
    """One line, without a break inside."""
    seen = for_student(one)
    status = "pass" if seen.passed else "fail" if seen.status is Status.GRADED else "error"
    data = {"version": VERSION, "status": status, "max_score": plain(seen.max_score),
            "tests": [_test(check, seen) for check in seen.checks]}
    whole = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"result={b64encode(whole.encode()).decode('ascii')}\n"


def _test(check: CheckResult, seen: Result) -> dict[str, Any]:
    failed = "fail" if seen.status is Status.GRADED else "error"
    file, line = check.source_line or ("", 0)
    return {"name": check.name, "status": "pass" if check.passed else failed, "score": plain(check.score),
            "message": "\n".join(told(check)), "test_code": "", "filename": file, "line_no": line, "duration": 0}
