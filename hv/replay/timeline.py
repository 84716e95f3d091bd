"""The past of a machine, and any moment of it again.

A run is recorded by checkpoints between its turns; nothing is added to an exit. To go to a place, the machine is put
back to the last checkpoint before it and runs on, this time with a listener that counts exits and events and stops
there. So forward and back are the same: nobody undoes anything.

What is shown at a place is the machine as it stands when everything was stopped at once, in the middle of an exit too.
It is there to be looked at: whatever comes next begins at a checkpoint again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from hv.hypervisor.partitions.partition import Partition
from hv.platform import Machine
from hv.replay.checkpoint import Checkpoint
from hv.replay.pages import PageHistory
from hv.replay.position import Position, PositionError
from hv.root_machine import RootMachine
from hv.trace.bus import Record
from hv.vmx.exit import VmExit

Recorded = Machine | RootMachine
Wanted = Callable[[Record], bool]

# When the next checkpoint is due: after as much work as takes some 50 ms to do again, while somebody listens.
SPACING = 35_000                # units of a microsecond of the host, roughly
_EXIT, _TICKS = 3, 4000         # an exit takes so many of them, one is so many ticks of work
_LOOK = 40                      # so many ticks of virtual time for each unit, until that is asked again


class _Reached(BaseException):      # no Exception: nobody on the way up shall take it for an error of its own
    pass


class Timeline:
    """The timeline of *machine* from now on; it must not run by itself any more. ValueError for a parallel one."""

    def __init__(self, machine: Recorded, spacing: int = SPACING) -> None:
        if machine.parallel:
            raise ValueError("partitions that run in parallel never run the same way twice: record without --parallel")
        self.machine, self.spacing = machine, spacing
        machine.factory.keeps_engines = True
        self.pages = PageHistory(machine.memory)
        self._first_exit = machine.factory.exits
        self.checkpoints: list[Checkpoint] = []
        self.position = Position()
        self.on_restore: Callable[[], None] = lambda: None     # what listeners heard so far is of another way
        self._live = True                   # the machine stands where the last checkpoint was made
        self._mark()

    # --- recording ---------------------------------------------------------------------------------------

    def record(self, until_tsc: int | None = None, paused: Callable[[], bool] = lambda: False) -> Position:
        """Run on from the end of what is known, until the run ends, the clock reaches *until_tsc* or *paused*.

        The position is the new end.
        """
        if not self._live:
            self.go_to_end()
        machine, ended = self.machine, False
        while not ended:
            due = self._work() + self.spacing
            look = machine.clock.tsc + self.spacing * _LOOK
            stopped = ""

            def stops(due: int = due) -> bool:
                nonlocal look, stopped
                if stopped:
                    return True
                if paused():
                    stopped = "paused"
                elif machine.clock.tsc >= look:
                    look = machine.clock.tsc + self.spacing * _LOOK
                    stopped = "due" if self._work() >= due else ""
                return bool(stopped)

            machine.run(until_tsc, stops)
            self._mark()
            ended = stopped != "due"
        self.position = Position(self.checkpoints[-1].exits)
        return self.position

    @property
    def end(self) -> Position:
        """The last exit that is known."""
        return Position(self.checkpoints[-1].exits)

    def _exits(self) -> int:
        return self.machine.factory.exits - self._first_exit

    def _work(self) -> int:
        """Microseconds of the host, roughly, that it took to come here."""
        ran = sum(vp.ran for partition in self._children() for vp in partition.vps.values())
        return self._exits() * _EXIT + ran // _TICKS

    def _children(self) -> list[Partition]:
        return [partition for partition in self.machine.hypervisor.partitions.values() if partition.runs_code]

    def _mark(self) -> None:
        self.checkpoints.append(Checkpoint(self.machine, self.pages, self._exits()))
        self._live = True

    def _restore(self, checkpoint: Checkpoint) -> None:
        checkpoint.restore(self.machine, self.pages)
        self.on_restore()
        self._live = checkpoint is self.checkpoints[-1]
        self.position = Position(checkpoint.exits)

    # --- going to a place --------------------------------------------------------------------------------

    def go(self, position: Position) -> None:
        """Let the machine stand at *position*; PositionError when the recorded run does not have it."""
        if position.exits > self.end.exits:
            raise PositionError(f"{position} is not recorded: the run is known up to {self.end}")
        here, live = self.position, self._live
        if position == Position():
            self._restore(self.checkpoints[0])
            return
        missed = self._walk_to(position).missed
        if missed:
            if live:
                self.go_to_end()
            else:
                self.go(here)
            raise PositionError(f"there is no {position}: {missed}")

    def go_to_end(self) -> None:
        """The machine stands behind all that is known, and may run on."""
        self._restore(self.checkpoints[-1])

    def forward(self, wanted: Wanted) -> Record | None:
        """Go on to the next event that is *wanted*; None, and the machine is at the end, when none comes."""
        here = self._here
        for number in range(self._segment(here), len(self.checkpoints) - 1):
            self._restore(self.checkpoints[number])
            walk = _Walk(self, None, lambda record, at: at > here and wanted(record))
            if walk.run(self.checkpoints[number + 1]):
                self.position = walk.at
                return walk.record
        self.go_to_end()
        return None

    def backward(self, wanted: Wanted) -> Record | None:
        """Go back to the last event before here that is *wanted*; None, and the machine is at the beginning, if none
        was."""
        here = self._here
        for number in range(self._segment(here), -1, -1):
            found: list[Position] = []

            def note(record: Record, at: Position, found: list[Position] = found) -> bool:
                if at < here and wanted(record):
                    found.append(at)
                return at >= here

            self._restore(self.checkpoints[number])
            _Walk(self, None, note).run(self.checkpoints[number + 1])
            if found:
                return self._walk_to(found[-1]).record
        self._restore(self.checkpoints[0])
        return None

    def _walk_to(self, position: Position) -> _Walk:
        """Let the machine stand at *position*, unless the walk has `missed` it."""
        self._restore(self.checkpoints[max(0, self._segment(position))])
        walk = _Walk(self, position)
        walk.run(self.checkpoints[-1])
        self.position = position
        return walk

    @property
    def _here(self) -> Position:
        """Where it stands among the events: the end is behind all of them."""
        return Position(self.position.exits + 1) if self._live else self.position

    def _segment(self, position: Position) -> int:
        """Number of the last checkpoint from which *position* is still to come, and another one comes after; -1 while
        there is only one."""
        before = bisect_left([point.exits for point in self.checkpoints], position.exits) - 1
        return min(max(0, before), len(self.checkpoints) - 2)

    def close(self) -> None:
        """Nobody will ask for the past any more: the machine is as any other."""
        self.checkpoints.clear()
        self.machine.factory.keeps_engines = False

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"position": str(self.position), "end": str(self.end), "bytes_kept": self.pages.bytes_kept,
                "checkpoints": [point.inspect() for point in self.checkpoints]}


class _Walk:
    """One way from a checkpoint: to *target*, or to the first event for which *wanted* is true."""

    def __init__(self, timeline: Timeline, target: Position | None,
                 wanted: Callable[[Record, Position], bool] = lambda record, at: False) -> None:
        self._machine, self._target, self._wanted = timeline.machine, target, wanted
        self._exits, self._events, self._last = timeline.position.exits, 0, timeline.end.exits
        self._near = target.exits if target is not None else 0      # before that exit nothing can be of interest
        self._counts = False
        self.record: Record | None = None
        self.missed = ""

    @property
    def at(self) -> Position:
        """Of the event that was told last."""
        return Position(self._exits, 0, self._events)

    def run(self, end: Checkpoint) -> bool:
        """Walk, to *end* at the furthest; False when what is looked for did not come."""
        machine = self._machine
        machine.trace.listen(self._hear)
        try:
            if self._target is not None and self._target.instructions and not self._target.exits:
                self._count(self._target.instructions)
            machine.run(None, lambda: machine.clock.tsc >= end.tsc)
        except _Reached:
            return not self.missed
        finally:
            machine.trace.unlisten(self._hear)
            for engine in machine.memory.engines:
                engine.on_countdown = lambda: None
        self.missed = "the recording ends before"
        return False

    def _hear(self, record: Record) -> None:
        if type(record.event) is VmExit:
            self._exits, self._events = self._exits + 1, 0
            if self._exits > self._last:        # the turn goes on behind the end of the recording
                self.missed = "the recording ends before"
                raise _Reached
        elif self._exits < self._near:
            return                          # most events of a way to a known place
        else:
            self._events += 1
        if self._exits < self._near:
            return
        self.record = record
        target = self._target
        if target is None:
            if self._wanted(record, self.at):
                raise _Reached
        elif self._counts and self._exits != target.exits:
            left = max(engine.countdown.left for engine in self._machine.memory.engines)
            self.missed = f"exit {self._exits} comes after {target.instructions - left} instructions"
            raise _Reached
        elif self.at == target:
            raise _Reached
        elif target.instructions and self.at == (target.exits, 0, 0):
            self._count(target.instructions)
        elif self._exits > target.exits:
            self.missed = "fewer events follow that exit"
            raise _Reached

    def _count(self, instructions: int) -> None:
        self._counts = True
        for engine in self._machine.memory.engines:
            engine.on_countdown = self._counted
            engine.countdown.begin(instructions)

    def _counted(self) -> None:
        raise _Reached
