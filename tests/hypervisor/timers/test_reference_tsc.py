"""The reference TSC page: exactly HV_TIME_REF_COUNT, or sequence 0. TLFS "Partition Reference TSC Page"."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.hypervisor.hypercalls.properties import PROPERTIES
from hv.hypervisor.msrs.processor import WRITERS
from hv.hypervisor.msrs.registry import read_msr, write_msr
from hv.hypervisor.registers.table import get_register, integer
from hv.hypervisor.timers.reference_tsc import LATEST_TSC, SCALE
from hv.machine.clock import TICKS_PER_100NS, TSC_HZ
from hv.machine.faults import GuestFault, NestedFault
from hv.spec.hv_registers import HvRegisterName
from hv.spec.msrs import HvReferenceTscPage, Msr
from hv.spec.partition import HvPartitionProperty
from hv.trace.events import OverlayMoved
from tests.hypervisor.fakes import Machine

PAGE = 0x5000
CREATED = 12345                 # ticks


class Bench:
    """A partition that is CREATED ticks younger than the machine, with the page shown."""

    def __init__(self, vps=1):
        self.machine = Machine()
        self.machine.clock.advance(CREATED)
        self.child = self.machine.child(vps=vps)
        self.vp = self.child.vps[0]
        write_msr(self.vp, Msr.HV_REFERENCE_TSC, PAGE | 1)

    @property
    def page(self):
        return HvReferenceTscPage.parse(self.child.space.read(PAGE, HvReferenceTscPage.SIZE))

    def computed(self, vp=None):
        """What the guest makes of the page, on that VP."""
        tsc = self.machine.clock.tsc + (vp or self.vp).tsc_offset
        return (tsc * self.page.tsc_scale >> 64) + self.page.tsc_offset

    def set_ahead(self, vp, ticks):
        vp.tsc_offset = ticks
        self.child.reference_tsc.follow()


def test_the_scale_is_that_of_the_manual():
    """Scale = ((10^7 << 64) / frequency), to the nearest above."""
    assert (SCALE - 1) * TSC_HZ < 10**7 << 64 <= SCALE * TSC_HZ


@given(st.integers(0, 2 * LATEST_TSC))
def test_the_product_is_the_number_of_whole_units(tsc):
    assert tsc * SCALE >> 64 == tsc // TICKS_PER_100NS


@given(st.integers(0, LATEST_TSC // TICKS_PER_100NS).map(lambda units: units * TICKS_PER_100NS), st.integers(-1, 1))
def test_the_product_changes_with_the_unit(tsc, more):
    tsc = max(0, tsc + more)
    assert tsc * SCALE >> 64 == tsc // TICKS_PER_100NS


@given(st.lists(st.integers(0, 10**12), max_size=5))
def test_page_and_msr_agree_at_all_times(steps):
    bench = Bench()
    for step in steps:
        bench.machine.clock.advance(step)
        assert bench.computed() == read_msr(bench.vp, Msr.HV_TIME_REF_COUNT)


@pytest.mark.parametrize("ahead", [-12200, -200, 200, 10**9, LATEST_TSC // 2 // 200 * 200])
def test_they_agree_where_all_vps_are_whole_units_ahead(ahead):
    bench = Bench(vps=2)
    before = bench.page.tsc_sequence
    bench.set_ahead(bench.vp, ahead)
    assert bench.page.tsc_sequence == 0             # the two VPs differ
    bench.set_ahead(bench.child.vps[1], ahead)
    assert bench.page.tsc_sequence not in (0, before)
    for step in (0, 1, 199, 12345):
        bench.machine.clock.advance(step)
        assert bench.computed() == bench.computed(bench.child.vps[1]) == read_msr(bench.vp, Msr.HV_TIME_REF_COUNT)


@pytest.mark.parametrize("ahead", [1, -1, 199, LATEST_TSC // 200 * 200, -(1 << 63), -12400])
def test_another_counter_makes_the_page_unusable_and_coming_back_usable(ahead):
    """Not whole units, too far in the future, or not yet at 0."""
    bench = Bench()
    bench.set_ahead(bench.vp, ahead)
    assert (bench.page.tsc_sequence, integer(get_register(bench.vp, HvRegisterName.REFERENCE_TSC_SEQUENCE))) == (0, 0)
    bench.set_ahead(bench.vp, 0)
    assert bench.page.tsc_sequence == 2
    assert bench.computed() == read_msr(bench.vp, Msr.HV_TIME_REF_COUNT)


def test_a_vp_that_comes_or_goes_counts():
    bench = Bench()
    bench.set_ahead(bench.vp, 400)
    assert bench.page.tsc_sequence == 2
    bench.machine.hypervisor.create_vp(bench.child, 1)
    assert bench.page.tsc_sequence == 0
    bench.machine.hypervisor.delete_vp(bench.child, 1)
    assert bench.page.tsc_sequence == 3


def test_what_changes_nothing_keeps_the_sequence():
    bench = Bench()
    bench.machine.hypervisor.create_vp(bench.child, 1)
    bench.set_ahead(bench.vp, 0)
    assert bench.page.tsc_sequence == 1


def test_the_sequence_is_never_one_of_those_that_mean_unusable():
    bench = Bench()
    bench.child.reference_tsc._last = 0xFFFF_FFFD
    seen = []
    for _ in range(3):
        bench.set_ahead(bench.vp, 1)
        bench.set_ahead(bench.vp, 0)
        seen.append(bench.page.tsc_sequence)
    assert seen == [0xFFFF_FFFE, 1, 2]


def test_a_guest_that_writes_its_tsc_is_noticed():
    bench = Bench()
    told = []
    bench.vp.vmcs.current = lambda: __import__("contextlib").nullcontext()
    bench.vp.vcpu.set_tsc = told.append
    bench.vp.tsc_offset = 77
    WRITERS[Msr.TSC](bench.vp, Msr.TSC, 5)
    assert (told, bench.page.tsc_sequence) == ([5], 0)


# --- the overlay ----------------------------------------------------------------------------------------------------

def test_the_page_hides_what_is_beneath_and_comes_back_the_same():
    bench = Bench()
    data = bench.child.space.read(PAGE, 4096)
    assert data[HvReferenceTscPage.SIZE:] == bytes(4096 - HvReferenceTscPage.SIZE)
    write_msr(bench.vp, Msr.HV_REFERENCE_TSC, PAGE)
    bench.child.space.write(PAGE, b"mine")
    write_msr(bench.vp, Msr.HV_REFERENCE_TSC, PAGE | 1)
    assert bench.child.space.read(PAGE, 4096) == data
    write_msr(bench.vp, Msr.HV_REFERENCE_TSC, 0x6001)
    assert (bench.child.space.read(PAGE, 4), bench.child.space.read(0x6000, 4096)) == (b"mine", data)


def test_the_guest_may_only_read_it():
    with pytest.raises(NestedFault):
        Bench().child.space.write(PAGE, b"x")


def test_reserved_bits_are_kept_and_all_vps_see_one_register():
    bench = Bench(vps=2)
    write_msr(bench.vp, Msr.HV_REFERENCE_TSC, PAGE | 0xFFF)
    assert read_msr(bench.child.vps[1], Msr.HV_REFERENCE_TSC) == PAGE | 0xFFF


def test_a_page_outside_the_gpa_space_is_refused_unless_it_is_off():
    bench = Bench()
    with pytest.raises(GuestFault):
        write_msr(bench.vp, Msr.HV_REFERENCE_TSC, 1 << 45 | 1)
    assert read_msr(bench.vp, Msr.HV_REFERENCE_TSC) == PAGE | 1
    write_msr(bench.vp, Msr.HV_REFERENCE_TSC, 1 << 45)
    assert bench.child.space.read(PAGE, 4) == bytes(4)


def test_moving_it_is_told():
    bench = Bench()
    write_msr(bench.vp, Msr.HV_REFERENCE_TSC, 0)
    moved = [event.gpa for event in bench.machine.events(OverlayMoved) if event.name == "reference TSC page"]
    assert moved == [PAGE, None]


def test_a_finalized_partition_has_given_the_page_back():
    bench = Bench(vps=2)
    bench.machine.hypervisor.finalize_partition(bench.child)
    bench.child.vps[0].tsc_offset = 200
    before = bench.machine.memory.read(bench.child.reference_tsc.spa, 4096)
    bench.machine.hypervisor.delete_vp(bench.child, 1)
    assert bench.machine.memory.read(bench.child.reference_tsc.spa, 4096) == before
    assert bench.child.pool.in_use == len(bench.child.vp_pages[0])


def test_the_parent_sees_that_the_page_is_in_use():
    """HvPartitionPropertyReferenceTscPageActive."""
    bench = Bench()
    active = PROPERTIES[HvPartitionProperty.REFERENCE_TSC_PAGE_ACTIVE].get
    assert active(bench.child) == 1
    write_msr(bench.vp, Msr.HV_REFERENCE_TSC, PAGE)
    assert active(bench.child) == 0


def test_the_page_stays_right_when_time_has_stood_and_follows_when_the_counter_is_set():
    """What a guest computes is what the MSR says, before and after; TLFS "Partition Reference TSC Page"."""
    bench = Bench()
    clock, child = bench.machine.clock, bench.child
    clock.advance(12_345)
    child.freeze_time(True)
    clock.advance(67_891)
    child.freeze_time(False)
    assert bench.computed() == child.reference_time
    child.freeze_time(True)
    child.set_reference_time(10**9)
    child.freeze_time(False)
    assert child.reference_tsc.sequence
    assert bench.computed() == child.reference_time == 10**9
