r"""Markdown, for a page, a comment or a job's summary (GITHUB_STEP_SUMMARY takes 1 MiB, so details go first).

What a submission can choose stands in code, which nothing in it can end; in tables, where a code has no way to hold
`\|`, and in what the lab's author wrote, each mark of the language is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hv.lab.formats.registry import told, whole_class
from hv.lab.result import CheckResult, Outcome, Result, Status
from hv.lab.words import plain

LARGEST = 1 << 20               # bytes
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~&@$])")
_WORDS = {Outcome.PASSED: "passed", Outcome.PARTIAL: "in part", Outcome.FAILED: "not passed",
          Outcome.WAITING: "not judged"}


@whole_class("md", "results.md")
def write(results: Sequence[Result]) -> str:
    """One submission with all its checks; of several a table first. The most that fits."""
    head = [] if len(results) == 1 else [_table_of(results, True)]
    for with_details in (True, False):
        whole = "\n".join([*head, *(_page(one, with_details) for one in results)])
        if _fits(whole):
            return whole
    table = _table_of(results, True)
    return table if _fits(table) else _table_of(results, False)


def _fits(text: str) -> bool:
    return len(text.encode()) <= LARGEST


def _table_of(results: Sequence[Result], with_messages: bool) -> str:
    """A line for each submission, as many as fit."""
    passed = sum(one.passed for one in results)
    lines = [f"# {passed} of {len(results)} submissions earned all points", "",
             "| submission | points | |", "|---|---:|---|"]
    lines += [f"| {_escaped(one.submission)} | {_points(one)} | {_escaped(one.message) if with_messages else ''} |"
              for one in results]
    while not with_messages and not _fits("\n".join([*lines, "", ""])):
        lines = [*lines[: len(lines) * 3 // 4], "| and more | | |"]
    return "\n".join([*lines, ""])


def _page(one: Result, with_details: bool) -> str:
    lines = [f"## {_escaped(one.exercise)}: {_escaped(one.title)}", "",
             f"{_code(one.submission)}: **{_points(one)} points**", ""]
    if one.status is not Status.GRADED:
        return "\n".join([*lines, f"{str(one.status).replace('_', ' ')}: {_code(one.message)}", ""])
    lines += ["| check | points | |", "|---|---:|---|", *map(_row, one.checks), ""]
    for check in one.checks if with_details else ():
        lines += _details(check)
    return "\n".join(lines)


def _points(one: Result | CheckResult) -> str:
    return f"{plain(one.score)}/{plain(one.max_score)}"


def _row(check: CheckResult) -> str:
    hidden = " (hidden)" if check.hidden else ""
    return f"| {_escaped(check.name)}{hidden} | {_points(check)} | {_WORDS[check.outcome]} |"


def _details(check: CheckResult) -> list[str]:
    """A heading, and what is told as a block of code: four blanks before each line, which no line can end."""
    lines = told(check)
    return [f"### {_escaped(check.name)}", "", *(f"    {line}".rstrip() for line in lines), ""] if lines else []


def _escaped(text: str) -> str:
    return _MARKS.sub(r"\\\1", text)


def _code(text: str) -> str:
    """*text* as code, behind more backticks than there are in it."""
    if not text:
        return ""
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{ticks} {text} {ticks}" if text[0] in "` " or text[-1] in "` " else f"{ticks}{text}{ticks}"
