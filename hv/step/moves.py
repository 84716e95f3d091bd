"""From one place of a recorded run to the next: by instruction, by event, by VM exit.

A place is a `Position`: an exit, an event behind it, or an instruction behind it. Events also happen between two
instructions, so the three kinds are one order: an event comes behind the instructions that were begun before it.
"""

from __future__ import annotations

from hv.replay.position import Position
from hv.step.reel import END, Reel

MOST_EMPTY = 1000               # exits in a row after which nobody runs an instruction, until the search ends


class Moves:
    """The ways through *reel*. Each answers None where there is no place further on."""

    def __init__(self, reel: Reel) -> None:
        self._reel, self._story = reel, reel.story

    @property
    def last_exit(self) -> int:
        """Number of the last exit."""
        return self._story.last.exits

    def exit(self, here: Position, way: int) -> Position | None:
        """The next VM exit, or the one before; the beginning and the end are places too."""
        if way > 0:
            return None if here == END else Position(here.exits + 1) if here.exits < self.last_exit else END
        if here == END:
            return Position(self.last_exit)
        if here.instructions or here.events:
            return Position(here.exits)
        return Position(here.exits - 1) if here.exits else None

    def event(self, here: Position, way: int) -> Position | None:
        """The next event of any kind, or the one before."""
        happenings = self._story.happenings
        if here == END:
            return self._story.last if way < 0 and happenings else None
        passed = self._passed(here)
        number = self._story.index(Position(here.exits, 0, passed))
        if way > 0:
            return happenings[number + 1].position if number + 1 < len(happenings) else END
        if here.instructions:
            return happenings[number].position if number >= 0 else Position()
        if number > 0:
            return happenings[number - 1].position
        return Position() if number == 0 else None

    def instruction(self, here: Position, way: int) -> Position | None:
        """The next instruction of whoever runs, or the one before; one that exits is one, with all that follows."""
        if way > 0:
            return self._forward(here)
        if here == END:
            return self._backward_from(self.last_exit)
        begun = here.instructions - 1 if here.instructions else self._begun(here)
        if begun > (here.exits == 0):           # at the beginning the first one is about to be executed
            return Position(here.exits, begun)
        if not here.exits:
            return Position() if here != Position() else None
        return self._backward_from(here.exits - 1)

    def _forward(self, here: Position) -> Position | None:
        if here == END:
            return None
        begun = here.instructions or (self._begun(here) if here != Position() else 1)
        if begun < self._reel.stretch(here.exits).instructions:
            return Position(here.exits, begun + 1)
        for exits in range(here.exits + 1, min(self.last_exit, here.exits + MOST_EMPTY) + 1):
            if self._reel.stretch(exits).instructions:
                return Position(exits, 1)
        return END if here.exits + MOST_EMPTY >= self.last_exit else Position(here.exits + MOST_EMPTY)

    def _backward_from(self, exits: int) -> Position:
        """The last instruction behind exit *exits*, or an earlier one."""
        for number in range(exits, max(-1, exits - MOST_EMPTY), -1):
            instructions = self._reel.stretch(number).instructions
            if instructions:
                return Position(number, instructions)
        return Position(max(0, exits - MOST_EMPTY))

    def _begun(self, here: Position) -> int:
        """Instructions behind the last exit that were begun when the event at *here* came."""
        return self._reel.stretch(here.exits).before[here.events - 1] if here.events else 0

    def _passed(self, here: Position) -> int:
        """Events behind the last exit that have come when one is *here*."""
        if not here.instructions:
            return here.events
        return sum(begun < here.instructions for begun in self._reel.stretch(here.exits).before)
