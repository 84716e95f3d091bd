"""A result tells where a submission parts from what was expected, and whether the lab knows that mistake."""

from decimal import Decimal
from pathlib import Path

import pytest

from hv.lab.checks import Finding, Mark
from hv.lab.grading import Submission, grade
from hv.lab.result import CheckResult, Outcome, one_check
from hv.lab.words import plain
from tests.lab.exercises import a_check, first_exit

CHECK = a_check(kind="ended", how="halt", points=3, mistakes=[{"found": "budget", "says": "there is a loop"}])
GOOD, BAD, MISSING, NEAR = Mark.GOOD, Mark.BAD, Mark.MISSING, Mark.NEAR

WHERE = {
    "source-line": ([(GOOD, "a.asm:1  x"), (BAD, "a.asm:3  exit CPUID"), (MISSING, "CPUID leaf=1")], "a.asm:3"),
    "line-before": ([(NEAR, "a.asm:3  exit CPUID"), (BAD, "         Cpuid leaf=0")], "a.asm:3"),
    "address": ([(GOOD, "0x200000  41"), (BAD, "0x200004  42"), (MISSING, "0x200004  43")], "0x200004"),
    "missing-behind": ([(NEAR, "a.asm:9  exit HLT"), (MISSING, "a.asm:1  x")], "a.asm:9"),
    "nowhere": ([(MISSING, "CPUID leaf=1")], ""),
    "registers": ([(GOOD, "rax=1"), (BAD, "rbx=3"), (MISSING, "rbx=2")], ""),
    "no-difference": ([(GOOD, "a.asm:1  x")], ""),
    "no-lines": ([], ""),
}


@pytest.mark.parametrize(("lines", "where"), WHERE.values(), ids=WHERE)
def test_a_result_says_where_the_first_difference_is(lines, where):
    assert one_check(CHECK, Finding(False, "a", "b", lines, "no")).where == where


@pytest.mark.parametrize(("where", "source_line"), [
    ("a.asm:12", ("a.asm", 12)), ("c:a.asm:12", ("c:a.asm", 12)), ("0x200004", None), ("", None), (":1", None),
    ("a.asm:x", None), ("a.asm:²", None),
])
def test_a_source_line_is_told_from_other_places(where, source_line):
    assert CheckResult("a", Decimal(0), Decimal(1), Outcome.FAILED, where=where).source_line == source_line


@pytest.mark.parametrize(("message", "hint"), [("there is a loop", "there is a loop"), ("expected a, found b", "")])
def test_only_a_known_mistake_has_a_hint(message, hint):
    assert one_check(CHECK, Finding(False, "a", "b", [], message)).hint == hint


@pytest.mark.parametrize(("finding", "outcome", "score"), [
    (Finding(True, "a", "a"), Outcome.PASSED, 3), (Finding(False, "a", "b"), Outcome.FAILED, 0),
    (Finding(False, "", "", [], "judged when `x` passes", waiting=True), Outcome.WAITING, 0),
])
def test_a_finding_becomes_an_outcome_and_points(finding, outcome, score):
    found = one_check(CHECK, finding)
    assert (found.outcome, found.score, found.max_score, found.passed) == (outcome, score, 3, score == 3)


@pytest.mark.parametrize(("value", "number"), [("4", 4), ("2.66", 2.66), ("0.00", 0)])
def test_a_score_is_a_number_without_a_tail(value, number):
    assert repr(plain(Decimal(value))) == repr(number)


def test_a_real_program_is_told_where_it_went_wrong(tmp_path):
    place = tmp_path / "a.asm"
    place.write_text("start:\n    mov eax, 1\n    cpuid\n    hlt\n")
    first, second, _ = grade(first_exit(), Submission("a.asm", Path(place))).result.checks
    assert (first.where, first.source_line) == ("a.asm:3", ("a.asm", 3))
    assert first.hint.startswith("CPUID was executed, but asked for another leaf")
    assert second.outcome is Outcome.WAITING
