"""The local APIC's timer on virtual time."""

from __future__ import annotations

import pytest

from hv.machine.apic import LocalApic
from hv.machine.clock import VirtualClock
from hv.spec.apic import ApicRegister as R
from hv.spec.apic import DivideConfiguration, Lvt, Svr, TimerMode
from hv.spec.msrs import Msr
from tests.machine.apic_acts import passes, serve


def a_timer(mode: TimerMode, divide: int = 0xB, vector: int = 0x40) -> tuple[LocalApic, VirtualClock]:
    clock = VirtualClock()
    apic = LocalApic(0, clock, bsp=True)
    apic.write(R.SVR, Svr(vector=0xFF, enabled=1).raw)
    apic.write(R.TIMER_DIVIDE, divide)
    apic.write(R.LVT_TIMER, Lvt(vector=vector, timer_mode=mode).raw)
    return apic, clock


def test_a_one_shot_timer_fires_once_after_its_count():
    apic, clock = a_timer(TimerMode.ONE_SHOT)
    apic.write(R.TIMER_INITIAL, 100)
    passes(clock, 999)
    assert (apic.read(R.TIMER_CURRENT), serve(apic)) == (1, False)
    passes(clock, 1)
    assert (apic.read(R.TIMER_CURRENT), serve(apic)) == (0, True)
    passes(clock, 100_000)
    assert not serve(apic)


def test_a_periodic_timer_reloads():
    apic, clock = a_timer(TimerMode.PERIODIC)
    apic.write(R.TIMER_INITIAL, 3000)
    for _ in range(5):
        passes(clock, 30_000)
        assert serve(apic)
    passes(clock, 10_000)
    assert apic.read(R.TIMER_CURRENT) == 2000


def test_late_periods_collapse_and_the_grid_stays():
    apic, clock = a_timer(TimerMode.PERIODIC)
    apic.write(R.TIMER_INITIAL, 3000)
    passes(clock, 30_000 * 7 + 29_000)
    assert serve(apic)
    assert not serve(apic)
    passes(clock, 1000)
    assert serve(apic)


def test_a_period_too_short_to_serve_cannot_starve_the_guest():
    """A timer of 10 ticks delivers at most once in 10 us of virtual time; its count stays exact."""
    apic, clock = a_timer(TimerMode.PERIODIC)
    apic.write(R.TIMER_INITIAL, 1)
    fired = 0
    for _ in range(1000):
        passes(clock, 100)
        fired += serve(apic)
        assert apic.read(R.TIMER_CURRENT) == 1
    assert 3 <= fired <= 6


@pytest.mark.parametrize(("code", "divisor"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)])
def test_the_divide_configuration_sets_the_rate(code, divisor):
    """SDM "Divide Configuration Register"."""
    assert DivideConfiguration(code).divisor == divisor
    apic, clock = a_timer(TimerMode.ONE_SHOT, divide=code)
    apic.write(R.TIMER_INITIAL, 10)
    passes(clock, 100 * divisor - 1)
    assert not serve(apic)
    passes(clock, 1)
    assert serve(apic)


def test_a_new_divisor_goes_on_from_the_current_count():
    apic, clock = a_timer(TimerMode.ONE_SHOT)
    apic.write(R.TIMER_INITIAL, 100)
    passes(clock, 600)
    apic.write(R.TIMER_DIVIDE, 0)
    assert apic.read(R.TIMER_CURRENT) == 40
    passes(clock, 799)
    assert not serve(apic)
    passes(clock, 1)
    assert serve(apic)


def test_an_initial_count_of_0_stops_the_timer():
    apic, clock = a_timer(TimerMode.PERIODIC)
    apic.write(R.TIMER_INITIAL, 3000)
    apic.write(R.TIMER_INITIAL, 0)
    passes(clock, 100_000)
    assert not serve(apic)
    assert clock.next_deadline() is None


def test_an_expiry_while_masked_is_lost():
    apic, clock = a_timer(TimerMode.ONE_SHOT)
    apic.write(R.TIMER_INITIAL, 100)
    apic.write(R.LVT_TIMER, Lvt(vector=0x40, masked=1).raw)
    passes(clock, 2000)
    apic.write(R.LVT_TIMER, Lvt(vector=0x40).raw)
    passes(clock, 2000)
    assert not serve(apic)


def test_an_expiry_that_is_due_is_not_lost_by_a_register_write():
    apic, clock = a_timer(TimerMode.ONE_SHOT)
    apic.write(R.TIMER_INITIAL, 100)
    clock.advance(1500)
    apic.write(R.LVT_TIMER, Lvt(vector=0x40, masked=1).raw)
    assert serve(apic)


def test_masking_a_running_periodic_timer_keeps_its_grid():
    apic, clock = a_timer(TimerMode.PERIODIC)
    apic.write(R.TIMER_INITIAL, 3000)
    apic.write(R.LVT_TIMER, Lvt(vector=0x40, masked=1, timer_mode=1).raw)
    passes(clock, 70_000)
    apic.write(R.LVT_TIMER, Lvt(vector=0x40, timer_mode=1).raw)
    assert apic.read(R.TIMER_CURRENT) == 2000
    passes(clock, 20_000)
    assert serve(apic)


