"""The timeline file loads, its arrows have two ends, and it is the same file every time."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.spec.exits import ExitReason
from hv.trace import events
from hv.trace.bus import Trace
from hv.trace.chrome import ChromeTrace
from tests.trace.timeline_rules import broken_rules


@dataclass
class FakeExit:
    reason: ExitReason
    qualification: int = 0


def timeline(*steps) -> ChromeTrace:
    """Emit *steps*, (tsc, partition, vp, event) each, to a new timeline."""
    trace, chrome, now = Trace(), ChromeTrace(), [0]
    trace.clock = lambda: now[0]
    trace.listen(chrome)
    for tsc, partition, vp, event in steps:
        now[0] = tsc
        trace.at(partition, vp)
        trace.emit(event)
    return chrome


STORY = (
    (0, 0, 0, events.PartitionCreated(2, 1)),
    (0, 0, 0, events.PartitionNamed(2, "child")),
    (2000, 2, 0, FakeExit(ExitReason.CPUID)),
    (2200, 2, 0, events.Cpuid(0x40000000, 0, (1, 2, 3, 4))),
    (3000, 2, 0, events.VmEntry(0x1000)),
    (4000, 2, 0, FakeExit(ExitReason.IO_INSTRUCTION, 0x3F80000)),
    (4000, 2, 0, events.InterceptSent(0x80010000, 2, 0)),
    (5000, 1, 0, events.InterceptCompleted(0x80010000, 2, 0)),
    (5500, 1, 0, events.MessagePosted(1, 1, 40)),
    (5600, 1, 0, events.InterruptRouted(0x18, 0x50, 2, 0)),
    (6000, 2, 0, events.MessageDelivered(2, 1, 7)),
    (6100, 2, 0, events.InterruptRequested(0x50, "sint2")),
    (6200, 2, 0, events.Injected(0x50, 0)),
    (6300, 2, 0, events.VmEntry(0x1002)),
    (7000, 2, 1, FakeExit(ExitReason.HLT)),
)


def drawn(chrome, phase):
    return [entry for entry in json.loads(chrome.dumps())["traceEvents"] if entry["ph"] == phase]


def test_the_file_is_json_and_the_same_every_time(tmp_path):
    timeline(*STORY).write(tmp_path / "a.json")
    timeline(*STORY).write(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    chrome = timeline(*STORY)
    assert chrome.dumps() == chrome.dumps()
    assert json.loads(chrome.dumps())["displayTimeUnit"] == "ns"


def test_the_file_keeps_every_rule_of_its_format():
    assert broken_rules(timeline(*STORY).dumps()) == []


EVENTS = st.sampled_from([
    FakeExit(ExitReason.CPUID), FakeExit(ExitReason.HLT), events.VmEntry(0x1000), events.Cpuid(0, 0, (1, 2, 3, 4)),
    events.InterruptRequested(0x50, "pit"), events.InterruptRouted(0x18, 0x50, 2, 0), events.Injected(0x50, 0),
    events.MessagePosted(1, 1, 40), events.MessageDelivered(2, 1, 7), events.InterceptSent(0x80010000, 2, 0),
    events.InterceptCompleted(0x80010000, 2, 0), events.PartitionNamed(2, "a\n\x1b"),
])
STEPS = st.lists(st.tuples(st.sampled_from([0, 0, 1, 3, 1000]), st.integers(1, 2), st.integers(0, 1), EVENTS))


@given(STEPS)
def test_whatever_happens_the_file_keeps_every_rule_of_its_format(steps):
    """Time may stand still, an event may come at the very end of an exit, root has no exits at all."""
    now, told = 0, []
    for ticks, *rest in steps:
        now += ticks
        told.append((now, *rest))
    assert broken_rules(timeline(*told).dumps()) == []


def test_partitions_are_processes_and_vps_threads():
    names = [(entry["pid"], entry.get("tid"), entry["args"]["name"])
             for entry in drawn(timeline(*STORY), "M") if "name" in entry["args"]]
    assert names == [(0, None, "hypervisor"), (1, None, "partition 1"), (2, None, "child"),
                     (0, 0, "VP 0"), (1, 0, "VP 0"), (2, 0, "VP 0"), (2, 1, "VP 1")]


def test_an_exit_lasts_until_the_next_entry_of_its_vp():
    slices = [(entry["name"], entry["ts"], entry["dur"], entry["tid"])
              for entry in drawn(timeline(*STORY), "X") if entry["cat"] == "exit"]
    assert slices == [("CPUID", 1.0, 0.5, 0), ("IO_INSTRUCTION", 2.0, 1.15, 0), ("HLT", 3.5, 0.001, 1)]


def test_an_exit_lasts_until_the_next_exit_when_no_entry_is_told():
    slices = drawn(timeline((0, 2, 0, FakeExit(ExitReason.CPUID)), (8, 2, 0, FakeExit(ExitReason.HLT))), "X")
    assert [entry["dur"] for entry in slices] == [0.004, 0.001]


def test_slices_do_not_overlap_when_time_stands_still():
    slices = drawn(timeline(*[(10, 2, 0, FakeExit(ExitReason.CPUID)) for _ in range(4)]), "X")
    assert len(slices) == 4
    ends = [round(entry["ts"] + entry["dur"], 6) for entry in slices]
    assert all(entry["ts"] >= end for entry, end in zip(slices[1:], ends, strict=False))


def test_arrows_go_from_cause_to_effect():
    chrome = timeline(*STORY)
    starts = {entry["id"]: entry for entry in drawn(chrome, "s")}
    ends = {entry["id"]: entry for entry in drawn(chrome, "f")}
    assert starts.keys() == ends.keys()
    arrows = [(starts[n]["name"], starts[n]["pid"], starts[n]["ts"], ends[n]["pid"], ends[n]["ts"]) for n in starts]
    assert sorted(arrows) == [
        ("intercept", 2, 2.0, 1, 2.5),
        ("interrupt", 1, 2.8, 2, 3.1),
        ("interrupt", 2, 3.05, 2, 3.1),
        ("message", 1, 2.75, 2, 3.0),
    ]


def test_an_arrow_outside_of_an_exit_joins_slices_too():
    """Root completes intercepts by a hypercall, and no exit of root is drawn: Perfetto would drop the arrow."""
    slices = [(entry["name"], entry["pid"], entry["ts"]) for entry in drawn(timeline(*STORY), "X")
              if entry["cat"] == "event"]
    assert slices == [("InterceptCompleted", 1, 2.5), ("MessagePosted", 1, 2.75), ("InterruptRouted", 1, 2.8)]


@pytest.mark.parametrize("steps", [
    [(0, 2, 0, events.Injected(0x50, 0))],                                                           # no cause
    [(0, 2, 0, events.InterruptRequested(0x50, "pit"))],                                             # no effect
    [(0, 2, 0, events.InterruptRequested(0x50, "pit")), (1, 3, 0, events.Injected(0x50, 0))],        # elsewhere
    [(0, 2, 0, events.InterruptRequested(14, "pit")), (1, 2, 0, events.Injected(14, 3))],            # a #PF
])
def test_no_arrow_without_both_ends(steps):
    chrome = timeline(*steps)
    assert drawn(chrome, "s") == drawn(chrome, "f") == []


def test_arguments_are_readable():
    entry = next(entry for entry in drawn(timeline(*STORY), "i") if entry["name"] == "Cpuid")
    assert entry["args"] == {"leaf": "0x40000000", "subleaf": 0, "answer": ["0x1", "0x2", "0x3", "0x4"], "n": 3}


def test_what_an_event_holds_is_shown_as_it_is_read_best():
    """Addresses and numbers of registers in hexadecimal, counts in decimal, an enumeration by its value."""
    chrome = timeline((0, 2, 0, events.Cpuid(0x40000000, 1, (1, 2, 3, 4))),
                      (1, 2, 0, events.MmioAccess(0xFEE00000, 4, True, 0x50)), (2, 2, 0, events.GuestEnded("halt")),
                      (3, 2, 0, events.VpHalted()), (4, 2, 0, "no event of ours"))
    shown = [{name: value for name, value in entry["args"].items() if name != "n"} for entry in drawn(chrome, "i")]
    assert shown == [{"leaf": "0x40000000", "subleaf": 1, "answer": ["0x1", "0x2", "0x3", "0x4"]},
                     {"gpa": "0xfee00000", "size": 4, "write": True, "value": "0x50"}, {"why": "halt"}, {}, {}]
    assert [entry["name"] for entry in drawn(chrome, "i")][-1] == "str"


def test_partitions_stand_in_order_of_their_ids():
    order = [(entry["pid"], entry["args"]["sort_index"]) for entry in drawn(timeline(*STORY), "M")
             if entry["name"] == "process_sort_index"]
    assert order == [(0, 0), (1, 1), (2, 2)]


def test_every_arrow_has_a_number_of_its_own_counted_from_1():
    assert sorted(entry["id"] for entry in drawn(timeline(*STORY), "f")) == [1, 2, 3, 4]
