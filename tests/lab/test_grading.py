"""Grades are the same every time, and no submission gets at the grader, at its neighbours, or out of its limits."""

import json
import os

import pytest

from hv.lab import runner
from hv.lab.errors import LabError
from hv.lab.grading import Grade, Submission, grade, is_alone, submissions
from tests.lab.exercises import SOLUTION, first_exit

FIRST = first_exit()


def graded(path):
    (submission,) = submissions([path], FIRST)
    return grade(FIRST, submission)


def a_file(tmp_path, source, name="a.asm"):
    place = tmp_path / name
    place.write_bytes(source if isinstance(source, bytes) else source.encode())
    return place


def test_the_solution_earns_everything(tmp_path):
    data = graded(a_file(tmp_path, SOLUTION)).as_data()
    assert (data["status"], data["score"], data["max_score"], data["passed"]) == ("graded", 10, 10, True)
    assert [test["passed"] for test in data["tests"]] == [True, True, True]


def test_part_of_the_work_earns_part_of_the_points(tmp_path):
    data = graded(a_file(tmp_path, SOLUTION.replace("mov [rdi + 8], edx", "nop"))).as_data()
    assert data["score"] == 6
    assert [(test["name"], test["score"]) for test in data["tests"]] == [
        ("the hypervisor is asked for its signature", 4), ("the signature stands at `signature`", 0),
        ("the guest ends with HLT", 2)]
    assert "MISSING  0x200008" in "\n".join(data["tests"][1]["details"])


def test_two_gradings_are_the_same_bytes_wherever_the_file_is(tmp_path):
    results = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        results.append(json.dumps(graded(a_file(tmp_path / folder, SOLUTION.replace("hlt", "jmp $"))).as_data()))
    assert results[0] == results[1]
    assert str(tmp_path) not in results[0]


NOT_GRADABLE = {
    "huge": (b"nop\n" * 500_000, "larger than 1 MiB"),
    "garbage": (bytes(range(255, -1, -1)), "not UTF-8"),
    "elf": (b"\x7fELF" + bytes(100), "NUL byte"),
    "empty": (b" \n", "is empty"),
    "syntax": ("start: mvo eax\n", "a.asm:1"),
    "escape-codes": ("start: \x1b]0;pwned\x07\n", "`\\x1b]0`"),
    "include-etc": ('.include "/etc/passwd"\nstart: hlt\n', "leaves the folder"),
    "include-up": ('.include "../../labs/01_first_exit/solution/first_exit.asm"\n', "leaves the folder"),
    "include-neighbour": ('.include "neighbour.asm"\n', "is not in guests; put it into the source, or name"),
    "deep": ("start: mov eax, " + "(" * 999 + "1" + ")" * 999, "nested"),
    "many-statements": ("nop\n" * 60_000, "statements"),
    "huge-gap": (".skip 0x7fffffff\n", "out of range"),
}


@pytest.mark.parametrize(("source", "says"), NOT_GRADABLE.values(), ids=NOT_GRADABLE)
def test_what_is_no_program_is_not_gradable_in_one_line(tmp_path, source, says):
    a_file(tmp_path, SOLUTION, "neighbour.asm")
    result = graded(a_file(tmp_path, source))
    data = result.as_data()
    assert (data["status"], data["score"]) == ("not_gradable", 0)
    assert says in data["message"]
    assert data["message"].isprintable()
    assert len(data["message"]) < 500


def test_links_pipes_and_folders_are_not_followed(tmp_path):
    a_file(tmp_path, SOLUTION, "good.asm")
    (tmp_path / "link.asm").symlink_to(FIRST.solution)
    (tmp_path / "dir.asm").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.asm")
    (tmp_path / "nothing").mkdir()
    a_file(tmp_path, SOLUTION, "notes.txt")
    found = {one.name: grade(FIRST, one) for one in submissions([tmp_path], FIRST)}
    assert {name: result.message for name, result in found.items() if not result.passed} == {
        "dir.asm": "dir.asm is a symbolic link; hand in the file itself",
        "link.asm": "link.asm is a symbolic link; hand in the file itself",
        "pipe.asm": "pipe.asm is no ordinary file; hand in assembly source",
        "nothing": "first_exit.asm is missing",
        "notes.txt": "notes.txt is no assembly source; expected a file that ends in .asm",
    }
    assert found["good.asm"].passed


