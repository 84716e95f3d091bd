"""How events, numbers and bytes are written for a learner: as the manuals write them, and never as control codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hv.printable import LONGEST, printable
from hv.vmx.exit import VmExit

# What a learner's own instructions cause; the rest of the machine's events would drown them.
_SHOWN = frozenset({"Cpuid", "MsrRead", "MsrWrite", "CrWrite", "PortIo", "MmioAccess", "Fault", "Injected",
                    "InterruptEnded", "GuestCrashed"})


def number(value: int) -> str:
    """Small numbers in decimal, which reads the same; others in hexadecimal."""
    return str(value) if -10 < value < 10 else hex(value)


def quoted(data: bytes) -> str:
    """Bytes as text in quotes, or in hexadecimal when they are no text."""
    if data and all(0x20 <= byte < 0x7F or byte in (10, 13) for byte in data):
        text = data.decode("ascii").replace("\r", "\\r").replace("\n", "\\n")
        return f'"{printable(text)}"'
    return printable(data[: LONGEST // 4].hex(" ")) or "nothing"


def is_exit(event: Any) -> bool:
    """The event is a VM exit."""
    return isinstance(event, VmExit)


def event_name(event: Any) -> str:
    """The name of an event's class; of a VM exit its reason."""
    return event.reason.name if isinstance(event, VmExit) else type(event).__name__


def field_words(name: str, values: Mapping[str, Any]) -> str:
    """A name and values: `CPUID leaf=0x40000000`."""
    return " ".join([name, *(f"{key}={_value(value)}" for key, value in values.items())])


def event_words(event: Any) -> str:
    """One event on one line; empty when it is not for a learner's eyes."""
    name = event_name(event)
    if isinstance(event, VmExit):
        shown = {key: value for key, value in event.inspect().items() if key != "reason" and value}
        return field_words(f"exit {name}", shown)
    if name not in _SHOWN:
        return ""
    return field_words(name, event.inspect())


def _value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return number(value)
    if isinstance(value, tuple):
        return ",".join(map(_value, value))
    return printable(str(value))
