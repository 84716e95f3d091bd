"""A result: everything that is told about one graded submission. Each format is made from it, and from nothing else.

It is plain data: no machine, no path, no time, nothing random, so equal submissions have equal results. What a
program, a file name or a lab can choose is printable and bounded here, so a writer of a format quotes what its format
asks for and is safe. Lines are items of a list; no text holds a line break.

Scores are decimals with at most two places: their sums are exact, and nothing is rounded before it is shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from hv import __version__
from hv.lab.checks import Check, Finding, Line, Mark
from hv.lab.report import marked
from hv.printable import printable

LONGEST_MESSAGE = 1000          # characters
_PLACE = re.compile(r"\S{1,200}:[0-9]{1,9}|0x[0-9a-f]{1,16}")


class Status(StrEnum):
    """Whose mistake it is, if any. The three are never mixed up."""

    GRADED = "graded"                   # the points say it
    NOT_GRADABLE = "not_gradable"       # the submission could not be run: no points, and no attempt is used
    GRADER_ERROR = "grader_error"       # the mistake is ours: no verdict


class Outcome(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    PARTIAL = "partial"                 # some of the points
    FAILED = "failed"
    WAITING = "waiting"                 # not judged: it needs a check that did not pass, or nothing was run


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What is told about one check. *details* are lines, each marked GOOD, BAD, MISSING or nothing."""

    name: str
    score: Decimal
    max_score: Decimal
    outcome: Outcome
    message: str = ""                   # one line; empty when it passed
    expected: str = ""
    found: str = ""
    where: str = ""                     # a source line such as `a.asm:12`, or a place in memory; may be empty
    hint: str = ""                      # what the lab says about this wrong answer, when it knows it
    details: tuple[str, ...] = ()
    hidden: bool = False                # staff see it, the student does not

    @property
    def passed(self) -> bool:
        """It earned all its points."""
        return self.outcome is Outcome.PASSED

    @property
    def source_line(self) -> tuple[str, int] | None:
        """File and line of *where*, when it is a source line."""
        file, _, line = self.where.rpartition(":")
        return (file, int(line)) if file and line.isdecimal() and line.isascii() else None


@dataclass(frozen=True, slots=True)
class Result:
    """What is told about one submission. *sha256* is of the file, *lab_sha256* of the lab's folder."""

    exercise: str
    title: str
    lab_sha256: str
    submission: str
    sha256: str                         # empty when the file was not read
    status: Status
    message: str                        # what is first in the way; empty when nothing is
    checks: tuple[CheckResult, ...]
    student: str = ""                   # for whom the variant was drawn; empty when none was
    variant: str = ""                   # its values: `rounds=7`; empty when the lab has none
    file: str = ""                      # the plain name of the file
    trace_sha256: str = ""              # of what happened (`evidence.py`); empty when nothing was run
    tool: str = f"hvlab {__version__}"

    @property
    def score(self) -> Decimal:
        """Points earned."""
        return sum((check.score for check in self.checks), Decimal())

    @property
    def max_score(self) -> Decimal:
        """Points there are."""
        return sum((check.max_score for check in self.checks), Decimal())

    @property
    def passed(self) -> bool:
        """It was graded, and every check passed."""
        return self.status is Status.GRADED and all(check.passed for check in self.checks)


def one_check(check: Check, finding: Finding, judged: bool = True) -> CheckResult:
    """What is told about *check*; not *judged* when nothing was run."""
    waits = finding.waiting or not (judged or finding.passed)
    score = check.earned(finding)
    outcome = (Outcome.PASSED if finding.passed else Outcome.WAITING if waits else
               Outcome.PARTIAL if score else Outcome.FAILED)
    return CheckResult(
        printable(check.name), score, Decimal(check.points), outcome,
        "" if finding.passed else printable(finding.message, LONGEST_MESSAGE), printable(finding.expected),
        printable(finding.found), printable(_where(finding.lines)), _hint(check, finding),
        () if finding.passed else tuple(line.rstrip() for line in marked(finding.lines)),
        check.hidden)


def _where(lines: list[Line]) -> str:
    """The source line of the first difference, or its address: what stands in front of a line, or of one before it."""
    place = ""
    for mark, text in lines:
        front = text.partition("  ")[0]
        if mark is not Mark.MISSING:
            place = front if _PLACE.fullmatch(front) else place
        if mark in (Mark.BAD, Mark.MISSING):
            return place
    return ""


def _hint(check: Check, finding: Finding) -> str:
    known = any(mistake.says == finding.message for mistake in check.mistakes)
    return printable(finding.message, LONGEST_MESSAGE) if known else ""


def for_student(whole: Result) -> Result:
    """What its author may see: of the hidden checks only how many there are, and what they earned together."""
    hidden = [check for check in whole.checks if check.hidden]
    if not hidden:
        return whole
    shown = tuple(check for check in whole.checks if not check.hidden)
    problem = next((f"{check.name}: {check.message}" for check in shown if not check.passed), "")
    message = problem if whole.status is Status.GRADED else whole.message
    return replace(whole, checks=(*shown, counted(hidden)), message=message)


def counted(hidden: list[CheckResult]) -> CheckResult:
    """All hidden checks as one, which tells nothing of them but their points."""
    score, max_score = (sum(values, Decimal()) for values in
                        ((check.score for check in hidden), (check.max_score for check in hidden)))
    outcome = Outcome.PASSED if all(check.passed for check in hidden) else Outcome.WAITING if all(
        check.outcome is Outcome.WAITING for check in hidden) else Outcome.PARTIAL if score else Outcome.FAILED
    name = "1 hidden check" if len(hidden) == 1 else f"{len(hidden)} hidden checks"
    return CheckResult(name, score, max_score, outcome, "" if outcome is Outcome.PASSED else "your teacher sees why")
