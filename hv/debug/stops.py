"""Running a session's machine until something says stop.

Without a breakpoint the machine runs at full speed, in stretches between which Ctrl-C is heard. With one it goes
instruction by instruction, one VP after the other, which is slow and exact.
# Simplified: a VP stepped this way keeps its turn for `TURN` instructions: VPs interleave otherwise than at full speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.debug.session import Breakpoint, Session, linear_rip

CHUNK_TICKS = 4_000_000
TURN = 1000                 # instructions
MOST_STEPS = 2_000_000      # of a run by single steps: about a minute


def run_freely(session: Session, until_tsc: int | None) -> str:
    """At full speed, until every VM ended, nothing can happen any more, or the clock reaches *until_tsc*; why."""
    machine = session.machine
    while any(vm.ended is None for vm in session.vms):
        before = machine.clock.tsc
        if until_tsc is not None and before >= until_tsc:
            return "time reached"
        machine.run(until_tsc=min(before + CHUNK_TICKS, until_tsc or before + CHUNK_TICKS))
        if session.interrupted():
            return "interrupted"
        if machine.clock.tsc == before:
            return "nobody can run, and no timer is set"
    return "every VM has ended: " + ", ".join(ending(vm) for vm in session.vms)


def ending(vm: Any) -> str:
    """How *vm* ended, in words."""
    return f"{vm.name} {vm.ended}" + (f" ({vm.why})" if vm.why else "")


def run_stepping(session: Session, stops: Callable[[Any, int], str], most: int = MOST_STEPS) -> str:
    """By single steps, each VP in turn, until *stops(vm, vp_index)* says why; before the first step it is not asked."""
    steps, first = 0, True
    while steps < most:
        moved = False
        for vm, index in turns(session):
            for _ in range(TURN):
                if vm.ended is not None or not runnable(vm, index):
                    break
                why = "" if first else stops(vm, index)
                if why:
                    session.vm, session.vp_index = vm, index
                    return why
                first = False
                session.machine.step(vm, index)
                moved, steps = True, steps + 1
                if session.interrupted():
                    return "interrupted"
        if all(vm.ended is not None for vm in session.vms):
            return run_freely(session, None)
        if not moved and not idle(session):
            return "nobody can run, and no timer is set"
    return f"stopped after {most} steps: with breakpoints every instruction is a step"


def turns(session: Session) -> list[tuple[Any, int]]:
    """Every VP that there is, the one looked at first."""
    everyone = [(vm, index) for vm in session.vms for index in sorted(vm.partition.vps)]
    here = (session.vm, session.vp_index)
    at = everyone.index(here) if here in everyone else 0
    return everyone[at:] + everyone[:at]


def runnable(vm: Any, index: int) -> bool:
    """The VP may execute something now."""
    vp = vm.partition.vps.get(index)
    return vp is not None and bool(vp.runnable)


def idle(session: Session) -> bool:
    """Nobody can run: let root work, and time pass to the next timer; False when nothing came of it."""
    machine = session.machine
    before = machine.clock.tsc
    deadline = machine.clock.next_deadline()
    machine.run(until_tsc=before + 1 if deadline is None else max(deadline, before + 1))
    return bool(machine.clock.tsc != before)


def at_breakpoint(session: Session) -> Callable[[Any, int], str]:
    """Stops at the session's breakpoints."""
    def stops(vm: Any, index: int) -> str:
        gva = linear_rip(vm.partition.vps[index])
        return f"breakpoint at {gva:#x}" if Breakpoint(vm.name, gva) in session.breakpoints else ""
    return stops
