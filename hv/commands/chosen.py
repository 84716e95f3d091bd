"""What `hv step`, `hv repl` and `hv run --debug` open, before it runs: a guest, a described machine, a lab's own."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hv.commands import boot_options, building, lab_work, replay
from hv.commands.errors import CommandError
from hv.commands.lab_choice import folder_of
from hv.commands.run import describe, describe_root
from hv.commands.screen import ticks
from hv.image.library import guest_names, guests_folder

if TYPE_CHECKING:
    from hv.commands.description import MachineDescription
    from hv.image.model import Image
    from hv.lab.exercise import Exercise
    from hv.replay.file import KeptMachine, Replay

BUDGET = "200ms"
DEFAULT_FILE = "hello"


@dataclass(frozen=True, slots=True)
class Subject:
    """A machine that stands at its beginning. *ticks* bound its run; *folders* have the sources; *made_from* says what
    a replay file keeps of it, and is None for a lab's."""

    machine: Any
    vms: list[Any]
    images: dict[str, Image]
    ticks: int
    folders: list[Path]
    close: Callable[[], None]
    made_from: Callable[[], KeptMachine] | None = None
    replay: Replay | None = None        # what is to be done first


@contextmanager
def subject(args: argparse.Namespace) -> Iterator[Subject]:
    """What the arguments name; it is closed afterwards. CommandError."""
    found = _recorded(args) or _lab(args) or _guest(args)
    try:
        yield found
    finally:
        found.close()


def _recorded(args: argparse.Namespace) -> Subject | None:
    """The machine of the replay file that is named, if one is."""
    if getattr(args, "replay", None) is None:
        return None
    others = any(getattr(args, name) for name in ("smp", "mem", "device", "root")) or boot_options.given(args)
    if others or args.file != DEFAULT_FILE:
        raise CommandError("--replay names a file that has the whole machine", "leave the other arguments out")
    kept, description, images = replay.opened(args.replay)
    return replace(made(description, images, ticks(BUDGET)), replay=kept)


def _guest(args: argparse.Namespace) -> Subject:
    description = describe_root(args) if args.root else describe(args)
    return made(description, building.images_of(description), ticks(args.budget or BUDGET))


def made(description: MachineDescription, images: list[Image], budget: int) -> Subject:
    """The machine that *description* tells of, for *budget* ticks; CommandError."""
    machine, vms = building.build_any(description, images=images)
    by_name = {vm.name: image for vm, image in zip(description.vms, images, strict=True)}
    folders = [vm.image.parent for vm in description.vms]
    return Subject(machine, list(vms), by_name, budget, _with_guests(folders), machine.close,
                   partial(replay.kept_machine, description, images))


def _with_guests(folders: list[Path]) -> list[Path]:
    shared = guests_folder()
    return folders if shared is None else [*folders, shared]


def _lab(args: argparse.Namespace) -> Subject | None:
    """The machine of the lab that is meant, with the learner's file; None when none is."""
    exercise = None if args.root or boot_options.given(args) else _exercise(args)
    if exercise is None:
        return None
    from hv.lab.progress import Progress
    from hv.platform import MachineError

    place = Path(args.file) if Path(args.file).name == exercise.data.file else args.dir / exercise.data.file
    if exercise.data.kind == "guest" and not os.path.exists(place):
        raise CommandError(f"{place} does not exist", f"`hv lab start {exercise.name}` puts a starter there")
    if exercise.data.piece.answers:
        raise CommandError(f"in {exercise.name} your functions answer the machine, and their past cannot be run again",
                           f"`hv lab trace {exercise.name}` tells what happened")
    if exercise.data.machine.bare:
        raise CommandError(f"in {exercise.name} your program has the machine, and its past cannot be run again",
                           f"`hv lab trace {exercise.name}` tells what happened")
    try:
        run = lab_work.rehearsed(exercise, place, Progress())
    except MachineError as error:
        raise CommandError(error.message, error.hint) from None
    limit = ticks(args.budget) if args.budget else exercise.data.limits.ticks
    return Subject(run.machine, list(run.vms.values()), run.images, limit,
                   _with_guests([place.parent, exercise.folder]), run.close)


def _exercise(args: argparse.Namespace) -> Exercise | None:
    """The lab that is meant: by name or number, by the learner's file, or by its title if no guest is called so."""
    from hv.lab.course import read_course, refuse_broken
    from hv.lab.errors import LabError

    name, place = args.file, Path(args.file)
    if name in guest_names():
        return None
    if place.suffix and (not os.path.exists(place) or place.resolve().parent == guests_folder()):
        return None
    try:
        exercises, broken = read_course(folder_of(args))
        refuse_broken(broken, name)
    except LabError as error:
        if args.labs is None and place.suffix:
            return None                         # whatever is wrong with our labs, this may be a guest
        raise CommandError(error.message, error.hint) from None
    return next((one for one in exercises if name == one.name or (place.suffix and place.name == one.data.file)
                 or (name.isdecimal() and one.name.partition("_")[0].lstrip("0") == name.lstrip("0"))
                 or (name == one.name.partition("_")[2])), None)
