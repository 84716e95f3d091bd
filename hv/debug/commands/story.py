"""exits, events: what led here."""

from __future__ import annotations

from typing import Any

from hv.debug.errors import DebugError
from hv.debug.registry import command
from hv.debug.session import Session
from hv.spec.exits import ExitReason
from hv.trace.bus import Record

MOST = 200


@command("exits", "e")
def exits(session: Session, n: int = 10) -> list[Record] | str:
    """Show the last *n* VM exits of every VP, oldest first.

    Example: `exits 20`
    """
    found = [record for record in session.recent.records if is_exit(record.event)]
    return found[-checked(n):] or "no exit yet"


@command("events", "ev")
def events(session: Session, n: int = 20) -> list[Record] | str:
    """Show the last *n* events, oldest first.

    Example: `events 50`
    """
    return list(session.recent.records)[-checked(n):] or "no event yet"


@command("serial", "out")
def serial(session: Session) -> str:
    """Show what the VM has printed on its serial port.

    Example: `serial`
    """
    return str(session.vm.serial).rstrip("\n") or "nothing yet"


def is_exit(event: Any) -> bool:
    """This event is a VM exit."""
    return isinstance(getattr(event, "reason", None), ExitReason)


def checked(n: int) -> int:
    """*n*, unless it is out of range."""
    if not 1 <= n <= MOST:
        raise DebugError(f"{n} is out of range 1..{MOST}")
    return n
