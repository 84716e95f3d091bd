"""How events, numbers and bytes are written for a learner: as the manuals write them, and never as control codes."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from hv.printable import LONGEST, printable
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.msrs import Msr
from hv.spec.numbering import Numbering
from hv.spec.synic import HvMessageType
from hv.trace.events import MessageDelivered
from hv.vmx.exit import VmExit

# What a learner's own instructions cause; the rest of the machine's events would drown them.
SHOWN = frozenset({"Cpuid", "MsrRead", "MsrWrite", "CrWrite", "PortIo", "MmioAccess", "Fault", "Injected",
                    "GuestCrashed", "Hypercall", "MessagePosted", "MessagePending", "MessageDelivered", "EventSignaled",
                    "EventDelivered", "SyntheticTimerExpired", "VpStarted", "ClusterIpi", "TranslationsFlushed",
                    "InterruptRequested", "InterruptRouted", "DmaFault", "InterruptRemapFault",
                    "VmEntry", "VmEntryRefused", "VmxFailed"})
# Fields whose numbers have names, which labs may use too.
NAMED_FIELDS: dict[str, type[Numbering]] = {"msr": Msr, "status": HvStatus, "code": HypercallCode,
                                            "message_type": HvMessageType}


def number(value: int) -> str:
    """Small numbers in decimal, which reads the same; others in hexadecimal."""
    return str(value) if -10 < value < 10 else hex(value)


def plain(value: Decimal) -> int | float:
    """Points as people write them, and JSON: whole ones without a decimal point."""
    return int(value) if value == int(value) else float(value)


def quoted(data: bytes) -> str:
    """Bytes as text in quotes, or in hexadecimal when they are no text."""
    if data and all(0x20 <= byte < 0x7F or byte in (10, 13) for byte in data):
        text = data.decode("ascii").replace("\r", "\\r").replace("\n", "\\n")
        return f'"{printable(text)}"'
    return printable(data[: LONGEST // 4].hex(" ")) or "nothing"


def is_exit(event: Any) -> bool:
    """The event is a VM exit."""
    return isinstance(event, VmExit)


def is_roots(event: Any) -> bool:
    """A message of the hypervisor to root about an intercept: it follows what a VM did, and is not the VM's."""
    return isinstance(event, MessageDelivered) and event.message_type >> 31 == 1 \
        and event.message_type != HvMessageType.TIMER_EXPIRED


def event_name(event: Any) -> str:
    """The name of an event's class; of a VM exit its reason."""
    return event.reason.name if isinstance(event, VmExit) else type(event).__name__


def field_words(name: str, values: Mapping[str, Any]) -> str:
    """A name and values: `CPUID leaf=0x40000000`."""
    return " ".join([name, *(f"{key}={_value(value)}" for key, value in values.items())])


def event_words(event: Any, always: bool = False) -> str:
    """One event on one line; empty when it is not for a learner's eyes, unless it is *always* wanted."""
    name = event_name(event)
    if isinstance(event, VmExit):
        shown = {key: value for key, value in event.inspect().items() if key != "reason" and value}
        return field_words(f"exit {name}", shown)
    if name not in SHOWN and not always:
        return ""
    return field_words(name, {key: value for key, value in event.inspect().items() if value not in ("", None)})


def _value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return number(value)
    if isinstance(value, tuple):
        return ",".join(map(_value, value))
    return printable(str(value))
