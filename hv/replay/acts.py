"""What was done to a machine since its recording began, as data: who does the same again has the same run.

Nothing of a run comes from outside but this. Engines forget what they have cached after each act (`walk.py`), for
what they have decides where blocks of code end, and with that the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from hv.machine.countdown import begin_together
from hv.platform import Machine
from hv.replay.changes import AnyChange
from hv.replay.watching import Watch
from hv.root_machine import RootMachine
from hv.trace.bus import Record
from hv.vmx.exit import VmExit

Recorded = Machine | RootMachine
Ask = Callable[[], None]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2 ** 62)]


def _nobody() -> None:
    pass


class Ran(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ran", tag_field="act"):
    """Everybody ran: for *turns* turns of the scheduler, and at the longest until the clock reached *until_tsc*."""

    turns: Count
    until_tsc: Count | None = None

    def do(self, machine: Recorded, ask: Ask = _nobody) -> None:
        """Do it again. *ask* is called between turns, and may raise."""
        turns = 0

        def over() -> bool:
            nonlocal turns
            ask()
            turns += 1
            return turns > self.turns

        machine.run(self.until_tsc, over)


class Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cut", tag_field="act"):
    """Everybody ran, until *exits* more VM exits had come, and then *events* more events, or until instruction number
    *instructions* (from 1) behind that was about to be executed.

    The VP that ran stands behind what it was about, of an exit behind its handling, and gives up its turn.
    """

    exits: Count = 0
    instructions: Count = 0
    events: Count = 0

    def do(self, machine: Recorded, ask: Ask = _nobody) -> None:
        """Do it again; ValueError when that place does not come."""
        _Cutting(machine, self, ask).run()


class Changed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="changed", tag_field="act"):
    """Somebody changed something from outside."""

    change: AnyChange

    def do(self, machine: Recorded, ask: Ask = _nobody) -> None:
        """Do it again; ChangeRefused."""
        self.change.apply(machine)


Act = Ran | Cut | Changed


class _Cutting:
    """The way to the place where the machine is stopped."""

    def __init__(self, machine: Recorded, cut: Cut, ask: Ask) -> None:
        self._machine, self._cut, self._ask = machine, cut, ask
        self._exits = self._events = 0
        self._watch = Watch(machine, self._is_there)

    def run(self) -> None:
        engines = self._machine.memory.engines
        with self._watch as watch:
            try:
                if not self._cut.exits:
                    self._count()
                self._machine.run(None, self._is_over)
            finally:
                for engine in engines:
                    engine.on_countdown = lambda: None
        if not watch.stopped:
            raise ValueError(f"the run ends before {self._cut}")

    def _is_over(self) -> bool:
        self._ask()
        return self._watch.stopped

    def _is_there(self, record: Record) -> bool:
        cut = self._cut
        if type(record.event) is VmExit:
            self._exits, self._events = self._exits + 1, 0
            if self._exits == cut.exits:
                self._count()
        else:
            self._events += 1
        return not cut.instructions and (self._exits, self._events) == (cut.exits, cut.events)

    def _count(self) -> None:
        """What follows is counted, where that is wanted: the countdown stops before an instruction."""
        engines = self._machine.memory.engines
        if self._cut.instructions:
            for engine in engines:
                engine.on_countdown = self._watch.stop
            begin_together((engine.countdown for engine in engines), self._cut.instructions)
