"""Plain text, for a terminal: a submission with all that its author should know, or a class with a line for each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from hv.lab.formats.registry import told, whole_class
from hv.lab.report import COLOURS, WIDTH
from hv.lab.result import CheckResult, Outcome, Result, Status
from hv.lab.words import plain

_WORDS = {Outcome.PASSED: "PASS", Outcome.PARTIAL: "PART", Outcome.FAILED: "FAIL", Outcome.WAITING: "WAIT"}
_INDENT = " " * 8


def full(one: Result, colour: bool = False) -> str:
    """A submission alone."""
    lines = checks(one, colour) if one.status is Status.GRADED else _refused(one, colour)
    return "\n".join([*lines, summary(one), ""])


@whole_class("text", "results.txt", alone=full)
def write(results: Sequence[Result]) -> str:
    """A line for each submission, and how many earned all points."""
    return "\n".join([*map(line, results), total(results), ""])


def line(one: Result) -> str:
    """A submission among others."""
    points = f"{plain(one.score)}/{plain(one.max_score)}"
    return f"{points:>7}  {one.submission}  {one.message or 'all checks passed'}"


def total(results: Sequence[Result]) -> str:
    """The last line about a class."""
    return f"{sum(one.passed for one in results)} of {len(results)} submissions earned all points"


def summary(one: Result) -> str:
    """The last line about a submission."""
    points = f"Score: {plain(one.score)} of {plain(one.max_score)} points"
    if one.status is not Status.GRADED:
        return f"{points} ({str(one.status).replace('_', ' ')})"
    return f"{points}: all {len(one.checks)} checks passed" if one.passed else points


def checks(one: Result, colour: bool = False) -> list[str]:
    """The lines about each check, and an empty one."""
    lines = [line for check in one.checks for line in _check(check, colour)]
    return lines if lines and not lines[-1] else [*lines, ""]


def _check(check: CheckResult, colour: bool) -> list[str]:
    word, points = _WORDS[check.outcome], f"{plain(check.score)}/{plain(check.max_score)}"
    name = f"{check.name} (hidden)" if check.hidden else check.name
    lines = [f"  {_coloured(word, word, colour)}  {name:<{WIDTH}}  {points:>5}"]
    if check.passed:
        return lines
    message = told(check)[: 1 if check.message else 0]
    lines += [f"{_INDENT}{line}" for one in message for line in _wrapped(one)]
    more = told(check)[len(message) :]
    lines += [f"{_INDENT}{_coloured(line, line.partition(' ')[0], colour)}".rstrip() for line in more]
    return [*lines, ""] if more else lines


def _refused(one: Result, colour: bool) -> list[str]:
    first, *more = _wrapped(one.message) or [""]
    return [f"  {_coloured('FAIL', 'FAIL', colour)}  {first}", *(f"{_INDENT}{line}" for line in more), ""]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 80 - len(_INDENT), break_on_hyphens=False)


def _coloured(line: str, word: str, colour: bool) -> str:
    """*line* with *word*, by which it begins, in its colour."""
    if not colour or word not in COLOURS or not line.startswith(word):
        return line
    return f"\x1b[{COLOURS[word]}m{word}\x1b[0m{line[len(word):]}"
