"""Moving on a recorded machine: in what is known of the run, and on behind its end.

Nothing is changed by moving: breakpoints and stops are looked for in the past, and where that ends the run is recorded
on and looked through again. So each of them may be met any number of times, forwards and backwards.
"""

from __future__ import annotations

from hv.debug.errors import DebugError
from hv.debug.facts import Fact
from hv.debug.render import record_line
from hv.debug.session import EventStop, Session
from hv.debug.targets import Target, ending
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.engine import Engine
from hv.replay.timeline import Interrupted, Timeline
from hv.replay.walk import Moment, Point
from hv.trace.bus import Record


def timeline_of(session: Session) -> Timeline:
    """The recording; DebugError when there is none."""
    if session.timeline is None:
        raise DebugError("nothing is recorded", "`record` runs on and keeps the past")
    return session.timeline


def run(session: Session, until_tsc: int | None = None, target: Target | None = None, back: bool = False) -> str:
    """Go on, or back, to the next breakpoint or stop, or to where the VP looked at reaches *target*; why, in words."""
    timeline, stops = timeline_of(session), _Stops(session, until_tsc)
    points = _points(session, target)
    try:
        if back:
            found = timeline.backward(stops.meet, points)
        else:
            found = timeline.forward(stops.meet, points, True, until_tsc)
    except Interrupted:
        return "interrupted"
    if found is None:
        reached = until_tsc is not None and session.machine.clock.tsc >= until_tsc
        return "time reached" if reached else _nothing(session, back)
    look_at_current(session)
    return f"{timeline.position}  {_why(session, found, stops, target)}"


def step(session: Session, n: int, back: bool = False) -> None:
    """Go *n* instructions on or back, of whoever runs; DebugError where there are fewer, and there one stands."""
    timeline = timeline_of(session)
    try:
        there = timeline.step_back(n) if back else timeline.step(n, record=True)
    except Interrupted:
        raise DebugError("interrupted", "the machine stands where it stood") from None
    look_at_current(session)
    if not there:
        raise DebugError(_nothing(session, back), "`goto` goes anywhere")


def look_at_current(session: Session) -> None:
    """Look at the VP that runs where the machine stands."""
    current = session.machine.scheduler.current
    for vm in session.guests:
        if isinstance(current, VirtualProcessor) and vm.partition_id == current.partition.id:
            session.vm, session.vp_index = vm, current.index


class _Stops:
    """The stops of a session, as a question about each event."""

    def __init__(self, session: Session, until_tsc: int | None) -> None:
        self._session, self._until = session, until_tsc
        self.met: tuple[int, EventStop, Fact] | None = None

    def meet(self, record: Record) -> bool:
        """One of them is met, or the time is reached."""
        self.met = None
        if self._session.stops:
            fact = self._session.recent.newest()        # which listens longer, so it has this record
            for number, stop in enumerate(self._session.stops, 1):
                if stop.matches(fact):
                    self.met = number, stop, fact
                    return True
        return self._until is not None and record.tsc >= self._until


def _points(session: Session, target: Target | None) -> list[Point]:
    points = [Point(engine, point.gva) for point in session.breakpoints
              if (engine := _engine(session, point.vm)) is not None]
    if target is not None:
        vp = session.vp
        points.append(Point(vp.vcpu.engine, target.point.gva, vp.regs, target.least_rsp))
    return points


def _engine(session: Session, name: str) -> Engine | None:
    """That of a VM, if it is there now."""
    vps = next((session.vps_of(vm) for vm in session.guests if vm.name == name), {})
    return next((vp.vcpu.engine for vp in vps.values()), None)


def _why(session: Session, found: Moment, stops: _Stops, target: Target | None) -> str:
    if found.point is None:
        assert found.record is not None, "an event or a point"
        stops.meet(found.record)        # going there asked about other events
        if stops.met is None:
            return "time reached"
        number, stop, fact = stops.met
        session.look_where(fact)
        return f"stop {number}, {stop.words}: {record_line(fact.record)}"
    gva = found.point.gva
    if target is not None and found.point.state is not None:
        return f"reached {gva:#x}"
    return f"breakpoint at {gva:#x}"


def _nothing(session: Session, back: bool) -> str:
    if back:
        return "this is the beginning of the recording"
    if all(vm.ended is not None for vm in session.vms):
        return "every VM has ended: " + ", ".join(ending(vm) for vm in session.vms)
    return "nobody can run any more"
