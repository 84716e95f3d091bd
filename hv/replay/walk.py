"""A way through what was recorded: the acts again, with a listener that stops where it is told to.

It stops by an exception through the exit, or by the countdown in the middle of a block: the machine that stands there
is for looking, and is put back to a checkpoint before it goes anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from hv.machine.countdown import begin_together
from hv.machine.engine import Engine
from hv.machine.state import ProcessorState
from hv.replay.acts import Act, Cut, Ran, Recorded
from hv.replay.position import Position
from hv.trace.bus import Record
from hv.vmx.exit import VmExit

_ON = Ran(2 ** 61)          # on and on, until the walk stops
MANY = 2 ** 62              # instructions: more than any way has


class Point(NamedTuple):
    """The instruction at linear address *gva* on *engine*; maybe only of the VP of *state*, and with RSP not below."""

    engine: Engine
    gva: int
    state: ProcessorState | None = None
    least_rsp: int = 0


class Moment(NamedTuple):
    """An event that was told, or a point that is about to be executed; instructions only where they are counted."""

    exits: int
    executed: int                   # instructions since the exit
    events: int                     # since the exit
    act: int                        # the one that goes on
    record: Record | None = None
    point: Point | None = None

    @property
    def position(self) -> Position:
        """As it is written."""
        return Position(self.exits, 0, self.events) if self.record is not None else Position(self.exits,
                                                                                             self.executed + 1)


class _Reached(BaseException):      # no Exception: nobody on the way up shall take it for an error of its own
    pass


class Walk:
    """One way, from a place where *exits* exits have been: to *target*, or to the first moment that is *wanted*.

    Moments are events and *points*; from exit *count_from* on their instructions are counted. It ends before exit
    *last*.
    """

    def __init__(self, machine: Recorded, exits: int, target: Position | None = None,
                 wanted: Callable[[Moment], bool] | None = None, points: Collection[Point] = (),
                 count_from: int | None = None, last: int | None = None) -> None:
        self._machine, self._target, self._wanted, self._points = machine, target, wanted, points
        self._exits, self._events = exits, 0
        self._near = target.exits if target is not None else count_from or 0    # before, nothing can be of interest
        self._counts_at = count_from if target is None else target.exits if target.instructions else None
        self._last = last
        self._left = 0                          # of the instructions that are counted
        self._held_back = 0                     # before an act that counts itself
        self._offset = 0                        # what is left behind it, where that one stops
        self.act, self._begun = 0, Position(exits)      # the act that goes on; where it began, and what was left then
        self.moment: Moment | None = None       # the last one
        self.missed, self.ran_out = "", False

    @property
    def met(self) -> Moment:
        """What it came to."""
        assert self.moment is not None, "nothing was missed"
        return self.moment

    # --- the way -------------------------------------------------------------------------------------------

    def run(self, acts: Sequence[Act], first: int, end: int) -> None:
        """Walk through *acts* from number *first* to before *end*; `missed` says why what is wanted did not come."""
        with self._looking():
            try:
                if self._counts_at == 0:
                    self._left = self._instructions
                for number in range(first, end):
                    self.act = number
                    self._begun = Position(self._exits, self._left, self._events)
                    self._do(acts[number])
            except _Reached:
                return
        self.missed, self.ran_out = "the recording ends before", True

    @contextmanager
    def _looking(self) -> Iterator[None]:
        engines = list(self._machine.memory.engines)
        places = {(point.engine, point.gva) for point in self._points if point.engine in engines}
        self._machine.trace.listen(self._hear)
        try:
            for engine, gva in places:
                engine.breakpoints.on_met = self._meet_on(engine)
                engine.breakpoints.add(gva)
            yield
        finally:
            self._machine.trace.unlisten(self._hear)
            for engine in engines:
                engine.on_countdown = lambda: None
            for engine, gva in places:
                engine.breakpoints.on_met = None
                engine.breakpoints.remove(gva)

    def cut(self) -> Cut | None:
        """What comes to the target from where `act` begins; None when that is the same place."""
        target, begun = self._target, self._begun
        assert target is not None, "a way to a place"
        if target.exits > begun.exits:
            return Cut(target.exits - begun.exits, target.instructions, target.events)
        cut = Cut(0, begun.instructions, 0) if target.instructions else Cut(0, 0, target.events - begun.events)
        return cut if cut.instructions or cut.events else None

    # --- acts ----------------------------------------------------------------------------------------------

    def _do(self, act: Act) -> None:
        self._held_back = self._offset = 0
        if isinstance(act, Cut) and act.instructions and self._counts_at is not None:
            act = self._shared(act)
        if self._left and not self._held_back:
            self._count(self._left)
        act.do(self._machine)
        self._left = self._offset + 1 if self._held_back else self._counted_down
        forget(self._machine)

    def _shared(self, cut: Cut) -> Act:
        """*cut* counts instructions itself, behind the same exit as this way does: the way without it, if the target
        comes before; if it comes later, those of the act are taken off."""
        if self._exits + cut.exits != self._counts_at:
            return cut
        wanted = self._instructions if cut.exits else self._left
        if wanted < cut.instructions:
            return _ON
        self._held_back, self._offset = wanted, wanted - cut.instructions
        return cut

    # --- moments -------------------------------------------------------------------------------------------

    def _hear(self, record: Record) -> None:
        if type(record.event) is VmExit:
            self._exits, self._events = self._exits + 1, 0
        elif self._exits < self._near:
            return                          # most events of a way to a known place
        else:
            self._events += 1
        if self._exits >= self._near:
            self._look(record)

    def _look(self, record: Record) -> None:
        at, target = (self._exits, self._events), self._target
        if self._exits == self._last or (target is not None and self._exits > target.exits):
            self.missed = self._why_missed()
            raise _Reached
        if at == (self._counts_at, 0) and not self._held_back:
            self._count(self._instructions)
        self._ask(Moment(self._exits, self.executed, self._events, self.act, record))

    def _ask(self, moment: Moment) -> None:
        self.moment, target = moment, self._target
        if target is not None:
            if moment.record is not None and not target.instructions and moment.position == target:
                raise _Reached
        elif self._wanted is not None and self._wanted(moment):
            raise _Reached

    def _meet_on(self, engine: Engine) -> Callable[[ProcessorState, int, int], None]:
        def meet(state: ProcessorState, gva: int, rsp: int) -> None:
            if self._exits < self._near:
                return
            for point in self._points:
                if (point.engine, point.gva) == (engine, gva) and point.state in (None, state) \
                        and rsp >= point.least_rsp:
                    self._ask(Moment(self._exits, self.executed, self._events, self.act, None, point))
        return meet

    def _why_missed(self) -> str:
        if self._counts_at is None:
            return "fewer events follow that exit"
        return f"exit {self._exits} comes after {self.executed} instructions"

    # --- instructions --------------------------------------------------------------------------------------

    @property
    def _instructions(self) -> int:
        """As many are counted, with the one before which the engine stops."""
        return self._target.instructions if self._target is not None else MANY

    @property
    def executed(self) -> int:
        """Instructions since the exit from which they are counted; 0 before."""
        engines = self._machine.memory.engines
        if any(engine.countdown.counts for engine in engines) and (self._left or self._held_back):
            return self._instructions - self._counted_down - self._offset
        return self._instructions - self._left if self._left else 0

    @property
    def _counted_down(self) -> int:
        return max((engine.countdown.left for engine in self._machine.memory.engines), default=0)

    def _count(self, left: int) -> None:
        self._left = left
        engines = self._machine.memory.engines
        for engine in engines:
            engine.on_countdown = self._counted
        begin_together((engine.countdown for engine in engines), left)

    def _counted(self) -> None:
        raise _Reached


def forget(machine: Recorded) -> None:
    """Engines forget what they have cached, as they do after each act."""
    for engine in machine.memory.engines:
        engine.forget()