def test_a_tsc_deadline_fires_once_and_reads_0_afterwards():
    """SDM "TSC-Deadline Mode"."""
    apic, clock = a_timer(TimerMode.TSC_DEADLINE)
    apic.write_msr(Msr.TSC_DEADLINE, 5000)
    assert apic.read_msr(Msr.TSC_DEADLINE) == 5000
    passes(clock, 4999)
    assert not serve(apic)
    passes(clock, 1)
    assert (serve(apic), apic.read_msr(Msr.TSC_DEADLINE)) == (True, 0)


@pytest.mark.parametrize(("deadline", "fires"), [
    pytest.param(500, True, id="in-the-past-fires-at-once"),
    pytest.param(1000, True, id="now-fires-at-once"),
    pytest.param(0, False, id="0-disarms"),
    pytest.param((1 << 64) - 1, False, id="the-last-one-never-comes"),
])
def test_a_tsc_deadline_at_the_edges(deadline, fires):
    apic, clock = a_timer(TimerMode.TSC_DEADLINE)
    passes(clock, 1000)
    apic.write_msr(Msr.TSC_DEADLINE, 1500)
    apic.write_msr(Msr.TSC_DEADLINE, deadline)
    assert serve(apic) is fires
    assert clock.next_deadline() is None


def test_the_deadline_follows_the_guests_counter():
    apic, clock = a_timer(TimerMode.TSC_DEADLINE)
    apic.timer.tsc_offset = 1_000_000
    apic.write_msr(Msr.TSC_DEADLINE, 1_000_500)
    passes(clock, 500)
    assert serve(apic)


def test_outside_deadline_mode_the_msr_is_ignored():
    apic, clock = a_timer(TimerMode.ONE_SHOT)
    apic.write_msr(Msr.TSC_DEADLINE, 5)
    passes(clock, 100)
    assert (apic.read_msr(Msr.TSC_DEADLINE), serve(apic)) == (0, False)


@pytest.mark.parametrize("first", [TimerMode.ONE_SHOT, TimerMode.TSC_DEADLINE])
def test_changing_to_or_from_deadline_mode_disarms(first):
    apic, clock = a_timer(first)
    apic.write(R.TIMER_INITIAL, 100)
    apic.write_msr(Msr.TSC_DEADLINE, 1000)
    other = TimerMode.TSC_DEADLINE if first is TimerMode.ONE_SHOT else TimerMode.ONE_SHOT
    apic.write(R.LVT_TIMER, Lvt(vector=0x40, timer_mode=other).raw)
    passes(clock, 10_000)
    assert not serve(apic)


def test_an_apic_is_restored_with_its_timer():
    apic, clock = a_timer(TimerMode.PERIODIC)
    apic.write(R.TIMER_INITIAL, 3000)
    apic.accept(0x52, level=True)
    passes(clock, 10_000)
    state = apic.save()
    twin = LocalApic(0, clock)
    twin.restore(state)
    assert (twin.inspect(), twin.save()) == (apic.inspect(), state)
    passes(clock, 20_000)
    assert (apic.irr, twin.irr) == (1 << 0x40 | 1 << 0x52,) * 2


# --- time that stands still ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", [TimerMode.ONE_SHOT, TimerMode.PERIODIC], ids=lambda mode: mode.name)
def test_a_paused_timer_goes_on_from_where_it_stood(mode):
    apic, clock = a_timer(mode)
    apic.write(R.TIMER_INITIAL, 3000)
    passes(clock, 10_000)
    apic.timer.pause()
    passes(clock, 123_456)
    assert (apic.read(R.TIMER_CURRENT), serve(apic)) == (2000, False)
    apic.timer.resume()
    passes(clock, 19_990)
    assert (apic.read(R.TIMER_CURRENT), serve(apic)) == (1, False)
    passes(clock, 10)
    assert serve(apic)


def test_a_count_that_is_written_while_time_stands_begins_when_it_goes_on():
    apic, clock = a_timer(TimerMode.ONE_SHOT)
    apic.timer.pause()
    passes(clock, 500)
    apic.write(R.TIMER_INITIAL, 100)
    passes(clock, 50_000)
    assert (apic.read(R.TIMER_CURRENT), serve(apic)) == (100, False)
    apic.timer.resume()
    passes(clock, 1000)
    assert serve(apic)


def test_a_deadline_is_of_the_guests_own_counter():
    """Which stood still, too."""
    apic, clock = a_timer(TimerMode.TSC_DEADLINE)
    apic.write_msr(Msr.TSC_DEADLINE, 1000)
    apic.timer.pause()
    passes(clock, 5000)
    assert (apic.timer.deadline, serve(apic)) == (1000, False)
    apic.timer.resume()
    passes(clock, 999)
    assert not serve(apic)
    passes(clock, 1)
    assert serve(apic)
