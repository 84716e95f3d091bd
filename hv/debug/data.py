"""What a command returned, as plain data for JSON: for programs that read a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from hv.debug.facts import Fact
from hv.debug.render import Found, without_address
from hv.trace.bus import Record

_DEEPEST = 20


def plain_data(value: Any, depth: int = 0) -> Any:
    """*value* of numbers, texts, lists and dictionaries only; an enumeration's member is its name."""
    if depth > _DEEPEST:
        return "..."
    match value:
        case None | bool() | str():
            return value
        case Enum():
            return value.name
        case int() | float():
            return value
        case bytes() | bytearray():
            return value.hex()
        case Fact():
            return plain_data(value.inspect(), depth + 1)
        case Record():
            return plain_data(value._asdict(), depth + 1)
        case Found():
            return [plain_data(item, depth + 1) for item in value.items]
        case Mapping():
            return {_key(key): plain_data(item, depth + 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain_data(item, depth + 1) for item in value]
        case _ if callable(getattr(value, "inspect", None)) and not isinstance(value, type):
            return plain_data(value.inspect(), depth + 1)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {part.name: plain_data(getattr(value, part.name), depth + 1) for part in fields(value)}
    return without_address(value)


def _key(key: Any) -> str:
    return key.name if isinstance(key, Enum) else str(key)
