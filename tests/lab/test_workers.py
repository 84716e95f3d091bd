"""A class is graded by processes that may die: nothing lost, nothing twice, in order, and the same as one by one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hv
from hv.lab.errors import LabError
from hv.lab.grading import submissions
from hv.lab.journal import Journal
from hv.lab.result import Status
from hv.lab.whole_class import Here, grade_all
from hv.lab.workers import Workers
from tests.lab.classes import a_class_of_variants
from tests.lab.exercises import LABS, SOLUTION, first_exit

FIRST = first_exit()


def a_class(folder, count, source=SOLUTION):
    """So many submissions, each of its own content."""
    folder.mkdir()
    for number in range(count):
        (folder / f"s{number:03}.asm").write_text(f"{source}\n; by number {number}\n")
    return submissions([folder], FIRST)


class Counting(Here):
    """Grades here, and remembers what."""

    def __init__(self):
        super().__init__(FIRST)
        self.graded = []

    def grade(self, submissions):
        self.graded += [one.name for one in submissions]
        return super().grade(submissions)


def test_workers_answer_what_one_process_does_in_the_same_order():
    wrong = submissions([LABS / "01_first_exit/wrong"], FIRST)
    alone = grade_all(FIRST, wrong, Here(FIRST))
    assert [result.submission for result in alone] == [one.name for one in wrong]
    assert grade_all(FIRST, wrong, Workers(FIRST, 2)) == alone


def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    handed_in = a_class(tmp_path / "class", 12)
    workers, heard = Workers(FIRST, 2), []

    def told(number, result):
        heard.append(number)
        if len(heard) in (3, 6):
            os.kill(workers.pids[0], signal.SIGKILL)

    results = grade_all(FIRST, handed_in, workers, told=told)
    assert sorted(heard) == list(range(12))
    assert [(result.submission, result.passed) for result in results] == [(one.name, True) for one in handed_in]
    assert workers.pids == []


DEADLY = """
import os, time, hv.lab.grading as grading
whole = grading.grade
def grade(exercise, submission):
    if submission.name == "s001.asm": {how}
    return whole(exercise, submission)
