"""Every format keeps its own rules, whatever a result holds, and says the same as the result."""

import json

import pytest

from hv.lab.formats import FORMATS
from tests.lab.formats.results import NASTY, RESULTS, hostile
from tests.lab.formats.validators import VALIDATORS


def written(name, *results, alone=False):
    return FORMATS[name].text(results, alone).encode()


def test_each_format_has_a_validator():
    assert set(VALIDATORS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_a_result_is_written_by_the_rules_of_the_format(name, result):
    VALIDATORS[name](written(name, result))
    VALIDATORS[name](written(name, result, alone=True))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_no_text_breaks_a_format(name, text):
    found = written(name, hostile(text))
    VALIDATORS[name](found)
    assert len(found) < 500_000
    assert found.endswith(b"\n")


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if not format.single])
def test_a_class_is_one_file(name):
    VALIDATORS[name](written(name, *RESULTS.values(), *map(hostile, NASTY.values())))
    VALIDATORS[name](written(name, *[hostile(NASTY["control"])] * 400))


def test_only_what_earned_all_points_is_worth_everything():
    worth = {name: VALIDATORS["prairielearn"](written("prairielearn", result)).get("score")
             for name, result in RESULTS.items()}
    assert worth == {"all": 1.0, "none": 0.0, "some": 0.4, "not-gradable": None, "grader-error": None}
    status = {name: VALIDATORS["classroom"](written("classroom", result))["status"] for name, result in RESULTS.items()}
    assert status == {"all": "pass", "none": "fail", "some": "fail", "not-gradable": "error", "grader-error": "error"}


def test_gradescope_gets_points_and_what_is_told():
    found = VALIDATORS["gradescope"](written("gradescope", RESULTS["some"]))
    assert (found["score"], found["output"]) == (4, "The first VM exit: 1 of 3 checks passed")
    assert [test["status"] for test in found["tests"]] == ["passed", "failed", "failed"]
    assert found["tests"][1]["output"].split("\n")[:4] == [
        "there is a loop", "expected  a halt", "found     a loop", "where     a.asm:7"]
    assert found["tests"][2]["tags"] == ["not judged"]
    assert found["stdout_visibility"] == "hidden"


def test_classroom_gets_the_source_line():
    found = VALIDATORS["classroom"](written("classroom", RESULTS["some"]))
    assert [(test["filename"], test["line_no"]) for test in found["tests"]] == [("", 0), ("a.asm", 7), ("", 0)]


def test_junit_tells_who_made_the_mistake():
    kinds = {}
    for name, result in RESULTS.items():
        (suite,) = VALIDATORS["junit"](written("junit", result))
        kinds[name] = [suite.get(count) for count in ("failures", "errors", "skipped")]
    assert kinds == {"all": ["0"] * 3, "none": ["3", "0", "0"], "some": ["1", "0", "1"],
                     "not-gradable": ["0", "3", "0"], "grader-error": ["0", "3", "0"]}


def test_a_line_of_the_grade_book_names_the_submissions_own_json():
    import hashlib

    (row,) = VALIDATORS["csv"](written("csv", RESULTS["some"]))
    assert (row["student_id"], row["score"], row["max_score"]) == ("a.asm", "4", "10")
    assert row["result_sha256"] == hashlib.sha256(written("json", RESULTS["some"], alone=True)).hexdigest()


def test_markdown_of_a_class_begins_with_a_table():
    text = VALIDATORS["md"](written("md", RESULTS["all"], RESULTS["none"]))
    assert text.startswith("# 1 of 2 submissions earned all points\n")
    assert "| a.asm | 10/10 |  |" in text


@pytest.mark.parametrize(("count", "kept"), [
    (1, ["## 01", "### the"]), (60, ["## 01", "10 | why"]), (1000, ["10 | why"]), (2000, []), (6000, ["and more"]),
])
def test_what_is_too_much_for_a_job_summary_loses_details_first(count, kept):
    text = VALIDATORS["md"](written("md", *[hostile("why" + "x" * 390)] * count))
    found = [words for words in ("## 01", "### the", "10 | why", "and more") if words in text]
    assert found == kept


def test_our_json_is_told_everything():
    (found,) = VALIDATORS["json"](written("json", RESULTS["some"]))
    assert [test["outcome"] for test in found["tests"]] == ["passed", "failed", "waiting"]
    assert found["tests"][1]["where"] == "a.asm:7"
    assert json.loads(written("json", RESULTS["some"], alone=True)) == found


def test_what_was_never_run_was_not_judged():
    (found,) = VALIDATORS["json"](written("json", RESULTS["not-gradable"]))
    assert {test["outcome"] for test in found["tests"]} == {"waiting"}
