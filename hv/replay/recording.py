"""What a machine did, kept so that any moment of it can be had again.

A run is recorded by checkpoints between its turns; nothing is added to an exit. To go to a place, the machine is put
back to the last checkpoint before it and does the same acts again (`acts.py`), this time with a listener that counts
exits and events and stops there (`walk.py`). So forward and back are the same: nobody undoes anything.

What is shown at a place is the machine as it stands when everything was stopped at once, in the middle of an exit too.
It is there to be looked at: whatever comes next begins at a checkpoint again. Who changes something there takes the run
up from that place (`take_up`): it stops there for good, and what was recorded behind it is forgotten.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from hv.hypervisor.partitions.partition import Partition
from hv.replay.acts import Act, Changed, Cut, Ran, Recorded
from hv.replay.changes import AnyChange
from hv.replay.checkpoint import Checkpoint
from hv.replay.pages import PageHistory
from hv.replay.position import Position, PositionError
from hv.replay.refusal import ChangeRefused
from hv.replay.walk import Moment, Walk, forget

# When the next checkpoint is due: after as much work as takes some 50 ms to do again, while somebody listens.
SPACING = 35_000                # units of a microsecond of the host, roughly
MOST_CHECKPOINTS = 256          # of a longer run every other one is dropped, and they stand further apart
_EXIT, _TICKS = 3, 4000         # an exit takes so many of them, one is so many ticks of work
_LOOK = 40                      # so many ticks of virtual time for each unit, until that is asked again


class Recording:
    """What *machine* does from now on; it must not run by itself any more. ValueError for a parallel one."""

    def __init__(self, machine: Recorded, spacing: int = SPACING) -> None:
        if machine.parallel:
            raise ValueError("partitions that run in parallel never run the same way twice: record without --parallel")
        self.machine, self.spacing = machine, spacing
        machine.factory.keeps_engines = True
        self.pages = PageHistory(machine.memory)
        self._first_exit = machine.factory.exits
        self.acts: list[Act] = []           # all that was done, from the first checkpoint on
        self.checkpoints: list[Checkpoint] = []
        self.position = Position()
        self.on_restore: Callable[[], None] = lambda: None     # what listeners heard so far is of another way
        self._marked = 0                    # the work until there
        self._live = True                   # the machine stands where the last checkpoint was made
        self._mark()

    # --- recording ---------------------------------------------------------------------------------------

    def record(self, until_tsc: int | None = None, paused: Callable[[], bool] = lambda: False) -> Position:
        """Run on from the end of what is known, until the run ends, the clock reaches *until_tsc* or *paused*.

        The position is the new end.
        """
        self.go_to_end()
        while self._stretch(until_tsc, paused) == "due":
            pass
        return self.position

    def attend(self, until_tsc: int | None, paused: Callable[[], bool]) -> None:
        """As `record`, for somebody who comes back a hundred times a second, by `attend` or `intervene` alone, until
        `settle`: there is a checkpoint only when one is due."""
        while self._stretch(until_tsc, paused, attended=True) == "due":
            pass

    def intervene(self, change: AnyChange) -> None:
        """As `change`, between two calls of `attend`. ChangeRefused leaves a machine that was changed in part."""
        change.apply(self.machine)
        self._went_on(Changed(change))

    def settle(self) -> None:
        """Nobody attends any more."""
        self._mark()
        self.position = self.end

    def _went_on(self, act: Act) -> None:
        """*act* was done, and more is to come at once. Engines forget, as behind each act."""
        if self._work() - self._marked >= self.spacing:
            self._did(act)
            return
        self.acts.append(act)
        forget(self.machine)

    def play(self, act: Act, ask: Callable[[], None] = lambda: None) -> None:
        """Do *act* at the end. *ask* is called between turns, and may raise. ChangeRefused,
        and ValueError when the run ends before the place where it was stopped."""
        self.go_to_end()
        self._live = False
        act.do(self.machine, ask)
        self._did(act)

    def _stretch(self, until_tsc: int | None, paused: Callable[[], bool], attended: bool = False) -> str:
        """Run on and make a checkpoint, *attended* when it is due: "due", or "paused", or nothing because the run ended
        or the time was over."""
        machine, stopped, turns = self.machine, "", 0
        due = (self._marked if attended else self._work()) + self.spacing
        look = machine.clock.tsc + self.spacing * _LOOK

        def stops() -> bool:
            nonlocal look, stopped, turns
            if stopped:
                return True
            if paused():
                stopped = "paused"
            elif machine.clock.tsc >= look:
                look = machine.clock.tsc + self.spacing * _LOOK
                stopped = "due" if self._work() >= due else ""
            turns += not stopped
            return bool(stopped)

        self._live = False                      # an error on the way leaves the machine where nobody can go on
        machine.run(until_tsc, stops)
        (self._went_on if attended else self._did)(Ran(turns, until_tsc))
        return stopped

    def _did(self, act: Act) -> None:
        """*act* was done, at the end of all that was."""
        self.acts.append(act)
        self._mark()
        self.position = self.end

    @property
    def live(self) -> bool:
        """The machine stands at the end of what is known, and may be changed."""
        return self._live

    @property
    def end(self) -> Position:
        """The last exit that is known."""
        return Position(self.checkpoints[-1].exits)

    def exits(self) -> int:
        """VM exits until here, as the machine stands."""
        return self.machine.factory.exits - self._first_exit

    def _work(self) -> int:
        """Microseconds of the host, roughly, that it took to come here."""
        ran = sum(vp.ran for partition in self._children() for vp in partition.vps.values())
        return self.exits() * _EXIT + ran // _TICKS

    def _children(self) -> list[Partition]:
        return [partition for partition in self.machine.hypervisor.partitions.values() if partition.runs_code]

    def _mark(self) -> None:
        self.checkpoints.append(Checkpoint(self.machine, self.pages, self.exits(), len(self.acts)))
        self._live, self._marked = True, self._work()
        if len(self.checkpoints) > MOST_CHECKPOINTS:
            self.spacing *= 2
            self._drop(self.checkpoints[1:-1:2])

    def _drop(self, gone: list[Checkpoint]) -> None:
        for checkpoint in gone:
            self.pages.drop(checkpoint.number)
            self.checkpoints.remove(checkpoint)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put the machine back to *checkpoint*."""
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
            self.restore(self.checkpoints[0])
            return
        missed = self.walk_to(position).missed
        if missed:
            if live:
                self.go_to_end()
            else:
                self.go(here)
            raise PositionError(f"there is no {position}: {missed}")

    def go_to_end(self) -> None:
        """The machine stands behind all that is known, and may run on."""
        self.restore(self.checkpoints[-1])

    def walk_to(self, position: Position) -> Walk:
        """Let the machine stand at *position*, unless the walk has `missed` it."""
        walk = self.walk(max(0, self.segment(position)), len(self.checkpoints) - 1, position)
        if walk.ran_out and position.exits == self.end.exits and position.instructions == walk.executed + 1 \
                and self._ends_at_instruction():
            self.go_to_end()
            walk.missed, walk.ran_out = "", False
        self.position = position
        return walk

    def _ends_at_instruction(self) -> bool:
        """The run was stopped before an instruction, and nobody has run since."""
        last = next((act for act in reversed(self.acts) if not isinstance(act, Changed)), None)
        return isinstance(last, Cut) and last.instructions > 0

    def walk(self, first: int, end: int, target: Position | None = None,
              wanted: Callable[[Moment], bool] | None = None, **rest: Any) -> Walk:
        """From checkpoint number *first* to number *end*, at the furthest; *rest* is `Walk`'s."""
        begin = self.checkpoints[first]
        self.restore(begin)
        self._live = False
        walk = Walk(self.machine, begin.exits, target, wanted, **rest)
        walk.run(self.acts, begin.acts, self.checkpoints[end].acts)
        return walk

    def segment(self, position: Position) -> int:
        """Number of the last checkpoint from which *position* is still to come, and another one comes after; -1 while
        there is only one."""
        before = bisect_left([point.exits for point in self.checkpoints], position.exits) - 1
        return min(max(0, before), len(self.checkpoints) - 2)

    # --- another future ------------------------------------------------------------------------------------

    def take_up(self) -> int:
        """Let the run go on from where the machine stands; how many exits are forgotten, which were recorded behind it.

        Of an exit the handling comes to its end, and what it asks of the parent waits.
        """
        if self._live:
            return 0
        before, here = self.end.exits, self.position
        if here == Position():
            self._forget_behind(0)
            self._redo(0)
        else:
            walk = self.walk_to(here)
            if self._live:
                return 0
            self._forget_behind(walk.act)
            self._redo(walk.act)
            cut = walk.cut()
            if cut is not None:
                self.play(cut)
        self.position = here if here.instructions or not here.exits else Position(self.end.exits, 1)
        return before - self.end.exits

    def change(self, change: AnyChange) -> None:
        """Carry out *change* at the end, where the machine stands; ChangeRefused, and nothing was changed."""
        self.go_to_end()        # without what somebody changed there in another way
        try:
            change.apply(self.machine)
        except ChangeRefused:
            self.go_to_end()    # of a list, what came before the refused element was done
            raise
        self._did(Changed(change))

    def _forget_behind(self, act: int) -> None:
        """What was done from number *act* on never was."""
        self._drop([checkpoint for checkpoint in self.checkpoints if checkpoint.acts > act])

    def _redo(self, act: int) -> None:
        """Stand before number *act*, the end of all that was done."""
        last = self.checkpoints[-1]
        self.restore(last)
        for each in self.acts[last.acts:act]:
            each.do(self.machine)
            forget(self.machine)
        del self.acts[act:]
        if len(self.acts) > last.acts:
            self._mark()

    def close(self) -> None:
        """Nobody will ask for the past any more: the machine is as any other."""
        self.checkpoints.clear()
        self.machine.factory.keeps_engines = False

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"position": str(self.position), "end": str(self.end), "bytes_kept": self.pages.bytes_kept,
                "checkpoints": [point.inspect() for point in self.checkpoints]}
