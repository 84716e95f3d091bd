"""What a course needs around grading: `hv grade keygen`, `handout` and `verify`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hv.commands.errors import CHECKS_FAILED, TRUE, CommandError
from hv.commands.files import labs_folder
from hv.printable import printable

if TYPE_CHECKING:
    from hv.lab.exercise import Exercise
    from hv.lab.formats.registry import Format


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


def receipts_of(args: argparse.Namespace) -> Format | None:
    """Receipts, when they are asked for; a key signs them."""
    from hv.lab.key import read_key
    from hv.lab.receipt import receipts

    if args.receipt is None:
        return None
    if args.key is None:
        raise CommandError("a receipt is signed, and there is no key",
                           "name one with --key; `hv grade keygen FILE` makes it")
    return receipts(read_key(args.key))


def verify(args: argparse.Namespace) -> int:
    """Say whether a receipt is genuine, run its submission again, and say what differs."""
    from hv.lab.key import read_key
    from hv.lab.receipt import differences, read_receipt
    from hv.lab.regrade import again

    if len(args.paths) != 3 or args.key is None:
        raise CommandError("expected a receipt, a submission and a key",
                           "hv grade verify RECEIPT SUBMISSION --key FILE")
    key, then = read_key(args.key), read_receipt(args.paths[1])
    if not then.is_genuine(key):
        print("FORGED     the receipt was not signed with this key, or was changed since")
        return CHECKS_FAILED
    args.exercise = then.exercise
    differ = differences(then, again(exercise_of(args), then, args.paths[2], key))
    for what, before, now in differ:
        print(f"DIFFERENT  {what}: {printable(before) or 'none'} then, {printable(now) or 'none'} now")
    if differ:
        return CHECKS_FAILED
    print(f"GENUINE    {printable(then.file)}: {then.score} of {then.max_score} points in {printable(then.exercise)}, "
          "and the same when it is run again")
    return TRUE


def _one(paths: list[Path], usage: str) -> Path:
    if len(paths) != 1:
        raise CommandError(f"expected one file, found {len(paths)}", usage)
    return paths[0]


ACTIONS = {"keygen": keygen, "handout": handout, "verify": verify}
