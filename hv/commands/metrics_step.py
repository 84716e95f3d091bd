"""The number of `hv bench` about the step-through screen: how long a key takes until its effect is painted.

Two partitions that post messages, in a terminal of 120 x 40. Nothing is looked at ahead, so each key costs what the
first visit of a place costs: the way there, all panes, and every line painted. Each key is the better of two such
visits, since one that waited for another program says nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from time import perf_counter

from hv.commands import building
from hv.commands.description import read
from hv.commands.files import find_guest
from hv.commands.metrics import Round, metric
from hv.replay.position import Position
from hv.step.model import BACK, FORWARD, Model
from hv.step.story import Story

_PLACES = 6
_TICKS = 400_000_000
_KEYS = [(way, by) for by in ("instruction", "event", "exit", "stage") for way in (FORWARD, FORWARD, BACK)]


@metric("step_key_ms", "ms", 50, "until a key of hv step shows its effect at 120 x 40, the slowest of 72")
def _key() -> Round:
    description = read(find_guest("guests/synic.toml"))
    machine, vms = building.build(description)
    with closing(machine):
        story = Story(machine, list(vms), {vm.name: building.load_image(vm.image) for vm in description.vms})
        story.record(_TICKS)
        visits = [asyncio.run(_keys(Model(story))) for _ in range(2)]
        return max(map(min, *visits)) * 1e3, None


async def _keys(model: Model) -> list[float]:
    """Seconds that each key takes."""
    from hv.step.app.screen import StepApp

    app = StepApp(model)
    app.looks_ahead = False
    taken = []
    async with app.run_test(size=(120, 40)):
        for place in range(_PLACES):
            model.go(Position(1 + model.moves.last_exit * place // _PLACES))
            for way, by in _KEYS:
                start = perf_counter()
                (app.action_move if way == FORWARD else app.action_move_back)(by)
                for line in range(40):
                    app.view.render_line(line)
                taken.append(perf_counter() - start)
    return taken

