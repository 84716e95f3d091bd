"""Run a recorded run again, and say whether it came to the same end, byte for byte.

FILE was written by `hv run --record FILE`, or by `save FILE` in the REPL. It holds the programs and whatever was
changed from outside, so it runs on another machine too. `hv repl --replay FILE` goes anywhere in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hv.commands.errors import CHECKS_FAILED, TRUE, CommandError

if TYPE_CHECKING:
    from hv.commands.building import Interrupted
    from hv.commands.description import MachineDescription
    from hv.commands.typed import Typing
    from hv.image.model import Image
    from hv.replay.file import KeptMachine, Replay
    from hv.replay.timeline import Timeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv replay`."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a replay file")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON, and nothing else")
    parser.add_argument("--plain", action="store_true", help="no colours")


def main(args: argparse.Namespace) -> int:
    """Do it all again; 1 when the machine at its end is another one than it was."""
    from hv.commands import building, outcome
    from hv.commands.run import SerialPrinter, print_summary
    from hv.replay.fingerprint import fingerprint

    replay, description, images = opened(args.file)
    machine, vms = building.build_any(description, images=images)
    try:
        printer = SerialPrinter([] if args.json else vms)
        with building.ctrl_c() as interrupted:
            timeline = played(machine, replay, args.file, interrupted)
        printer.finish()
        same = fingerprint(machine) == replay.end
        said = f"{'the same end' if same else 'another end'} as recorded: {len(replay.acts)} acts, {timeline.end}"
        if args.json:
            print(json.dumps({"same": same, "acts": len(replay.acts), "end": str(timeline.end),
                              **outcome.of_machine(machine, vms)}, indent=1))
        else:
            print_summary([*outcome.summary(machine, vms), said], vms, args.plain)
        if not same:
            raise CommandError(f"{args.file.name} came to another end than it was recorded with: {_versions(replay)}",
                               "the same version of the engine and of hvlab comes to the same end", CHECKS_FAILED)
        return TRUE
    finally:
        machine.close()


def opened(place: Path) -> tuple[Replay, MachineDescription, list[Image]]:
    """The file, and what its machine is made from; CommandError."""
    from hv.commands.description import described, described_root
    from hv.replay.file import ReplayError, read

    try:
        replay = read(place)
    except ReplayError as error:
        raise CommandError(str(error), "`hv run --record FILE` writes one") from None
    of = described_root if replay.machine.root else described
    description = of(replay.machine.description, place, beside=False)
    images = [image.image() for image in replay.machine.images]
    if len(images) != len(description.vms):
        raise CommandError(f"{place.name} has {len(images)} programs for {len(description.vms)} VMs",
                           "it was changed by hand, or cut off")
    options = replay.machine.options
    if options and len(options) != len(images):
        raise CommandError(f"{place.name} hands something to {len(options)} VMs of {len(images)}",
                           "it was changed by hand, or cut off")
    if options:
        vms = [dataclasses.replace(vm, options=each.options())
               for vm, each in zip(description.vms, options, strict=True)]
        description = dataclasses.replace(description, vms=vms)
    return replay, description, images


def played(machine: Any, replay: Replay, place: Path, interrupted: Interrupted) -> Timeline:
    """All that was recorded, done on *machine*; CommandError, KeyboardInterrupt."""
    from rich.console import Console
    from rich.progress import track

    from hv.replay.fingerprint import fingerprint
    from hv.replay.refusal import ChangeRefused
    from hv.replay.timeline import Timeline

    def ask() -> None:
        if interrupted.asked:
            raise KeyboardInterrupt

    timeline = Timeline(machine)
    if fingerprint(machine) != replay.begin:
        raise CommandError(f"{place.name} begins with another machine than is made from it here: {_versions(replay)}",
                           "the same version of the engine and of hvlab makes the same machine", CHECKS_FAILED)
    acts = track(replay.acts, "replaying", console=Console(stderr=True), transient=True,
                 disable=not sys.stderr.isatty())
    for number, act in enumerate(acts, 1):
        try:
            timeline.play(act, ask)
        except (ChangeRefused, ValueError) as error:
            raise CommandError(f"{place.name}: act {number} cannot be done again: {error}",
                               "it was changed by hand, or recorded with another version", CHECKS_FAILED) from None
    return timeline


def record(machine: Any, end_tsc: int, made_from: KeptMachine, place: Path, text: Typing | None = None) -> None:
    """Run *machine* to *end_tsc* as `hv run` does, with *text* typed, and write its replay file; KeyboardInterrupt
    behind that."""
    from hv.commands import building

    timeline = begun(machine)
    with building.ctrl_c() as interrupted:
        if text is not None:
            timeline.record(end_tsc, lambda: interrupted.asked or text.is_due(machine))
            if not interrupted.asked and text.is_due(machine):
                timeline.change(text.change(machine))
        timeline.record(end_tsc, lambda: interrupted.asked)
        write(timeline, made_from, place)
    timeline.close()
    if interrupted.asked:
        raise KeyboardInterrupt


def begun(machine: Any) -> Timeline:
    """The recording of what *machine* does from now on; CommandError."""
    from hv.replay.memento import NotSaved
    from hv.replay.timeline import Timeline

    try:
        return Timeline(machine)
    except NotSaved as error:
        raise CommandError(f"this machine cannot be recorded: {error}") from None


def write(timeline: Timeline, made_from: KeptMachine, place: Path) -> None:
    """The replay file of *timeline*, which stands at its end afterwards; CommandError."""
    from hv.replay.file import kept
    from hv.whole_file import put

    try:
        put(place, kept(timeline, made_from).encoded(), replace=False)
    except OSError as error:
        raise CommandError(f"the replay file {place} cannot be written: {error.strerror}",
                           "make room, or name another file") from None


def check_writable(place: Path | None) -> None:
    """Before the run, not after it: the replay file can be written, over nothing that is there; CommandError."""
    if place is None:
        return
    if place.exists():
        raise CommandError(f"{place} is there already", "name a new file for the recording")
    if not place.parent.is_dir() or not os.access(place.parent, os.W_OK):
        raise CommandError(f"{place} cannot be written", "name a file in a folder that exists and may be written to")


def kept_machine(description: MachineDescription, images: list[Image]) -> KeptMachine:
    """What is kept of the machine that was made from *description* and its *images*."""
    from hv.commands.description import as_table
    from hv.image.model import NO_OPTIONS
    from hv.replay.file import KeptImage, KeptMachine, KeptOptions

    options = [KeptOptions.of(vm.options) for vm in description.vms]
    return KeptMachine(description.root, as_table(description), [KeptImage.of(image) for image in images],
                       options if any(vm.options != NO_OPTIONS for vm in description.vms) else [])


def _versions(replay: Replay) -> str:
    from hv.replay.file import engine_version

    here = engine_version()
    return f"recorded with {replay.engine}, and here is {here}" if replay.engine != here else f"both with {here}"