grading.grade = grade
"""


@pytest.mark.parametrize(("how", "says", "late"), [
    ("os.kill(os.getpid(), 9)", "its grader ended (exit code -9)", 600),
    ("time.sleep(1000)", "its grader took more than 8 seconds", 8),
], ids=["crashes", "hangs"])
def test_a_submission_that_kills_each_worker_is_a_mistake_of_ours_and_the_only_one(tmp_path, monkeypatch, how, says,
                                                                                  late):
    (tmp_path / "sitecustomize.py").write_text(DEADLY.format(how=how))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(hv.__file__).parents[1])]))
    results = grade_all(FIRST, a_class(tmp_path / "class", 4), Workers(FIRST, 2, late_seconds=late))
    assert [result.status for result in results] == ["graded", "grader_error", "graded", "graded"]
    assert results[1].message == f"the grader failed, not you: {says}"


def test_equal_submissions_are_graded_once_and_keep_their_names(tmp_path):
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "first_exit.asm").write_text(SOLUTION)
    counting = Counting()
    results = grade_all(FIRST, submissions([tmp_path], FIRST), counting)
    assert counting.graded == ["ann"]
    assert [(result.submission, result.passed) for result in results] == [("ann", True), ("bob", True)]


def test_a_report_is_taken_up_where_it_stopped(tmp_path):
    handed_in = a_class(tmp_path / "class", 4)
    with Journal(tmp_path / "report") as journal:
        before = grade_all(FIRST, handed_in[:3], Counting(), journal)
    (tmp_path / "class/s001.asm").write_text("start: hlt\n")        # handed in again
    again = Counting()
    with Journal(tmp_path / "report") as journal:
        after = grade_all(FIRST, handed_in, again, journal)
    assert again.graded == ["s001.asm", "s003.asm"]
    assert [after[0], after[2]] == [before[0], before[2]]
    assert [result.passed for result in after] == [True, False, True, True]


def test_a_report_holds_no_mistake_of_ours_and_nothing_unread(tmp_path):
    handed_in = a_class(tmp_path / "class", 1)
    (tmp_path / "class/link.asm").symlink_to("s000.asm")

    class Broken:
        seed = None

        def grade(self, submissions):
            yield from ((number, "it broke") for number, _ in enumerate(submissions))

    with Journal(tmp_path / "report") as journal:
        results = grade_all(FIRST, handed_in, Broken(), journal)
        assert results[0].status is Status.GRADER_ERROR
        grade_all(FIRST, submissions([tmp_path / "class"], FIRST)[:1], Here(FIRST), journal)
        assert journal.results == {}


def test_a_report_torn_at_any_byte_is_taken_up(tmp_path):
    handed_in = a_class(tmp_path / "class", 3)
    place = tmp_path / "report"
    with Journal(place) as journal:
        grade_all(FIRST, handed_in, Here(FIRST), journal)
    whole, lines = place.read_bytes(), place.read_bytes().splitlines(keepends=True)
    for cut in (*range(20), len(whole) - 1, len(whole) - 2, len(lines[0] + lines[1]), len(lines[0] + lines[1]) + 5):
        place.write_bytes(whole[:cut])
        with Journal(place) as journal:
            assert len(journal.results) == max(0, whole[:cut].count(b"\n") - 1)
            for key, result in list(journal.results.items()):
                journal.add(key, result)                    # twice in the file, once in the report
        with Journal(place) as journal:
            assert journal.notes == []


def test_a_damaged_line_is_said_and_graded_again(tmp_path):
    handed_in = a_class(tmp_path / "class", 2)
    place = tmp_path / "report"
    with Journal(place) as journal:
        grade_all(FIRST, handed_in, Here(FIRST), journal)
    lines = place.read_bytes().splitlines(keepends=True)
    place.write_bytes(lines[0] + lines[1].replace(b'"score":"4"', b'"score":"9"') + lines[2])
    again = Counting()
    with Journal(place) as journal:
        assert journal.notes == ["report:2 is damaged; it is graded again"]
        assert all(result.passed for result in grade_all(FIRST, handed_in, again, journal))
    assert len(again.graded) == 1


@pytest.mark.parametrize(("content", "says"), [(b"important notes\n", "is no report"), (None, "cannot be written")])
def test_a_file_that_is_no_report_is_left_alone(tmp_path, content, says):
    place = tmp_path / "report"
    place.mkdir() if content is None else place.write_bytes(content)
    with pytest.raises(LabError, match=says):
        Journal(place)
    assert content is None or place.read_bytes() == content


def test_two_graders_do_not_write_one_report(tmp_path):
    with Journal(tmp_path / "report"), pytest.raises(LabError, match="in use by another grading"):
        Journal(tmp_path / "report")


def test_a_grading_killed_in_the_middle_loses_nothing_and_repeats_nothing(tmp_path):
    handed_in = a_class(tmp_path / "class", 30)
    report = tmp_path / "report"
    command = [sys.executable, "-m", "hv", "grade", str(tmp_path / "class"), "--jobs", "2", "--resume", str(report)]
    root = Path(hv.__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=root, start_new_session=True) as grading:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not report.exists() or report.read_bytes().count(b"\n") < 6):
            time.sleep(0.005)
        os.killpg(grading.pid, signal.SIGKILL)
    counting = Counting()
    with Journal(report) as journal:
        done = len(journal.results)
        results = grade_all(FIRST, handed_in, counting, journal)
    assert 5 <= done < 30
    assert len(counting.graded) == 30 - done
    assert all(result.passed for result in results)
    with Journal(report) as journal:
        assert len(journal.results) == 30


@pytest.mark.parametrize("graders", [Here, lambda exercise, seed: Workers(exercise, 2, seed)], ids=["here", "workers"])
def test_each_is_graded_by_the_variant_of_its_student(tmp_path, graders):
    exercise, handed_in = a_class_of_variants(tmp_path, b"seed")
    with Journal(tmp_path / "report") as journal:
        results = grade_all(exercise, handed_in, graders(exercise, b"seed"), journal)
        assert len(journal.results) == 3
        assert b"seed" not in (tmp_path / "report").read_bytes()
        again = grade_all(exercise, handed_in, graders(exercise, b"other seed"), journal)
    assert [(one.student, one.passed) for one in results] == [("ann", True), ("ben", True), ("cem", False)]
    assert not any(one.passed for one in again)
