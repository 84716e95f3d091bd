"""The table of synthetic MSRs, walked: every register does what its row says. TLFS "Synthetic MSRs"."""

import pytest

from hv.hypervisor.msrs.absent import ABSENT
from hv.hypervisor.msrs.registry import MSRS, read_msr, write_msr
from hv.hypervisor.partitions.cpuid import CHILD_PRIVILEGES, ROOT_PRIVILEGES
from hv.machine.faults import GuestFault
from hv.spec.cpuid import HvPrivilege
from hv.spec.msrs import SINT_COUNT, SYNTHETIC_MSRS, HvOverlayPage, Msr
from hv.spec.synthetic_msrs import SYNTHETIC_MSR_TABLE, Scope
from tests.hypervisor.fakes import Machine

NESTED_SINTS = set(range(Msr.HV_NESTED_SINT0, Msr.HV_NESTED_SINT0 + SINT_COUNT))       # which have no row
THERE = [row for row in SYNTHETIC_MSR_TABLE.values() if MSRS[row.msr].read or MSRS[row.msr].write]


def rows(*, access="RW"):
    chosen = [row for row in THERE if set(access) <= set(row.access)]
    return pytest.mark.parametrize("row", chosen, ids=[row.msr.name for row in chosen])


@pytest.fixture
def child():
    """A partition with every privilege there is, VP 1 of which is looked at."""
    machine = Machine()
    child = machine.child(vps=2)
    child.set_privileges((1 << 64) - 1)
    return child


def refuses(action, *args):
    with pytest.raises(GuestFault) as caught:
        action(*args)
    assert (caught.value.vector, caught.value.error_code) == (13, 0)


def try_write(vp, msr, value):
    """WRMSR; True when it was not refused."""
    try:
        write_msr(vp, msr, value)
    except GuestFault:
        return False
    return True


def test_every_row_is_provided_or_there_is_a_reason_why_not():
    provided = {index for index in SYNTHETIC_MSRS if MSRS[index].read or MSRS[index].write}
    assert provided <= SYNTHETIC_MSR_TABLE.keys()
    assert not provided & ABSENT.keys()
    assert SYNTHETIC_MSR_TABLE.keys() - provided == ABSENT.keys() & SYNTHETIC_MSR_TABLE.keys()
    assert ABSENT.keys() - SYNTHETIC_MSR_TABLE.keys() == NESTED_SINTS
    assert all(ABSENT.values())


def test_every_synthetic_msr_with_a_name_has_a_row():
    named = {int(msr) for msr in Msr if msr in SYNTHETIC_MSRS}
    assert named - SYNTHETIC_MSR_TABLE.keys() == {Msr.HV_NESTED_SINT0}


def test_an_unknown_number_is_refused(child):
    """Every number of the range that no row has, and every row that is not built."""
    for index in SYNTHETIC_MSRS:
        if not MSRS[index].read and not MSRS[index].write:
            refuses(read_msr, child.vps[1], index)
            refuses(write_msr, child.vps[1], index, 0)


@rows(access="R")
def test_the_reset_value(child, row):
    value = read_msr(child.vps[1], row.msr)
    assert row.reset is None or value == row.reset
    assert value == (1 if row.msr is Msr.HV_VP_INDEX else value)


@rows(access="")
def test_access_rights(child, row):
    """RDMSR of what is written only, WRMSR of what is read only."""
    if "R" not in row.access:
        refuses(read_msr, child.vps[1], row.msr)
    if "W" not in row.access:
        for value in (0, 1, (1 << 64) - 1):
            refuses(write_msr, child.vps[1], row.msr, value)


@rows(access="W")
def test_each_bit_that_must_be_zero_is_refused_and_nothing_changes(child, row):
    vp = child.vps[1]
    before = read_msr(vp, row.msr) if "R" in row.access else None
    for bit in range(64):
        if row.must_be_zero >> bit & 1:
            refuses(write_msr, vp, row.msr, 1 << bit)
    assert before is None or read_msr(vp, row.msr) == before


PAGES = [row for row in THERE if row.layout is not None and issubclass(row.layout, HvOverlayPage)]


@pytest.mark.parametrize("row", PAGES, ids=[row.msr.name for row in PAGES])
def test_reserved_bits_of_a_page_are_kept(child, row):
    write_msr(child.vps[1], row.msr, 0xFFE)
    assert read_msr(child.vps[1], row.msr) == 0xFFE


@rows(access="")
def test_the_privilege(child, row):
    """Without it, both accesses are #GP; with nothing else, they are not refused for want of one."""
    if row.privilege is None:
        child.set_privileges(0)
        assert "R" not in row.access or read_msr(child.vps[1], row.msr) is not None
        return
    child.set_privileges((1 << 64) - 1 & ~int(row.privilege))
    refuses(read_msr, child.vps[1], row.msr)
    refuses(write_msr, child.vps[1], row.msr, 0)
    child.set_privileges(int(row.privilege))
    if "R" in row.access and row.msr is not Msr.HV_GUEST_IDLE:
        read_msr(child.vps[1], row.msr)


@rows(access="RW")
def test_the_scope(child, row):
    """A partition's register is the same to both VPs, a VP's is its own."""
    one, other = child.vps[0], child.vps[1]
    before = read_msr(other, row.msr)
    for bit in range(64):
        value = before ^ 1 << bit
        if not row.must_be_zero >> bit & 1 and row.msr not in (Msr.HV_RESET, Msr.HV_ICR) and \
                try_write(one, row.msr, value) and read_msr(one, row.msr) == value:
            assert read_msr(other, row.msr) == (value if row.scope is Scope.PARTITION else before)
            return


@rows(access="W")
@pytest.mark.parametrize("value", [0, 1, 0xFFF, 1 << 12 | 1, 1 << 32, 1 << 63, (1 << 64) - 1, 0x5555_5555_5555_5555])
def test_no_value_breaks_anything(child, row, value):
    """It is refused or it is not; nothing else happens, and what a register reads can be written back."""
    vp = child.vps[0]
    vp.end_run_with = lambda action: None
    try_write(vp, row.msr, value)
    if "R" in row.access and row.msr not in (Msr.HV_CRASH_CTL, Msr.HV_ICR):
        kept = read_msr(vp, row.msr)
        if not (row.msr is Msr.HV_HYPERCALL and kept & 2):
            write_msr(vp, row.msr, kept)
            assert read_msr(vp, row.msr) == kept


def test_children_get_what_is_there():
    """A privilege that opens an MSR is offered exactly when the MSR is there, root's own aside."""
    for row in SYNTHETIC_MSR_TABLE.values():
        if row.privilege is not None and row in THERE:
            has = ROOT_PRIVILEGES if row.privilege is HvPrivilege.CPU_MANAGEMENT else CHILD_PRIVILEGES
            assert has & row.privilege, row.msr.name
