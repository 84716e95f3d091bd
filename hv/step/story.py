"""What happened in a recorded run: every event with its place, so that finding one costs no running again."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from hv.debug.facts import Fact, operands_of
from hv.debug.session import Session
from hv.debug.targets import ending
from hv.image.model import Image
from hv.replay.position import Position
from hv.replay.timeline import Timeline
from hv.trace.bus import Record
from hv.trace.events import InterceptSent
from hv.vmx.exit import VmExit

MOST_EVENTS = 100_000           # then the recording ends: half a kilobyte each
SPACING = 2000                  # microseconds of work between checkpoints: a step may take no longer than a blink
_ASKED = 100                    # so many of them when the parent is asked: root's own program is Python

_place = attrgetter("position")

Progress = Callable[[int, int], None]       # ticks of virtual time, and VM exits, so far


class Happening(NamedTuple):
    """One event: where it is in the run, and all that is known of it."""

    position: Position
    fact: Fact

    @property
    def is_exit(self) -> bool:
        """It is a VM exit."""
        return isinstance(self.fact.record.event, VmExit)


class _Recorded(Timeline):
    """With checkpoints also where few exits take long: those that the parent answers, *asked* of them so far."""

    asked = 0

    def _work(self) -> int:
        return super()._work() + self.asked * _ASKED


class Story:
    """A recorded run of *machine* and its *vms*; *images* by VM name give symbols and lines.

    *happenings* are all events in order; *ending* says how it came out, in a sentence. It never ended by itself when
    *unfinished*.
    """

    def __init__(self, machine: Any, vms: list[Any], images: dict[str, Image]) -> None:
        self.machine, self.vms, self.images = machine, vms, images
        self.names = {machine.hypervisor.root.id: "root", **{vm.partition_id: vm.name for vm in vms}}
        self.happenings: list[Happening] = []
        self.ending, self.unfinished = "", False
        self._exits = self._events = 0
        self.timeline = _Recorded(machine, SPACING)
        self.began = machine.clock.tsc
        self.session = Session(machine, vms, images)        # for who asks as the REPL does; it need not listen
        machine.trace.unlisten(self.session.recent)

    def record(self, ticks: int, interrupted: Callable[[], bool] = lambda: False,
               progress: Progress = lambda ticks, exits: None, events: int = MOST_EVENTS) -> None:
        """Run everything to its end, for *ticks* of virtual time or *events* at most; *interrupted* ends it too."""
        until, clock = self.machine.clock.tsc + ticks, self.machine.clock

        def paused() -> bool:
            progress(clock.tsc - self.began, self._exits)
            return len(self.happenings) >= events or interrupted()

        self.machine.trace.listen(self._hear)
        try:
            self.timeline.record(until, paused)
        finally:
            self.machine.trace.unlisten(self._hear)
        self.over = clock.tsc
        self.ending = self._told(until, events, interrupted())

    def _hear(self, record: Record) -> None:
        event, operands = record.event, dict[str, Any]()
        if isinstance(event, VmExit):
            self._exits, self._events = self._exits + 1, 0
            partition = self.machine.hypervisor.partitions.get(record.partition)
            if partition is not None and record.vp in partition.vps:
                operands = operands_of(event, partition.vps[record.vp].regs)
        else:
            self._events += 1
            self.timeline.asked += type(event) is InterceptSent
        fact = Fact(record, operands, self.names.get(record.partition, ""))
        self.happenings.append(Happening(Position(self._exits, 0, self._events), fact))

    def _told(self, until: int, events: int, interrupted: bool) -> str:
        running = [vm.name for vm in self.vms if vm.ended is None]
        if not running:
            return "; ".join(ending(vm) for vm in self.vms)
        names, milliseconds = ", ".join(running), (self.over - self.began) / 2e6
        self.unfinished = interrupted or self.over >= until or len(self.happenings) >= events
        if not self.unfinished:
            return f"{names} waits, and nothing will ever wake it"
        if len(self.happenings) >= events:
            return f"{names} still ran after {events} events, where the recording ends"
        why = " when Ctrl-C ended the recording" if interrupted else ", where the recording ends"
        return f"{names} still ran after {milliseconds:.3f} ms of virtual time{why}"

    # --- finding things --------------------------------------------------------------------------------

    @property
    def last(self) -> Position:
        """The last event there is."""
        return self.happenings[-1].position if self.happenings else Position()

    def index(self, position: Position) -> int:
        """Number of the event at *position*, or of the last one before; -1 before the first."""
        return bisect_right(self.happenings, position, key=_place) - 1

    def at(self, position: Position) -> Happening | None:
        """The event at *position*."""
        number = bisect_left(self.happenings, position, key=_place)
        found = self.happenings[number] if number < len(self.happenings) else None
        return found if found is not None and found.position == position else None

    def after(self, exits: int) -> list[Happening]:
        """The events between exit *exits* and the next one."""
        first = bisect_right(self.happenings, (exits, 0), key=lambda one: (one.position.exits, one.position.events))
        last = bisect_left(self.happenings, exits + 1, key=lambda one: one.position.exits)
        return self.happenings[first:last]

    def exit(self, number: int) -> Happening | None:
        """VM exit *number*, from 1."""
        return self.at(Position(number)) if number else None

    def following(self, index: int) -> Iterator[Happening]:
        """All events behind number *index*, in order."""
        return (self.happenings[number] for number in range(index + 1, len(self.happenings)))

    def preceding(self, index: int) -> Iterator[Happening]:
        """All events before number *index*, the last first."""
        return (self.happenings[number] for number in range(index - 1, -1, -1))

