"""step, continue, until, break, delete: moving the machine, and where it stops."""

from __future__ import annotations

import re

from hv.debug.commands.registers import where
from hv.debug.completion import numbers
from hv.debug.errors import DebugError
from hv.debug.numbers import ticks
from hv.debug.registry import command
from hv.debug.session import Breakpoint, Session
from hv.debug.stops import ending, run, runnable

MOST_STEPS = 100_000


@command("step", "s", "si")
def step(session: Session, n: int = 1) -> str:
    """Run *n* instructions of the VP looked at; the others stand still.

    An instruction that exits is one step, with all that the hypervisor and the parent do about it.

    Example: `step`, `step 5`
    """
    if not 1 <= n <= MOST_STEPS:
        raise DebugError(f"{n} steps are out of range 1..{MOST_STEPS}", "`continue` runs on")
    for done in range(n):
        if session.vm.ended is not None:
            raise DebugError(f"{ending(session.vm)}, after {done} steps", "`hv repl FILE` starts again")
        if not runnable(session.vm, session.vp_index):
            raise DebugError(f"vp {session.vp_index} of {session.vm.name} waits, after {done} steps",
                             "`continue` lets time pass; `vp` shows who can run")
        session.machine.step(session.vm, session.vp_index)
        if session.interrupted():
            return f"interrupted after {done + 1} steps\n{where(session)}"
    return where(session)


@command("continue", "c", "go")
def continue_(session: Session) -> str:
    """Run everything until a breakpoint, the end, or Ctrl-C.

    Example: `continue`
    """
    return f"{run(session)}\n{where(session)}"


@command("until", "u", text=numbers)
def until(session: Session, text: str) -> str:
    """Run until the VP looked at reaches an address (`until start+8`), or for a time (`until 10ms`).

    Example: `until start+5`, `until 1ms`
    """
    if re.fullmatch(r"[\d._]+(s|ms|us)", text):
        return f"{run(session, session.machine.clock.tsc + ticks(text))}\n{where(session)}"
    target = Breakpoint(session.vm.name, session.address(text))
    return f"{run(session, None, target)}\n{where(session)}"


@command("break", "b")
def break_(session: Session, address: int | None = None) -> str | list[str]:
    """Stop before the instruction at *address* in this VM; without it, list the breakpoints.

    Example: `break start+5`, `break`
    """
    if address is None:
        return [f"{n}  {point.vm}  {point.gva:#x}  {session.places.name(point.vm, point.gva)}"
                for n, point in enumerate(session.breakpoints, 1)] or ["no breakpoints"]
    point = Breakpoint(session.vm.name, address)
    if point not in session.breakpoints:
        session.breakpoints.append(point)
    number = session.breakpoints.index(point) + 1
    return f"breakpoint {number} at {address:#x}, {session.places.name(point.vm, address)}"


@command("delete", "d")
def delete(session: Session, n: int = 0) -> str:
    """Remove breakpoint *n* as `break` numbers them; without it, all of them.

    Example: `delete`
    """
    if not 0 <= n <= len(session.breakpoints):
        raise DebugError(f"there is no breakpoint {n}", "`break` lists them")
    removed = session.breakpoints[n - 1 : n] if n else session.breakpoints[:]
    session.breakpoints = [point for point in session.breakpoints if point not in removed]
    return f"{len(removed)} removed"
