"""The interval timer; Intel "82C54 CHMOS Programmable Interval Timer". A clocked counter is what ours is held against.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.root.timers import TSC_HZ
from hv.root.vdev.i8254 import I8254, SHORTEST_TICKS
from hv.root.vdev.pit_counter import PitCounter
from hv.root.vdev.system_control import SystemControlB
from hv.spec.pc import PIT_HZ
from tests.root.bench_clock import Clock, Wire


class Clocked:
    """A counter as the manual tells it: one step for each clock. The count was written at moment 0."""

    def __init__(self, mode, count):
        self.mode, self.reload = mode, count
        self.value, self.out, self.loaded = 0, mode != 0, False

    def clock(self):
        """One clock pulse: the new count and output."""
        if not self.loaded:
            self.loaded, self.value = True, self.reload - self.reload % 2 if self.mode == 3 else self.reload
            return
        getattr(self, f"mode_{self.mode}")()

    def mode_0(self):
        self.value = (self.value - 1) & 0xFFFF
        self.out = self.out or self.value == 0

    def mode_2(self):
        self.value -= 1
        if self.value == 0:
            self.value = self.reload
        self.out = self.value != 1

    def mode_3(self):
        """The high half of an odd count has one clock more, at 0."""
        self.value -= 2
        if self.value < 0 or (self.value == 0 and not (self.out and self.reload % 2)):
            self.value, self.out = self.reload - self.reload % 2, not self.out

    def mode_4(self):
        self.value = (self.value - 1) & 0xFFFF
        self.out = self.value != 0


@given(st.sampled_from([0, 2, 3, 4]), st.integers(2, 40))
def test_count_and_output_are_those_of_a_clocked_counter(mode, count):
    ours, clocked = PitCounter(), Clocked(mode, count)
    ours.program(mode, 3, False)
    ours.write(count, 0)
    ours.write(0, 0)
    rises, before = [], ours.output(0)
    for moment in range(1, 130):
        clocked.clock()
        assert (moment, ours.count(moment), ours.output(moment)) == (moment, clocked.value, clocked.out)
        if clocked.out and not before:
            rises.append(moment)
        before = clocked.out
    found, at = [], 0
    while (at := ours.next_rise(at)) is not None and at < 130:
        found.append(at)
    assert [rise for rise in found if rise > 1] == rises


@pytest.mark.parametrize("mode", [1, 5])
def test_a_gate_that_rises_starts_the_counters_that_wait_for_it(mode):
    """"Mode 1", "Mode 5": low for the count, or for one clock behind it. A new trigger begins anew."""
    counter = PitCounter()
    counter.set_gate(False, 0)
    counter.program(mode, 1, False)
    counter.write(5, 0)
    assert counter.output(3)
    counter.set_gate(True, 10)
    levels = [counter.output(moment) for moment in range(10, 19)]
    low = [moment for moment, level in zip(range(10, 19), levels, strict=True) if not level]
    assert low == ([11, 12, 13, 14, 15] if mode == 1 else [16])
    counter.set_gate(False, 13)
    counter.set_gate(True, 14)
    assert counter.count(16) == 4


def test_a_low_gate_stops_a_rate_generator_and_a_rising_one_begins_it_anew():
    counter = PitCounter()
    counter.program(2, 1, False)
    counter.write(10, 0)
    counter.set_gate(False, 5)
    assert (counter.count(9), counter.output(9), counter.next_rise(9)) == (6, True, None)
    counter.set_gate(True, 20)
    assert (counter.count(21), counter.next_rise(21)) == (10, 31)


def test_a_low_gate_only_holds_up_the_count_to_an_interrupt():
    counter = PitCounter()
    counter.program(0, 1, False)
    counter.write(10, 0)
    counter.set_gate(False, 5)
    counter.set_gate(True, 20)
    assert (counter.count(21), counter.next_rise(20)) == (5, 26)


@pytest.mark.parametrize(("mode", "changes_at"), [(2, 11), (3, 6)])
def test_a_new_count_waits_for_the_end_of_the_period_or_the_half(mode, changes_at):
    """"Mode 2", "Mode 3": writing a new count does not affect the current sequence."""
    counter = PitCounter()
    counter.program(mode, 1, False)
    counter.write(10, 0)
    counter.write(4, 3)
    assert counter.status(4) & 0x40
    assert counter.count(changes_at - 1) == {2: 1, 3: 2}[mode]
    assert counter.next_rise(4) == {2: 11, 3: 8}[mode]
    assert (counter.count(changes_at), counter.status(changes_at) & 0x40) == (4, 0)


class Timer:
    """The three counters, OUT 0 on a wire, port 0x61."""

    def __init__(self):
        self.clock, self.wire = Clock(), Wire()
        self.pit = I8254(self.wire, self.clock)
        self.control = SystemControlB(self.pit, self.clock)

    def program(self, control, *counts):
        self.pit.write_port(0x43, 1, control)
        for count in counts:
            self.pit.write_port(0x40 + (control >> 6), 1, count)

    def clocks(self, count):
        self.clock.advance(-(-count * TSC_HZ // PIT_HZ))


def test_counter_0_ticks_at_its_rate():
    """100 Hz, as an operating system programs it."""
    timer = Timer()
    timer.program(0x34, 11932 & 0xFF, 11932 >> 8)
    timer.wire.rises = 0
    timer.clock.advance(TSC_HZ)
    assert timer.wire.rises in (99, 100)
    assert timer.clock.pending == 1


@pytest.mark.parametrize("control", [0x34, 0x36, 0x30, 0x38])
def test_the_shortest_counts_do_not_drown_the_machine(control):
    timer = Timer()
    timer.program(control, 1, 0)
    timer.clock.advance(TSC_HZ // 100)
    assert timer.clock.called <= TSC_HZ // 100 // SHORTEST_TICKS + 1


def test_a_shot_is_one_edge_and_then_nobody_waits():
    timer = Timer()
    timer.program(0x30, 0, 0x10)
    assert not timer.wire.level
    timer.clocks(0x1002)
    assert (timer.wire.level, timer.wire.rises, timer.clock.pending) == (True, 1, 0)


@pytest.mark.parametrize(("control", "counts", "reads"), [
    pytest.param(0xB4, (0x34, 0x12), [0x2F, 0x12, 0x2F], id="both-bytes"),
    pytest.param(0x94, (0x34,), [0x2F, 0x2F], id="low-byte"),
    pytest.param(0xA4, (0x12,), [0x11, 0x11], id="high-byte"),
    pytest.param(0xB5, (0x00, 0x00), [0x95, 0x99], id="bcd-0-is-10000"),
])
def test_counts_are_written_and_read_by_bytes(control, counts, reads):
    timer = Timer()
    timer.control.write_port(0x61, 1, 1)
    timer.program(control, *counts)
    timer.clocks(6)
    assert [timer.pit.read_port(0x42, 1) for _ in reads] == reads


def test_a_latched_count_stays_until_it_was_read():
    """"Counter Latch Command"; a second one before that is ignored."""
    timer = Timer()
    timer.program(0x34, 0, 0x10)
    timer.clocks(0x11)
    timer.program(0x00)
    timer.clocks(0x20)
    timer.program(0x00)
    assert [timer.pit.read_port(0x40, 1) for _ in range(2)] == [0xF0, 0x0F]
    assert timer.pit.read_port(0x40, 1) != 0xF0


def test_read_back_gives_status_then_count():
    """"Read-Back Command": of each counter named, OUT, null count and the control word, then the count."""
    timer = Timer()
    timer.program(0x36, 0, 0x10)
    timer.clocks(1)
    timer.program(0xC2)
    assert [timer.pit.read_port(0x40, 1) for _ in range(3)] == [0xB6, 0x00, 0x10]
    assert timer.pit.read_port(0x43, 1) == 0xFF


def test_port_61_is_the_gate_and_the_output_of_counter_2():
    """How kernels find out the rate of the processor: gate off, mode 0, count, gate on, wait for OUT."""
    timer = Timer()
    timer.control.write_port(0x61, 1, 0)
    timer.program(0xB0, 0, 0x10)
    timer.control.write_port(0x61, 1, 0xFD)
    assert timer.control.read_port(0x61, 1) & 0x2F == 0x0D
    timer.clocks(0x1002)
    assert timer.control.read_port(0x61, 1) & 0x2F == 0x2D


def test_the_refresh_bit_turns_over():
    timer = Timer()
    seen = []
    for _ in range(4):
        seen.append(timer.control.read_port(0x61, 1) >> 4 & 1)
        timer.clock.advance(TSC_HZ * 15 // 1_000_000)
    assert seen == [0, 1, 0, 1]


ACCESS = st.tuples(st.sampled_from([0x40, 0x41, 0x42, 0x43, 0x61]), st.sampled_from([1, 2, 4]),
                   st.integers(0, 0xFFFF_FFFF), st.sampled_from("rwt"))


@given(st.lists(ACCESS, max_size=60))
def test_no_accesses_raise_or_set_more_than_one_alarm(steps):
    timer = Timer()
    for port, size, value, kind in steps:
        device = timer.control if port == 0x61 else timer.pit
        if kind == "t":
            timer.clock.advance(value & 0xF_FFFF)
        elif kind == "w":
            device.write_port(port, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= device.read_port(port, size) < 1 << 8 * size
        assert timer.clock.pending <= 1
    assert timer.clock.called <= timer.clock.tsc // SHORTEST_TICKS + 1
    timer.pit.inspect()
    timer.pit.reset()
    assert (timer.clock.pending, timer.wire.level) == (0, False)
