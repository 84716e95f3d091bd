"""Findings for people: what passed, what did not and why, and two lines around each difference.

Colour only where it is asked for; the words carry everything. Nothing a program printed reaches the terminal as it is.
"""

from __future__ import annotations

import textwrap

from hv.lab.checks import Check, Finding, Line, Mark
from hv.lab.runner import Verdict
from hv.lab.words import plain
from hv.printable import printable

AROUND = 2                      # lines shown on each side of a difference
MOST_LINES = 24
WIDTH = 60                      # of a check's name
COLOURS = {"PASS": "32", "FAIL": "31", "WAIT": "33", Mark.GOOD: "32", Mark.BAD: "31", Mark.MISSING: "33"}
_INDENT = " " * 8


def report(verdict: Verdict, colour: bool = False) -> str:
    """The whole report, without the last newline."""
    if verdict.refused:
        first, *more = _wrapped(verdict.refused)
        return "\n".join([f"  {_word('FAIL', colour)}  {first}", *(f"{_INDENT}{line}" for line in more)])
    lines = [line for check, finding in verdict.judged for line in of_check(check, finding, colour)]
    return "\n".join(lines).rstrip("\n")


def of_check(check: Check, finding: Finding, colour: bool = False) -> list[str]:
    """The lines about one check."""
    word = "PASS" if finding.passed else "WAIT" if finding.waiting else "FAIL"
    earned = f"{plain(check.earned(finding))}/{check.points}"
    lines = [f"  {_word(word, colour)}  {check.name:<{WIDTH}}  {earned:>5}"]
    if finding.passed:
        return lines
    lines += [f"{_INDENT}{line}" for line in _wrapped(printable(finding.message))]
    if finding.waiting:
        return lines
    lines += [f"{_INDENT}expected  {printable(finding.expected)}", f"{_INDENT}found     {printable(finding.found)}", ""]
    return [*lines, *(f"{_INDENT}{line}".rstrip() for line in marked(finding.lines, colour)), ""]


def marked(lines: list[Line], colour: bool = False) -> list[str]:
    """The differences among *lines*, with two lines around each; what lies between is left out."""
    near: set[int] = set()
    for n, (mark, _) in enumerate(lines):
        if mark in (Mark.BAD, Mark.MISSING):
            near.update(range(n - AROUND, n + AROUND + 1))
    shown, last = [], -1
    for n, (mark, text) in enumerate(lines):
        if n not in near:
            continue
        if n != last + 1:
            shown.append("...")
        shown.append(f"{_word(mark, colour, 7)}  {printable(text)}")
        last = n
    if last != -1 and last + 1 < len(lines):
        shown.append("...")
    return [*shown[:MOST_LINES], "..."] if len(shown) > MOST_LINES else shown


def summary(verdict: Verdict) -> str:
    """One line: the points, and what is first in the way."""
    earned = f"{plain(verdict.score)} of {verdict.exercise.max_score} points"
    if verdict.passed:
        return f"{earned}: all {len(verdict.findings)} checks passed"
    return earned


def first_problem(verdict: Verdict) -> str:
    """What is wrong, in one line; empty when nothing is."""
    if verdict.refused:
        return verdict.refused
    failed = ((check, finding) for check, finding in verdict.judged if not finding.passed)
    return next((f"{check.name}: {printable(finding.message)}" for check, finding in failed), "")


def _wrapped(text: str) -> list[str]:
    """*text* in lines that fit a terminal of 80 columns, behind the indent; at least one."""
    return textwrap.wrap(text, 80 - len(_INDENT), break_on_hyphens=False) or [""]


def _word(word: str, colour: bool, width: int = 4) -> str:
    padded = f"{word:<{width}}"
    return f"\x1b[{COLOURS[word]}m{padded}\x1b[0m" if colour and word in COLOURS else padded
