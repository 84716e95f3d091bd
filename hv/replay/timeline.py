"""Ways through the past of a machine: to the next event, instruction or breakpoint, and to the one before.

All of them find the position of a place first, and then go there (`recording.py`), so it is the same state whichever
way one comes. Instructions are counted only where that matters: behind the exit where a way begins or ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from hv.replay.acts import Recorded
from hv.replay.position import Position, PositionError
from hv.replay.recording import SPACING, Recording
from hv.replay.walk import MANY, Moment, Point, Walk
from hv.trace.bus import Record

Wanted = Callable[[Record], bool]


class Interrupted(Exception):
    """Somebody did not want to wait any longer. The machine stands where it stood; who stood at the end, which has no
    name while more is recorded since, stands at the end."""


class Timeline(Recording):
    """A recording and the ways through it. *interrupted* is asked now and then on a long one."""

    def __init__(self, machine: Recorded, spacing: int = SPACING) -> None:
        super().__init__(machine, spacing)
        self.interrupted: Callable[[], bool] = lambda: False

    # --- events and breakpoints ----------------------------------------------------------------------------

    def forward(self, wanted: Wanted, points: Collection[Point] = (), record: bool = False,
                until_tsc: int | None = None) -> Moment | None:
        """Go on to the next event that is *wanted*, or to where one of *points* is about to be executed.

        None, and the machine is at the end, when neither comes. With *record* the end of what is known is not the end:
        the run goes on, to *until_tsc* at the furthest. Interrupted.
        """
        old = len(self.acts) if self._live else None    # acts from there on are behind the end where it stands
        here = self.here(points)
        if old is not None and not (record and self._records_on(here, until_tsc)):
            self.go_to_end()
            return None

        def behind(moment: Moment) -> bool:
            new = old is not None and moment.record is not None and moment.act >= old
            return (new or _is_behind(moment, here)) and _is_one(moment, wanted)

        if here.instructions:
            walk = self._count_behind(here.exits, behind, points)
            if not walk.missed:
                return self._stand_at(walk)
        number = self.segment(here)
        while number < len(self.checkpoints) - 1 or (record and self._records_on(here, until_tsc)):
            self._may_go_on(here)
            walk = self.walk(number, number + 1, wanted=behind, points=points)
            if not walk.missed:
                if walk.met.point is not None:
                    walk = self._count_behind(walk.met.exits, behind, points)
                return self._stand_at(walk)
            number += 1
        self.go_to_end()
        return None

    def backward(self, wanted: Wanted, points: Collection[Point] = ()) -> Moment | None:
        """Go back to the last event before here that is *wanted*, or to where one of *points* was about to be executed.

        None, and the machine is at the beginning, if neither was. Interrupted.
        """
        here, found = self.here(points), list[Moment]()

        def note(moment: Moment) -> bool:
            if _is_before(moment, here) and _is_one(moment, wanted):
                found[:] = [moment]
            return moment.exits > here.exits

        def note_earlier(moment: Moment) -> bool:
            return (moment.exits >= here.exits and here.instructions > 0) or note(moment)

        if here.instructions:
            self._count_behind(here.exits, note, points)
        for number in range(self.segment(here), -1, -1):
            if found:
                break
            self._may_go_on(here)
            self.walk(number, number + 1, wanted=note_earlier, points=points)
            if found and found[0].point is not None:
                self._count_behind(found[0].exits, note, points)
        if not found:
            self.restore(self.checkpoints[0])
            return None
        return self._stand_at(self.walk_to(found[0].position), found[0])

    def _stand_at(self, walk: Walk, moment: Moment | None = None) -> Moment:
        """The machine stands at what *walk* came to."""
        moment = moment or walk.met
        if moment.point is not None or moment.executed:     # counting starts blocks anew: the way without it
            walk = self.walk_to(moment.position)
            assert not walk.missed, f"the way to {moment.position} is another one than it was: {walk.missed}"
        self.position = moment.position
        return moment

    def hear_behind(self, exits: int, hear: Callable[[Moment], object]) -> int:
        """Run again what follows exit *exits*: *hear* gets it and each event behind it, with the instructions before.

        How many instructions there are until the next exit. The machine stands there, to be looked at.
        """
        def heard(moment: Moment) -> bool:
            if moment.exits == exits:
                hear(moment)
            return False

        return self._count_behind(exits, heard, ()).executed

    def _count_behind(self, exits: int, wanted: Callable[[Moment], bool], points: Collection[Point]) -> Walk:
        """The way through what follows an exit, up to the next one, with its instructions counted."""
        return self.walk(self.segment(Position(exits)), len(self.checkpoints) - 1, wanted=wanted, points=points,
                          count_from=exits, last=exits + 1)

    def here(self, points: Collection[Point]) -> Position:
        """Where it stands: the end is behind all that was told; among instructions only if that matters."""
        if not self._live:
            return self.position
        return self._exact_end() if points else Position(self.end.exits + 1)

    def _exact_end(self) -> Position:
        end = self.end
        return Position(end.exits, self._count_behind(end.exits, lambda moment: False, ()).executed + 1)

    # --- instructions --------------------------------------------------------------------------------------

    def step(self, n: int = 1, record: bool = False) -> bool:
        """Go on by *n* instructions of whoever runs; one that exits is one, with all that is done about it.

        False, and the machine is at the end, if fewer come; with *record* the run goes on there. Interrupted.
        """
        here, live = self.position, self._live
        if live:
            here = self._exact_end()
        target = Position(here.exits, here.instructions + n)
        if here == Position():
            target = Position(0, 1 + n)         # the first one is about to be executed
        elif here.events:
            target = Position(here.exits, self._behind_event(here).instructions + n - 1)
        if live and not (record and self._records_on(here)):
            self.go_to_end()
            return False
        while (walk := self.walk_to(target)).missed:
            self._may_go_on(here)
            if not walk.ran_out:
                target = Position(target.exits + 1, target.instructions - walk.executed)
            elif not (record and self._records_on(here)):
                self.go_to_end()
                return False
        return True

    def step_back(self, n: int = 1) -> bool:
        """Go back by *n* instructions; before the first one behind an exit comes that exit, before it is handled.

        False, and the machine is at the beginning, if there were fewer. Interrupted.
        """
        here = start = self._exact_end() if self._live else self.position
        if here.events:
            here = self._behind_event(here)
        left = n
        while left > here.instructions and here.exits:
            self._may_go_on(start)
            left -= here.instructions + 1
            executed = self.walk_to(Position(here.exits - 1, MANY)).executed
            here = Position(here.exits - 1, executed)
        if here.exits or here.instructions - left > 1:
            self.go(Position(here.exits, here.instructions - left))
            return True
        self.go(Position())
        return left < here.instructions

    def _behind_event(self, here: Position) -> Position:
        """The instruction that follows the event at *here*."""
        walk = self._count_behind(here.exits, lambda moment: moment.record is not None
                                  and moment.events == here.events, ())
        return Position(here.exits, walk.executed + 1)

    # --- the way goes on -----------------------------------------------------------------------------------

    def _records_on(self, here: Position, until_tsc: int | None = None) -> bool:
        """Record another stretch at the end; False when nothing happens any more."""
        self._may_go_on(here)
        self.go_to_end()
        before = self.machine.clock.tsc
        if self._stretch(until_tsc, self.interrupted) == "paused":
            self._give_up(here)
        return self.machine.clock.tsc > before

    def _may_go_on(self, here: Position) -> None:
        if self.interrupted():
            self._give_up(here)

    def _give_up(self, here: Position) -> None:
        try:
            self.go(here)
        except PositionError:
            self.go_to_end()
        raise Interrupted


def _is_one(moment: Moment, wanted: Wanted) -> bool:
    return moment.record is None or wanted(moment.record)


def _is_behind(moment: Moment, here: Position) -> bool:
    if moment.exits != here.exits:
        return moment.exits > here.exits
    if here.instructions:
        return moment.executed >= here.instructions
    return moment.events > here.events or (moment.point is not None and moment.events == here.events)


def _is_before(moment: Moment, here: Position) -> bool:
    if moment.exits != here.exits:
        return moment.exits < here.exits
    if here.instructions:
        return moment.executed < here.instructions - (moment.point is not None)
    return moment.events < here.events
