"""The queue of ready VPs: whose turn it is by weight, by cap and by reserve, in whole numbers."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.hypervisor.partitions.partition import Schedule
from hv.hypervisor.scheduling.run_queue import PERIOD_TICKS, WHOLE, RunQueue

SLICE = 100_000


class Vp:
    def __init__(self, partition, index=0):
        self.partition, self.index, self.runnable = partition, index, True

    def __repr__(self):
        return f"{self.partition.id}.{self.index}"


def partition(number, **schedule):
    return SimpleNamespace(id=number, schedule=Schedule(**schedule))


def play(queue, turns, ticks=SLICE):
    """Who had each turn, when everybody uses all of it and wants the next one."""
    now, order = 0, []
    for _ in range(turns):
        vp = queue.next(now)
        queue.take(vp, queue.share(vp.partition))
        now += ticks
        queue.share(vp.partition).charge(vp, ticks, now)
        queue.add(vp, queue.share(vp.partition))
        order.append(vp)
    return order


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=5))
def test_the_parts_are_the_weights(weights):
    """Nobody is ever more than one slice away from its part."""
    queue = RunQueue()
    vps = [Vp(partition(n, weight=weight)) for n, weight in enumerate(weights)]
    for vp in vps:
        queue.add(vp, queue.share(vp.partition))
    order = play(queue, 300)
    for vp, weight in zip(vps, weights, strict=True):
        assert abs(order.count(vp) - 300 * weight / sum(weights)) <= len(weights)


def test_siblings_take_turns_in_the_order_in_which_they_became_ready():
    queue, shared = RunQueue(), partition(1)
    vps = [Vp(shared, index) for index in (2, 0, 1)]
    for vp in vps:
        assert queue.add(vp, queue.share(vp.partition))
    assert not queue.add(vps[0], queue.share(shared))
    assert play(queue, 6) == vps * 2
    late = Vp(shared, 7)
    queue.put_back(late, queue.share(shared), first=True)
    assert queue.next(0) is late


def test_who_cannot_run_any_more_is_dropped_when_its_turn_comes():
    queue, shared = RunQueue(), partition(1)
    first, second = Vp(shared), Vp(shared, 1)
    queue.add(first, queue.share(first.partition)), queue.add(second, queue.share(second.partition))
    first.runnable = False
    assert queue.next(0) is second
    second.runnable = False
    assert queue.next(0) is None
    assert not queue.active
    assert queue.add(first, queue.share(first.partition))                     # woken again


def test_a_partition_that_slept_is_owed_no_more_than_its_floor():
    queue = RunQueue()
    busy, sleeper = Vp(partition(1)), Vp(partition(2))
    queue.add(busy, queue.share(busy.partition))
    play(queue, 100)
    passed = queue.share(busy.partition).passed
    queue.add(sleeper, queue.share(sleeper.partition), passed - queue.share(sleeper.partition).cost(SLICE))
    assert play(queue, 5)[:3] == [sleeper, busy, sleeper]


@pytest.mark.parametrize(("used", "now", "left"), [
    (0, 0, 1000), (400, 0, 600), (1500, 0, -500), (1500, PERIOD_TICKS, 500), (5000, PERIOD_TICKS, -3000),
    (5000, 5 * PERIOD_TICKS, 1000)])
def test_what_a_cap_leaves_begins_anew_and_what_was_taken_beyond_it_is_owed(used, now, left):
    capped = partition(1, cap=1000 * WHOLE // PERIOD_TICKS + 1)
    share, vp = RunQueue().share(capped), Vp(capped)
    share.charge(vp, used, 0)
    assert abs(share.left(vp, now) - left) < 75         # the unit is 61 ticks of a period


def test_a_turn_that_ends_with_the_period_is_paid_by_that_period():
    capped = partition(1, cap=WHOLE)
    share, vp = RunQueue().share(capped), Vp(capped)
    share.charge(vp, PERIOD_TICKS, PERIOD_TICKS)
    assert share.left(vp, PERIOD_TICKS) == PERIOD_TICKS


def test_who_is_owed_its_reserve_comes_before_all_others():
    queue = RunQueue()
    light, heavy = Vp(partition(1, weight=1, reserve=WHOLE // 2)), Vp(partition(2, weight=10_000))
    queue.add(heavy, queue.share(heavy.partition)), queue.add(light, queue.share(light.partition))
    order = play(queue, 200)
    assert abs(order.count(light) - 100) <= 6


def test_the_capped_wait_for_the_next_period():
    queue, capped = RunQueue(), Vp(partition(1, cap=1))
    queue.add(capped, queue.share(capped.partition))
    queue.cap(capped)
    assert not queue.active
    assert not queue.add(capped, queue.share(capped.partition))
    assert queue.uncap() == [capped]
    assert queue.add(capped, queue.share(capped.partition))


def test_partitions_that_are_gone_are_forgotten():
    queue = RunQueue()
    gone, stays = Vp(partition(1)), Vp(partition(2))
    queue.add(gone, queue.share(gone.partition)), queue.add(stays, queue.share(stays.partition))
    queue.keep({2: stays.partition})
    assert queue.next(0) is stays
    assert list(queue.inspect()) == [2]
