"""A listener that writes the timeline file Perfetto and chrome://tracing open.

A partition is a process, a VP a thread, a VM exit a slice, any other event an instant. Arrows (flows) go from cause to
effect: from an interrupt's request to its injection, from a message's post to its delivery, from an intercept to the
parent's answer. The format is the "Trace Event Format"; times are virtual microseconds. The same events give the same
bytes.

Left out: counters, and anything that needs the host's clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hv.spec.exits import ExitReason, InterruptionType
from hv.trace import events
from hv.trace.bus import Record
from hv.trace.event import Event

BEGIN = '{"displayTimeUnit":"ns","traceEvents":['      # of every file, and how one is known
# Fields that read best in hexadecimal.
_HEX = frozenset({
    "address", "answer", "code", "connection", "control", "error_code", "gpa", "index", "input_gpa", "iova", "leaf",
    "message_type", "msr", "output_gpa", "parameters", "port", "rip", "sender", "source_id", "spa", "value", "vector",
})


@runtime_checkable
class Exit(Protocol):
    """A VM exit, as far as a listener must know it: vmx owns the class, and this room may not import vmx."""

    @property
    def reason(self) -> ExitReason: ...

    @property
    def qualification(self) -> int: ...


class ChromeTrace:
    """A listener; `write` makes the file. *ticks_per_us* is the virtual TSC's rate, 2000 at 2 GHz."""

    def __init__(self, ticks_per_us: int = 2000) -> None:
        self.ticks_per_us = ticks_per_us
        self._placed: list[tuple[int, int, dict[str, Any]]] = []      # (sequence, rank): where it stands in the file
        self._open: dict[tuple[int, int], tuple[Record, Exit]] = {}   # the exit each VP is in
        self._free_from: dict[tuple[int, int], int] = {}              # tsc at which a VP's last slice ended
        self._causes: dict[tuple[Any, ...], list[Record]] = {}        # still without their effect
        self._flows = 0
        self._names = {0: "hypervisor"}
        self._threads: set[tuple[int, int]] = set()

    def __call__(self, record: Record) -> None:
        event = record.event
        self._threads.add((record.partition, record.vp))
        if isinstance(event, Exit):
            self._close(record.partition, record.vp, record.tsc)
            self._open[record.partition, record.vp] = record, event
        elif isinstance(event, events.VmEntry):
            self._close(record.partition, record.vp, record.tsc)
        else:
            self._instant(record)
            self._arrow(record)

    def _close(self, partition: int, vp: int, tsc: int) -> None:
        """End the slice of the VP's last exit, if it is in one."""
        opened = self._open.pop((partition, vp), None)
        if opened is not None:
            record, exit = opened
            self._place(record, 0, self._slice(record, exit, tsc))

    def _slice(self, record: Record, exit: Exit, end: int) -> dict[str, Any]:
        # Virtual time may stand still between two exits. Slices of one thread must not overlap, so each gets a tick
        # at least and the next one starts after it.
        start = max(record.tsc, self._free_from.get((record.partition, record.vp), 0))
        end = max(end, start + 1)
        self._free_from[record.partition, record.vp] = end
        return {
            "ph": "X", "name": ExitReason(exit.reason).name, "cat": "exit", **self._where(record, start),
            "dur": self._us(end - start), "args": {"qualification": hex(exit.qualification), "n": record.sequence},
        }

    def _instant(self, record: Record) -> None:
        event = record.event
        if isinstance(event, events.PartitionNamed):
            self._names[event.partition] = event.name
        self._place(record, 1, {
            "ph": "i", "name": type(event).__name__, "cat": "event", **self._where(record), "s": "t",
            "args": {**_arguments(event), "n": record.sequence},
        })

    def _arrow(self, record: Record) -> None:
        """Remember a cause; draw the arrows of an effect."""
        event, partition = record.event, record.partition
        match event:
            case events.InterruptRequested():
                self._causes.setdefault(("interrupt", partition, event.vector), []).append(record)
            case events.InterruptRouted():
                self._causes.setdefault(("interrupt", event.partition, event.vector), []).append(record)
            case events.Injected(kind=InterruptionType.EXTERNAL_INTERRUPT):
                # IRR has one bit for each vector, so one injection answers every request since the last one.
                self._draw("interrupt", self._causes.pop(("interrupt", partition, event.vector), []), record)
            case events.MessagePosted():
                self._causes.setdefault(("message", event.message_type), []).append(record)
            case events.MessageDelivered():
                self._draw("message", self._first(("message", event.message_type)), record)
            case events.InterceptSent():
                self._causes.setdefault(("intercept", event.child, event.vp), []).append(record)
            case events.InterceptCompleted():
                self._draw("intercept", self._first(("intercept", event.child, event.vp)), record)

    def _first(self, key: tuple[Any, ...]) -> list[Record]:
        waiting = self._causes.get(key)
        return [waiting.pop(0)] if waiting else []

    def _draw(self, name: str, causes: list[Record], effect: Record) -> None:
        for cause in causes:
            self._flows += 1
            flow = {"name": name, "cat": "flow", "id": self._flows}
            self._place(cause, 2, {"ph": "s", **flow, **self._where(cause)})
            self._place(effect, 2, {"ph": "f", "bp": "e", **flow, **self._where(effect)})

    def _place(self, record: Record, rank: int, entry: dict[str, Any]) -> None:
        self._placed.append((record.sequence, rank, entry))

    def _where(self, record: Record, tsc: int | None = None) -> dict[str, Any]:
        return {"ts": self._us(record.tsc if tsc is None else tsc), "pid": record.partition, "tid": record.vp}

    def _us(self, ticks: int) -> float:
        return round(ticks / self.ticks_per_us, 6)

    def _metadata(self) -> Iterator[dict[str, Any]]:
        for partition in sorted({partition for partition, _ in self._threads}):
            name = self._names.get(partition, f"partition {partition}")
            yield {"ph": "M", "name": "process_name", "pid": partition, "args": {"name": name}}
            yield {"ph": "M", "name": "process_sort_index", "pid": partition, "args": {"sort_index": partition}}
        for partition, vp in sorted(self._threads):
            yield {"ph": "M", "name": "thread_name", "pid": partition, "tid": vp, "args": {"name": f"VP {vp}"}}

    def entries(self) -> list[dict[str, Any]]:
        """Every trace event so far, metadata first, then in the order things happened; exits still open last a tick."""
        for (partition, vp), (record, _) in list(self._open.items()):
            self._close(partition, vp, record.tsc)
        self._placed.sort(key=lambda placed: placed[:2])
        return [*self._metadata(), *(entry for _, _, entry in self._placed)]

    def dumps(self) -> str:
        """The file's text: JSON, one trace event a line."""
        lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in self.entries())
        return f"{BEGIN}\n{lines}\n]}}\n"

    def write(self, path: Path) -> None:
        """Write the timeline to *path*."""
        path.write_text(self.dumps(), encoding="utf-8", newline="\n")


def _arguments(event: object) -> dict[str, Any]:
    if not isinstance(event, Event):
        return {}
    return {name: _shown(name, value) for name, value in event.inspect().items()}


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return [_shown(name, item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value) if name in _HEX else int(value)
    return value if isinstance(value, bool | str | None) else str(value)
