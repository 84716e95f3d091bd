"""The next instruction, breakpoint and event of a recording, and the one before."""

import random

import pytest

from hv.image.assembler import assemble
from hv.image.library import guests_folder
from hv.replay.fingerprint import fingerprint
from hv.replay.position import Position, PositionError
from hv.replay.timeline import Interrupted, Timeline
from hv.replay.walk import Point
from hv.vmx.exit import VmExit
from tests.replay.machines import STRAIGHT, TWO_AT_WORK, machine_with, recorded

CALLS = """
    .include "lib/machine.inc"
    .bits 64
    .org 0x10000
    .entry start
start:
    mov ecx, 5
again:
    push rcx
    call deeper
back:
    pop rcx
    dec ecx
    jnz again
    hlt
deeper:
    test ecx, 1
    jz even
    xor eax, eax
    cpuid
even:
    ret
"""


def never(record):
    return False


def is_exit(record):
    return type(record.event) is VmExit


def symbol(name, source):
    return assemble(source, "test", folders=(guests_folder(),)).symbols[name]


def engine_of(machine):
    return machine.vms[0].partition.vps[0].vcpu.engine


def rip(machine):
    return machine.vms[0].partition.vps[0].regs.rip


@pytest.fixture
def calls():
    machine, timeline = recorded(CALLS)
    timeline.go(Position())
    yield machine, timeline
    machine.close()


@pytest.fixture(scope="module")
def two():
    machine, timeline = recorded(TWO_AT_WORK, 2)
    yield machine, timeline
    machine.close()


def test_single_steps_go_through_each_instruction_and_back(calls):
    machine, timeline = calls
    there = []
    while timeline.step():
        there.append((timeline.position, rip(machine), fingerprint(machine)))
    assert len(there) > 40
    assert machine.vms[0].ended == "halt"
    back = []
    while timeline.step_back():
        if timeline.position.instructions:
            back.append((timeline.position, rip(machine), fingerprint(machine)))
    assert timeline.position == Position()
    assert back[::-1] == there


def test_a_step_over_an_instruction_that_exits_is_behind_its_handling(calls):
    _, timeline = calls
    timeline.forward(is_exit)
    number = timeline.position.exits
    assert timeline.step()
    assert timeline.position == Position(number, 1)
    timeline.step_back()
    assert timeline.position == Position(number)
    timeline.step_back()
    assert timeline.position.exits == number - 1
    timeline.step()
    assert timeline.position == Position(number, 1)


def test_a_breakpoint_is_met_each_time_and_backwards_the_same_times(calls):
    machine, timeline = calls
    point = Point(engine_of(machine), symbol("deeper", CALLS))
    there = []
    while timeline.forward(never, [point]) is not None:
        assert rip(machine) == point.gva
        there.append((timeline.position, fingerprint(machine)))
    assert len(there) == 5
    back = []
    while timeline.backward(never, [point]) is not None:
        back.append((timeline.position, fingerprint(machine)))
    assert back[::-1] == there
    assert timeline.position == Position()


def test_the_first_of_an_event_and_a_breakpoint_is_met(calls):
    machine, timeline = calls
    point = Point(engine_of(machine), symbol("even", CALLS))
    met = []
    while (moment := timeline.forward(is_exit, [point])) is not None:
        met.append(moment.point is None)
    assert met == [True, False, False, True, False, False, True, False, True][:len(met)]
    back = []
    while (moment := timeline.backward(is_exit, [point])) is not None:
        back.append(moment.point is None)
    assert back[::-1] == met


def test_a_breakpoint_may_ask_for_a_depth_of_the_stack(calls):
    machine, timeline = calls
    timeline.step()
    gva, rsp = symbol("back", CALLS), machine.vms[0].partition.vps[0].regs.rsp
    assert timeline.forward(never, [Point(engine_of(machine), gva, None, rsp - 8)]) is not None
    assert timeline.forward(never, [Point(engine_of(machine), gva, None, rsp)]) is None


def test_a_breakpoint_may_be_one_vps(two):
    machine, timeline = two
    vps, gva = machine.vms[0].partition.vps, symbol("work", TWO_AT_WORK)
    for vp in vps.values():
        timeline.go(Position())
        point = Point(vp.vcpu.engine, gva, vp.regs)
        assert timeline.forward(never, [point]) is not None
        assert vp.regs.rip == gva
        assert timeline.forward(never, [point]) is None


