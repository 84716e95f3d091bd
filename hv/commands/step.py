"""Step through a guest on a screen, forward and back: code, registers, each VM exit under the microscope, memory.

FILE is what `hv run` takes, or a lab (its name, its number, or the file you work on): then it runs on the machine of
the lab. The run is recorded first; then any moment of it can be looked at. `?` on the screen explains it.

With --plain, or without a terminal, the screen is printed as text, one frame for each place:
`hv step timer --at E5 --by exit --steps 3`. A place is written E12 (VM exit 12), E12+3 (the third event behind it),
E12:7 (the seventh instruction behind it), begin, end, or a condition: `--at "reason == CPUID"`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hv.commands import boot_options
from hv.commands.board import add_board_arguments
from hv.commands.errors import TRUE, CommandError
from hv.commands.screen import is_plain, shown_time

if TYPE_CHECKING:
    from hv.commands.chosen import Subject
    from hv.step.board import Look
    from hv.step.model import Model
    from hv.step.story import Progress, Story

STEPS = ("instruction", "exit", "event", "stage")
PANES = ("code", "registers", "exit", "memory", "machine", "timeline")
MOST_STEPS = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv step`."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="hello",
                        help="what `hv run` takes, or a lab (default: hello)")
    parser.add_argument("--at", metavar="PLACE", help="begin there: E12, E12+3, E12:7, begin, end, a condition")
    parser.add_argument("--by", choices=STEPS, default="instruction", help="what a step of --steps is")
    parser.add_argument("--steps", metavar="N", type=int, default=0, help="with --plain, so many frames more")
    parser.add_argument("--pane", metavar="NAME", action="append", choices=PANES,
                        help=f"show this one only; repeatable: {', '.join(PANES)}")
    parser.add_argument("--vp", metavar="VM.N", help="look at this VP, not at the one that runs")
    parser.add_argument("--memory", metavar="ADDRESS", default="rsp", help="show memory there (default rsp)")
    parser.add_argument("--budget", metavar="TIME",
                        help="record so much virtual time at most (default 200ms, of a lab its own limit)")
    parser.add_argument("--plain", action="store_true", help="print frames as text")
    parser.add_argument("--light", action="store_true", help="begin with a light ground")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="write the screen into FILE.svg, and leave")
    parser.add_argument("--size", metavar="WxH", default="120x40", help="of the picture (default 120x40)")
    parser.add_argument("--smp", metavar="N", type=int, help="virtual processors (default 1)")
    parser.add_argument("--mem", metavar="MIB", type=int, help="memory in MiB")
    add_board_arguments(parser)
    boot_options.add_arguments(parser)
    parser.add_argument("--root", action="store_true", help="FILE runs in the root partition itself")
    parser.add_argument("--dir", metavar="DIR", type=Path, default=Path(), help="of a lab: the folder you work in")
    parser.add_argument("--labs", metavar="DIR", type=Path, help="another folder of labs")


def main(args: argparse.Namespace) -> int:
    """Record, and show."""
    if not 0 <= args.steps <= MOST_STEPS:
        raise CommandError(f"--steps is {args.steps}; expected 0..{MOST_STEPS}")
    from hv.commands.chosen import subject

    if args.picture is not None:
        size = picture_size(args)
    with subject(args) as found:
        model = opened(args, found)
        if args.picture is not None:
            return pictured(args, model, size)
        return printed(args, model) if is_text(args.plain) else shown(args, model)


def is_text(asked: bool) -> bool:
    """Frames of text: when asked for, and where no screen can be. NO_COLOR leaves the screen, without colours."""
    return asked or os.environ.get("TERM") == "dumb" or not (sys.stdin.isatty() and sys.stdout.isatty())


def shown(args: argparse.Namespace, model: Model) -> int:
    """The screen, until somebody leaves it."""
    from hv.step.app.screen import StepApp

    app = StepApp(model, "light" if args.light else "dark", look(args))
    app.run()
    if app.failure is not None:
        raise app.failure
    return TRUE


def look(args: argparse.Namespace) -> Look:
    """Which pane is chosen at first."""
    from hv.step.board import Look

    return Look(args.pane[0]) if args.pane else Look()


def picture_size(args: argparse.Namespace) -> tuple[int, int]:
    """Columns and lines of the picture; CommandError."""
    found = re.fullmatch(r"(\d{1,3})x(\d{1,3})", args.size)
    if found is None or not (60 <= int(found[1]) <= 400 and 16 <= int(found[2]) <= 200):
        raise CommandError(f"--size is {args.size}; expected 60x16 to 400x200, such as 120x40")
    if args.picture.suffix != ".svg":
        raise CommandError(f"--picture is {args.picture}; expected a name that ends in .svg")
    return int(found[1]), int(found[2])


def pictured(args: argparse.Namespace, model: Model, size: tuple[int, int]) -> int:
    """The screen as a picture, behind --steps steps."""
    from hv.step.app.picture import picture
    from hv.step.model import FORWARD

    for _ in range(args.steps):
        model.move(FORWARD, args.by)
    text = picture(model, size, "light" if args.light else "dark", look(args), f"hv step {args.file}")
    try:
        args.picture.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise CommandError(f"{args.picture} cannot be written: {error.strerror}", "name another file") from None
    return TRUE


def opened(args: argparse.Namespace, found: Subject) -> Model:
    """The recorded run, at the place that was asked for."""
    from hv.debug.errors import DebugError
    from hv.step.model import Model
    from hv.step.sources import Sources

    model = Model(recorded(found, args.plain), Sources(found.folders))
    try:
        if args.vp:
            model.choose(model.vp_called(args.vp))
        if args.at:
            model.go_to(args.at)
        model.look_at(args.memory)
    except DebugError as error:
        raise CommandError(error.message, error.hint) from None
    return model


def recorded(found: Subject, plain: bool) -> Story:
    """Record the run, with a progress bar where somebody looks; Ctrl-C ends the recording, and what there is is shown.
    """
    from hv.commands import building
    from hv.replay.memento import NotSaved
    from hv.step.story import Story

    try:
        story = Story(found.machine, found.vms, found.images)
        with building.ctrl_c() as interrupted, progress(found.ticks, plain) as show:
            story.record(found.ticks, lambda: interrupted.asked, show)
    except (ValueError, NotSaved) as error:
        raise CommandError(f"this machine cannot be recorded: {error}", "`hv repl` can run it") from None
    if story.unfinished:
        print(f"note: {story.ending}", file=sys.stderr)
    return story


@contextmanager
def progress(ticks: int, plain: bool) -> Iterator[Progress]:
    """A bar on stderr that comes up when recording takes a while."""
    if is_plain(plain, sys.stderr):
        yield lambda done, exits: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(TextColumn("recording"), BarColumn(), TextColumn("{task.fields[said]}"),
                  console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=ticks, said="")

        def show(done: int, exits: int) -> None:
            bar.update(task, completed=done, said=f"{shown_time(done)}, {exits} exits")

        yield show


def printed(args: argparse.Namespace, model: Model) -> int:
    """The frames that were asked for."""
    from hv.step.plain import ALL, frames

    for number, frame in enumerate(frames(model, args.steps, args.by, args.pane or ALL)):
        print(f"\n{frame}" if number else frame)
    if model.said:
        print(f"\n{model.said}")
    return TRUE

