"""Which labs `hv lab` works on: ours, another folder's or those of the folder one is in; and whose variant of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hv.commands.errors import CommandError
from hv.commands.files import labs_folder
from hv.printable import printable

if TYPE_CHECKING:
    from hv.lab.exercise import Exercise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose."""
    parser.add_argument("--labs", metavar="DIR", type=Path, help="another folder of labs, such as an exported one")
    parser.add_argument("--student", metavar="ID", default="", help="this student's variant; with --key or --seed")
    parser.add_argument("--key", metavar="FILE", type=Path, help="the course key, from which variants are drawn")
    parser.add_argument("--seed", metavar="WORDS", help="draw variants from these words, not from a key")


def labs_of(args: argparse.Namespace) -> list[Exercise]:
    """The labs, each with the values of the student who was named; LabError, CommandError."""
    from hv.commands.course import seed_of
    from hv.lab.handout import check_student

    seed = seed_of(args)
    exercises = _readable(args)
    if not args.student and seed is None:
        return exercises
    if not args.student:
        raise CommandError("variants are drawn for a student, and none is named", "say --student ID")
    if seed is None:
        raise CommandError(f"there is nothing to draw the variant of {printable(args.student)} from",
                           "say --key FILE, or --seed WORDS")
    check_student(args.student)
    return [exercise.variant(seed, args.student) for exercise in exercises]


def _readable(args: argparse.Namespace) -> list[Exercise]:
    """The labs that can be read; what is wrong with others is told, unless one of them is asked for."""
    from hv.lab.course import read_course, refuse_broken

    exercises, broken = read_course(folder_of(args))
    about_all = args.action == "export" or (args.action == "verify" and args.lab is None)
    refuse_broken(broken, next(iter(broken), "") if about_all else args.lab or "")
    for error in broken.values():
        print(f"note: {printable(error.message)}; the other labs can be worked on", file=sys.stderr)
    return exercises


def folder_of(args: argparse.Namespace) -> Path | None:
    """Where the labs are."""
    from hv.lab.tree import whose

    if args.labs is not None:
        return Path(args.labs)
    return args.dir if whose(args.dir) is not None else labs_folder()


def whose_labs(args: argparse.Namespace) -> str:
    """For whom the labs are, in words; empty when they are everybody's."""
    from hv.lab.tree import whose

    folder = folder_of(args)
    student = args.student or (whose(folder) if folder is not None else "")
    return f" for {printable(student)}" if student else ""
