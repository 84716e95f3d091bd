"""A way through what was recorded: the acts again, with a listener that stops where it is told to.

It stops by an exception through the exit, or by the countdown in the middle of a block: the machine that stands there
is for looking, and is put back to a checkpoint before it goes anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hv.machine.engine import Engine
from hv.replay.acts import Act, Cut, Ran, Recorded
from hv.replay.position import Position
from hv.trace.bus import Record
from hv.vmx.exit import VmExit

Wanted = Callable[[Record, Position], bool]
_ON = Ran(2 ** 61)          # on and on, until the walk stops


class _Reached(BaseException):      # no Exception: nobody on the way up shall take it for an error of its own
    pass


class Walk:
    """One way, from a place where *exits* exits have been: to *target*, or to the first event that is *wanted*."""

    def __init__(self, machine: Recorded, exits: int, target: Position | None = None,
                 wanted: Wanted = lambda record, at: False) -> None:
        self._machine, self._target, self._wanted = machine, target, wanted
        self._exits, self._events = exits, 0
        self._near = target.exits if target is not None else 0      # before that exit nothing can be of interest
        self._left: dict[Engine, int] = {}      # at the exit of the target, of its instructions
        self._held_back = 0                     # they are counted only behind the act
        self.act, self._begun = 0, Position(exits)      # the act that goes on; where it began, and what was left then
        self.record: Record | None = None
        self.missed = ""

    @property
    def at(self) -> Position:
        """Of the event that was told last."""
        return Position(self._exits, 0, self._events)

    def run(self, acts: Sequence[Act], first: int, end: int) -> bool:
        """Walk through *acts* from number *first* to before *end*; False when what is looked for did not come."""
        engines = self._machine.memory.engines
        self._machine.trace.listen(self._hear)
        try:
            if self._target is not None and self._target.instructions and not self._target.exits:
                self._left = dict.fromkeys(engines, self._target.instructions)
            for number in range(first, end):
                self.act = number
                self._begun = Position(self._exits, max(self._left.values(), default=0), self._events)
                self._do(acts[number])
        except _Reached:
            return not self.missed
        finally:
            self._machine.trace.unlisten(self._hear)
            for engine in engines:
                engine.on_countdown = lambda: None
        self.missed = "the recording ends before"
        return False

    def cut(self) -> Cut | None:
        """What comes to the target from where `act` begins; None when that is the same place."""
        target, begun = self._target, self._begun
        assert target is not None, "a way to a place"
        if target.exits > begun.exits:
            return Cut(target.exits - begun.exits, max(0, target.instructions - 1), target.events)
        cut = Cut(0, begun.instructions - 1, 0) if target.instructions else Cut(0, 0, target.events - begun.events)
        return cut if cut.instructions or cut.events else None

    # --- acts ----------------------------------------------------------------------------------------------

    def _do(self, act: Act) -> None:
        self._held_back = 0
        if isinstance(act, Cut) and act.instructions and self._target is not None:
            act = self._shared(act, self._target)
        if self._left and not self._held_back:
            self._count(self._left)
        act.do(self._machine)
        counted = {engine: engine.countdown.left for engine in self._machine.memory.engines if engine.countdown.counts}
        forget(self._machine)
        if self._held_back:
            assert isinstance(act, Cut), "that counts itself"
            self._left = {engine: self._held_back - _executed(act, left) for engine, left in counted.items()}
        elif self._left:
            self._left = counted

    def _shared(self, cut: Cut, target: Position) -> Act:
        """*cut* counts instructions itself, behind the exit of the *target*: the way to there without it, if the
        target comes before; if it comes later, those of the act are taken off."""
        if self._exits + cut.exits != target.exits or not target.instructions:
            return cut
        wanted = target.instructions if cut.exits else max(self._left.values())
        if wanted <= cut.instructions:
            return _ON
        self._held_back = wanted
        return cut

    # --- events --------------------------------------------------------------------------------------------

    def _hear(self, record: Record) -> None:
        if type(record.event) is VmExit:
            self._exits, self._events = self._exits + 1, 0
        elif self._exits < self._near:
            return                          # most events of a way to a known place
        else:
            self._events += 1
        if self._exits >= self._near:
            self.record = record
            self._look(record)

    def _look(self, record: Record) -> None:
        target = self._target
        if target is None:
            if self._wanted(record, self.at):
                raise _Reached
        elif self._exits > target.exits:
            self.missed = self._why_missed(target)
            raise _Reached
        elif self.at == target:
            raise _Reached
        elif target.instructions and self.at == (target.exits, 0, 0) and not self._held_back:
            self._count(dict.fromkeys(self._machine.memory.engines, target.instructions))

    def _why_missed(self, target: Position) -> str:
        if not target.instructions:
            return "fewer events follow that exit"
        left = max(engine.countdown.left for engine in self._machine.memory.engines)
        return f"exit {self._exits} comes after {target.instructions - left} instructions"

    # --- instructions --------------------------------------------------------------------------------------

    def _count(self, left: dict[Engine, int]) -> None:
        self._left = left
        for engine, instructions in left.items():
            engine.on_countdown = self._counted
            engine.countdown.begin(instructions)

    def _counted(self) -> None:
        raise _Reached


def forget(machine: Recorded) -> None:
    """Engines forget what they have cached, as they do after each act."""
    for engine in machine.memory.engines:
        engine.forget()


def _executed(cut: Cut, left: int) -> int:
    """How many instructions an engine has executed of those that *cut* counted: it stops before the last one."""
    return cut.instructions if not left else cut.instructions + 1 - left
