"""`hv grade` prints scores as text or JSON, the same bytes each time, with an exit code to build on."""

import json

import pytest

from hv.cli import main
from tests.lab.exercises import LABS, SOLUTION, first_exit

WRONG = LABS / "01_first_exit/wrong"


@pytest.fixture(autouse=True)
def _at_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def said(capsys, *arguments):
    code = main(["grade", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_solution_gets_all_points_and_code_0(capsys):
    code, out, _ = said(capsys, first_exit().solution.parent, "--format", "json")
    data = json.loads(out)
    assert code == 0
    assert (data["score"], data["max_score"]) == (10, 10)
    assert len(data["tests"]) == 3
    assert all(set(test) >= {"name", "score", "max_score", "passed", "message"} for test in data["tests"])


def test_a_class_is_graded_in_order_with_code_1_when_not_all_passed(capsys):
    code, out, _ = said(capsys, WRONG, "--format", "json")
    data = json.loads(out)
    assert code == 1
    assert [one["submission"] for one in data["submissions"]] == sorted(wrong.name for wrong in WRONG.iterdir())
    assert (data["count"], data["passed"]) == (11, 0)


def test_two_runs_are_the_same_bytes(capsys):
    assert said(capsys, WRONG, "--format", "json")[1] == said(capsys, WRONG, "--format", "json")[1]


def test_text_shows_a_line_for_each_and_a_sum(capsys):
    code, out, _ = said(capsys, WRONG)
    assert code == 1
    assert "6/10  register_order.asm  the signature stands" in out
    assert "0 of 11 submissions earned all points" in out


def test_text_of_one_submission_is_its_whole_report(capsys):
    code, out, _ = said(capsys, WRONG / "register_order.asm")
    assert code == 1
    assert "MISSING  0x200004" in out
    assert "Score: 6 of 10 points" in out


MISTAKES = {
    "no-such-path": (["nowhere"], "nowhere cannot be read"),
    "empty-folder": (["."], "is empty"),
    "other-format": ([str(WRONG), "--format", "junit"], "there is no format `junit`; expected text or json"),
    "unknown-exercise": ([str(WRONG), "--exercise", "99"], "there is no lab `99`"),
    "no-path": ([], "PATH"),
    "nul-byte": (["a\0b"], "cannot be read"),
}


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.values(), ids=MISTAKES)
def test_wrong_use_gets_one_line_and_code_2(capsys, arguments, says):
    code, out, err = said(capsys, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_a_mistake_of_the_grader_is_code_4_and_the_others_are_graded(capsys, tmp_path, monkeypatch):
    from hv.lab import grading, runner

    def sometimes(exercise, path, own_includes):
        if path.name == "a.asm":
            raise RuntimeError("no")
        return runner.check(exercise, path, own_includes)

    for name in ("a.asm", "b.asm"):
        (tmp_path / name).write_text(SOLUTION)
    monkeypatch.setattr(grading.grade, "__defaults__", (sometimes,))
    code, out, _ = said(capsys, tmp_path)
    assert code == 4
    assert "the grader failed, not you" in out
    assert "10/10  b.asm" in out
