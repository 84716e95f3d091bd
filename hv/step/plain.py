"""The screen as plain text, one frame for each place: for pipes, for tests, and where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hv.step.model import FORWARD, Model
from hv.step.panes import BY_NAME
from hv.step.text import Line, plain

ALL = tuple(BY_NAME)
WIDTH = 100
HEIGHTS = {"code": 14, "registers": 22, "exit": 40, "memory": 10, "machine": 30, "timeline": 11}


def frame(model: Model, names: Sequence[str] = ALL) -> str:
    """All panes called *names*, one below the other."""
    shown = [headline(model)]
    for name in names:
        pane = BY_NAME[name]
        shown += ["", f"-- {pane.title} {'-' * (WIDTH - 4 - len(pane.title))}"]
        shown += [plain(line) for line in without_end(pane.lines(model, WIDTH, HEIGHTS[name]))]
    return "\n".join(shown)


def frames(model: Model, steps: int, by: str, names: Sequence[str]) -> Iterator[str]:
    """The frame of where one is, and of *steps* places further on by one of `model.STEPS`, as far as there are."""
    yield frame(model, names)
    for _ in range(steps):
        if not model.move(FORWARD, by):
            return
        yield frame(model, names)


def headline(model: Model) -> str:
    """Where one is: place, whose registers these are, time."""
    moment = model.moment
    time = (moment.tsc - model.story.began) / 2000
    return f"== {model.name}  {model.looks_at}  {time:.1f} us  of E0 to E{model.moves.last_exit}: {model.story.ending}"


def without_end(lines: list[Line]) -> list[Line]:
    """*lines* without empty ones at their end."""
    while lines and not plain(lines[-1]):
        lines = lines[:-1]
    return lines
