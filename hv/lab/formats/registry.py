"""The table of formats, and how a function gets into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hv.lab.result import CheckResult, Result

WriteOne = Callable[[Result], str]
WriteAll = Callable[[Sequence[Result]], str]


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write results down."""

    name: str
    file: str                   # what its file is called where it is read
    single: bool                # it holds one submission
    write: WriteAll             # a file that ends with a line break
    alone: WriteOne | None = None       # how a submission is written that was graded alone, if otherwise
    seen: WriteOne | None = None        # what its reader shows to the student, in words, if it has rules of its own

    def text(self, results: Sequence[Result], alone: bool) -> str:
        """The whole file. *alone*: the one submission was asked for by itself, not as a class of one."""
        return self.alone(results[0]) if alone and self.alone is not None else self.write(results)


FORMATS: dict[str, Format] = {}


def one_submission(name: str, file: str, seen: WriteOne) -> Callable[[WriteOne], WriteOne]:
    """The function below writes one result: the file that a course system reads after each submission.

    *seen* says in words what that system shows of it to the student.
    """
    def register(write: WriteOne) -> WriteOne:
        _add(Format(name, file, True, lambda results: write(results[0]), seen=seen))
        return write
    return register


def whole_class(name: str, file: str, alone: WriteOne | None = None) -> Callable[[WriteAll], WriteAll]:
    """The function below writes any number of results into one file."""
    def register(write: WriteAll) -> WriteAll:
        _add(Format(name, file, False, write, alone))
        return write
    return register


def _add(format: Format) -> None:
    assert format.name not in FORMATS, f"two formats are called {format.name}"
    FORMATS[format.name] = format


def json_text(data: Any) -> str:
    """*data* as a JSON file. NaN, which is no JSON, is refused."""
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def told(check: CheckResult) -> list[str]:
    """What the author of a submission reads below a check that did not pass, in lines."""
    lines = [check.message] if check.message else []
    if check.expected or check.found:
        lines += [f"expected  {check.expected}", f"found     {check.found}"]
    if check.where:
        lines.append(f"where     {check.where}")
    return [*lines, *(("", *check.details) if check.details else ())] if not check.passed else []
