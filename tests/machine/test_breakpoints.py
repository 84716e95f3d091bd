"""Breakpoints and single steps of the engine, in code that ran at full speed before."""

import pytest

from tests.machine.engine_box import CODE, EngineBox

LOOP = "mov ecx, 1000000\nloop:\nadd eax, ecx\ndec ecx\njnz loop\nhlt\n"
ADD, DEC, JNZ = CODE + 5, CODE + 7, CODE + 9


@pytest.fixture
def box():
    box = EngineBox()
    box.put(LOOP)
    yield box
    box.close()


@pytest.fixture
def state(box):
    """In the middle of the loop, which is translated."""
    state = box.state()
    box.run(state, 1000)
    assert ADD <= state.rip <= JNZ
    return state


def test_a_breakpoint_stops_before_its_instruction_in_code_translated_long_ago(box, state):
    box.engine.breakpoints.add(DEC)
    counts = []
    for _ in range(3):
        assert box.run(state)
        assert (state.rip, box.engine.breakpoints.take()) == (DEC, DEC)
        counts.append(state.ecx)
    assert counts == [counts[0], counts[0] - 1, counts[0] - 2]


def test_a_removed_breakpoint_stops_nobody(box, state):
    box.engine.breakpoints.add(DEC)
    box.run(state)
    box.engine.breakpoints.take()
    box.engine.breakpoints.remove(DEC)
    assert not box.run(state, 500)
    assert box.engine.breakpoints.take() is None


def test_a_hit_is_told_once(box, state):
    box.engine.breakpoints.add(DEC)
    box.run(state)
    assert [box.engine.breakpoints.take(), box.engine.breakpoints.take()] == [DEC, None]


def test_a_vp_that_stands_at_a_breakpoint_from_elsewhere_stops_there(box, state):
    """Only the one it was stopped by is passed."""
    state.rip = JNZ
    box.engine.breakpoints.add(JNZ)
    before = state.ecx
    assert box.run(state)
    assert (state.rip, state.ecx) == (JNZ, before)


def test_each_vp_stops_for_itself(box, state):
    other = box.state()
    box.engine.breakpoints.add(DEC)
    for vp in (state, other, state, other):
        assert box.run(vp)
        assert (vp.rip, box.engine.breakpoints.take()) == (DEC, DEC)


@pytest.mark.parametrize("breakpoint_at", [None, ADD, DEC])
def test_a_step_is_one_instruction_in_code_that_ran_at_full_speed(breakpoint_at, box, state):
    """The engine counts only in code that it translated to count; breakpoints do not stop steps."""
    if breakpoint_at is not None:
        box.engine.breakpoints.add(breakpoint_at)
    following = {ADD: DEC, DEC: JNZ, JNZ: ADD}
    for _ in range(2):
        for _ in range(5):
            before = state.rip
            box.run(state, 1 << 40, instructions=1)
            assert state.rip == following[before]
        box.run(state, 1000)
        box.engine.breakpoints.take()


def test_vps_that_stand_at_one_breakpoint_both_pass_it(box, state):
    """Each remembers where it was stopped, whoever runs in between: else they would stop there in turns for ever."""
    other = box.state()
    box.engine.breakpoints.add(DEC)
    for vp in (state, other):
        assert box.run(vp)
        assert (vp.rip, box.engine.breakpoints.take()) == (DEC, DEC)
    counts = [state.ecx, other.ecx]
    for vp in (state, other):
        assert box.run(vp)
        box.engine.breakpoints.take()
    assert [state.ecx, other.ecx] == [counts[0] - 1, counts[1] - 1]