@pytest.mark.parametrize("source", ["start: jmp start\n", "start: cpuid\n    jmp start\n"], ids=["work", "exits"])
def test_an_endless_loop_is_graded_like_any_wrong_answer(tmp_path, source):
    result = graded(a_file(tmp_path, source))
    assert (result.status, result.verdict.score) == ("graded", 0)


def test_a_failing_grader_is_told_apart_and_the_next_one_is_graded(tmp_path):
    def broken(*_):
        raise RuntimeError("no")

    (submission,) = submissions([a_file(tmp_path, SOLUTION)], FIRST)
    result = grade(FIRST, submission, broken)
    assert (result.status, result.message) == ("grader_error", "the grader failed, not you: RuntimeError: no")
    assert not result.passed
    assert grade(FIRST, submission).passed


def test_a_path_that_holds_nothing_is_an_error(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    with pytest.raises(LabError, match=f"{tmp_path} is empty; put submissions in it"):
        submissions([tmp_path], FIRST)
    with pytest.raises(LabError, match="nosuch cannot be read: No such file"):
        submissions([tmp_path / "nosuch"], FIRST)
    with pytest.raises(LabError, match="cannot be read: embedded null byte"):
        submissions([tmp_path / "a\0b"], FIRST)


def test_of_several_paths_each_name_says_where_it_is_from(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        a_file(tmp_path / name, SOLUTION)
    found = submissions([tmp_path / "two", tmp_path / "one" / "a.asm"], FIRST)
    assert [one.name for one in found] == [f"{tmp_path}/two: a.asm", f"{tmp_path}/one/a.asm: a.asm"]
    assert not is_alone(tmp_path / "two", found, FIRST)


def test_a_path_is_alone_when_it_is_itself_the_submission(tmp_path):
    a_file(tmp_path, SOLUTION)
    assert is_alone(tmp_path / "a.asm", submissions([tmp_path / "a.asm"], FIRST), FIRST)
    assert not is_alone(tmp_path, submissions([tmp_path], FIRST), FIRST)
    a_file(tmp_path, SOLUTION, "first_exit.asm")
    assert is_alone(tmp_path, submissions([tmp_path], FIRST), FIRST)


def test_a_submission_may_be_as_large_as_any_source(tmp_path, monkeypatch):
    monkeypatch.setattr("hv.lab.grading.MAX_SOURCE_BYTES", len(SOLUTION))
    assert graded(a_file(tmp_path, SOLUTION)).passed
    assert "a.asm is larger than" in graded(a_file(tmp_path, SOLUTION + "\n")).message


@pytest.mark.parametrize(("status", "source", "passed"), [
    ("graded", SOLUTION, True), ("grader_error", SOLUTION, False), ("graded", "start: hlt\n", False),
])
def test_only_what_was_graded_can_pass(tmp_path, status, source, passed):
    submission = Submission("a", a_file(tmp_path, source))
    assert Grade(submission, status, "", "", runner.check(FIRST, submission.path)).passed is passed


def test_a_folder_with_the_exercises_file_is_one_submission(tmp_path):
    (tmp_path / "alice").mkdir()
    a_file(tmp_path / "alice", SOLUTION, "first_exit.asm")
    a_file(tmp_path / "alice", SOLUTION, "another.asm")
    a_file(tmp_path, SOLUTION, "bob.asm")
    assert [one.name for one in submissions([tmp_path / "alice"], FIRST)] == ["first_exit.asm"]
    assert [one.name for one in submissions([tmp_path], FIRST)] == ["alice", "bob.asm"]
