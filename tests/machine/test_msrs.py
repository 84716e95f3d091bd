"""The processor's own MSRs at CPL 0; `tests/hypervisor/msrs/test_processor.py` tries every rule of a value."""

from __future__ import annotations

import pytest

from hv.machine.faults import GuestFault
from hv.machine.msrs import READERS, WRITERS, read_msr, write_msr
from hv.spec.msrs import Msr


@pytest.fixture
def state(box):
    return box.state()


def test_what_is_written_is_read(state):
    for index, value in ((Msr.STAR, 0x1234 << 32), (Msr.LSTAR, 0xFFFF_8000_0000_0000), (Msr.DEBUGCTL, 3)):
        write_msr(state, index, value)
        assert read_msr(state, index) == value


@pytest.mark.parametrize("index", [0x1234, Msr.TSC, Msr.VMX_BASIC])
def test_what_is_not_the_processors_own_is_refused(state, index):
    """SDM "RDMSR", "WRMSR": #GP(0)."""
    with pytest.raises(GuestFault):
        read_msr(state, index)
    with pytest.raises(GuestFault):
        write_msr(state, index, 0)


@pytest.mark.parametrize("value", [1 << 3, 1 << 16, 1 << 63])
def test_reserved_bits_of_debugctl_are_refused(state, value):
    with pytest.raises(GuestFault):
        write_msr(state, Msr.DEBUGCTL, value)
    assert read_msr(state, Msr.DEBUGCTL) == 0


def test_lma_follows_the_processor(state):
    """SDM "IA32_EFER": bit 10 is not written."""
    write_msr(state, Msr.EFER, 0x101)
    assert read_msr(state, Msr.EFER) == 0x501
    with pytest.raises(GuestFault):
        write_msr(state, Msr.EFER, 1)           # LME changes while paging is on


def test_all_that_can_be_written_can_be_read_but_a_command():
    assert set(WRITERS) - set(READERS) == {int(Msr.PRED_CMD)}
