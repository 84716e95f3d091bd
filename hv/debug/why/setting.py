"""Who set it, and when: found for each link of a chain that rests on something one can look at again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hv.debug.errors import DebugError
from hv.debug.facts import Fact
from hv.debug.looking import instructions
from hv.debug.session import Session
from hv.debug.why.chain import Link, Look, Setting
from hv.debug.why.names import deed, event_text, hypercall_name, who
from hv.machine.faults import BusError, GuestFault, NestedFault
from hv.replay.origin import instruction, origins
from hv.replay.position import Position
from hv.replay.timeline import Timeline
from hv.trace.bus import Record
from hv.trace.events import Hypercall
from hv.vmx.exit import VmExit


def find_settings(session: Session, links: Iterable[Link], until: Fact | None) -> None:
    """Fill in `set_by` of all *links*, as of the event *until*, which only matters without a recording. A
    recorded machine is taken elsewhere, and back."""
    wanted = [each for top in links for each in top.walk() if each.look is not None or each.tells is not None]
    if session.timeline is not None:
        _recorded(session, session.timeline, [link for link in wanted if link.look is not None])
        return
    end = until.record.sequence if until is not None else 0
    records = [fact.record for fact in session.recent.facts() if fact.record.sequence < end]
    for link in wanted:
        link.set_by = _told(session, link, records)


def _recorded(session: Session, timeline: Timeline, links: list[Link]) -> None:
    here, live = timeline.position, timeline.live
    looks = [_careful(link.look) for link in links if link.look is not None]
    values = [look() for look in looks]
    found = origins(timeline, looks)
    for link, look, value, place in zip(links, looks, values, found, strict=True):
        if place is None:
            link.set_by = _told(session, link, []) or Setting(link.never)
        elif not place.behind:
            link.set_by = _at(session, timeline, place.position, look, value)
        elif here.instructions:
            link.set_by = _by_instruction(session, timeline, place.position.exits, look, value)
        else:
            link.set_by = Setting(f"behind {place.position}, by time alone")
    if live:
        timeline.go_to_end()
    else:
        timeline.go(here)


def _careful(look: Look) -> Look:
    """*look* at a time when what it looks at may not have existed: then it gives None."""
    def careful() -> object:
        try:
            return look()
        except (LookupError, AttributeError, DebugError, GuestFault, NestedFault, BusError):
            return None

    return careful


def _at(session: Session, timeline: Timeline, position: Position, look: Look, value: object) -> Setting:
    """What happened at *position*, behind which *look* gives *value*, and who did it by what."""
    timeline.go(position)
    facts = list(session.recent.facts())
    change = facts[-1].record
    if isinstance(change.event, VmExit):        # it was so when the guest was left: its own code did it
        return _by_instruction(session, timeline, position.exits - 1, look, value)
    exit = next((fact for fact in reversed(facts) if isinstance(fact.record.event, VmExit)
                 and _same(fact.record, change)), None)
    if exit is not None:
        by = deed(exit)
    else:
        call = timeline.forward(lambda record: isinstance(record.event, Hypercall | VmExit))
        by = _call_of(call.record if call is not None else None, change)
    return Setting(str(position), who(session, change.partition, change.vp), by, event_text(change))


def _by_instruction(session: Session, timeline: Timeline, exits: int, look: Look, value: object) -> Setting:
    """The instruction behind exit *exits* that did it, or what was done about that exit."""
    position = instruction(timeline, exits, look, value)
    if position is None and not exits:
        return Setting("at the beginning")
    timeline.go(position or Position(exits))
    if position is None:
        fact = session.recent.newest()
        by = f"the handling of {deed(fact)}"
        return Setting(f"E{exits}", who(session, fact.record.partition, fact.record.vp), by)
    vp = session.machine.scheduler.current
    return Setting(str(position), who(session, vp.partition.id, vp.index), _text(vp))


def _text(vp: Any) -> str:
    """The instruction that *vp* is about to execute; root's own software has none."""
    try:
        return f"`{next(instructions(vp, vp.regs.linear_rip, 1))[2]}`"
    except (StopIteration, AttributeError, DebugError, GuestFault, NestedFault):
        return "instructions"


def _told(session: Session, link: Link, records: list[Record]) -> Setting | None:
    """The last of *records*, or of those before the recording, that tells of it."""
    every = [*session.before, *records]
    for number in reversed(range(len(every))):
        record = every[number]
        if link.tells is not None and link.tells(record.event):
            by = next((_call_of(later, record) for later in every[number:] if isinstance(later.event, Hypercall)), "")
            when = f"#{record.sequence}" if session.timeline is None else f"#{record.sequence}, before the recording,"
            return Setting(when, who(session, record.partition, record.vp), by, event_text(record))
    return None


def _call_of(record: Record | None, change: Record) -> str:
    """The hypercall that *record* tells the end of, if it is that of who made the *change*."""
    if record is None or not isinstance(record.event, Hypercall) or not _same(record, change):
        return ""
    return hypercall_name(record.event.code)


def _same(one: Record, other: Record) -> bool:
    return (one.partition, one.vp) == (other.partition, other.vp)
