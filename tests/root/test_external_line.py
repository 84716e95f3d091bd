"""INTR of a VM: what stands on the hypervisor's external line, and how root hears that it was taken."""

import pytest

from hv.root.external_line import ExternalLine
from hv.root.winhv import HvError
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.interrupts import INTERRUPT_VECTOR_NONE as NONE
from hv.spec.hypercalls.interrupts import HvInterruptType as T

VM = 7


class FakeWinHv:
    """The hypervisor's line, and what else was asked."""

    def __init__(self):
        self.vector, self.acknowledged, self.pulses, self.watched, self.gone = None, False, 0, 0, False

    def _refuse(self, status):
        raise HvError(HvStatus.INVALID_PARTITION_ID if self.gone else status, "CALL")

    def assert_virtual_interrupt(self, partition_id, vector, destination, kind, level):
        if kind is T.LOCAL_INT0:
            assert destination == 0xFFFF_FFFF
            self.pulses += 1
            return
        assert kind is T.EXT_INT
        assert level
        if self.acknowledged or self.gone:
            self._refuse(HvStatus.ACKNOWLEDGED)
        self.vector = None if vector == NONE else vector

    def clear_virtual_interrupt(self, partition_id):
        if not self.acknowledged or self.gone:
            self._refuse(HvStatus.NOT_ACKNOWLEDGED)
        self.acknowledged = False

    def set_vp_registers(self, partition_id, vp_index, values):
        assert (vp_index, values) == (0, {N.DELIVERABILITY_NOTIFICATIONS: 2})
        self.watched += 1

    def take(self):
        self.vector, self.acknowledged = None, True


@pytest.fixture
def bench():
    class Bench:
        winhv, pin = FakeWinHv(), []
    bench = Bench()
    bench.line = ExternalLine(bench.winhv, VM, bench.pin.append)
    return bench


def test_what_is_offered_stands_there_and_raises_the_pins(bench):
    assert bench.line.offer(0x28, True, False)
    assert (bench.winhv.vector, bench.winhv.pulses, bench.pin) == (0x28, 1, [False, True])


def test_a_higher_vector_replaces_it_without_an_edge(bench):
    bench.line.offer(0x28, True, False)
    bench.line.offer(0x21, False, False)
    assert (bench.winhv.vector, bench.winhv.pulses) == (0x21, 1)


def test_it_is_withdrawn(bench):
    bench.line.offer(0x28, True, False)
    bench.line.offer(None, False, False)
    assert (bench.winhv.vector, bench.pin[-1], bench.line.taken()) == (None, False, False)


def test_that_it_was_taken_is_told_once(bench):
    bench.line.offer(0x28, True, False)
    assert not bench.line.taken()
    bench.winhv.take()
    assert (bench.line.taken(), bench.line.taken(), bench.pin[-1]) == (True, False, False)
    assert bench.line.offer(0x29, True, False)


@pytest.mark.parametrize("vector", [0x21, None])
def test_one_that_was_taken_at_the_last_moment_refuses_the_next(bench, vector):
    bench.line.offer(0x28, True, False)
    bench.winhv.take()
    assert not bench.line.offer(vector, False, False)
    assert bench.line.offer(vector, False, False)
    assert bench.winhv.vector == vector


def test_the_processor_tells_of_what_is_watched(bench):
    bench.line.offer(0x28, True, True)
    bench.line.offer(0x28, True, True)
    assert bench.winhv.watched == 1


def test_a_vm_that_is_gone_has_no_line(bench):
    bench.line.offer(0x28, True, False)
    bench.winhv.gone = True
    assert not bench.line.taken()
    assert bench.line.offer(0x21, False, False)
    assert bench.line.offer(None, False, False)
