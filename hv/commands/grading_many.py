"""How `hv grade` grades a class: who grades, what is resumed, and what is shown meanwhile."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from hv.commands.errors import CommandError
from hv.commands.screen import is_plain
from hv.printable import printable

if TYPE_CHECKING:
    from hv.lab.exercise import Exercise
    from hv.lab.grading import Submission
    from hv.lab.result import Result
    from hv.lab.whole_class import Graders

MOST_JOBS = 256


def grade_many(args: argparse.Namespace, exercise: Exercise, seed: bytes | None, handed_in: list[Submission],
               tell: Callable[[Result], None]) -> list[Result]:
    """The result of each, in order; *tell* hears of them in order, each as soon as those before it are known.

    With a *seed* each is graded by the variant of its student.
    """
    from hv.lab import scratch
    from hv.lab.errors import LabError
    from hv.lab.journal import Journal
    from hv.lab.sandbox.piece import protections, require
    from hv.lab.whole_class import grade_all, unpacked

    if args.require_sandbox or exercise.data.kind == "python":
        try:
            require(protections())
        except LabError as error:
            if args.require_sandbox:
                raise
            print(f"note: {error.message}; --require-sandbox refuses to go on", file=sys.stderr)
    with ExitStack() as open_now:
        graders = chosen(args, exercise, seed, len(handed_in), open_now)
        folder = open_now.enter_context(scratch.folder("handed-in"))
        handed_in = unpacked(handed_in, exercise, folder)
        journal = open_now.enter_context(Journal(args.resume)) if args.resume is not None else None
        for note in journal.notes if journal is not None else ():
            print(f"note: {printable(note)}", file=sys.stderr)
        advance = open_now.enter_context(progress(len(handed_in), is_plain(args.plain, sys.stderr)))
        return grade_all(exercise, handed_in, graders, journal, in_order(tell, advance))


def chosen(args: argparse.Namespace, exercise: Exercise, seed: bytes | None, count: int,
           open_now: ExitStack) -> Graders:
    """Who grades; CommandError for a number of jobs that makes no sense."""
    from hv.lab.whole_class import Here
    from hv.lab.workers import Workers

    if not 1 <= args.jobs <= MOST_JOBS:
        raise CommandError(f"--jobs is {args.jobs}; expected 1..{MOST_JOBS}", "one for each core is best")
    if args.cluster is not None:
        from hv.lab.cluster import Cluster

        cluster = Cluster.at(args.cluster, exercise, seed)
        open_now.callback(cluster.close)
        return cluster
    jobs = min(args.jobs, count)
    return Workers(exercise, jobs, seed) if jobs > 1 else Here(exercise, seed)


def in_order(tell: Callable[[Result], None], advance: Callable[[], None]) -> Callable[[int, Result], None]:
    """Hears results in any order, and tells them in theirs."""
    early: dict[int, Result] = {}
    following = 0

    def hear(number: int, result: Result) -> None:
        nonlocal following
        early[number] = result
        advance()
        while following in early:
            tell(early.pop(following))
            following += 1

    return hear


@contextmanager
def progress(count: int, plain: bool) -> Iterator[Callable[[], None]]:
    """A bar on stderr, where someone looks and there is more than one to wait for."""
    if plain or count < 2:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("grading", total=count)
        yield lambda: bar.advance(task)
