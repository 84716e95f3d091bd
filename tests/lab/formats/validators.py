"""The rules of each format, read from its documentation: each validator fails an assertion that names the rule.

They share no code with the writers, and read a file as its reader does.
"""

import base64
import csv
import io
import json
import re
from typing import Any
from xml.etree import ElementTree


def strict_json(data: bytes) -> Any:
    """UTF-8, no NaN or Infinity, no name twice, and no lone surrogate."""
    def no_constant(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), "a name twice"
        return dict(pairs)

    found = json.loads(data.decode("utf-8"), parse_constant=no_constant, object_pairs_hook=once)
    json.dumps(found, ensure_ascii=False).encode("utf-8")
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def known(found: dict[str, Any], /, **types: Any) -> None:
    """No key that is not documented, and each of its type."""
    for name, value in found.items():
        assert name in types, f"unknown key {name}"
        wanted = types[name]
        fits = value in wanted if isinstance(wanted, tuple) else is_number(value) if wanted is float \
            else isinstance(value, wanted)
        assert fits, f"{name} is {value!r}"


FORMAT_WORDS = ("text", "html", "simple_format", "md", "ansi")
VISIBLE_WORDS = ("hidden", "after_due_date", "after_published", "visible")


def gradescope(data: bytes) -> dict[str, Any]:
    """`results.json`: known keys and words; a score, which is the sum of the tests'."""
    found = strict_json(data)
    known(found, score=float, execution_time=float, output=str, output_format=FORMAT_WORDS, visibility=VISIBLE_WORDS,
          test_output_format=FORMAT_WORDS, test_name_format=FORMAT_WORDS, stdout_visibility=VISIBLE_WORDS,
          extra_data=dict, tests=list, leaderboard=list)
    tests = found.get("tests", [])
    for test in tests:
        known(test, score=float, max_score=float, status=("passed", "failed"), name=str, name_format=FORMAT_WORDS,
              number=str, output=str, output_format=FORMAT_WORDS, tags=list, visibility=VISIBLE_WORDS, extra_data=dict)
        assert all(isinstance(tag, str) for tag in test.get("tags", []))
        assert "\r" not in test.get("output", ""), "line ends are \\n only"
        if test.get("status") == "passed":
            assert test["score"] == test["max_score"]
    assert "score" in found or any("score" in test for test in tests), "no score at all"
    assert abs(found["score"] - sum(test["score"] for test in tests)) < 1e-9, "the score is not the sum"
    return found


def prairielearn(data: bytes) -> dict[str, Any]:
    """`results.json`: at most 1 MB, a fraction when gradable, all points or none, no zero bytes."""
    assert len(data) <= 1_048_576
    found = strict_json(data)
    assert b"\\u0000" not in data
    known(found, score=float, gradable=bool, format_errors=list, message=str, output=str, images=list, tests=list)
    if found.get("gradable", True):
        assert is_number(found["score"]), "score is needed when gradable"
        assert 0.0 <= found["score"] <= 1.0
        assert "format_errors" not in found
    else:
        errors = found["format_errors"]
        assert errors
        assert all(isinstance(error, str) and error for error in errors)
    for test in found.get("tests", []):
        known(test, name=str, description=str, points=float, max_points=float, message=str, output=str, images=list)
        assert {"points", "max_points"} <= set(test), "one test without points hides the points of all"
    return found


def classroom(data: bytes) -> dict[str, Any]:
    """One line `result=BASE64` of a JSON; the scores of the tests do not exceed the step's."""
    match = re.fullmatch(rb"result=([A-Za-z0-9+/]+={0,2})\n", data)
    assert match, "not one line of Base64"
    found = strict_json(base64.b64decode(match[1], validate=True))
    known(found, version=(1,), status=("pass", "fail", "error"), max_score=float, tests=list)
    assert {"version", "status", "max_score", "tests"} == set(found)
    for test in found["tests"]:
        known(test, name=str, status=("pass", "fail", "error"), score=float, message=str, test_code=str, filename=str,
              line_no=int, duration=float)
        assert test["line_no"] >= 0
    assert sum(test["score"] for test in found["tests"]) <= found["max_score"] + 1e-9
    assert (found["status"] == "pass") == all(test["status"] == "pass" for test in found["tests"])
    return found


