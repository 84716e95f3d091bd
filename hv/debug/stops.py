"""Running a session's machine until something says stop: a breakpoint, an event, the end, a moment, or Ctrl-C.

It runs as it would without a debugger, at full speed. A breakpoint costs nothing until it is met; a stop at events is
asked about each event (`watching.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.debug import recorded
from hv.debug.facts import Fact
from hv.debug.render import record_line
from hv.debug.session import Breakpoint, EventStop, Session
from hv.debug.targets import Target, ending
from hv.machine.engine import Engine
from hv.replay.watching import run_until
from hv.trace.bus import Record


def run(session: Session, until_tsc: int | None = None, target: Target | None = None) -> str:
    """Run on, until the VP looked at reaches *target*, or anything else stops it; why, in words."""
    until_tsc = session.limit_tsc if until_tsc is None else until_tsc
    if session.timeline is not None:
        return recorded.run(session, until_tsc, target)
    points = {*session.breakpoints} | ({target.point} if target is not None else set())
    here = (session.vm, session.vp_index)
    with Planted(session, points) as planted:
        while True:
            why = stretch(session, planted, until_tsc)
            if why:
                return why
            vm, index, gva = planted.take()
            if target is not None and target.point == Breakpoint(vm.name, gva) and (vm, index) == here \
                    and session.vp.regs.rsp >= target.least_rsp:
                return f"reached {gva:#x}"
            if Breakpoint(vm.name, gva) in session.breakpoints:
                session.vm, session.vp_index = vm, index
                return f"breakpoint at {gva:#x}"


def stretch(session: Session, planted: Planted, until_tsc: int | None) -> str:
    """Run until a breakpoint is met, which is told by an empty answer, or something else stops the machine: why.

    Ctrl-C is heard even if a breakpoint is met at the same time: `until` goes on by itself behind those of other VPs.
    """
    machine, interrupted = session.machine, False

    def paused() -> bool:
        nonlocal interrupted
        interrupted = interrupted or session.interrupted()
        return interrupted or planted.met

    if session.stops:
        stopped = _watched(session, until_tsc, paused)
        if stopped:
            return stopped
    else:
        machine.run(until_tsc, paused)
    if interrupted:
        return "interrupted"
    if planted.met:
        return ""
    if all(vm.ended is not None for vm in session.vms):
        return "every VM has ended: " + ", ".join(ending(vm) for vm in session.vms)
    return "time reached"


def _watched(session: Session, until_tsc: int | None, paused: Callable[[], bool]) -> str:
    """Run with the stops of *session*; at which event one of them stopped, in words."""
    found: list[tuple[int, EventStop, Fact]] = []

    def wanted(record: Record) -> bool:
        fact = session.recent.newest()          # it listens longer, so it has this record
        found.extend((number, stop, fact) for number, stop in enumerate(session.stops, 1) if stop.matches(fact))
        return bool(found)

    run_until(session.machine, wanted, until_tsc, paused)
    if not found:
        return ""
    number, stop, fact = found[0]
    session.look_where(fact)
    return f"stop {number}, {stop.words}: {record_line(fact.record)}"


class Planted:
    """Breakpoints in the engines of their VMs, for as long as the block lasts."""

    def __init__(self, session: Session, points: set[Breakpoint]) -> None:
        self.engines: list[tuple[Any, Engine]] = []
        for vm in session.guests:
            vps = session.vps_of(vm)
            if vps:
                self.engines.append((vm, vps[min(vps)].vcpu.engine))
        self._points = sorted(points, key=lambda point: (point.vm, point.gva))

    def __enter__(self) -> Planted:
        for vm, engine in self.engines:
            for point in self._points:
                if point.vm == vm.name:
                    engine.breakpoints.add(point.gva)
        return self

    def __exit__(self, *error: object) -> None:
        for vm, engine in self.engines:
            for point in self._points:
                if point.vm == vm.name:
                    engine.breakpoints.remove(point.gva)

    @property
    def met(self) -> bool:
        """A VP stands before one of them."""
        return any(engine.breakpoints.hit is not None for _, engine in self.engines)

    def take(self) -> tuple[Any, int, int]:
        """Which VP stands before one, as VM, index and address."""
        vm, engine = next((vm, engine) for vm, engine in self.engines if engine.breakpoints.hit is not None)
        index = next(index for index, vp in vm.partition.vps.items() if vp.regs is engine.current)
        gva = engine.breakpoints.take()
        assert gva is not None, "met says that one was hit"
        return vm, index, gva
