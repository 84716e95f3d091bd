"""Virtual time and its timers."""

from __future__ import annotations

import pytest

from hv.machine.clock import TICKS_PER_100NS, VirtualClock


def test_time_moves_only_when_it_is_told_to():
    clock = VirtualClock()
    assert clock.tsc == 0
    clock.advance(399)
    assert (clock.tsc, clock.time_100ns) == (399, 399 // TICKS_PER_100NS)


def test_timers_fire_in_order_of_time_then_of_creation():
    clock, fired = VirtualClock(), []
    for name, tsc in (("late", 30), ("a", 20), ("b", 20), ("early", 10)):
        clock.at(tsc, lambda name=name: fired.append(name))
    clock.advance(30)
    assert clock.run_due() == 4
    assert fired == ["early", "a", "b", "late"]


def test_a_timer_waits_for_its_time_and_fires_once():
    clock, fired = VirtualClock(), []
    timer = clock.at(10, lambda: fired.append(clock.tsc))
    clock.advance(9)
    assert (clock.run_due(), timer.fired) == (0, False)
    clock.advance(1)
    assert (clock.run_due(), clock.run_due(), timer.fired, fired) == (1, 0, True, [10])


def test_a_timer_of_the_past_fires_at_the_next_look():
    clock, fired = VirtualClock(), []
    clock.advance(100)
    clock.at(50, lambda: fired.append(1))
    assert not fired
    clock.run_due()
    assert fired == [1]


def test_a_callback_may_set_a_timer_that_is_due_too():
    clock, fired = VirtualClock(), []
    clock.at(1, lambda: clock.at(2, lambda: fired.append(clock.tsc)))
    clock.advance(5)
    assert clock.run_due() == 2
    assert fired == [5]


def test_a_cancelled_timer_never_fires_and_is_no_deadline():
    clock = VirtualClock()
    timer = clock.at(10, lambda: pytest.fail("it was cancelled"))
    clock.at(20, lambda: None)
    clock.cancel(timer)
    clock.cancel(timer)
    clock.cancel(None)
    assert clock.next_deadline() == 20
    clock.advance(15)
    assert clock.run_due() == 0


def test_skipping_jumps_to_the_next_deadline_and_never_back():
    clock = VirtualClock()
    assert clock.skip_to_next() is False
    clock.at(1000, lambda: None)
    assert clock.skip_to_next() is True
    assert clock.tsc == 1000
    clock.advance(500)
    assert clock.skip_to_next() is True
    assert clock.tsc == 1500


def test_only_a_timer_before_all_others_is_announced():
    clock, earlier = VirtualClock(), []
    clock.on_earlier = earlier.append
    for tsc in (100, 200, 50, 50, 20):
        clock.at(tsc, lambda: None)
    assert earlier == [100, 50, 20]


def test_timers_that_are_set_and_cancelled_for_ever_cost_no_memory():
    clock, fired = VirtualClock(), []
    kept = [clock.at(10**9 + n, lambda n=n: fired.append(n)) for n in range(300)]
    for _ in range(10_000):
        clock.cancel(clock.at(10**12, fired.clear))
    assert len(clock._timers) < 1000
    clock.advance(10**9 + len(kept))
    clock.run_due()
    assert fired == list(range(300))
