"""The Trace Event Format as strictly as Perfetto reads it: what it would drop or misplace without a word."""

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

Thread = tuple[int, int]


def broken_rules(text: str) -> list[str]:
    """One line for each rule that a timeline file breaks."""
    entries = json.loads(text, parse_constant=_no_constant)["traceEvents"]
    return sorted({*_shape(entries), *_names(entries), *_order(entries), *_nesting(entries), *_flows(entries)})


def _no_constant(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def _nanoseconds(microseconds: float) -> int:
    """Perfetto counts whole nanoseconds; what lies between is cut off."""
    whole = round(microseconds * 1000)
    assert abs(microseconds * 1000 - whole) < 1e-6, f"{microseconds} us is no whole number of nanoseconds"
    return whole


def _shape(entries: list[dict[str, Any]]) -> Iterator[str]:
    wanted = {"X": {"dur"}, "i": {"s"}, "s": {"id"}, "f": {"id", "bp"}, "M": {"args"}}
    for entry in entries:
        missing = ({"name", "ph", "pid"} | wanted.get(entry["ph"], {"a phase that is known"})) - entry.keys()
        if entry["ph"] != "M":
            missing |= {"ts", "tid", "cat"} - entry.keys()
        if missing:
            yield f"{entry['ph']} lacks {missing}"
        if any(type(entry.get(key, 0)) is not int for key in ("pid", "tid", "id")):
            yield f"an id of {entry['name']} is no integer"
        if entry.get("ts", 0) < 0 or entry.get("s", "t") not in ("t", "p", "g"):
            yield f"time or scope of {entry['name']}"
        if entry["ph"] == "X" and _nanoseconds(entry["dur"]) < 1:
            yield f"{entry['name']} is shorter than a nanosecond"


def _names(entries: list[dict[str, Any]]) -> Iterator[str]:
    named = [(entry["name"], entry["pid"], entry.get("tid")) for entry in entries if entry["ph"] == "M"]
    if len(set(named)) < len(named):
        yield "something is named twice"
    for entry in entries:
        if entry["ph"] != "M" and ("process_name", entry["pid"], None) not in named:
            yield f"process {entry['pid']} has no name"
        if entry["ph"] != "M" and ("thread_name", entry["pid"], entry["tid"]) not in named:
            yield f"thread {entry['tid']} of process {entry['pid']} has no name"


def _by_thread(entries: list[dict[str, Any]], phases: str) -> dict[Thread, list[dict[str, Any]]]:
    threads = defaultdict(list)
    for entry in entries:
        if entry["ph"] in phases:
            threads[entry["pid"], entry["tid"]].append(entry)
    return threads


def _order(entries: list[dict[str, Any]]) -> Iterator[str]:
    for thread, own in _by_thread(entries, "Xisf").items():
        times = [_nanoseconds(entry["ts"]) for entry in own]
        if times != sorted(times):
            yield f"time runs backwards in {thread}"


def _spans(own: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(start, start + _nanoseconds(entry["dur"])) for entry in own for start in [_nanoseconds(entry["ts"])]]


def _nesting(entries: list[dict[str, Any]]) -> Iterator[str]:
    for thread, own in _by_thread(entries, "X").items():
        open_until: list[int] = []
        for start, end in _spans(own):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            if open_until and end > open_until[-1]:
                yield f"slices of {thread} overlap"
            open_until.append(end)


def _flows(entries: list[dict[str, Any]]) -> Iterator[str]:
    spans = {thread: _spans(own) for thread, own in _by_thread(entries, "X").items()}
    flows = defaultdict(list)
    for entry in entries:
        if entry["ph"] in "sf":
            flows[entry["cat"], entry["name"], entry["id"]].append(entry)
    for (_, name, id), ends in flows.items():
        if [entry["ph"] for entry in ends] != ["s", "f"]:
            yield f"arrow {name} {id} has other ends than one start and then one finish"
        if ends[0]["ts"] > ends[-1]["ts"]:
            yield f"arrow {name} goes back in time"
        for entry in ends:
            own, at = spans.get((entry["pid"], entry["tid"]), []), _nanoseconds(entry["ts"])
            n = bisect_right(own, at, key=lambda span: span[0]) - 1
            if n < 0 or at >= own[n][1]:
                yield f"an end of arrow {name} is in no slice, so it is not drawn"
