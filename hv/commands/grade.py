"""Grade an exercise: one file, or a folder of submissions.

PATH is a submission (a file, or a folder that holds the exercise's file) or a
folder of submissions. The same submission gets the same result on every
machine. The exit code is 0 when each earned all its points, 1 when one did not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from hv.commands.errors import CHECKS_FAILED, INTERNAL_ERROR, TRUE, CommandError
from hv.commands.files import labs_folder
from hv.commands.screen import is_plain
from hv.printable import printable

if TYPE_CHECKING:
    from hv.lab.grading import Grade

FORMATS = ("text", "json")
EXERCISE = "01_first_exit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv grade`."""
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="a submission, or a folder of them")
    parser.add_argument("--exercise", metavar="NAME", default=EXERCISE, help=f"the exercise (default: {EXERCISE})")
    parser.add_argument("--format", metavar="FORMAT", default="text", help=f"{' or '.join(FORMATS)} (default: text)")
    parser.add_argument("--plain", action="store_true", help="no colours")


def main(args: argparse.Namespace) -> int:
    """Grade all submissions and print the results."""
    if args.format not in FORMATS:
        raise CommandError(f"there is no format `{printable(args.format)}`; expected {' or '.join(FORMATS)}",
                           "results for course systems (Gradescope, JUnit and others) are not written yet")
    from hv.lab.errors import LabError
    from hv.lab.exercise import find, read_all
    from hv.lab.grading import grade, is_alone, submissions

    try:
        exercise = find(read_all(labs_folder()), args.exercise)
        handed_in = submissions(args.paths, exercise)
        alone = len(args.paths) == 1 and is_alone(args.paths[0], handed_in, exercise)
        grades = []
        for submission in handed_in:
            grades.append(grade(exercise, submission))
            if args.format == "text":
                print(one_line(grades[-1]) if not alone else full(grades[-1], not is_plain(args.plain)), flush=True)
    except LabError as error:
        raise CommandError(error.message, error.hint) from None
    if args.format == "json":
        print(json.dumps(as_data(grades, alone), indent=1))
    elif not alone:
        print(f"{sum(one.passed for one in grades)} of {len(grades)} submissions earned all points")
    return exit_code(grades)


def exit_code(grades: list[Grade]) -> int:
    """0 all points, 1 not all, 4 when the grader itself failed."""
    if any(one.status == "grader_error" for one in grades):
        return INTERNAL_ERROR
    return TRUE if all(one.passed for one in grades) else CHECKS_FAILED


def as_data(grades: list[Grade], alone: bool) -> dict[str, object]:
    """A single submission is its own result; several are a list."""
    if alone:
        return grades[0].as_data()
    return {"count": len(grades), "passed": sum(one.passed for one in grades),
            "submissions": [one.as_data() for one in grades]}


def one_line(one: Grade) -> str:
    """A submission among others."""
    points = f"{one.verdict.score}/{one.verdict.exercise.max_score}"
    return f"{points:>7}  {printable(one.submission.name)}  {one.message or 'all checks passed'}"


def full(one: Grade, colour: bool) -> str:
    """A submission alone, with everything its author should know."""
    from hv.lab.report import report, summary

    what = "" if one.status == "graded" else f" ({one.status.replace('_', ' ')})"
    return f"{report(one.verdict, colour)}\n\nScore: {summary(one.verdict)}{what}"
