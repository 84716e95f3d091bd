"""stop: where the machine stops because something happens."""

from __future__ import annotations

from collections.abc import Iterator

from hv.debug.completion import Word
from hv.debug.conditions import closest, members, split
from hv.debug.errors import DebugError
from hv.debug.facts import EVENT_CLASSES, field_names
from hv.debug.registry import command, first_word
from hv.debug.session import EventStop, Session

# Kind of stop: the events it is about, and the field that its value is compared with.
KINDS = {
    "exit": ("event == VmExit", "reason"),
    "hypercall": ("event == Hypercall", "code"),
    "msr": ("reason == RDMSR or reason == WRMSR", "msr"),
    "port": ("reason == IO_INSTRUCTION", "port"),
    "vector": ("event == Injected or event == Fault", "vector"),
    "event": ("sequence >= 0", "event"),
}
_MEANINGS = {
    "exit": "a VM exit, by its reason", "hypercall": "a hypercall is done, by its code",
    "msr": "RDMSR or WRMSR exits", "port": "IN or OUT exits", "vector": "a guest gets an interrupt or exception",
    "event": "any event, by its kind",
}


def _words(session: Session, typed: str) -> Iterator[Word]:
    words = typed.split()
    if len(words) + typed.endswith((" ", "\t")) <= 1:
        yield from (Word(kind, meaning) for kind, meaning in _MEANINGS.items())
        return
    if words[0] == "event":
        yield from (Word(name, "an event") for name in EVENT_CLASSES)
    elif words[0] in KINDS:
        yield from (Word(name, f"{int(value):#x}") for name, value in members(KINDS[words[0]][1]).items())
    yield Word("if", "a condition follows")
    if "if" in words:
        yield from (Word(name, meaning) for name, meaning in field_names().items())


@command("stop", text=_words)
def stop(session: Session, text: str = "") -> str | list[str]:
    """Stop all VMs at an event, before the next instruction of any guest; without arguments, list the stops.

    By what happens: `exit REASON`, `hypercall CODE`, `msr INDEX`, `port NUMBER`, `vector NUMBER`, `event KIND`. Each
    may be left open (`stop hypercall`), and be followed by `if` and a condition over the fields of the event and the
    registers at that moment. Of a VM exit the handler is done when the machine stops; what it asks of the parent is
    not answered yet. `delete stop 1` and `delete stops` remove them.

    Example: `stop exit CPUID`, `stop msr 0x40000083 if value & 1`, `stop event MessagePosted`, `stop port 0x3f8 if vm
    == "timer" and write`, `stop hypercall POST_MESSAGE if status != 0`, `stop`
    """
    if not text:
        return [f"{number}  {each.words}" for number, each in enumerate(session.stops, 1)] or ["no stops"]
    what, condition = split(text, "if")
    kind, value = first_word(what)
    if kind not in KINDS:
        near = closest(kind, KINDS)
        raise DebugError(f"`{kind}` is nothing to stop at",
                         f"did you mean `{near[0]}`?" if near else f"there are {', '.join(KINDS)}")
    if kind == "event" and not value:
        raise DebugError("stop event: which kind is missing", "`fields` lists them")
    tests = [session.condition(source_of(session, kind, value))]
    if condition is not None:
        tests.append(session.condition(condition, live=True))
    made = EventStop(" ".join(text.split()), tuple(tests))
    if made.words not in [each.words for each in session.stops]:
        session.stops.append(made)
    number = [each.words for each in session.stops].index(made.words) + 1
    return f"stop {number} at {made.words}"


def source_of(session: Session, kind: str, value: str) -> str:
    """The condition that `stop KIND VALUE` means; DebugError with the nearest names."""
    events, field = KINDS[kind]
    if not value:
        return events
    return f"({events}) and {field} == {_value(session, kind, field, value)}"


def _value(session: Session, kind: str, field: str, value: str) -> str:
    if kind == "event":
        if value not in EVENT_CLASSES:
            found = {name.lower(): name for name in EVENT_CLASSES}.get(value.lower())
            return found or _refuse(f"`{value}` is no kind of event", closest(value, EVENT_CLASSES))
        return value
    names = members(field)
    if value.upper() in names:
        return f"{int(names[value.upper()]):#x}"
    try:
        return f"{session.address(value):#x}"
    except DebugError as error:
        return _refuse(f"`{value}` is no {field}: {error.message}", closest(value, names))


def _refuse(what: str, near: list[str]) -> str:
    raise DebugError(what, f"near: {', '.join(near)}" if near else "`fields` lists the fields")
