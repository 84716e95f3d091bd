"""A recorded run played to a place, and what is shown there; with what lies between one VM exit and the next.

Each way to a place costs a few milliseconds, so the moments that were shown, and those near them, are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from hv.hypervisor.vps.vp import VirtualProcessor
from hv.replay.position import Position, PositionError
from hv.replay.walk import Moment as Heard
from hv.step.moment import Moment, Who, take
from hv.step.story import Story

MOST_MOMENTS = 400              # kept: some 30 KiB each
_MANY = 1 << 60                 # instructions: more than there will ever be

END = Position(_MANY)           # behind all that is recorded

Key = tuple[Position, Who | None, str]


class Stretch(NamedTuple):
    """What follows a VM exit: *instructions* that somebody ran until the next one; of each event how many of them
    were begun before it."""

    instructions: int
    before: tuple[int, ...]


class Reel:
    """Plays *story*."""

    def __init__(self, story: Story) -> None:
        self.story, self.timeline = story, story.timeline
        self._moments: OrderedDict[Key, Moment] = OrderedDict()
        self._stretches: dict[int, Stretch] = {}

    # --- moments ---------------------------------------------------------------------------------------

    def knows(self, position: Position, who: Who | None, look: str) -> bool:
        """The moment is at hand."""
        return (position, who, look) in self._moments

    def moment(self, position: Position, who: Who | None = None, look: str = "rsp") -> Moment:
        """What there is at *position*, for the VP *who*, or for the one that runs there; PositionError.

        *look* is an address in memory, as people write one.
        """
        key = position, who, look
        found = self._moments.get(key)
        if found is None:
            if position == END:
                self.timeline.go_to_end()
            else:
                self.timeline.go(position)
            found = self.take(position, who, look)
            self._moments[key] = found
        self._moments.move_to_end(key)
        while len(self._moments) > MOST_MOMENTS:
            self._moments.popitem(last=False)
        return found

    def passes(self, position: Position, who: Who | None, look: str) -> None:
        """The machine is at *position* on its way: the moment is taken down, if it is not at hand."""
        if not self.knows(position, who, look):
            self._moments[position, who, look] = self.take(position, who, look)

    def take(self, position: Position, who: Who | None, look: str) -> Moment:
        """The machine as it stands."""
        machine = self.story.machine
        runs = self._who(machine.trace.place)
        seen = who or self._followed(position)
        return take(machine, position, seen, runs, self.vp(seen), self.story.images.get(seen.vm), self.story.names,
                    look)

    def _who(self, place: tuple[int, int]) -> Who:
        partition, vp = place
        return Who(self.story.names.get(partition, f"partition {partition}"), vp)

    def _followed(self, position: Position) -> Who:
        """Whom one looks at: who runs; while root's own program does, the VP that asked it for something."""
        places = [self.story.machine.trace.place]
        exit = self.story.exit(position.exits)
        if exit is not None:
            places.append((exit.fact.record.partition, exit.fact.record.vp))
        for partition, vp in places:
            found = self.story.machine.hypervisor.partitions.get(partition)
            if found is not None and found.runs_code:
                return self._who((partition, vp))
        return Who(self.story.vms[0].name, 0)

    def vp(self, who: Who) -> VirtualProcessor | None:
        """The VP, if it is there now."""
        number = next((number for number, name in self.story.names.items() if name == who.vm), None)
        partition = None if number is None else self.story.machine.hypervisor.partitions.get(number)
        found = None if partition is None else partition.vps.get(who.vp)
        return found if isinstance(found, VirtualProcessor) else None

    # --- between two exits -----------------------------------------------------------------------------

    def stretch(self, exits: int) -> Stretch:
        """What follows exit *exits*; 0 is the beginning of the run."""
        found = self._stretches.get(exits)
        return found if found is not None else self.measure(exits)

    def measure(self, exits: int, hear: Callable[[Heard], object] = lambda heard: None) -> Stretch:
        """The same by running again, with *hear* as a listener to the exit and each event behind it."""
        before: list[int] = []

        def heard(moment: Heard) -> None:
            hear(moment)
            if moment.events:
                before.append(moment.executed)

        instructions = self.timeline.hear_behind(exits, heard)
        self._stretches[exits] = Stretch(instructions, tuple(before))
        return self._stretches[exits]

    def has(self, position: Position) -> bool:
        """There is such a place."""
        if position.instructions:
            return position.exits <= self.timeline.end.exits and \
                position.instructions <= self.stretch(position.exits).instructions
        return position in (Position(), END) or self.story.at(position) is not None

    def check(self, position: Position) -> Position:
        """*position*; PositionError when there is no such place."""
        if not self.has(position):
            last = self.timeline.end.exits
            raise PositionError(f"there is no {position}: " + (
                f"the recording has E0 to E{last}" if position.exits > last else
                f"{self.stretch(position.exits).instructions} instructions and "
                f"{len(self.story.after(position.exits))} events follow E{position.exits}"))
        return position
