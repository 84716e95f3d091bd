"""Any moment of a run again: the same state each time, however one comes there."""

import random

import pytest

from hv.image.assembler import assemble
from hv.image.library import guests_folder
from hv.image.load import image_of, load
from hv.platform import Machine
from hv.replay.fingerprint import describe, fingerprint
from hv.replay.position import Position, PositionError
from hv.replay.timeline import Timeline
from hv.root_machine import RootMachine
from hv.spec.exits import ExitReason
from hv.trace import events
from hv.vmx.exit import VmExit
from tests.replay.machines import STRAIGHT, TWO_AT_WORK, machine_with, recorded


@pytest.fixture
def straight():
    machine, timeline = recorded(STRAIGHT)
    timeline.go(Position())
    yield machine, timeline
    machine.close()


@pytest.fixture(scope="module")
def two():
    machine, timeline = recorded(TWO_AT_WORK, 2)
    yield machine, timeline
    machine.close()


def is_exit(reason):
    return lambda record: isinstance(record.event, VmExit) and record.event.reason is reason


def test_a_run_that_is_recorded_comes_to_the_same_end():
    machine, timeline = recorded(TWO_AT_WORK, 2)
    plain = machine_with(TWO_AT_WORK, 2)
    plain.run()
    try:
        assert len(timeline.checkpoints) >= 3
        assert machine.vms[0].ended == plain.vms[0].ended == "halt"
        assert machine.vms[0].worker.read(0x220000, 4) == plain.vms[0].worker.read(0x220000, 4)
        assert timeline.end.exits == plain.factory.exits
    finally:
        machine.close()
        plain.close()


@pytest.mark.parametrize("seed", range(3))
def test_each_visit_of_a_place_finds_the_same_state(two, seed):
    """Random places, in random order, from exits and from instructions between them."""
    machine, timeline = two
    chosen = random.Random(seed)
    places = [Position(chosen.randrange(1, timeline.end.exits), chosen.choice((0, 0, 1, 2))) for _ in range(12)]
    found = {}
    for place in places + chosen.sample(places, len(places)):
        try:
            timeline.go(place)
            seen = fingerprint(machine)
        except PositionError as error:
            seen = str(error)
        assert found.setdefault(place, seen) == seen, (place, "\n".join(describe(machine)))
    assert len(set(found.values())) > 8


def test_another_machine_finds_the_same_state(two):
    machine, timeline = two
    other, again = recorded(TWO_AT_WORK, 2)
    try:
        for place in (Position(20), Position(300, 2), Position(timeline.end.exits)):
            timeline.go(place)
            again.go(place)
            assert fingerprint(machine) == fingerprint(other)
    finally:
        other.close()


def test_an_exit_is_seen_before_it_is_handled(straight):
    machine, timeline = straight
    number = timeline.forward(is_exit(ExitReason.CPUID)) and timeline.position
    vp = machine.vms[0].partition.vps[0]
    assert vp.vcpu.vmcs.last_exit.reason is ExitReason.CPUID
    assert vp.regs.rip == 0x10007
    timeline.go(Position(number.exits, 1))
    assert vp.regs.rip == 0x10009
    assert vp.regs.rbx                                              # CPUID was answered


def test_instructions_behind_an_exit_are_counted_one_by_one(straight):
    machine, timeline = straight
    timeline.forward(is_exit(ExitReason.CPUID))
    exits, vp = timeline.position.exits, machine.vms[0].partition.vps[0]
    seen = []
    for count in (1, 2, 3, 4, 5):
        timeline.go(Position(exits, count))
        seen.append((vp.regs.rip, vp.regs.rsi & 0xFF))
    assert [rip for rip, _ in seen] == [0x10009, 0x1000E, 0x10011, 0x10016, 0x10017]
    assert [rsi for _, rsi in seen][1:] == [1, 3, 3, 3]
    with pytest.raises(PositionError, match=f"exit {exits + 1} comes after 5 instructions"):
        timeline.go(Position(exits, 6))


def test_the_first_instruction_of_all_is_a_place(straight):
    machine, timeline = straight
    timeline.go(Position(0, 2))
    assert machine.vms[0].partition.vps[0].regs.rip == 0x10005


