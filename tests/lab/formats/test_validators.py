"""The validators themselves: each refuses what its format refuses."""

import base64
import json

import pytest

from tests.lab.formats.validators import VALIDATORS, strict_json


def step(**changes):
    data = {"version": 1, "status": "pass", "max_score": 1, "tests": [], **changes}
    return b"result=" + base64.b64encode(json.dumps(data).encode()) + b"\n"


CASE = ('<testsuites name="a"><testsuite name="b" tests="1" failures="{}" errors="0" skipped="0">{}'
        '</testsuite></testsuites>')
FAILURE = '<testcase classname="c" name="d"><failure message="m" type="t"/>{}</testcase>'
HEADER = b"student_id,email,lab,score,max_score,status,finished_at,seed,tool_version,result_sha256\n"

BROKEN = {
    "gradescope-sum": ("gradescope", b'{"score": 2, "tests": [{"score": 1}]}'),
    "gradescope-number": ("gradescope", b'{"score": 1, "tests": [{"score": 1, "number": 1}]}'),
    "gradescope-visibility": ("gradescope", b'{"score": 1, "visibility": "secret", "tests": [{"score": 1}]}'),
    "gradescope-key": ("gradescope", b'{"score": 0, "grade": 1}'),
    "gradescope-nan": ("gradescope", b'{"score": NaN}'),
    "prairielearn-points": ("prairielearn", b'{"score": 1, "tests": [{"points": 1}]}'),
    "prairielearn-fraction": ("prairielearn", b'{"score": 10}'),
    "prairielearn-score": ("prairielearn", b'{"gradable": true}'),
    "prairielearn-reason": ("prairielearn", b'{"gradable": false, "format_errors": []}'),
    "prairielearn-size": ("prairielearn", b'{"score": 1, "message": "' + b"x" * 1_048_576 + b'"}'),
    "classroom-line": ("classroom", step()[:30] + b"\n" + step()[30:]),
    "classroom-status": ("classroom", step(status="passed")),
    "classroom-version": ("classroom", step(version=2)),
    "classroom-more": ("classroom", step(tests=[{"name": "a", "status": "pass", "score": 2, "line_no": 0}])),
    "junit-count": ("junit", CASE.format(0, FAILURE.format("")).encode()),
    "junit-two": ("junit", CASE.format(1, FAILURE.format('<error message="" type=""/>')).encode()),
    "junit-element": ("junit", CASE.format(1, FAILURE.format("<b/>")).encode()),
    "junit-control": ("junit", CASE.format(1, FAILURE.format("\x1b")).encode()),
    "csv-header": ("csv", HEADER.upper()),
    "csv-formula": ("csv", HEADER + b"=1,,l,1,1,graded,,,t," + b"0" * 64 + b"\n"),
    "csv-short": ("csv", HEADER + b"a,b\n"),
    "json-field": ("json", b'{"version": 2, "tests": []}'),
    "md-cells": ("md", b"| a | b |\n"),
    "md-tag": ("md", b"<b>\n"),
    "md-control": ("md", b"\x1b\n"),
    "text-control": ("text", b"\x1b\n"),
}


@pytest.mark.parametrize(("name", "data"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_a_rule_is_refused(name, data):
    with pytest.raises((AssertionError, ValueError, KeyError, SyntaxError)):
        VALIDATORS[name](data)


@pytest.mark.parametrize("data", [b"\xff", b'{"a": 1, "a": 2}', b'{"a": Infinity}', b'{"a": "\\ud800"}'])
def test_json_is_read_strictly(data):
    with pytest.raises((AssertionError, ValueError)):
        strict_json(data)
