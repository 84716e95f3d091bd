"""What was done to a machine is data, and who does it again has the same run."""

import random

import pytest

from hv.replay import recording
from hv.replay.acts import Cut, Ran
from hv.replay.changes import ParentCall, SetMemory, SetRegister
from hv.replay.fingerprint import describe, fingerprint
from hv.replay.position import Position, PositionError
from hv.replay.refusal import ChangeRefused
from hv.replay.timeline import Timeline
from hv.replay.walk import forget
from hv.spec.hypercalls.memory import SparseGpaPagesInput
from tests.replay.machines import TWO_AT_WORK, machine_with, recorded


def ends(timeline):
    timeline.go_to_end()
    return fingerprint(timeline.machine)


def done_again(acts, source=TWO_AT_WORK, vps=2):
    """The fingerprint of another machine, to which *acts* were done."""
    machine = machine_with(source, vps)
    machine.factory.keeps_engines = True
    try:
        forget(machine)
        for act in acts:
            act.do(machine)
            forget(machine)
        return fingerprint(machine)
    finally:
        machine.close()


@pytest.fixture
def two():
    machine, timeline = recorded(TWO_AT_WORK, 2)
    yield timeline
    machine.close()


def test_the_acts_of_a_recording_are_the_run(two):
    assert {type(act) for act in two.acts} == {Ran}
    assert done_again(two.acts) == ends(two)


def test_a_run_that_is_paused_and_goes_on_is_several_acts():
    machine = machine_with(TWO_AT_WORK, 2)
    timeline = Timeline(machine, 500)
    try:
        timeline.record(paused=lambda: machine.factory.exits > 100)
        timeline.record(machine.clock.tsc + 1_000_000)
        timeline.record()
        assert machine.vms[0].ended == "halt"
        assert done_again(timeline.acts) == ends(timeline)
    finally:
        machine.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_run_is_taken_up_anywhere_and_goes_on_to_its_end(seed):
    """Twice, at random places: behind exits, instructions and events. Another machine that does the same is the same,
    and each place of the new past is the same each time."""
    machine, timeline = recorded(TWO_AT_WORK, 2)
    chosen = random.Random(seed)
    try:
        for _ in range(2):
            known = timeline.end.exits
            place = Position(chosen.randrange(1, known), *chosen.choice(((0, 0), (2, 0), (1, 0), (0, 1))))
            try:
                timeline.go(place)
            except PositionError:
                continue
            assert timeline.take_up() == known - place.exits
            assert timeline.end.exits == place.exits
            timeline.record()
        assert machine.vms[0].ended == "halt"
        assert machine.vms[0].worker.read(0x220000, 4) == (9600).to_bytes(4, "little")
        end = ends(timeline)
        assert done_again(timeline.acts) == end
        found = {}
        places = [Position(chosen.randrange(1, timeline.end.exits), chosen.choice((0, 1, 2))) for _ in range(6)]
        for place in places + places[::-1]:
            timeline.go(place)
            assert found.setdefault(place, fingerprint(machine)) == fingerprint(machine), "\n".join(describe(machine))
        assert ends(timeline) == end
    finally:
        machine.close()


def test_where_it_was_taken_up_the_instructions_are_counted_on():
    """The places around a cut in the middle of straight code are one after another, as they were before."""
    machine, timeline = recorded(TWO_AT_WORK, 2)
    vp = machine.vms[0].partition.vps[0]
    try:
        def seen(count):
            timeline.go(Position(0, count))
            return vp.regs.rip, vp.regs.rsp
        before = [seen(count) for count in range(1, 7)]
        timeline.go(Position(0, 5))
        timeline.take_up()
        assert timeline.acts == [Cut(0, 5, 0)]
        assert (vp.regs.rip, vp.regs.rsp) == before[4]
        timeline.record()
        assert [seen(count) for count in range(1, 7)] == before
        timeline.go(Position(0, 6))
        timeline.take_up()
        assert timeline.acts == [Cut(0, 5, 0), Cut(0, 2, 0)]
        timeline.record()
        assert [seen(count) for count in range(1, 7)] == before
    finally:
        machine.close()


