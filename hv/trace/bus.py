"""The bus that carries what happened to whoever listens.

Rooms emit facts (`hv/trace/events.py`); the REPL, the labs, the grader, the demo and the tests listen. With no
listener an event costs the emitter one attribute test:

    if trace.listening:
        trace.emit(Cpuid(leaf, subleaf, answer))
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One event with its place: *sequence* counts from 0, *tsc* is virtual time; *partition* 0 is the hypervisor."""

    sequence: int
    tsc: int
    partition: int
    vp: int
    event: Any


class Trace:
    """One machine's events. The scheduler says who runs (`at`); a listener is called with each `Record`, in order."""

    def __init__(self) -> None:
        self.listening = False
        self.clock: Callable[[], int] = lambda: 0
        self._listeners: list[Callable[[Record], None]] = []
        self._sequence = 0
        self.place = (0, 0)             # partition and VP that events belong to

    def at(self, partition: int, vp: int) -> None:
        """From here on events belong to this VP of this partition."""
        self.place = partition, vp

    @property
    def mark(self) -> tuple[tuple[int, int], int]:
        """Where it is: whom events belong to, and how many there were."""
        return self.place, self._sequence

    def back_to(self, mark: tuple[tuple[int, int], int]) -> None:
        """Go on from a `mark` of before; who listens now still does."""
        self.place, self._sequence = mark

    def listen(self, listener: Callable[[Record], None]) -> None:
        """Call *listener* with every record from now on."""
        self._listeners.append(listener)
        self.listening = True

    def unlisten(self, listener: Callable[[Record], None]) -> None:
        """Stop calling *listener*; ValueError when it does not listen."""
        self._listeners.remove(listener)
        self.listening = bool(self._listeners)

    def emit(self, event: Any) -> None:
        """Hand *event* to the listeners."""
        record = Record(self._sequence, self.clock(), *self.place, event)
        self._sequence += 1
        for listener in self._listeners:
            listener(record)


class Recent:
    """A listener that keeps the last *limit* records, for the REPL's `exits` and for crash reports."""

    def __init__(self, limit: int = 1000) -> None:
        self.records: deque[Record] = deque(maxlen=limit)

    def __call__(self, record: Record) -> None:
        self.records.append(record)

    def last(self, count: int, kind: type | None = None) -> list[Record]:
        """The last *count* records (of events of *kind*, if given), oldest first."""
        found = [record for record in self.records if kind is None or isinstance(record.event, kind)]
        return found[-count:] if count > 0 else []
