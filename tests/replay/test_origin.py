"""Since when something is as it is."""

import pytest

from hv.replay.fingerprint import fingerprint
from hv.replay.origin import Origin, elsewhere, instruction, origins
from hv.replay.position import Position
from hv.replay.timeline import Timeline
from tests.replay.machines import machine_with

WRITES = """
    .include "lib/machine.inc"
    .bits 64
    .org 0x10000
    .entry start
start:
    mov ebp, 64
again:
    mov [0x220000], ebp
    shr dword ptr [0x220000], 6         ; a value that stays for 64 rounds
    xor eax, eax
    cpuid
    mov ebx, ebp
    inc ebp
    cmp ebp, 464
    jne again
    cli
    hlt
"""
CELL = 0x220000


@pytest.fixture
def timeline():
    machine = machine_with(WRITES)
    timeline = Timeline(machine)
    for _ in range(15):                             # many checkpoints
        timeline.record(machine.clock.tsc + 40_000)
    timeline.record()
    yield timeline
    machine.close()


def cell(timeline):
    return lambda: int.from_bytes(timeline.machine.vms[0].worker.read(CELL, 4), "little")


def first_exit_with(timeline, value):
    timeline.go(Position())
    for number in range(1, timeline.end.exits + 1):
        timeline.go(Position(number))
        if cell(timeline)() == value:
            return Position(number)
    return None


@pytest.mark.parametrize("at", [5, 70, 200, 399])
def test_it_is_the_event_behind_which_it_became_so(timeline, at):
    assert len(timeline.checkpoints) > 5
    timeline.go(Position(at))
    value = cell(timeline)()
    (found,) = origins(timeline, [cell(timeline)])
    assert found == Origin(first_exit_with(timeline, value))


def test_what_was_always_so_has_no_origin(timeline):
    timeline.go(Position(300))
    assert origins(timeline, [lambda: 1, lambda: timeline.machine.vms[0].name]) == [None, None]


def test_each_of_several_has_its_own(timeline):
    timeline.go(Position(300))
    exits = timeline.machine.vms[0].partition.vps[0].vcpu
    both = origins(timeline, [cell(timeline), lambda: exits.exits[10]])
    assert both[0] < both[1] == Origin(Position(300))


@pytest.mark.parametrize("place", ["E0", "E3", "E3:2", "E200"])
def test_one_stands_where_one_stood(timeline, place):
    timeline.go(Position.parse(place))
    before = fingerprint(timeline.machine)
    with elsewhere(timeline):
        timeline.go(Position(17))
    assert (fingerprint(timeline.machine), str(timeline.position)) == (before, place)


def test_from_the_end_the_run_goes_on(timeline):
    timeline.go_to_end()
    with elsewhere(timeline):
        timeline.go(Position(17))
    assert timeline.record() == timeline.end


def test_what_no_event_tells_of_is_behind_the_last_one(timeline):
    timeline.go(Position.parse("E5:1"))
    rax = timeline.machine.vms[0].partition.vps[0].regs
    timeline.go(Position.parse("E5:5"))
    assert origins(timeline, [lambda: rax.rbp]) == [Origin(Position(5, 0, 1), behind=True)]


def test_the_instruction_that_did_it_is_found(timeline):
    regs = timeline.machine.vms[0].partition.vps[0].regs
    timeline.go(Position(9))
    wanted = regs.rbp
    assert instruction(timeline, 8, lambda: regs.rbp, wanted) == Position.parse("E8:2")
    assert instruction(timeline, 8, lambda: regs.cs.selector, regs.cs.selector) is None