def test_at_the_beginning_all_is_forgotten(two):
    two.go(Position())
    assert two.take_up() > 0
    assert (two.acts, two.end, len(two.checkpoints)) == ([], Position(), 1)
    two.record()
    assert two.machine.vms[0].ended == "halt"


def test_at_the_end_nothing_is_forgotten(two):
    two.go_to_end()
    before = list(two.acts)
    assert two.take_up() == 0
    assert two.acts == before


def in_pieces(length=40_000):
    """A run recorded in many pieces, each with a checkpoint at its end."""
    machine = machine_with(TWO_AT_WORK, 2)
    timeline = Timeline(machine)
    while machine.vms[0].ended is None:
        timeline.record(machine.clock.tsc + length)
    return machine, timeline


def test_checkpoints_that_are_dropped_change_nothing():
    """The places are the same, the way to them is longer."""
    machine, timeline = in_pieces()
    chosen, found = random.Random(1), {}
    try:
        assert len(timeline.checkpoints) > 6
        places = [Position(chosen.randrange(1, timeline.end.exits), chosen.choice((0, 1, 2))) for _ in range(8)]
        for place in places:
            timeline.go(place)
            found[place] = fingerprint(machine)
        timeline._drop(timeline.checkpoints[1:-1])
        assert len(timeline.checkpoints) == 2
        for place in places:
            timeline.go(place)
            assert fingerprint(machine) == found[place]
    finally:
        machine.close()


def test_a_long_run_keeps_fewer_checkpoints(monkeypatch):
    monkeypatch.setattr(recording, "MOST_CHECKPOINTS", 6)
    machine, timeline = in_pieces()
    try:
        assert len(timeline.checkpoints) <= 6 < len(timeline.acts)
        assert timeline.spacing > recording.SPACING
        assert done_again(timeline.acts) == ends(timeline)
        timeline.go(Position(timeline.end.exits // 2))
        timeline.take_up()
        timeline.record()
        assert machine.vms[0].ended == "halt"
        assert done_again(timeline.acts) == ends(timeline)
    finally:
        machine.close()


def test_a_change_is_an_act_of_the_recording(two):
    """It is done again on every way over it, and on another machine."""
    partition = two.machine.vms[0].partition_id
    two.go(Position(200, 2))
    two.take_up()
    two.change(SetMemory(partition, 0x220000, (1_000_000).to_bytes(4, "little")))
    two.record()
    end = ends(two)
    for place, least, most in ((Position(100), 1, 9600), (Position(202), 1_000_000, 1_009_600)):
        two.go(place)
        assert least <= int.from_bytes(two.machine.vms[0].worker.read(0x220000, 4), "little") <= most
    assert ends(two) == end == done_again(two.acts)


def test_a_change_that_is_refused_is_no_act(two):
    two.go_to_end()
    before, state = list(two.acts), fingerprint(two.machine)
    with pytest.raises(ChangeRefused):
        two.change(SetRegister(two.machine.vms[0].partition_id, 0, "CR0", 1 << 40))
    assert (two.acts, fingerprint(two.machine)) == (before, state)


def test_of_a_list_that_is_refused_in_the_middle_nothing_is_left(two):
    """A call does the elements before the refused one; the recording knows nothing of it, so they are undone."""
    vm = two.machine.vms[0]
    two.go(Position(200, 2))
    two.take_up()
    state = fingerprint(two.machine)
    pages = b"".join(page.to_bytes(8, "little") for page in (0x221, 0xFFFFFF))
    call = ParentCall(two.machine.hypervisor.root.id, "MODIFY_SPARSE_GPA_PAGES",
                      SparseGpaPagesInput(target_partition_id=vm.partition_id, map_flags=1).pack(), pages)
    rights = vm.partition.space.mapping(0x221).rights
    with pytest.raises(ChangeRefused):
        two.change(call)
    assert vm.partition.space.mapping(0x221).rights == rights
    assert fingerprint(two.machine) == state


def test_what_somebody_changed_past_the_recording_is_dropped(two):
    """Only changes that are data can be done again."""
    two.go(Position(200, 2))
    two.take_up()
    two.machine.vms[0].partition.vps[0].regs.rax = 0x1234
    two.record()
    assert done_again(two.acts) == ends(two)
