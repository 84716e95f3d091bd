"""What `hv step` steps through: a guest, a described machine, or a lab, before it begins to run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hv.commands import building, lab_work
from hv.commands.errors import CommandError
from hv.commands.files import labs_folder
from hv.commands.run import describe, describe_root
from hv.commands.screen import ticks
from hv.image.library import guest_names, guests_folder

if TYPE_CHECKING:
    from hv.image.model import Image
    from hv.lab.exercise import Exercise

BUDGET = "200ms"


@dataclass(frozen=True, slots=True)
class Subject:
    """A machine that stands at its beginning. *ticks* bound its run; *folders* have the sources."""

    machine: Any
    vms: list[Any]
    images: dict[str, Image]
    ticks: int
    folders: list[Path]
    close: Callable[[], None]


@contextmanager
def subject(args: argparse.Namespace) -> Iterator[Subject]:
    """What the arguments name; it is closed afterwards. CommandError."""
    found = _lab(args) or _guest(args)
    try:
        yield found
    finally:
        found.close()


def _guest(args: argparse.Namespace) -> Subject:
    description = describe_root(args) if args.root else describe(args)
    images = {vm.name: building.load_image(vm.image) for vm in description.vms}
    machine, vms = building.build_any(description)
    folders = [vm.image.parent for vm in description.vms]
    return Subject(machine, list(vms), images, ticks(args.budget or BUDGET), _with_guests(folders), machine.close)


def _with_guests(folders: list[Path]) -> list[Path]:
    shared = guests_folder()
    return folders if shared is None else [*folders, shared]


def _lab(args: argparse.Namespace) -> Subject | None:
    """The machine of the lab that is meant, with the learner's file; None when none is."""
    exercise = None if args.root else _exercise(args.file, args.labs)
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


def _exercise(name: str, folder: Path | None) -> Exercise | None:
    """The lab called *name*: by name or number, by the learner's file, or by its title if no guest is called so."""
    from hv.lab.errors import LabError
    from hv.lab.exercise import read_all

    place = Path(name)
    if place.suffix and (not os.path.exists(place) or place.resolve().parent == guests_folder()):
        return None
    try:
        exercises = read_all(labs_folder() if folder is None else folder)
    except LabError as error:
        if folder is None:
            return None
        raise CommandError(error.message, error.hint) from None
    guests = guest_names()
    return next((one for one in exercises if name == one.name or (place.suffix and place.name == one.data.file)
                 or (name.isdecimal() and one.name.partition("_")[0].lstrip("0") == name.lstrip("0"))
                 or (name not in guests and name == one.name.partition("_")[2])), None)
