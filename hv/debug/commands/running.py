"""step, next, finish, continue, until, break, delete: moving the machine, and where it stops."""

from __future__ import annotations

import re
from typing import TypeVar

from hv.debug import recorded
from hv.debug.commands.registers import where
from hv.debug.completion import Word, numbers
from hv.debug.errors import DebugError
from hv.debug.looking import instructions
from hv.debug.numbers import ticks
from hv.debug.registry import command, first_word
from hv.debug.session import Breakpoint, Session
from hv.debug.stack import caller
from hv.debug.stops import run
from hv.debug.targets import Target, ending, runnable

MOST_STEPS = 100_000
P = TypeVar("P")


@command("step", "s", "si")
def step(session: Session, n: int = 1) -> str:
    """Run *n* instructions of the VP looked at; the others stand still. While recorded: of whoever runs.

    An instruction that exits is one step, with all that the hypervisor and the parent do about it.

    Example: `step`, `step 5`
    """
    if not 1 <= n <= MOST_STEPS:
        raise DebugError(f"{n} steps are out of range 1..{MOST_STEPS}", "`continue` runs on")
    if session.timeline is not None:
        recorded.step(session, n)
        return where(session)
    for done in range(n):
        if session.vm.ended is not None:
            raise DebugError(f"{ending(session.vm)}, after {done} steps", "`hv repl FILE` starts again")
        if not runnable(session.found_vp):
            raise DebugError(f"vp {session.vp_index} of {session.vm.name} waits, after {done} steps",
                             "`continue` lets time pass; `vp` shows who can run")
        session.machine.step(session.vm, session.vp_index)
        if session.interrupted():
            return f"interrupted after {done + 1} steps\n{where(session)}"
    return where(session)


@command("next", "ni")
def next_(session: Session, n: int = 1) -> str:
    """Run *n* instructions of the VP looked at, where a CALL is one with all that it calls.

    While it is called everybody runs, and a breakpoint or a stop in there stops.

    Example: `next`, `next 3`
    """
    if not 1 <= n <= MOST_STEPS:
        raise DebugError(f"{n} steps are out of range 1..{MOST_STEPS}", "`continue` runs on")
    for _ in range(n):
        gva, code, text = next(instructions(session.vp, session.linear_rip, 1))
        if not text.startswith(("call ", "lcall ", "rep")):
            said = step(session)
            if session.interrupted():
                return f"interrupted\n{said}"
            continue
        why = run(session, None, returning(session, gva + len(code), session.vp.regs.rsp))
        if "reached" not in why:
            return f"{why}\n{where(session)}"
    return where(session)


@command("finish", "fin")
def finish(session: Session) -> str:
    """Run until the routine that the VP is in has returned to its caller.

    The caller is known by the first address on the stack that stands behind a CALL.

    Example: `step 3`, `finish`
    """
    slot = caller(session.vp)
    if slot is None:
        raise DebugError("there is no return address on the stack", "`until ADDRESS` runs to a place")
    base = 0 if session.vp.regs.bits == 64 else session.vp.regs.cs.base
    rsp = session.vp.regs.rsp
    why = run(session, None, returning(session, base + slot.value, rsp + 1))
    return f"{why}\n{where(session)}"


def returning(session: Session, gva: int, rsp: int) -> Target:
    """The VP comes to *gva* with a stack no deeper than *rsp*: not in a deeper call of the same routine."""
    return Target(Breakpoint(session.vm.name, gva), rsp)


@command("continue", "c", "go")
def continue_(session: Session) -> str:
    """Run everything until a breakpoint, a stop, the end, or Ctrl-C.

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
    target = Target(Breakpoint(session.vm.name, session.address(text)))
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


def _numbers(session: Session, typed: str) -> list[Word]:
    return [Word("stop", "a stop at events, by its number"), Word("stops", "all stops at events")]


@command("delete", "d", text=_numbers)
def delete(session: Session, text: str = "") -> str:
    """Remove a breakpoint by its number in `break`, or all of them; `delete stop 1` and `delete stops` remove stops.

    Example: `delete`, `delete stops`
    """
    what, number = first_word(text)
    if what in ("stop", "stops"):
        removed, session.stops = without(session.stops, session.number(number) if number else 0, "stop")
        return f"{removed} removed"
    removed, session.breakpoints = without(session.breakpoints, session.number(text) if text else 0, "break")
    return f"{removed} removed"


def without(points: list[P], number: int, name: str) -> tuple[int, list[P]]:
    """How many of *points* go, and what is left without the one of that *number* (0: without any); DebugError."""
    if not 0 <= number <= len(points):
        raise DebugError(f"there is no {'breakpoint' if name == 'break' else name} {number}", f"`{name}` lists them")
    left = [point for position, point in enumerate(points, 1) if number not in (0, position)]
    return len(points) - len(left), left
