"""The logical processor: its APIC stops a guest that runs, and so does an earlier timer."""

from __future__ import annotations

import pytest

from hv.machine.lp import LogicalProcessor


def running(until: int = 1000) -> LogicalProcessor:
    processor = LogicalProcessor()
    processor.counter.limit = processor.counter.deadline = until
    return processor


def deliver(processor: LogicalProcessor, vector: int) -> None:
    processor.interconnect.deliver(vector, 0, False, 0)


def test_nothing_waits_at_first():
    assert LogicalProcessor().acknowledge() is None


def test_an_interrupt_stops_the_guest_that_runs_and_is_acknowledged_once():
    processor = running()
    deliver(processor, 0x51)
    assert (processor.counter.limit, processor.counter.deadline) == (0, 0)
    assert (processor.acknowledge(), processor.acknowledge()) == (0x51, None)


def test_interrupts_are_acknowledged_highest_first_and_none_blocks_another():
    """Each is ended at once: their owners' virtual APICs keep the order of service."""
    processor = running()
    for vector in (0x40, 0x91, 0x42):
        deliver(processor, vector)
    assert [processor.acknowledge() for _ in range(4)] == [0x91, 0x42, 0x40, None]


@pytest.mark.parametrize(("tsc", "deadline"), [(500, 500), (1000, 1000), (2000, 1000)])
def test_a_timer_that_is_due_earlier_stops_the_guest_for_it(tsc, deadline):
    processor = running()
    processor.clock.at(tsc, lambda: None)
    assert (processor.counter.deadline, processor.counter.limit) == (deadline, deadline)


def test_in_window_mode_a_timer_leaves_the_slow_way_on():
    processor = running()
    processor.counter.limit = 0
    processor.clock.at(500, lambda: None)
    assert (processor.counter.deadline, processor.counter.limit) == (500, 0)


@pytest.mark.parametrize(("window", "skip", "limit"), [(0, 0, 5000), (1, 0, 0), (0, 1, 0)])
def test_a_guest_that_was_to_stop_may_be_told_to_go_on(window, skip, limit):
    processor = running()
    deliver(processor, 0x51)
    processor.counter.window, processor.counter.skip = window, skip
    processor.run_until(5000)
    assert (processor.counter.deadline, processor.counter.limit) == (5000, limit)


def test_the_clock_is_the_work_counter():
    processor = running()
    processor.counter.done = 12345
    assert processor.clock.tsc == 12345
