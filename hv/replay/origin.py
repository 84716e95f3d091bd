"""Since when is something as it is: the event of a recorded run behind which it became so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from hv.replay.position import Position
from hv.replay.timeline import Timeline
from hv.replay.walk import MANY, Moment

Look = Callable[[], object]


class Origin(NamedTuple):
    """The event behind which something is as it is; *behind*: it became so only later, and before the next event."""

    position: Position
    behind: bool = False


@contextmanager
def elsewhere(timeline: Timeline) -> Iterator[None]:
    """Inside, the machine may be taken anywhere; behind it, it stands where it stood."""
    here, live = timeline.position, timeline.live
    try:
        yield
    finally:
        if live:
            timeline.go_to_end()
        else:
            timeline.go(here)


def origins(timeline: Timeline, looks: Sequence[Look]) -> list[Origin | None]:
    """For each of *looks* the last event before here by which it came to give what it gives here; None when it always
    did. The machine is taken elsewhere.

    The objects that a machine makes while it runs are others each time it runs again, so a look begins at the machine
    or at what was there when the recording began.

    # Simplified: between two checkpoints at which a look gives the same, it is taken to have done so all the time,
    # except between the last two.
    """
    here, now = timeline.here(()), [look() for look in looks]
    last = max(0, timeline.segment(here))
    found = _changes(timeline, looks, now, last, here)
    for number, (look, value) in enumerate(zip(looks, now, strict=True)):
        if found[number] is None:
            before = _last_that_differs(timeline, look, value, last)
            if before is not None:
                (found[number],) = _changes(timeline, [look], [value], before, here)
    return found


def _last_that_differs(timeline: Timeline, look: Look, now: object, last: int) -> int | None:
    """Number of a checkpoint before *last* where *look* gives something else, and gives *now* at the next one.

    In strides that double, then by halves: a long run has hundreds of checkpoints.
    """
    same, stride = last, 1
    while True:
        before = max(0, same - stride)
        if _at(timeline, look, before) != now:
            break
        if before == 0:
            return None
        same, stride = before, 2 * stride
    while same - before > 1:
        middle = (same + before) // 2
        if _at(timeline, look, middle) == now:
            same = middle
        else:
            before = middle
    return before


def _at(timeline: Timeline, look: Look, number: int) -> object:
    timeline.restore(timeline.checkpoints[number])
    return look()


def _changes(timeline: Timeline, looks: Sequence[Look], now: list[object], number: int,
             here: Position) -> list[Origin | None]:
    """The last events from checkpoint *number* to the next one, and before *here*, by which they became *now*."""
    timeline.restore(timeline.checkpoints[number])
    were, found = [look() for look in looks], list[Origin | None]([None] * len(looks))
    last = Position(timeline.checkpoints[number].exits)

    def note(moment: Moment) -> bool:
        nonlocal last
        at = Position(moment.exits, 0, moment.events)
        if at > here:
            return True
        last = at
        for n, look in enumerate(looks):
            value = look()
            if value == now[n] and were[n] != now[n]:
                found[n] = Origin(at)
            were[n] = value
        return False

    timeline.walk(number, min(number + 1, len(timeline.checkpoints) - 1), wanted=note)
    return [Origin(last, True) if were[n] != now[n] else place for n, place in enumerate(found)]


def instruction(timeline: Timeline, exits: int, look: Look, now: object) -> Position | None:
    """The instruction behind exit *exits* by which *look* came to give *now*; None when it did so before the first one.

    It is found by halves, so of a value that changes back and forth it is one of those instructions.
    """
    first, last = 1, timeline.walk_to(Position(exits, MANY)).executed + 1
    while first < last:
        middle = (first + last) // 2
        timeline.go(Position(exits, middle))
        if look() == now:
            last = middle
        else:
            first = middle + 1
    return Position(exits, first - 1) if first > 1 else None
