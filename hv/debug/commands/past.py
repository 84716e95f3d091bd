"""record, goto, back, forth, rstep, rnext, rcontinue, branch, save, forget: the past, and the way through it."""

from __future__ import annotations

import re

from hv.debug import recorded
from hv.debug.commands.registers import where
from hv.debug.commands.running import MOST_STEPS
from hv.debug.completion import Word
from hv.debug.errors import DebugError
from hv.debug.exports.files import write_file
from hv.debug.facts import field_names
from hv.debug.numbers import ticks
from hv.debug.recorded import timeline_of
from hv.debug.registry import command
from hv.debug.render import record_line
from hv.debug.session import Breakpoint, Session
from hv.debug.stack import call_site
from hv.debug.targets import Target, ending
from hv.replay.file import kept
from hv.replay.memento import NotSaved
from hv.replay.position import Position, PositionError
from hv.replay.timeline import Interrupted, Timeline
from hv.trace.bus import Record

_ENDS = {"begin": "where the recording began", "end": "where it stands now, and may go on by `record`"}


@command("record", "rec")
def record(session: Session, text: str = "") -> str:
    """Run everything to its end, or for a time (`record 10ms`), or until Ctrl-C, so that one can go back to any moment.

    The recording begins with the first `record` and goes on at its end with the next one. Breakpoints and stops are not
    asked; `continue`, `step` and the other ways to run meet them, in what is recorded first. `forget` ends it.

    Example: `record`, `record 2ms`
    """
    if text and not re.fullmatch(r"[\d._]+(s|ms|us)", text):
        raise DebugError(f"`{text}` is no time", "write 10ms, 500us or 1s; without it, everything runs to its end")
    timeline = session.timeline or _begin(session)
    timeline.go_to_end()
    until = session.machine.clock.tsc + ticks(text) if text else session.limit_tsc
    end = timeline.record(until, session.interrupted)
    ended = ", ".join(ending(vm) for vm in session.vms if vm.ended is not None)
    kept = timeline.pages.bytes_kept >> 10
    return f"recorded up to {end}: {len(timeline.checkpoints)} checkpoints, {kept} KiB of pages\n{ended}".strip()


def _begin(session: Session) -> Timeline:
    try:
        timeline = Timeline(session.machine)
    except (ValueError, NotSaved) as error:
        raise DebugError(f"this machine cannot be recorded: {error}") from None
    session.keeps(timeline)
    return timeline


def _places(session: Session, typed: str) -> list[Word]:
    return [Word(name, meaning) for name, meaning in _ENDS.items()] if " " not in typed else []


@command("goto", text=_places)
def goto(session: Session, text: str) -> str:
    """Let the machine stand at a place of the recording.

    `E120` is VM exit 120 of all VPs together, before it is handled; `E120:7` the 7th instruction after it; `E120+3` the
    3rd event after it; `begin` and `end` its two ends. Who wants to change something there says `branch` first.

    Example: `record`, `goto E5`, `goto E5:2`, `goto end`
    """
    timeline = timeline_of(session)
    try:
        if text == "end":
            timeline.go_to_end()
        else:
            timeline.go(Position() if text == "begin" else Position.parse(text))
    except PositionError as error:
        raise DebugError(str(error), f"the recording has {Position()} to {timeline.end}") from None
    if session.recent.records:
        session.look_where(session.recent.newest())
    return f"{timeline.position}\n{where(session)}"


def _fields(session: Session, typed: str) -> list[Word]:
    return [Word(name, meaning) for name, meaning in field_names().items()]


@command("back", text=_fields)
def back(session: Session, text: str = "") -> str:
    """Go back to the last VM exit before here, or to the last event for which a condition is true.

    Example: `record`, `back`, `back reason == CPUID`, `back event == Hypercall and status != 0`
    """
    return _to_event(session, text, "back")


@command("forth", text=_fields)
def forth(session: Session, text: str = "") -> str:
    """Go on to the next VM exit, or to the next event for which a condition is true.

    Example: `record`, `goto begin`, `forth`, `forth event == PortIo`
    """
    return _to_event(session, text, "forth")


