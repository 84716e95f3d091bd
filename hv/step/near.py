"""The places near where one is, looked at before anybody asks: then a key shows its effect at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hv.replay.position import Position, PositionError
from hv.step.model import BACK, FORWARD, Model
from hv.step.reel import END

_STEPS = ("instruction", "event", "exit")
_MOST = 300_000                 # instructions behind an exit: of more, each way takes longer than one waits


def near(model: Model) -> list[Callable[[], object]]:
    """What is still to be looked at, each a few milliseconds of work: first what comes next, then what was before."""
    if model.here.instructions > _MOST:
        return []
    found: list[Callable[[], object]] = []
    for way in (FORWARD, BACK):
        number = model.here.exits + way
        if model.here != END and not model.exits.knows(number) and 0 < number <= model.moves.last_exit:
            found.append(partial(model.exits.at, number, model.chosen, model.look))
    for way in (FORWARD, BACK):
        found += [partial(_look, model, model.here, way, by) for by in _STEPS]
    return found


def _look(model: Model, here: Position, way: int, by: str) -> None:
    """Take down the place that is one step from *here*."""
    ways = {"instruction": model.moves.instruction, "exit": model.moves.exit, "event": model.moves.event}
    try:
        target = ways[by](here, way)
        if target is not None:
            model.reel.moment(target, model.chosen, model.look)
    except PositionError:
        return