@pytest.mark.parametrize("seed", range(3))
def test_from_anywhere_the_next_one_is_behind_and_the_last_one_before(two, seed):
    """Both ways, from random places: there is none between."""
    machine, timeline = two
    chosen = random.Random(seed)
    point = Point(engine_of(machine), symbol("work.more", TWO_AT_WORK))
    for _ in range(3):
        place = Position(chosen.randrange(1, timeline.end.exits), chosen.choice((0, 1, 2)))
        try:
            timeline.go(place)
        except PositionError:
            continue
        moment = timeline.forward(never, [point])
        if moment is None:
            continue
        behind = timeline.position
        assert behind > place
        if timeline.backward(never, [point]) is not None:
            assert timeline.position <= place
            timeline.forward(never, [point])
            assert timeline.position == behind


def test_the_run_is_recorded_as_far_as_it_must():
    machine = machine_with(CALLS)
    timeline = Timeline(machine)
    try:
        point = Point(engine_of(machine), symbol("back", CALLS))
        met = 0
        while timeline.forward(never, [point], record=True) is not None:
            met += 1
        assert (met, machine.vms[0].ended) == (5, "halt")
        assert timeline.forward(never, [point], record=True) is None
    finally:
        machine.close()


def test_steps_are_recorded_as_far_as_they_must():
    machine = machine_with(STRAIGHT)
    timeline = Timeline(machine)
    try:
        seen = []
        while timeline.step(record=True):
            seen.append(rip(machine))
        assert seen[:3] == [0x10005, 0x10007, 0x10009]
        assert machine.vms[0].ended == "halt"
    finally:
        machine.close()


def test_a_breakpoint_where_one_stands_is_not_met_again(calls):
    machine, timeline = calls
    point = Point(engine_of(machine), symbol("back", CALLS))
    timeline.forward(never, [point])
    first = timeline.position
    timeline.take_up()
    assert timeline.forward(never, [point], record=True) is not None
    assert timeline.position > first
    assert rip(machine) == point.gva


def test_who_does_not_wait_stays_where_he_is(two):
    machine, timeline = two
    timeline.go(Position(10, 1))
    before = fingerprint(machine)
    timeline.interrupted = lambda: True
    try:
        for way in (timeline.forward, timeline.backward):
            with pytest.raises(Interrupted):
                way(never)
            assert (timeline.position, fingerprint(machine)) == (Position(10, 1), before)
    finally:
        timeline.interrupted = lambda: False


def test_many_steps_are_as_many_single_ones(calls):
    _, timeline = calls
    there = [Position()]
    while timeline.step():
        there.append(timeline.position)
    chosen = random.Random(7)
    for _ in range(12):
        begin = chosen.randrange(len(there))
        n = chosen.randrange(1, len(there) - begin + 1) if begin < len(there) - 1 else 1
        timeline.go(there[begin])
        assert timeline.step(n) is (begin + n < len(there))
        if begin + n < len(there):
            assert timeline.position == there[begin + n]
    back = []
    timeline.go_to_end()
    while timeline.step_back():
        back.append(timeline.position)
    for n in (1, 2, 5, 17, len(back)):
        timeline.go_to_end()
        assert timeline.step_back(n) is True
        assert timeline.position == back[n - 1]
    timeline.go_to_end()
    assert timeline.step_back(len(back) + 1) is False
    assert timeline.position == Position()


def after(asked):
    """Ctrl-C, at the question of that number."""
    left = iter([False] * asked + [True] * 1000)
    return lambda: next(left)


@pytest.mark.parametrize("asked", range(4))
@pytest.mark.parametrize("way", [
    lambda timeline, point: timeline.forward(never, [point], record=True),
    lambda timeline, point: timeline.step(10 ** 6, record=True)], ids=["forward", "step"])
def test_who_does_not_wait_at_the_end_stands_in_what_is_recorded(way, asked):
    """The end of a recording need not be a place that has a name, while more was recorded since."""
    machine = machine_with(TWO_AT_WORK, 2)
    timeline = Timeline(machine, 500)
    try:
        timeline.record(machine.clock.tsc + 100_000)
        end = timeline.end
        timeline.interrupted = after(asked)
        with pytest.raises(Interrupted):
            way(timeline, Point(engine_of(machine), 0x123456))
        assert end <= timeline.position <= timeline.end or timeline.live
        timeline.interrupted = lambda: False
        timeline.record()
        assert machine.vms[0].ended == "halt"
    finally:
        machine.close()
