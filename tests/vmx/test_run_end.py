"""Where a run ends, when that is said while it goes on."""

import pytest

from hv.machine.lp import LogicalProcessor

WHOLE, SOON = 5_000_000, 200_000


def leave(counter):
    """As for a physical interrupt."""
    counter.limit = counter.deadline = 0


@pytest.fixture
def processor(box):
    """A processor whose guests run on the box's engine."""
    processor = LogicalProcessor()
    processor.counter = box.counter
    return processor


@pytest.mark.parametrize("interrupt", [
    lambda vcpu: None, lambda vcpu: vcpu.look(), lambda vcpu: leave(vcpu.engine.counter)],
    ids=["nothing", "something-may-be-due", "a-physical-interrupt"])
@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
def test_an_end_that_was_moved_up_holds_whatever_interrupts_the_run(box, processor, interrupt, first):
    """A timer is set in an exit, or somebody is woken; that the run then stops for a look does not take it back."""
    vcpu = box.vcpu()
    box.put("cpuid; mov ebx, 1; again:; inc ebx; jmp again")

    def handle(exit):
        vcpu.state.rip += exit.instruction_length
        if first:
            interrupt(vcpu)
        processor.stop_by(SOON)
        if not first:
            interrupt(vcpu)
        return True
    box.handle = handle
    vcpu.run(WHOLE)
    assert SOON <= box.clock.tsc < SOON + 100_000
    vcpu.run(box.clock.tsc + SOON)                      # the next run has its own end
    assert 2 * SOON <= box.clock.tsc < 2 * SOON + 100_000


def test_an_end_that_was_put_off_holds_too(box, processor):
    vcpu = box.vcpu()
    box.put("cpuid; again:; inc ebx; jmp again")

    def handle(exit):
        vcpu.state.rip += exit.instruction_length
        processor.run_until(WHOLE)
        vcpu.look()
        return True
    box.handle = handle
    vcpu.run(SOON)
    assert WHOLE <= box.clock.tsc < WHOLE + 100_000
