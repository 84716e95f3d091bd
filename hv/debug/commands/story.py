"""exits, events, last, count, fields, serial, screen: what led here, and questions about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

from hv.debug.completion import Word
from hv.debug.conditions import closest, members, split
from hv.debug.errors import DebugError
from hv.debug.facts import ENUMERATIONS, EVENT_CLASSES, EXIT_FIELDS, OPERANDS, PLACE, Fact, field_names
from hv.debug.registry import command
from hv.debug.render import Found
from hv.debug.session import Session
from hv.vmx.exit import VmExit

MOST = 200


def _query_words(session: Session, typed: str) -> Iterator[Word]:
    """What a question is made of: its own words, fields, and the names that belong to the last field."""
    yield from (Word("where", "a condition follows"), Word("and"), Word("or"), Word("not"), Word("in"))
    yield from (Word(name, f"of {whose}") for name, whose in field_names().items())
    last = next((word for word in reversed(typed.split()) if word in ENUMERATIONS or word == "event"), "")
    if last == "event":
        yield from (Word(name, "a kind of event") for name in EVENT_CLASSES)
    elif last:
        yield from (Word(name, f"{value:#x}" if isinstance(value, int) else value)
                    for name, value in members(last).items())


@command("exits", "e", text=_query_words)
def exits(session: Session, text: str = "") -> Found:
    """Show the last VM exits of every VP, oldest first: ten, or as many as you say, or those that match.

    `where` is followed by a condition: Python's comparisons over the fields of an exit, and what its instruction was
    about (msr, value, port, leaf, code, gpa ...; `fields VmExit` lists them). Names of the manual stand for themselves.

    Example: `exits 20`, `exits where reason == MSR_WRITE and msr == 0x40000083`, `exits 5 where vm == "timer" and rip
    < on_timer`
    """
    facts = (fact for fact in session.recent.facts() if isinstance(fact.record.event, VmExit))
    return asked(session, facts, text, 10, "exit")


@command("events", "ev", text=_query_words)
def events(session: Session, text: str = "") -> Found:
    """Show the last events, oldest first: twenty, or as many as you say, or those that match.

    The last 20000 events are kept. `fields` lists what a condition may ask for.

    Example: `events 50`, `events where event == SerialOutput`, `events 3 where vector == 0x30 or event == VpHalted`
    """
    return asked(session, session.recent.facts(), text, 20, "event")


def asked(session: Session, facts: Iterable[Fact], text: str, n: int, kind: str) -> Found:
    """The last *n* of *facts*, or what `[N] [where CONDITION]` says; DebugError."""
    head, source = split(text, "where")
    n = checked(session.number(head)) if head else n if source is None else MOST
    if source is None:
        return Found(list(facts)[-n:], f"no {kind} yet")
    condition = session.condition(source)
    return Found([fact for fact in facts if condition(fact)][-n:], f"no {kind} matches")


@command("last", text=_query_words)
def last(session: Session, text: str = "") -> dict[str, Any] | str:
    """Show all that is known of the last event, or of the last one that matches a condition.

    Example: `last`, `last event == VpSwitch`
    """
    source = split(text, "where")[1] or text
    condition = session.condition(source) if source else None
    for fact in reversed(list(session.recent.facts())):
        if condition is None or condition(fact):
            shown: dict[str, Any] = fact.inspect()
            return shown
    return "no event matches" if source else "no event yet"


@command("count", text=_query_words)
def count(session: Session, text: str = "") -> Counter[str]:
    """Count exits or events: by kind, or `by` any field; all that are kept, or those that match.

    Example: `count exits`, `count exits by vm`, `count exits by msr where reason == MSR_WRITE`, `count events by
    event where tsc > 0`
    """
    head, source = split(text, "where")
    what, field = split(head, "by")
    if what not in ("", "exits", "events"):
        raise DebugError(f"`{what}` cannot be counted", "write `count exits`, or `count events by event`")
    field = field if field is not None else "reason" if what == "exits" else "event"
    if field not in field_names():
        near = closest(field, field_names())
        raise DebugError(f"`{field}` is no field of an event", f"near: {', '.join(near)}" if near else "`fields`")
    condition = session.condition(source) if source is not None else None
    counted: Counter[str] = Counter()
    for fact in session.recent.facts():
        if (what != "exits" or isinstance(fact.record.event, VmExit)) and (condition is None or condition(fact)):
            value = fact.get(field)
            if value is not None:
                counted[named(field, value)] += 1
    return Counter(dict(counted.most_common()))


def named(field: str, value: Any) -> str:
    """*value* as the manual calls it beside *field*: `HV_SIMP (0x40000083)`; else as a number or a text."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    for enumeration in ENUMERATIONS.get(field, ()):
        member = enumeration._value2member_map_.get(value)
        if member is not None:
            return f"{member.name} ({value:#x})"
    return f"{value:#x}"


def _kinds(session: Session, typed: str) -> Iterator[Word]:
    for name in EVENT_CLASSES:
        yield Word(name, "a kind of event")


@command("fields", kind=_kinds)
def fields(session: Session, kind: str = "") -> dict[str, str]:
    """List what conditions may ask for: of every event, or of one kind.

    Example: `fields`, `fields VmExit`, `fields MessagePosted`
    """
    if not kind:
        return {name: f"of {whose}" if name not in PLACE else whose for name, whose in sorted(field_names().items())}
    if kind not in EVENT_CLASSES:
        near = closest(kind, EVENT_CLASSES)
        raise DebugError(f"`{kind}` is no kind of event", f"near: {', '.join(near)}" if near else "`fields` lists all")
    own = dict.fromkeys(EXIT_FIELDS, "exit information") | OPERANDS if kind == "VmExit" else \
        {name: _of_type(EVENT_CLASSES[kind], name) for name in EVENT_CLASSES[kind].FIELDS}
    return {**own, **PLACE}


def _of_type(kind: type[Any], name: str) -> str:
    return str(kind.__annotations__.get(name, ""))


@command("serial", "out")
def serial(session: Session) -> str:
    """Show what the VM has printed on its serial port.

    Example: `serial`
    """
    return str(session.vm.serial).rstrip("\n") or "nothing yet"


@command("screen")
def screen(session: Session) -> str:
    """Show the VM's text screen: the 80 x 25 characters at 0xB8000 of its memory.

    Example: `screen`
    """
    shown = getattr(session.vm, "screen", None)
    if shown is None:
        raise DebugError("a root of machine code has no text screen", "its serial port: serial")
    return str(shown()) or "the screen is empty"


def checked(n: int) -> int:
    """*n*, unless it is out of range."""
    if not 1 <= n <= MOST:
        raise DebugError(f"{n} is out of range 1..{MOST}")
    return n
