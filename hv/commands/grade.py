"""Grade an exercise: one file, or a folder of submissions.

PATH is a submission (a file, a folder that holds the exercise's file, or a zip
or tar of it) or a folder of submissions. The same submission gets the same result on every
machine. docs/grading.md shows how each course system is fed.

A whole class: hv grade FOLDER --jobs 4 --resume report.hvj
grades with four processes, and goes on where it stopped when it is run again.

  --format text          what a person reads (this is the default)
  --format gradescope    results.json, with hidden checks marked
  --format prairielearn  results.json of an external grader
  --format classroom     a line for GITHUB_OUTPUT
  --format junit         XML for GitLab, Jenkins and editors
  --format csv           a line for each submission, for a grade book
  --format json          everything, for scripts
  --format md            a page

A lab may have a variant for each student, drawn from the course key:

  hv grade keygen FILE                                     make the key
  hv grade handout ID... --key FILE --output FOLDER/       what students get
  hv grade FOLDER/ --key FILE                              grade it

A folder or a file is named for its student there; of one alone say --student.
With --receipt a signed receipt is written too; run it again and compare with

  hv grade verify RECEIPT SUBMISSION --key FILE

The exit code is 0 when each earned all its points, 1 when one did not, 4 when
the grader itself failed.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hv.commands.errors import CHECKS_FAILED, INTERNAL_ERROR, TRUE, CommandError
from hv.commands.screen import is_plain
from hv.printable import printable

if TYPE_CHECKING:
    from hv.lab.exercise import Exercise
    from hv.lab.formats.registry import Format
    from hv.lab.grading import Submission
    from hv.lab.result import Result

EXERCISE = "01_first_exit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv grade`."""
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="a submission, or a folder of them")
    parser.add_argument("--exercise", metavar="NAME", default=EXERCISE, help=f"the exercise (default: {EXERCISE})")
    parser.add_argument("--format", metavar="FORMAT", default="text", help="one of the above")
    parser.add_argument("--output", metavar="PLACE", help="write a file instead, or into a folder (ends with /)")
    parser.add_argument("--dry-run", action="store_true", help="show what the student will see; write nothing")
    parser.add_argument("--key", metavar="FILE", type=Path, help="the course key")
    parser.add_argument("--seed", metavar="WORDS", help="draw variants from these words, not from a key")
    parser.add_argument("--student", metavar="ID", default="", help="whose submission it is, of one alone")
    parser.add_argument("--receipt", metavar="PLACE", help="write a receipt, signed with the course key")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="grade with N processes (default 1)")
    parser.add_argument("--cluster", metavar="ADDRESS", help="grade on the Dask cluster of this scheduler")
    parser.add_argument("--resume", metavar="FILE", type=Path, help="keep results in FILE, and take up those in it")
    parser.add_argument("--require-sandbox", action="store_true",
                        help="refuse to grade where a learner's Python could not be confined")
    parser.add_argument("--plain", action="store_true", help="no colours")


def main(args: argparse.Namespace) -> int:
    """Grade all submissions; print the results, or write them."""
    from hv.commands.course import ACTIONS
    from hv.lab.errors import LabError

    format = chosen(args)
    try:
        action = ACTIONS.get(str(args.paths[0]))
        return action(args) if action is not None else _grade(args, format)
    except LabError as error:
        raise CommandError(error.message, error.hint) from None


def chosen(args: argparse.Namespace) -> Format:
    """The format that is asked for; CommandError when there is none of that name."""
    from hv.lab.formats import FORMATS

    if args.dry_run and args.output is not None:
        raise CommandError("--dry-run writes nothing, and --output names a place", "leave one of them out")
    if args.dry_run and args.receipt is not None:
        raise CommandError("--dry-run writes nothing, and --receipt names a place", "leave one of them out")
    if args.format not in FORMATS:
        near = difflib.get_close_matches(args.format, FORMATS, 1)
        raise CommandError(f"there is no format `{printable(args.format)}`; expected {', '.join(sorted(FORMATS))}",
                           f"did you mean {near[0]}?" if near else "")
    return FORMATS[args.format]


def _grade(args: argparse.Namespace, format: Format) -> int:
    from hv.commands.course import exercise_of, receipts_of, seed_of
    from hv.commands.grading_many import grade_many
    from hv.lab.formats.output import Output, refuse_several
    from hv.lab.grading import unfinished

    exercise, seed, sign = exercise_of(args), seed_of(args), receipts_of(args)
    handed_in, alone = _handed_in(args, exercise, seed is not None)
    outputs = [Output(form, place, alone) for form, place in ((format, args.output), (sign, args.receipt))
               if form is not None and place is not None]
    for output in outputs:
        output.refuse(len(handed_in))
    if args.output is not None:
        outputs[0].save([unfinished(exercise, submission).result for submission in handed_in])
    elif not args.dry_run:
        refuse_several(format, len(handed_in))
    results = grade_many(args, exercise, seed, handed_in, _teller(args, format, alone))
    for output in outputs:
        output.save(results)
    if args.output is None and not args.dry_run:
        _print_rest(format, results, alone)
    return exit_code(results)


def _handed_in(args: argparse.Namespace, exercise: Exercise, drawn: bool) -> tuple[list[Submission], bool]:
    """What is to be graded, and whether it was asked for by itself. *drawn*: by the values of its student."""
    from hv.lab.grading import is_alone, submissions, with_student

    found = submissions(args.paths, exercise)
    alone = len(args.paths) == 1 and is_alone(args.paths[0], found, exercise)
    if args.student and not alone:
        raise CommandError("--student names one student, and there are several submissions", "leave it out")
    return [with_student(one, exercise, args.student, alone) for one in found] if drawn else found, alone


def _teller(args: argparse.Namespace, format: Format, alone: bool) -> Callable[[Result], None]:
    """What is printed about each submission as soon as it is graded."""
    from hv.lab.formats import text
    from hv.lab.result import for_student

    if args.dry_run:
        see = format.seen or (lambda one: format.text([for_student(one)], True))
        return lambda one: print(see(one), end="" if alone else "\n", flush=True)
    if args.output is not None or format.name != "text":
        return lambda one: None
    if alone:
        return lambda one: print(text.full(one, not is_plain(args.plain)), end="")
    return lambda one: print(text.line(one), flush=True)


def _print_rest(format: Format, results: list[Result], alone: bool) -> None:
    """What is printed when all are graded."""
    from hv.lab.formats import text

    if format.name != "text":
        sys.stdout.flush()
        sys.stdout.buffer.write(format.text(results, alone).encode())       # the same bytes in every locale
    elif not alone:
        print(text.total(results))


def exit_code(results: list[Result]) -> int:
    """0 all points, 1 not all, 4 when the grader itself failed."""
    if any(one.status == "grader_error" for one in results):
        return INTERNAL_ERROR
    return TRUE if all(one.passed for one in results) else CHECKS_FAILED
