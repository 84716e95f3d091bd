"""Findings for people: each line of a report, and what is left out of it."""

import pytest

from hv.lab.checks import Finding, Mark
from hv.lab.report import MOST_LINES, first_problem, marked, of_check, report, summary
from hv.lab.runner import Verdict
from tests.lab.exercises import a_check, first_exit

CHECK = a_check(kind="ended", how="halt", name="it halts", points=3)
HEAD = f"  {{}}  {'it halts':<60}  {{:>5}}"
FAILED = Finding(False, "a halt", "a \x1bloop", [(Mark.BAD, "loop"), (Mark.NEAR, "x")], "there is a loop")
PASSED = Finding(True, "a halt", "a halt", [(Mark.GOOD, "halt")])
WAITING = Finding(False, "", "", [], "judged when `x` passes", waiting=True)


@pytest.mark.parametrize(("finding", "lines"), [
    (PASSED, [HEAD.format("PASS", "3/3")]),
    (WAITING, [HEAD.format("WAIT", "0/3"), "        judged when `x` passes"]),
    (FAILED, [HEAD.format("FAIL", "0/3"), "        there is a loop", "        expected  a halt",
              "        found     a \\x1bloop", "", "        BAD      loop", "                 x", ""]),
], ids=["passed", "waits", "failed"])
def test_a_check_is_told_with_its_points_and_why(finding, lines):
    assert of_check(CHECK, finding) == lines


def test_a_colour_stands_around_its_word_only():
    assert of_check(CHECK, PASSED, colour=True)[0].startswith("  \x1b[32mPASS\x1b[0m  it halts")
    assert marked([(Mark.MISSING, "a"), (Mark.NEAR, "b")], colour=True) == ["\x1b[33mMISSING\x1b[0m  a", "         b"]


@pytest.mark.parametrize(("bad", "count", "shown"), [
    ([0], 3, "012"), ([0], 4, "012."), ([3], 4, ".123"), ([2], 5, "01234"), ([0, 5], 8, "01234567"),
    ([0, 6], 9, "012.45678"),
    ([], 3, ""), ([2], 6, "01234."), ([3], 6, ".12345"),
])
def test_two_lines_around_each_difference_are_shown_and_gaps_are_points(bad, count, shown):
    lines = [(Mark.BAD if n in bad else Mark.GOOD, str(n)) for n in range(count)]
    assert "".join(line[-1] for line in marked(lines)) == shown


def test_a_long_comparison_is_cut():
    whole = [(Mark.BAD, str(n)) for n in range(MOST_LINES)]
    assert marked(whole)[-1] == f"BAD      {MOST_LINES - 1}"
    assert marked([*whole, (Mark.BAD, "more")])[MOST_LINES - 1 :] == [f"BAD      {MOST_LINES - 1}", "..."]


def verdict(*findings, refused=""):
    return Verdict(first_exit(), "a.asm", refused, list(findings))


def test_a_verdict_is_summed_up_in_one_line():
    assert summary(verdict(PASSED, PASSED, PASSED)) == "10 of 10 points: all 3 checks passed"
    assert summary(verdict(PASSED, FAILED, WAITING)) == "4 of 10 points"
    assert summary(verdict(refused="no")) == "0 of 10 points"


def test_the_first_problem_is_the_first_check_that_failed():
    assert first_problem(verdict(PASSED, FAILED, WAITING)) == "the signature stands at `signature`: there is a loop"
    assert first_problem(verdict(PASSED, PASSED, PASSED)) == ""
    assert first_problem(verdict(refused="a.asm:1: no")) == "a.asm:1: no"


def test_a_program_that_could_not_be_run_is_told_once():
    assert report(verdict(refused="a.asm:1: no-such-thing " + "very " * 20)) == (
        "  FAIL  a.asm:1: no-such-thing very very very very very very very very very very\n"
        "        very very very very very very very very very very")
    assert report(verdict(refused="")).count("FAIL") == 3
