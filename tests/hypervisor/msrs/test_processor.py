"""The processor's own MSRs: which there are, and what each write must be; SDM volume 4."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.hypervisor.msrs import registry as msrs
from hv.hypervisor.msrs.processor import READERS, WRITERS
from hv.machine.faults import GuestFault
from hv.spec.msrs import Msr
from tests.hypervisor.exit_fakes import ExitState, a_vp

READ_ONLY = {Msr.PLATFORM_ID, Msr.PLATFORM_INFO, Msr.ARCH_CAPABILITIES, Msr.MTRRCAP, Msr.MCG_CAP, Msr.P5_MC_ADDR,
             Msr.P5_MC_TYPE}
WRITE_ONLY = {int(Msr.PRED_CMD)}
ADDRESSES = [Msr.LSTAR, Msr.CSTAR, Msr.KERNEL_GS_BASE, Msr.FS_BASE, Msr.GS_BASE, Msr.SYSENTER_ESP, Msr.SYSENTER_EIP]


class Vp:
    """Just registers."""

    def __init__(self):
        self.regs, self.tsc_adjust = ExitState(), 0
        self.regs.msrs = {int(index): 0 for index in READERS}


def write(index, value):
    vp = Vp()
    WRITERS[index](vp, index, value)
    return vp.regs


def test_no_register_is_both_the_processors_and_the_hypervisors():
    assert not [hex(index) for index in {*READERS, *WRITERS} if index in msrs.OURS]


def test_all_but_the_read_only_ones_can_be_written():
    assert set(READERS) - set(WRITERS) == {int(index) for index in READ_ONLY}
    assert set(WRITERS) - set(READERS) == WRITE_ONLY


@pytest.mark.parametrize("index", sorted(READERS), ids=lambda index: Msr(index).name.lower())
def test_every_one_can_be_read(index):
    assert 0 <= READERS[index](a_vp() if index == Msr.TSC else Vp(), index) < 1 << 64


@pytest.mark.parametrize("index", ADDRESSES, ids=lambda index: index.name.lower())
@given(value=st.integers(0, (1 << 64) - 1))
def test_an_address_must_be_canonical(index, value):
    """SDM "WRMSR": a non-canonical address is #GP(0)."""
    upper = value >> 47
    if upper in (0, 0x1FFFF):
        assert write(index, value).msrs[index] == value
    else:
        with pytest.raises(GuestFault):
            write(index, value)


@given(st.binary(min_size=8, max_size=8))
def test_each_byte_of_pat_is_a_memory_type(entries):
    """SDM "IA32_PAT MSR": 0, 1, 4, 5, 6, 7; others are #GP."""
    value = int.from_bytes(entries, "little")
    if set(entries) <= {0, 1, 4, 5, 6, 7}:
        assert write(Msr.PAT, value).msrs[Msr.PAT] == value
    else:
        with pytest.raises(GuestFault):
            write(Msr.PAT, value)


@pytest.mark.parametrize("bit", [bit for bit in range(64) if not 0xD01 >> bit & 1])
def test_every_other_bit_of_efer_is_reserved(bit):
    """SDM "IA32_EFER": also those that no processor has a name for."""
    with pytest.raises(GuestFault):
        write(Msr.EFER, 1 << bit)


@given(value=st.integers(0, (1 << 16) - 1), efer=st.sampled_from([0, 0x100, 0x500, 0xD01]), paging=st.booleans())
def test_efer_keeps_its_rules(value, efer, paging):
    vp = Vp()
    vp.regs.efer, vp.regs.cr0 = efer, 0x8000_0011 if paging else 0x11
    legal = not value & ~0xD01 and not (paging and (value ^ efer) & 0x100)
    if legal:
        WRITERS[Msr.EFER](vp, Msr.EFER, value)
        assert vp.regs.efer == value & ~0x400 | efer & 0x400
    else:
        with pytest.raises(GuestFault):
            WRITERS[Msr.EFER](vp, Msr.EFER, value)
        assert vp.regs.efer == efer
