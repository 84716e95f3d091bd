"""A stop after so many instructions, that changes nothing else."""

import pytest

from hv.machine.state import ProcessorState
from tests.machine.engine_box import CODE, EngineBox

PROGRAM = "mov ecx, 1; mov edx, 2; lea rax, [rcx + rdx]; nop; hlt"
STARTS = [CODE, CODE + 5, CODE + 10, CODE + 14, CODE + 15]


class Over(Exception):
    pass


def stop():
    raise Over


def begun(native: bool, monkeypatch) -> tuple[EngineBox, ProcessorState]:
    if not native:
        monkeypatch.setenv("HVLAB_NO_NATIVE", "1")
    box = EngineBox()
    box.put(PROGRAM)
    box.engine.on_countdown = stop
    return box, box.state()


@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_it_stops_before_the_instruction_of_that_number(count, native, monkeypatch):
    box, state = begun(native, monkeypatch)
    box.engine.countdown.begin(count)
    with pytest.raises(Over):
        box.engine.run(state, 1 << 40)
    assert state.rip == STARTS[count - 1]
    assert box.engine.countdown.over


def test_an_exit_may_come_first(monkeypatch):
    box, state = begun(True, monkeypatch)
    box.engine.countdown.begin(7)
    assert box.engine.run(state, 1 << 40)
    assert (state.rip, box.engine.countdown.left) == (STARTS[-1], 2)


def test_the_clock_is_that_of_a_run_without_it(monkeypatch):
    box, state = begun(True, monkeypatch)
    box.engine.run(state, 1 << 40)
    plain = box.counter.done
    counted, state = begun(True, monkeypatch)
    counted.engine.countdown.begin(100)
    counted.engine.run(state, 1 << 40)
    assert counted.counter.done == plain


def test_after_its_end_nobody_counts(monkeypatch):
    box, state = begun(True, monkeypatch)
    box.engine.countdown.begin(2)
    box.engine.countdown.end()
    assert not box.engine.countdown.counts
    assert box.engine.run(state, 1 << 40)
    assert state.rip == STARTS[-1]
