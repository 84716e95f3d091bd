"""Interrupt messages of root's devices become calls of the hypervisor; SDM "Message Signalled Interrupts"."""

from typing import NamedTuple

import pytest

from hv.root.msi import Msi, MsiDelivery
from hv.root.winhv import HvError
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.interrupts import HvInterruptType as T

VM, DEVICE = 7, 0x18


class FakeWinHv:
    """Notes what is asserted; *status* is what it is refused with."""

    def __init__(self):
        self.asserted, self.status = [], None

    def assert_virtual_interrupt(self, partition_id, vector, destination, kind, level, logical):
        self.asserted.append((partition_id, vector, destination, kind, level, logical))
        if self.status is not None:
            raise HvError(self.status, "ASSERT_VIRTUAL_INTERRUPT")


@pytest.mark.parametrize(("address", "data", "asserted"), [
    pytest.param(0xFEE0_0000, 0x31, (0x31, 0, T.FIXED, False, False), id="fixed"),
    pytest.param(0xFEE0_3000, 0x31, (0x31, 3, T.FIXED, False, False), id="destination"),
    pytest.param(0xFEEF_F000, 0x31, (0x31, 0xFF, T.FIXED, False, False), id="everybody"),
    pytest.param(0xFEE0_1020, 0x31, (0x31, 0x101, T.FIXED, False, False), id="extended-destination"),
    pytest.param(0xFEE0_3004, 0x31, (0x31, 3, T.FIXED, False, True), id="logical"),
    pytest.param(0xFEE0_3008, 0x31, (0x31, 3, T.LOWEST_PRIORITY, False, False), id="hint-one-is-enough"),
    pytest.param(0xFEE0_300C, 0x131, (0x31, 3, T.LOWEST_PRIORITY, False, True), id="lowest-of-a-set"),
    pytest.param(0xFEE0_0000, 0xC031, (0x31, 0, T.FIXED, True, False), id="level"),
    pytest.param(0xFEE0_0000, 0x431, (0, 0, T.NMI, False, False), id="nmi-has-no-vector"),
    pytest.param(0xFEE0_1008, 0xC500, (0, 1, T.INIT, False, False), id="init"),
])
def test_a_message_is_asserted_as_it_says(address, data, asserted):
    winhv = FakeWinHv()
    assert MsiDelivery(winhv, VM).send(DEVICE, Msi(address, data))
    assert winhv.asserted == [(VM, *asserted)]


@pytest.mark.parametrize(("address", "data"), [
    pytest.param(0xFED0_0000, 0x31, id="not-in-the-window"), pytest.param(0x1_FEE0_0000, 0x31, id="above-4-gib"),
    pytest.param(0xFEE0_0000, 0x0F, id="vector-15"), pytest.param(0xFEE0_0000, 0x231, id="smi"),
    pytest.param(0xFEE0_0000, 0x331, id="reserved-mode"), pytest.param(0xFEE0_0000, 0x631, id="startup"),
    pytest.param(0xFEE0_0010, 0x31, id="remappable-and-nobody-did"), pytest.param(0xFEE0_0000, 0x700, id="extint"),
])
def test_a_message_that_means_nothing_goes_nowhere(address, data):
    winhv = FakeWinHv()
    assert not MsiDelivery(winhv, VM).send(DEVICE, Msi(address, data))
    assert not winhv.asserted


def test_an_extint_is_the_8259s():
    heard = []
    delivery = MsiDelivery(FakeWinHv(), VM, lambda *named: heard.append(named) or True)
    assert delivery.send(DEVICE, Msi(0xFEE0_1000, 0x700))
    assert delivery.send(DEVICE, Msi(0xFEE0_1004, 0x700))
    assert heard == [(1, False), (1, True)]


class Became(NamedTuple):
    """What the hypervisor answers."""

    interrupt_control: int
    destination: int


def through_a_unit(*answer, status=None):
    """A delivery whose VM has a remapping unit, and what the hypervisor is told by it."""
    told = []

    def assert_device_interrupt(*asked):
        told.append(asked)
        if status is not None:
            raise HvError(status, "ASSERT_DEVICE_INTERRUPT")
        return Became(*answer)

    winhv = FakeWinHv()
    winhv.assert_device_interrupt = assert_device_interrupt
    delivery = MsiDelivery(winhv, VM, lambda *named: told.append(named) or True)
    delivery.is_remapped = True
    return delivery, told


def test_a_unit_of_the_guests_own_is_told_who_sends():
    delivery, told = through_a_unit(T.FIXED, 0)
    assert delivery.way_of(DEVICE)(Msi(0xFEE0_0010, 0))
    assert not delivery.send(DEVICE, Msi(0xFED0_0000, 0)), "no interrupt"
    assert told == [(VM, DEVICE, 0xFEE0_0010, 0)]


def test_an_extint_that_the_unit_lets_through_is_the_8259s():
    delivery, told = through_a_unit(T.EXT_INT | 1 << 33, 3)
    assert delivery.send(DEVICE, Msi(0xFEE0_0010, 0))
    assert told[1:] == [(3, True)]


@pytest.mark.parametrize("status", [HvStatus.OPERATION_DENIED, HvStatus.INVALID_VP_INDEX,
                                    HvStatus.INVALID_PARTITION_STATE, HvStatus.INVALID_PARTITION_ID])
def test_what_the_unit_refuses_is_taken_by_nobody(status):
    assert not through_a_unit(status=status)[0].send(DEVICE, Msi(0xFEE0_0010, 0))


@pytest.mark.parametrize("status", [HvStatus.INVALID_VP_INDEX, HvStatus.INVALID_PARTITION_ID,
                                    HvStatus.INVALID_PARTITION_STATE])
def test_nobody_is_there(status):
    winhv = FakeWinHv()
    winhv.status = status
    assert not MsiDelivery(winhv, VM).send(DEVICE, Msi(0xFEE0_0000, 0x31))


def test_another_refusal_is_a_mistake_of_ours():
    winhv = FakeWinHv()
    winhv.status = HvStatus.INVALID_PARAMETER
    with pytest.raises(HvError):
        MsiDelivery(winhv, VM).send(DEVICE, Msi(0xFEE0_0000, 0x31))


@pytest.mark.parametrize(("address", "remappable"), [(0xFEE0_0000, False), (0xFEE0_0010, True)])
def test_a_message_says_if_it_is_to_be_remapped(address, remappable):
    assert Msi(address, 0x31).is_remappable is remappable
