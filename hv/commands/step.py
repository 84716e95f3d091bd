"""Step through a guest on a screen, forward and back: code, registers, each VM exit under the microscope, memory.

FILE is what `hv run` takes, or a lab (its name, its number, or the file you work on): then it runs on the machine of
the lab. The run is recorded first; then any moment of it can be looked at. `?` on the screen explains it.

With --plain, or without a terminal, the screen is printed as text, one frame for each place:
`hv step timer --at E5 --by exit --steps 3`. A place is written E12 (VM exit 12), E12+3 (the third event behind it),
E12:7 (the seventh instruction behind it), begin, end, or a condition: `--at "reason == CPUID"`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hv.commands.errors import TRUE, CommandError
from hv.commands.screen import is_plain, shown_time

if TYPE_CHECKING:
    from hv.commands.stepped import Subject
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
    parser.add_argument("--smp", metavar="N", type=int, help="virtual processors (default 1)")
    parser.add_argument("--mem", metavar="MIB", type=int, help="memory in MiB")
    parser.add_argument("--device", action="store_true", help="assign the DMA engine (for the guests dma and attacker)")
    parser.add_argument("--root", action="store_true", help="FILE runs in the root partition itself")
    parser.add_argument("--dir", metavar="DIR", type=Path, default=Path(), help="of a lab: the folder you work in")
    parser.add_argument("--labs", metavar="DIR", type=Path, help="another folder of labs")


def main(args: argparse.Namespace) -> int:
    """Record, and show."""
    if not 0 <= args.steps <= MOST_STEPS:
        raise CommandError(f"--steps is {args.steps}; expected 0..{MOST_STEPS}")
    from hv.commands.stepped import subject

    with subject(args) as found:
        model = opened(args, found)
        return printed(args, model)


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

