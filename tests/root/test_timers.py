"""Root's timers: devices' moments, on root's synthetic timer."""

import pytest

from hv.platform import Machine
from hv.root.timers import TSC_HZ

UNIT = TSC_HZ // 10_000_000         # ticks of 100 ns


@pytest.fixture
def machine():
    machine = Machine(memory_mib=16)
    yield machine
    machine.close()


def moments(machine, dues):
    """When callbacks set for *dues* (ticks from now) came, in the order in which they came."""
    timers, called = machine.root.timers, []
    start = timers.now()
    for due in dues:
        timers.at(start + due, lambda due=due: called.append((due, timers.now() - start)))
    machine.run(start + 10_000_000)
    return called


def test_callbacks_come_in_the_order_of_their_moments(machine):
    assert [due for due, _ in moments(machine, [900_000, 100_000, 500_000])] == [100_000, 500_000, 900_000]


def test_a_callback_comes_never_early_and_at_most_a_unit_and_an_interrupt_late(machine):
    for due, when in moments(machine, [100_001, 333_333, 700_000]):
        assert due <= when < due + UNIT + 10_000


def test_callbacks_of_one_moment_come_in_the_order_in_which_they_were_set(machine):
    timers, called = machine.root.timers, []
    at = timers.now() + 50_000
    for name in "abc":
        timers.at(at, lambda name=name: called.append(name))
    machine.run(at + 100_000)
    assert called == ["a", "b", "c"]


def test_one_that_is_past_comes_soon(machine):
    assert [due for due, _ in moments(machine, [-5])] == [-5]


def test_a_cancelled_one_does_not_come(machine):
    timers, called = machine.root.timers, []
    first = timers.at(timers.now() + 1000, lambda: called.append(1))
    timers.at(timers.now() + 2000, lambda: called.append(2))
    timers.cancel(first)
    timers.cancel(None)
    machine.run(timers.now() + 100_000)
    timers.cancel(first)
    assert called == [2]


def test_a_callback_may_set_the_next_one(machine):
    """A periodic device."""
    timers, called = machine.root.timers, []
    start = timers.now()

    def tick():
        called.append((timers.now() - start) // 100_000)
        if len(called) < 4:
            timers.at(start + 100_000 * (len(called) + 1), tick)

    timers.at(start + 100_000, tick)
    machine.run(start + 1_000_000)
    assert called == [1, 2, 3, 4]
