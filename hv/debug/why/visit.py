"""Being where a question is about, for as long as it takes: the machine stands at a VM exit, and afterwards where it
stood before.

With a recording that is the exit itself, before it is handled. Without one the machine has gone on, and is looked at as
it is now: what the exit's instruction was about is known, the rest may have changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hv.debug.errors import DebugError
from hv.debug.facts import Fact
from hv.debug.session import Session
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.replay.origin import elsewhere
from hv.replay.position import Position, PositionError
from hv.replay.timeline import Timeline
from hv.vmx.exit import VmExit

MOST_AFTER = 400                # events that are looked at for what was done about an exit

Test = Callable[[Fact], bool]


@dataclass(frozen=True, slots=True)
class Scene:
    """A VM exit: *fact* is its event, *after* what was told until the next one of the same VP.

    *exact*: the machine stands at it. *position* is written as the user would.
    """

    session: Session
    fact: Fact
    after: list[Fact]
    exact: bool
    position: str

    @property
    def vp(self) -> VirtualProcessor:
        """The one that exited. It is looked up each time: in a run that is run again it may be another object."""
        return vp_of(self.session, self.fact)

    @property
    def exit(self) -> VmExit:
        """The exit itself."""
        exit: VmExit = self.fact.record.event
        return exit

    @property
    def parent(self) -> str:
        """Who answers for the partition."""
        parent = self.vp.partition.parent
        return "root" if parent is None or parent.is_root else f"partition {parent.id}"

    def at(self, later: Fact) -> str:
        """Where an event of `after` is, as the user would write it."""
        if not self.exact:
            return f"#{later.record.sequence}"
        exits, events = int(self.position[1:]), 0
        for fact in self.after:
            left = isinstance(fact.record.event, VmExit)
            exits, events = (exits + 1, 0) if left else (exits, events + 1)
            if fact.record.sequence == later.record.sequence:
                break
        return str(Position(exits, 0, events))

    def next(self, *kinds: type[Any]) -> Any:
        """The first event of one of *kinds* behind the exit; None."""
        fact = self.next_fact(*kinds)
        return None if fact is None else fact.record.event

    def next_fact(self, *kinds: type[Any]) -> Fact | None:
        """The same with its place."""
        return next((fact for fact in self.after if isinstance(fact.record.event, kinds)), None)


@contextmanager
def away(session: Session) -> Iterator[None]:
    """Inside, the machine may be taken to other places of its recording; behind it everything is as it was."""
    timeline, recent = session.timeline, session.recent
    if timeline is None:
        yield
        return
    records, operands = list(recent.records), list(recent.operands)
    try:
        with elsewhere(timeline):
            yield
    finally:
        recent.clear()
        recent.records.extend(records)
        recent.operands.extend(operands)


def scene(session: Session, place: str, wanted: Test | None) -> Scene:
    """The exit at *place*, or the last one that is *wanted*, or the one that the user is at. DebugError."""
    if session.timeline is not None:
        return _recorded(session, session.timeline, place, wanted)
    if place:
        raise DebugError(f"{place} is a place of a recording, and nothing is recorded",
                         "`record` runs on and keeps the past; `why last CONDITION` asks about the events kept")
    return _kept(session, wanted)


# --- in a recording -------------------------------------------------------------------------------------

def _recorded(session: Session, timeline: Timeline, place: str, wanted: Test | None) -> Scene:
    here = timeline.position
    if place:
        _go(timeline, _position(place))
    elif wanted is None and not timeline.live and here.exits:
        _go(timeline, Position(here.exits))
    else:
        _go_back(session, timeline, wanted)
    position = timeline.position
    after = _what_follows(session, timeline)
    _go(timeline, position)
    fact = session.recent.newest()
    return Scene(session, fact, after, True, str(position))


def _position(place: str) -> Position:
    try:
        position = Position.parse(place)
    except PositionError as error:
        raise DebugError(str(error)) from None
    if not position.exits:
        raise DebugError(f"{place} is before the first VM exit", "E1 is the first")
    return Position(position.exits)


def _go(timeline: Timeline, position: Position) -> None:
    try:
        timeline.go(position)
    except PositionError as error:
        raise DebugError(str(error), f"the recording has {Position()} to {timeline.end}") from None


def _go_back(session: Session, timeline: Timeline, wanted: Test | None) -> None:
    """To the last exit that is wanted: of the VP looked at, when nobody says which."""
    test = wanted or _of_vp(session)
    found = timeline.backward(lambda record: isinstance(record.event, VmExit) and test(session.recent.newest()))
    if found is None:
        raise DebugError("no VM exit before here is of that kind" if wanted else "this VP has had no VM exit before "
                         "here", "`count exits` shows which there were")


def _what_follows(session: Session, timeline: Timeline) -> list[Fact]:
    """The events behind the exit the machine stands at, until the next one of the same VP."""
    first, found = session.recent.newest().record, list[Fact]()

    def over(record: object) -> bool:
        fact = session.recent.newest()
        if _same_vp(fact, first) and isinstance(fact.record.event, VmExit):
            return True
        found.append(fact)
        return len(found) >= MOST_AFTER

    timeline.forward(over)
    return found


# --- without one ------------------------------------------------------------------------------------------

def _kept(session: Session, wanted: Test | None) -> Scene:
    test, facts = wanted or _of_vp(session), list(session.recent.facts())
    number = next((number for number in reversed(range(len(facts)))
                   if isinstance(facts[number].record.event, VmExit) and test(facts[number])), None)
    if number is None:
        raise DebugError("no VM exit that is kept is of that kind" if wanted else "this VP has had no VM exit yet",
                         "`count exits` shows which there were")
    fact, after = facts[number], list[Fact]()
    for later in facts[number + 1 : number + 1 + MOST_AFTER]:
        if _same_vp(later, fact.record) and isinstance(later.record.event, VmExit):
            break
        after.append(later)
    return Scene(session, fact, after, False, f"#{fact.record.sequence}")


def _of_vp(session: Session) -> Test:
    partition, index = session.vm.partition_id, session.vp_index
    return lambda fact: (fact.record.partition, fact.record.vp) == (partition, index)


def _same_vp(fact: Fact, other: Any) -> bool:
    return (fact.record.partition, fact.record.vp) == (other.partition, other.vp)


def vp_of(session: Session, fact: Fact) -> VirtualProcessor:
    """The VP in which *fact* happened; DebugError when it is gone."""
    partition = session.machine.hypervisor.partitions.get(fact.record.partition)
    vp = None if partition is None else partition.vps.get(fact.record.vp)
    if not isinstance(vp, VirtualProcessor):
        raise DebugError("the VP that exited is gone", "`record` keeps the past, and what was there then")
    return vp
