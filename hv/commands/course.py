"""What a course needs around grading: `hv grade keygen` and `hv grade handout`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hv.commands.errors import TRUE, CommandError
from hv.commands.files import labs_folder
from hv.printable import printable

if TYPE_CHECKING:
    from hv.lab.exercise import Exercise


def exercise_of(args: argparse.Namespace) -> Exercise:
    """The exercise that is asked for."""
    from hv.lab.exercise import find, read_all

    return find(read_all(labs_folder()), args.exercise)


def seed_of(args: argparse.Namespace) -> bytes | None:
    """What variants are drawn from: the course key, or the words of --seed; None when neither is given."""
    from hv.lab.key import read_key

    if args.key is not None and args.seed is not None:
        raise CommandError("--key and --seed both say what variants are drawn from", "leave one of them out")
    if args.key is not None:
        return read_key(args.key)
    return None if args.seed is None else str(args.seed).encode(errors="surrogateescape")


def keygen(args: argparse.Namespace) -> int:
    """Make a course key."""
    from hv.lab.key import make_key

    place = _one(args.paths[1:], "hv grade keygen FILE")
    name = make_key(place)
    print(f"{printable(str(place))} holds the course key {name}. Keep it secret, and keep a copy.")
    return TRUE


def handout(args: argparse.Namespace) -> int:
    """Write a folder for each student."""
    from hv.lab.handout import hand_out

    students, seed = [str(path) for path in args.paths[1:]], seed_of(args)
    if not students or args.output is None or seed is None:
        raise CommandError("a handout needs students, a key (or a seed) and a place",
                           "hv grade handout alice bob --key FILE --output FOLDER")
    hand_out(exercise_of(args), seed, students, Path(args.output))
    print(f"{len(students)} folders in {printable(args.output)}")
    return TRUE


def _one(paths: list[Path], usage: str) -> Path:
    if len(paths) != 1:
        raise CommandError(f"expected one file, found {len(paths)}", usage)
    return paths[0]


ACTIONS = {"keygen": keygen, "handout": handout}
