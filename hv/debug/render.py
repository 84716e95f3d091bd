"""What a command returned, as text: tables of names and values, lists by line, numbers as the manuals write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple

from hv.debug.facts import Fact
from hv.printable import printable
from hv.spec.exits import ExitReason
from hv.trace.bus import Record

MOST_LINES, LONGEST_LINE = 200, 2000


@dataclass(frozen=True, slots=True)
class Changed:
    """*what* was *before*, and is *now*; *notes* are lines that say what comes of it."""

    what: str
    before: Any
    now: Any
    notes: tuple[str, ...] = ()


class Found(NamedTuple):
    """What was looked for: the *items*, and what is said when there is none."""

    items: list[Any]
    otherwise: str


def render(value: Any) -> str:
    """The text to print, without the last newline; of something long, its beginning."""
    lines = [printable(line, LONGEST_LINE) for line in _lines(value)]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [f"... and {len(lines) - MOST_LINES} lines more"]
    return "\n".join(lines)


def _lines(value: Any) -> Iterable[str]:
    match value:
        case None:
            return []
        case str():
            return value.split("\n")
        case Counter():
            return _table({name: str(count) for name, count in value.items()})
        case Mapping():
            return _table(value)
        case Found():
            return [_one(item) for item in value.items] or [value.otherwise]
        case Record() | Fact():
            return [_one(value)]
        case Changed():
            return [changed_line(value), *value.notes]
        case _ if _inspectable(value):
            return _table(value.inspect())
        case list() | tuple():
            return [_one(item) for item in value]
        case _:
            return [_one(value)]


def _table(mapping: Mapping[Any, Any], prefix: str = "") -> list[str]:
    rows = list(_flat(mapping, prefix))
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {text}".rstrip() for name, text in rows]


def _flat(mapping: Mapping[Any, Any], prefix: str) -> Iterable[tuple[str, str]]:
    for key, value in mapping.items():
        if _inspectable(value):
            value = value.inspect()
        if str(key).startswith("reserved"):
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", _one(value)


def _one(value: Any) -> str:
    """One value on one line."""
    match value:
        case bool() | str() | None:
            return str(value)
        case Enum():
            return value.name
        case int():
            return number(value)
        case bytes() | bytearray():
            return value.hex(" ")
        case Record():
            return record_line(value)
        case Fact():
            return fact_line(value)
        case Mapping():
            return " ".join(f"{key}={_one(item)}" for key, item in value.items())
        case _ if _inspectable(value):
            return _one(value.inspect())
        case list() | tuple():
            return ", ".join(_one(item) for item in value) or "none"
        case _ if is_dataclass(value) and not isinstance(value, type):
            shown = ((field.name, getattr(value, field.name)) for field in fields(value))
            return " ".join(f"{name}={_one(part)}" for name, part in shown if part != "")
        case _:
            return without_address(value)


def changed_line(changed: Changed) -> str:
    """`rax  0x10 -> 5`."""
    before, now = _one(changed.before), _one(changed.now)
    return f"{changed.what}  {before} -> {now}" if before != now else f"{changed.what}  {now}, as before"


def outline(tree: Any) -> Any:
    """An object as it is, but of what holds many parts only their names."""
    data = tree.inspect() if _inspectable(tree) else tree
    if not isinstance(data, Mapping):
        return data
    return {key: short(value) for key, value in data.items() if not str(key).startswith("reserved")}


def short(value: Any) -> Any:
    """A value, or for a long list and a deep object what there is below."""
    if _inspectable(value):
        value = value.inspect()
    if isinstance(value, list) and len(value) > 8:
        return f"({len(value)} entries)"
    if isinstance(value, Mapping) and (len(value) > 8 or any(isinstance(part, Mapping) for part in value.values())):
        return "/ " + " ".join(str(key) for key in value)
    return value


def number(value: int) -> str:
    """Small numbers in decimal, which reads the same; others in hexadecimal."""
    return str(value) if -10 < value < 10 else hex(value)


def record_line(record: Record) -> str:
    """One event: its number, when, who, what."""
    event = record.event
    where = f"#{record.sequence:<6} {record.tsc:>12}  {record.partition}.{record.vp}"
    if isinstance(getattr(event, "reason", None), ExitReason):
        return f"{where}  exit {_exit(event)}"
    return f"{where}  {type(event).__name__} {_one(event)}".rstrip()


def fact_line(fact: Fact) -> str:
    """The same, and what the instruction was about."""
    said = {"rip", "gpa", "gva"} if "guest_physical_address" in str(fact.record.event) else {"rip"}
    operands = {name: value for name, value in fact.operands.items() if name not in said}
    return f"{record_line(fact.record)} {_one(operands)}".rstrip()


def _exit(event: Any) -> str:
    shown = event.inspect()
    name = shown.pop("reason")
    return f"{name} {_one(shown)}"


def _inspectable(value: Any) -> bool:
    return callable(getattr(value, "inspect", None)) and not isinstance(value, type)


def without_address(value: Any) -> str:
    """repr, or for an object that has none of its own, its kind: an address would differ from run to run."""
    text = repr(value)
    return f"<{type(value).__name__}>" if " at 0x" in text else text