@command("rstep", "rs", "rsi")
def rstep(session: Session, n: int = 1) -> str:
    """Go *n* instructions back, of whoever ran. In front of the first one behind a VM exit comes that exit.

    Example: `record`, `rstep 3`
    """
    if not 1 <= n <= MOST_STEPS:
        raise DebugError(f"{n} steps are out of range 1..{MOST_STEPS}", "`goto` goes anywhere")
    recorded.step(session, n, back=True)
    return f"{timeline_of(session).position}\n{where(session)}"


@command("rnext", "rn", "rni")
def rnext(session: Session, n: int = 1) -> str:
    """Go *n* instructions back, where a CALL is one with all that it called.

    A breakpoint or a stop in there stops.

    Example: `record`, `rnext 3`
    """
    if not 1 <= n <= MOST_STEPS:
        raise DebugError(f"{n} steps are out of range 1..{MOST_STEPS}", "`goto` goes anywhere")
    for _ in range(n):
        site, rsp = call_site(session.vp, session.linear_rip), session.vp.regs.rsp
        recorded.step(session, 1, back=True)
        if site is not None and session.vp.regs.rsp < rsp:      # behind a RET: in what was called
            why = recorded.run(session, None, Target(Breakpoint(session.vm.name, site), rsp), back=True)
            if "reached" not in why:
                return f"{why}\n{where(session)}"
    return f"{timeline_of(session).position}\n{where(session)}"


@command("rcontinue", "rc")
def rcontinue(session: Session) -> str:
    """Go back to the last breakpoint or stop that was met before here, or to the beginning of the recording.

    Example: `record`, `break start+5`, `rcontinue`
    """
    return f"{recorded.run(session, back=True)}\n{where(session)}"


@command("branch")
def branch(session: Session) -> str:
    """Let the run go on from this place, and forget what is recorded behind it: here things may be changed.

    Of a VM exit the handling comes to its end first, and what it asks of the parent waits.

    Example: `record`, `goto E5:2`, `branch`, `set rax 1`, `continue`
    """
    timeline = timeline_of(session)
    forgotten = timeline.take_up()
    return f"{timeline.position}  the run goes on from here; exits forgotten: {forgotten}\n{where(session)}"


@command("save")
def save(session: Session, text: str) -> str:
    """Write the recording to a new file, with the programs and all that was changed: a replay file.

    `hv replay FILE` runs it again, on another machine too, and says whether it comes to the same end; `hv repl --replay
    FILE` goes anywhere in it. The machine stands at its end afterwards.

    Example: `record`, `save run.hvreplay`
    """
    timeline = timeline_of(session)
    if session.made_from is None:
        raise DebugError("nobody knows what this machine was made from", "`hv repl FILE` makes one that can be saved")
    replay = kept(timeline, session.made_from())
    shown = write_file(text, replay.encoded())
    return f"{len(replay.acts)} acts, up to {timeline.end}, are in {shown}"


@command("forget")
def forget(session: Session) -> str:
    """End the recording: the machine stands at its end, and runs on as any other.

    Example: `record`, `forget`
    """
    timeline = timeline_of(session)
    timeline.go_to_end()
    timeline.close()
    session.timeline = None
    return where(session)


def _to_event(session: Session, text: str, way: str) -> str:
    timeline, test = timeline_of(session), session.condition(text or "event == VmExit")

    def wanted(record: Record) -> bool:
        return test(session.recent.newest())        # which listens longer, so it has this record

    try:
        found = timeline.forward(wanted) if way == "forth" else timeline.backward(wanted)
    except Interrupted:
        raise DebugError("interrupted", "the machine stands where it stood") from None
    if found is None or found.record is None:
        nothing = "comes: this is the end" if way == "forth" else "was: this is the beginning"
        return f"nothing of that {nothing}, {timeline.position}\n{where(session)}"
    session.look_where(session.recent.newest())
    return f"{timeline.position}  {record_line(found.record)}\n{where(session)}"