def test_forward_and_back_find_the_same_events(two):
    machine, timeline = two
    timeline.go(Position(timeline.end.exits // 2))
    there = []
    for _ in range(8):
        record = timeline.forward(is_exit(ExitReason.CPUID))
        there.append((timeline.position, record.record.tsc, fingerprint(machine)))
    back = [there[-1]]
    for _ in range(7):
        record = timeline.backward(is_exit(ExitReason.CPUID))
        back.append((timeline.position, record.record.tsc, fingerprint(machine)))
    assert back == there[::-1]
    assert len(set(there)) == 8


@pytest.mark.parametrize(("way", "end"), [("forward", False), ("backward", True)])
def test_where_no_such_event_comes_the_run_ends_or_begins(two, way, end):
    _, timeline = two
    timeline.go(Position(50))
    assert getattr(timeline, way)(is_exit(ExitReason.TRIPLE_FAULT)) is None
    assert timeline.position == (timeline.end if end is False else Position())


def test_an_event_between_two_exits_has_a_place_too(two):
    machine, timeline = two
    timeline.go(Position(100))
    record = timeline.forward(lambda record: isinstance(record.event, events.VpSwitch))
    there, state = timeline.position, fingerprint(machine)
    assert there.events
    timeline.go(Position(5))
    timeline.go(Position.parse(str(there)))
    assert (timeline.position, fingerprint(machine)) == (there, state)
    assert isinstance(record.record.event, events.VpSwitch)


def test_a_run_goes_on_at_its_end_wherever_one_has_looked():
    machine = machine_with(TWO_AT_WORK, 2)
    timeline = Timeline(machine, 500)
    half = timeline.record(paused=lambda: machine.factory.exits > 2000)
    timeline.go(Position(half.exits // 2))
    end = timeline.record()
    whole, _again = recorded(TWO_AT_WORK, 2)
    try:
        assert half < end
        assert machine.vms[0].worker.read(0x220000, 4) == whole.vms[0].worker.read(0x220000, 4) == (9600).to_bytes(
            4, "little")
    finally:
        machine.close()
        whole.close()


def test_partitions_that_come_and_go_are_there_again():
    """Root is machine code, makes a child, runs it, and takes it apart."""
    machine = RootMachine(load(guests_folder() / "root_child.asm"))
    try:
        timeline = Timeline(machine, 50)
        timeline.record()
        assert machine.guest.ended == "shutdown"
        assert len(machine.hypervisor.partitions) == 1
        found = {}
        for exits in (1100, 300, 1300, 1100, 20, 1300, 300):
            timeline.go(Position(exits))
            state = len(machine.hypervisor.partitions), fingerprint(machine)
            assert found.setdefault(exits, state) == state
        assert found[1300][0] == 2
    finally:
        machine.close()


@pytest.mark.parametrize("text", ["", "120", "E", "E1:", "E1:x", "E-1", "E1+2:3", "E" + "9" * 40])
def test_what_is_no_position_is_told_how_one_looks(text):
    with pytest.raises(PositionError, match="write E120"):
        Position.parse(text)


@pytest.mark.parametrize("text", ["E0", "E120", "E120:7", "E120+3"])
def test_a_position_is_read_as_it_is_written(text):
    assert str(Position.parse(text)) == text
    assert str(Position.parse(f" {text.lower()} ")) == text


@pytest.mark.parametrize(("place", "why"), [
    (Position(10 ** 9), "the run is known up to E"), (Position(3, 0, 10 ** 6), "fewer events")])
def test_a_place_that_is_not_there_is_refused(two, place, why):
    with pytest.raises(PositionError, match=why):
        two[1].go(place)


def test_partitions_that_run_in_parallel_are_refused():
    machine = Machine(memory_mib=24, parallel=True)
    try:
        with pytest.raises(ValueError, match="without --parallel"):
            Timeline(machine)
    finally:
        machine.close()


def test_a_timeline_that_is_closed_keeps_nothing():
    machine, timeline = recorded(STRAIGHT)
    try:
        timeline.close()
        assert not timeline.checkpoints
        machine.destroy_vm(machine.vms[0])
        assert not machine.memory.engines
        machine.create_vm("b", image_of(assemble(STRAIGHT, "test", folders=(guests_folder(),))), 4)
        machine.run()
        assert machine.vms[0].ended == "halt"
    finally:
        machine.close()


ENDLESS = """
    .include "lib/machine.inc"
    .bits 64
    .org 0x10000
    .entry start
start:
    xor eax, eax
    cpuid
    mov ecx, 200
work:
    dec ecx
    jnz work
    jmp start
"""


@pytest.fixture
def endless():
    machine = machine_with(ENDLESS)
    timeline = Timeline(machine, 100)
    timeline.record(machine.clock.tsc + 300_000)
    yield machine, timeline
    machine.close()


def test_nothing_runs_on_behind_what_is_recorded(endless):
    """The guest never ends: who looks for what never comes is at the end of the recording."""
    machine, timeline = endless
    end = machine.clock.tsc
    timeline.go(Position(3))
    assert timeline.forward(is_exit(ExitReason.HLT)) is None
    assert (timeline.position, machine.clock.tsc) == (timeline.end, end)
    assert timeline.forward(is_exit(ExitReason.CPUID)) is None
    with pytest.raises(PositionError):
        timeline.go(Position(timeline.end.exits, 0, 1000))


def test_the_last_exit_is_behind_whoever_stands_at_the_end(endless):
    _, timeline = endless
    assert timeline.backward(is_exit(ExitReason.CPUID)) is not None
    assert timeline.position == timeline.end
    timeline.backward(is_exit(ExitReason.CPUID))
    assert timeline.position.exits == timeline.end.exits - 1


def test_who_asks_for_a_place_that_is_not_there_stays_where_he_is(endless):
    machine, timeline = endless
    for stand in (lambda: timeline.go(Position(5, 3)), timeline.go_to_end):
        stand()
        before = timeline.position, fingerprint(machine)
        with pytest.raises(PositionError):
            timeline.go(Position(4, 100_000))
        assert (timeline.position, fingerprint(machine)) == before


@pytest.mark.parametrize("vms", [1, 2])
def test_what_follows_an_exit_is_heard_with_the_instructions_before_each_event(vms):
    machine = Machine(memory_mib=64)
    image = image_of(assemble(STRAIGHT, "straight.asm", folders=(guests_folder(),)))
    for name in ("one", "two")[:vms]:
        machine.create_vm(name, image, 16)
    timeline = Timeline(machine)
    timeline.record()
    heard = []
    assert timeline.hear_behind(0, heard.append) == 3       # mov, xor, cpuid
    assert timeline.hear_behind(1, heard.append) == 5       # mov, add, mov, nop, hlt
    assert [str(moment.position) for moment in heard] == ["E0+1", "E1", "E1+1"]
    assert [moment.executed for moment in heard] == [0, 0, 0]
    machine.close()