# element: (attributes it needs, attributes it may have, elements it may hold)
JUNIT = {
    "testsuites": ({"name"}, {"tests", "failures", "errors", "skipped", "time"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped"}, {"time", "timestamp", "hostname"},
                  {"properties", "testcase", "system-out", "system-err"}),
    "testcase": ({"classname", "name"}, {"time", "file", "line"},
                 {"properties", "failure", "error", "skipped", "system-out", "system-err"}),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "failure": ({"message", "type"}, set(), set()), "error": ({"message", "type"}, set(), set()),
    "skipped": ({"message", "type"}, set(), set()), "system-out": (set(), set(), set()),
    "system-err": (set(), set(), set()),
}


def junit(data: bytes) -> ElementTree.Element:
    """XML 1.0 with the elements and attributes that are read everywhere; counts agree; one outcome each."""
    text = data.decode("utf-8")
    assert not re.search("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text), "a character XML has not"
    for raw in re.findall(r'="([^"]*)"', text):
        assert not set(raw) & {"\n", "<"}, "an attribute with a line break or a <"
    root = ElementTree.fromstring(data)
    assert root.tag == "testsuites"
    for element in root.iter():
        needed, allowed, inside = JUNIT[element.tag]
        assert needed <= set(element.attrib) <= needed | allowed, f"{element.tag} has {sorted(element.attrib)}"
        assert {child.tag for child in element} <= inside, f"{element.tag} holds what it may not"
        assert element.tag != "property" or not element.text
    for suite in root:
        cases = suite.findall("testcase")
        kinds = [[child.tag for child in case if child.tag in ("failure", "error", "skipped")] for case in cases]
        assert all(len(kind) <= 1 for kind in kinds), "two outcomes of one case"
        for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[count]) == sum(kind == [tag] for kind in kinds), f"{count} is wrong"
        assert int(suite.attrib["tests"]) == len(cases)
        assert all(int(case.get("line", "1")) > 0 for case in cases)
    return root


COLUMNS = ["student_id", "email", "lab", "score", "max_score", "status", "finished_at", "seed", "tool_version",
           "result_sha256"]


def gradebook(data: bytes) -> list[dict[str, str]]:
    """UTF-8 with the header; every line as long; no cell that a spreadsheet would compute."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True))
    assert rows[0] == COLUMNS
    for row in rows[1:]:
        assert len(row) == len(COLUMNS)
        assert not [cell for cell in row if cell[:1] in "=+-@\t\r" and cell], "a formula"
        assert all(re.fullmatch(r"\d+(\.\d+)?", cell) for cell in row[3:5])
        assert row[5] in ("graded", "not_gradable", "grader_error")
        assert re.fullmatch("[0-9a-f]{64}", row[9])
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows[1:]]


def ours(data: bytes) -> list[dict[str, Any]]:
    """Our JSON: every field of every result, exact sums, and only passed when everything passed."""
    found = strict_json(data)
    results: list[dict[str, Any]] = found.get("submissions", [found])
    if "submissions" in found:
        known(found, version=(2,), count=int, passed=int, submissions=list)
        assert found["count"] == len(results)
        assert found["passed"] == sum(one["passed"] for one in results)
    for one in results:
        known(one, version=(2,), tool=str, exercise=str, lab_sha256=str, submission=str, sha256=str, score=float,
              student=str, variant=str, file=str, trace_sha256=str,
              status=("graded", "not_gradable", "grader_error"), max_score=float, passed=bool, message=str, tests=list)
        assert len(one) == 16
        for test in one["tests"]:
            known(test, name=str, score=float, max_score=float, passed=bool, hidden=bool, message=str, hint=str,
                  outcome=("passed", "partial", "failed", "waiting"), expected=str, found=str, where=str, details=list)
            assert len(test) == 12
            assert 0 <= test["score"] <= test["max_score"]
        assert abs(one["score"] - sum(test["score"] for test in one["tests"])) < 1e-9
        assert one["passed"] == (one["status"] == "graded" and all(test["passed"] for test in one["tests"]))
    return results


def markdown(data: bytes) -> str:
    """UTF-8 of at most 1 MiB without control characters; outside of code no tag, and every table line has its cells."""
    assert len(data) <= 1_048_576
    text = data.decode("utf-8")
    assert all(char.isprintable() for char in text if char != "\n")
    for line in text.split("\n"):
        if line.startswith("    "):
            continue
        plain = re.sub(r"\\.", "", re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", line))
        assert not set(plain) & set("<`["), f"a mark outside of code: {line}"
        if line.startswith("|"):
            assert plain.count("|") == 4, f"a table line of {plain.count('|') - 1} cells: {line}"
    return text


def text(data: bytes) -> str:
    """UTF-8 that commands no terminal."""
    found = data.decode("utf-8")
    assert all(char.isprintable() for char in found if char != "\n")
    return found


VALIDATORS = {"gradescope": gradescope, "prairielearn": prairielearn, "classroom": classroom, "junit": junit,
              "csv": gradebook, "json": ours, "md": markdown, "text": text}
