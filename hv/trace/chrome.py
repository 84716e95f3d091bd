"""A listener that writes the timeline file Perfetto and chrome://tracing open.

A partition is a process, a VP a thread, a VM exit a slice, any other event an instant. Arrows (flows) go from cause to
effect: from an interrupt's request to its injection, from a message's post to its delivery, from an intercept to the
parent's answer. The format is the "Trace Event Format"; times are virtual microseconds. The same events give the same
bytes.

Left out: counters, and anything that needs the host's clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


# What an arrow may begin or end at. Arrows join slices only, so outside of an exit these are slices themselves.
_ENDS_OF_ARROWS = (events.InterruptRequested, events.InterruptRouted, events.Injected, events.MessagePosted,
                   events.MessageDelivered, events.InterceptSent, events.InterceptCompleted)
Thread = tuple[int, int]                # partition, VP
Arrow = tuple[str, list["End"]]         # its name, and the causes it comes from


@runtime_checkable
class Exit(Protocol):
    """A VM exit, as far as a listener must know it: vmx owns the class, and this room may not import vmx."""

    @property
    def reason(self) -> ExitReason: ...

    @property
    def qualification(self) -> int: ...


@dataclass(frozen=True, slots=True)
class End:
    """One end of an arrow: the event, and where it was drawn."""

    record: Record
    at: int

    @property
    def thread(self) -> Thread:
        return self.record.partition, self.record.vp


class ChromeTrace:
    """A listener; `write` makes the file. *ticks_per_us* is the virtual TSC's rate; *names* are those of partitions.

    Perfetto counts whole nanoseconds, and what an arrow ends at must lie inside a slice, not at its end. Virtual time
    may stand still for many events, so on each thread nothing is drawn before what was drawn last, and a slice ends
    one nanosecond later at least.
    """

    def __init__(self, ticks_per_us: int = 2000, names: Mapping[int, str] | None = None) -> None:
        self.ticks_per_us = ticks_per_us
        self._placed: list[tuple[int, int, dict[str, Any]]] = []      # (sequence, rank): where it stands in the file
        self._open: dict[Thread, tuple[Record, Exit, int]] = {}       # the exit each VP is in, and its start
        self._latest: dict[Thread, int] = {}                          # of each thread, the time drawn last, in ns
        self._causes: dict[tuple[Any, ...], list[End]] = {}           # still without their effect
        self._flows = 0
        self._names = {0: "hypervisor", **(names or {})}

    def __call__(self, record: Record) -> None:
        event, thread = record.event, (record.partition, record.vp)
        if isinstance(event, Exit):
            self._close(thread, record.tsc)
            self._open[thread] = record, event, self._at(record)
        elif isinstance(event, events.VmEntry):
            self._close(thread, record.tsc)
        else:
            self._event(record)

    def _at(self, record: Record, not_before: int = 0) -> int:
        """When to draw *record*, in nanoseconds."""
        thread = record.partition, record.vp
        self._latest[thread] = at = max(record.tsc * 1000 // self.ticks_per_us, self._latest.get(thread, 0), not_before)
        return at

    def _close(self, thread: Thread, tsc: int) -> None:
        """End the slice of the VP's last exit, if it is in one."""
        opened = self._open.pop(thread, None)
        if opened is not None:
            record, exit, start = opened
            end = max(tsc * 1000 // self.ticks_per_us, self._latest[thread] + 1)
            arguments = {"qualification": hex(exit.qualification), "n": record.sequence}
            self._slice(record, ExitReason(exit.reason).name, "exit", start, end, arguments)

    def _slice(self, record: Record, name: str, category: str, start: int, end: int, arguments: dict[str, Any]) -> None:
        thread = record.partition, record.vp
        self._latest[thread] = end
        self._place(record, 0, {"ph": "X", "name": name, "cat": category, **_where(thread, start),
                                "dur": (end - start) / 1000, "args": arguments})

    def _event(self, record: Record) -> None:
        event, thread = record.event, (record.partition, record.vp)
        if isinstance(event, events.PartitionNamed):
            self._names[event.partition] = event.name
        arrow, causes = self._arrow(event, record.partition)
        at = self._at(record, max((cause.at for cause in causes), default=0))
        name, arguments = type(event).__name__, {**_arguments(event), "n": record.sequence}
        if thread not in self._open and isinstance(event, _ENDS_OF_ARROWS):
            self._slice(record, name, "event", at, at + 1, arguments)
        else:
            self._place(record, 1, {"ph": "i", "name": name, "cat": "event", **_where(thread, at), "s": "t",
                                    "args": arguments})
        end = End(record, at)
        self._remember(event, end)
        for cause in causes:
            self._draw(arrow, cause, end)

    def _remember(self, event: object, end: End) -> None:
        """Keep a cause until its effect comes."""
        match event:
            case events.InterruptRequested():
                key: tuple[Any, ...] = ("interrupt", end.record.partition, event.vector)
            case events.InterruptRouted():
                key = ("interrupt", event.partition, event.vector)
            case events.MessagePosted():
                key = ("message", event.message_type)
            case events.InterceptSent():
                key = ("intercept", event.child, event.vp)
            case _:
                return
        self._causes.setdefault(key, []).append(end)

    def _arrow(self, event: object, partition: int) -> Arrow:
        """The arrows that end at *event*: their name and their causes, which are forgotten."""
        match event:
            case events.Injected(kind=InterruptionType.EXTERNAL_INTERRUPT):
                # IRR has one bit for each vector, so one injection answers every request since the last one.
                return "interrupt", self._causes.pop(("interrupt", partition, event.vector), [])
            case events.MessageDelivered():
                return "message", self._first(("message", event.message_type))
            case events.InterceptCompleted():
                return "intercept", self._first(("intercept", event.child, event.vp))
        return "", []

    def _first(self, key: tuple[Any, ...]) -> list[End]:
        waiting = self._causes.get(key)
        return [waiting.pop(0)] if waiting else []

    def _draw(self, name: str, cause: End, effect: End) -> None:
        self._flows += 1
        flow = {"name": name, "cat": "flow", "id": self._flows}
        self._place(cause.record, 2, {"ph": "s", **flow, **_where(cause.thread, cause.at)})
        self._place(effect.record, 2, {"ph": "f", "bp": "e", **flow, **_where(effect.thread, effect.at)})

    def _place(self, record: Record, rank: int, entry: dict[str, Any]) -> None:
        self._placed.append((record.sequence, rank, entry))

    def _metadata(self) -> Iterator[dict[str, Any]]:
        for partition in sorted({partition for partition, _ in self._latest}):
            name = self._names.get(partition, f"partition {partition}")
            yield {"ph": "M", "name": "process_name", "pid": partition, "args": {"name": name}}
            yield {"ph": "M", "name": "process_sort_index", "pid": partition, "args": {"sort_index": partition}}
        for partition, vp in sorted(self._latest):
            yield {"ph": "M", "name": "thread_name", "pid": partition, "tid": vp, "args": {"name": f"VP {vp}"}}

    def entries(self) -> list[dict[str, Any]]:
        """Every trace event so far, metadata first, then in the order things happened; exits still open end there."""
        for thread, (record, _, _) in list(self._open.items()):
            self._close(thread, record.tsc)
        self._placed.sort(key=lambda placed: placed[:2])
        return [*self._metadata(), *(entry for _, _, entry in self._placed)]

    def dumps(self) -> str:
        """The file's text: JSON, one trace event a line."""
        lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in self.entries())
        return f"{BEGIN}\n{lines}\n]}}\n"

    def write(self, path: Path) -> None:
        """Write the timeline to *path*."""
        path.write_text(self.dumps(), encoding="utf-8", newline="\n")


def _where(thread: Thread, at: int) -> dict[str, Any]:
    return {"ts": at / 1000, "pid": thread[0], "tid": thread[1]}


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
