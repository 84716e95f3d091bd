"""Statistics pages: real counters, on pages of who looks, that nobody can write and that go when they must.

TLFS "Statistics".
"""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.hypercalls.registry import REP_TICKS
from hv.hypervisor.msrs import registry as msrs
from hv.hypervisor.partitions.statistics import do_nothing
from hv.machine.clock import EXIT_TICKS
from hv.machine.faults import GuestFault, NestedFault
from hv.spec.cpuid import HvPrivilege
from hv.spec.exits import ExitReason as R
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.memory import UnmapGpaPagesInput
from hv.spec.hypercalls.statistics import (
    GetLogicalProcessorRunTimeInput,
    GetLogicalProcessorRunTimeOutput,
    HvStatsIdentity,
    HypervisorCounter,
    MapStatsPage2Input,
    MapStatsPageInput,
    MapStatsPageOutput,
    PartitionCounter,
    ProcessorCounter,
    VpCounter,
)
from hv.spec.hypercalls.statistics import HvStatsObjectType as T
from hv.spec.msrs import Msr
from hv.spec.partition import PARTITION_ID_SELF
from tests.hypervisor.fakes import Machine

IN, OUT = 0x4000, 0x5000
PAGE = 0x9                              # where a guest wants its counters


class Bench(Machine):
    def __init__(self):
        super().__init__()
        self.guest = self.child()
        self.vp = self.guest.vps[0]

    def call(self, code, input, vp=None):
        vp = vp or self.root_vp
        vp.partition.space.write(IN, input.pack())
        return S(HypercallResult(hypercall(self.hypervisor, vp, code, IN, OUT)).status)

    def map(self, kind, partition_id=0, vp_index=0, **more):
        identity = HvStatsIdentity(partition_id=partition_id, vp_index=vp_index)
        status = self.call(C.MAP_STATS_PAGE, MapStatsPageInput(object_type=kind, identity=identity), **more)
        return status, MapStatsPageOutput.parse(self.memory.read(OUT, 8)).map_location

    def map_at(self, page, kind, vp=None, partition_id=PARTITION_ID_SELF, vp_index=0):
        identity = HvStatsIdentity(partition_id=partition_id, vp_index=vp_index)
        return self.call(C.MAP_STATS_PAGE2, MapStatsPage2Input(object_type=kind, identity=identity, map_location=page),
                         vp)

    def unmap(self, kind, partition_id=0, vp_index=0, vp=None):
        identity = HvStatsIdentity(partition_id=partition_id, vp_index=vp_index)
        return self.call(C.UNMAP_STATS_PAGE, MapStatsPageInput(object_type=kind, identity=identity), vp)

    def counter(self, page, place, space=None):
        data = (space or self.root.space).read((page << 12) + 8 * place, 8)
        return int.from_bytes(data, "little")


@pytest.fixture
def bench():
    return Bench()


def test_the_counters_of_a_vp_are_its_exits_and_their_time(bench):
    status, page = bench.map(T.VP, bench.guest.id, 0)
    assert status == S.SUCCESS
    bench.vp.exit_counts[R.CPUID], bench.vp.exit_counts[R.RDMSR], bench.vp.exit_counts[R.WRMSR] = 5, 2, 3
    bench.vp.exit_counts[R.TASK_SWITCH] = 1
    bench.vp.runtime_100ns = 777
    bench.hypervisor.before_run()
    found = {place: bench.counter(page, place) for place in range(100)}
    assert {place: value for place, value in found.items() if value} == {
        VpCounter.TOTAL_RUN_TIME: 777, VpCounter.HYPERVISOR_RUN_TIME: 11 * EXIT_TICKS // 200,
        VpCounter.CPUID_INSTRUCTIONS_COUNT: 5, VpCounter.CPUID_INSTRUCTIONS_COUNT + 1: 5 * EXIT_TICKS // 200,
        VpCounter.MSR_ACCESSES_COUNT: 5, VpCounter.MSR_ACCESSES_COUNT + 1: 5 * EXIT_TICKS // 200,
        VpCounter.OTHER_INTERCEPTS_COUNT: 1, VpCounter.OTHER_INTERCEPTS_COUNT + 1: EXIT_TICKS // 200}


def test_the_reps_of_a_call_are_time_in_the_hypervisor(bench):
    bench.memory.write(IN, UnmapGpaPagesInput(target_partition_id=bench.guest.id).pack())
    word = HypercallControl(call_code=C.UNMAP_GPA_PAGES, rep_count=100).raw
    hypercall(bench.hypervisor, bench.root_vp, word, IN, OUT)
    assert bench.hypervisor.statistics.hypervisor_ticks == 100 * REP_TICKS


def test_the_counters_of_a_partition(bench):
    _, page = bench.map(T.PARTITION, bench.guest.id)
    assert bench.counter(page, PartitionCounter.VIRTUAL_PROCESSORS) == 1
    assert bench.counter(page, PartitionCounter.DEPOSITED_PAGES) == 32
    assert bench.counter(page, PartitionCounter.GPA_PAGES) == 16
    assert bench.counter(page, PartitionCounter.PARTITION_ID) == bench.guest.id
    bench.guest.space.unmap(3)
    bench.hypervisor.delete_vp(bench.guest, 0)
    bench.hypervisor.before_run()
    assert bench.counter(page, PartitionCounter.VIRTUAL_PROCESSORS) == 0
    assert bench.counter(page, PartitionCounter.GPA_PAGES) == 15


def test_the_counters_of_the_machine(bench):
    _, whole = bench.map(T.HYPERVISOR)
    _, processor = bench.map(T.LOGICAL_PROCESSOR)
    bench.vp.runtime_100ns, bench.vp.exit_counts[R.EXTERNAL_INTERRUPT] = 50, 4
    bench.clock.advance(200 * 1000)
    bench.hypervisor.before_run()
    assert [bench.counter(whole, place) for place in HypervisorCounter] == [1, 2, 64, 2]
    assert bench.counter(processor, ProcessorCounter.GLOBAL_TIME) == bench.clock.time_100ns
    assert bench.counter(processor, ProcessorCounter.TOTAL_RUN_TIME) == 50
    assert bench.counter(processor, ProcessorCounter.HARDWARE_INTERRUPTS) == 4
    bench.hypervisor.delete_vp(bench.guest, 0)
    bench.hypervisor.before_run()
    assert bench.counter(processor, ProcessorCounter.TOTAL_RUN_TIME) == 50, "a counter never goes back"
    assert bench.counter(processor, ProcessorCounter.HARDWARE_INTERRUPTS) == 4


def test_nothing_is_done_while_no_page_is_mapped(bench):
    assert bench.hypervisor.before_run is do_nothing
    bench.map(T.HYPERVISOR)
    assert bench.hypervisor.before_run is not do_nothing
    assert bench.unmap(T.HYPERVISOR) == S.SUCCESS
    assert bench.hypervisor.before_run is do_nothing


def test_a_page_is_paid_from_the_pool_of_who_looks_and_cannot_be_written(bench):
    before = bench.root.pool.available
    _, page = bench.map(T.VP, bench.guest.id, 0)
    assert bench.root.pool.available == before - 1
    with pytest.raises(NestedFault):
        bench.root.space.write(page << 12, b"x")
    assert bench.map(T.VP, bench.guest.id, 0) == (S.SUCCESS, page)
    assert bench.root.pool.available == before - 1
    assert bench.unmap(T.VP, bench.guest.id, 0) == S.SUCCESS
    assert bench.root.pool.available == before
    with pytest.raises(NestedFault):
        bench.root.space.read(page << 12, 8)


@pytest.mark.parametrize("gone", ["vp", "partition"])
def test_the_page_of_what_is_gone_keeps_its_last_counters(bench, gone):
    _, page = bench.map(T.VP, bench.guest.id, 0)
    bench.vp.exit_counts[R.CPUID] = 5
    bench.hypervisor.before_run()
    bench.hypervisor.finalize_partition(bench.guest)
    bench.hypervisor.delete_vp(bench.guest, 0)
    if gone == "partition":
        while bench.guest.pool.available:
            bench.hypervisor.owners.give_back(bench.guest.pool.withdraw() >> 12)
        bench.hypervisor.delete_partition(bench.guest)
    bench.hypervisor.before_run()
    assert bench.counter(page, VpCounter.CPUID_INSTRUCTIONS_COUNT) == 5
    assert bench.unmap(T.VP, bench.guest.id, 0) == S.SUCCESS


def test_a_finalized_partition_can_be_counted(bench):
    _, page = bench.map(T.PARTITION, bench.guest.id)
    bench.hypervisor.finalize_partition(bench.guest)
    bench.hypervisor.before_run()
    assert bench.counter(page, PartitionCounter.GPA_PAGES) == 0


REFUSED = [
    ("unknown type", 3, 0, 0, S.INVALID_PARAMETER), ("a hypervisor with a number", T.HYPERVISOR, 1, 0,
                                                     S.INVALID_PARAMETER),
    ("no such processor", T.LOGICAL_PROCESSOR, 1, 0, S.INVALID_LP_INDEX),
    ("no such partition", T.PARTITION, 99, 0, S.INVALID_PARTITION_ID),
    ("a partition with a vp", T.PARTITION, 2, 1, S.INVALID_PARAMETER), ("no such vp", T.VP, 2, 5, S.INVALID_VP_INDEX),
]


@pytest.mark.parametrize(("kind", "partition_id", "vp_index", "status"), [row[1:] for row in REFUSED],
                         ids=[row[0] for row in REFUSED])
def test_what_does_not_exist_cannot_be_looked_at(bench, kind, partition_id, vp_index, status):
    assert bench.map(kind, partition_id, vp_index)[0] == status
    assert bench.hypervisor.before_run is do_nothing


def test_a_child_needs_the_privilege_and_sees_itself_only(bench):
    other = bench.child()
    assert bench.map_at(PAGE, T.VP, bench.vp) == S.ACCESS_DENIED
    bench.guest.set_privileges(bench.guest.privileges | HvPrivilege.ACCESS_STATS)
    assert bench.map(T.VP, PARTITION_ID_SELF, vp=bench.vp)[0] == S.OPERATION_DENIED
    for kind, target in ((T.HYPERVISOR, 0), (T.LOGICAL_PROCESSOR, 0), (T.PARTITION, other.id), (T.VP, bench.root.id)):
        assert bench.map_at(PAGE, kind, bench.vp, partition_id=target) == S.ACCESS_DENIED
    assert bench.map_at(PAGE, T.VP, bench.vp) == S.SUCCESS
    assert bench.map_at(PAGE + 1, T.VP, bench.vp) == S.OBJECT_IN_USE
    assert bench.map_at(1 << 40, T.PARTITION, bench.vp) == S.INVALID_PARAMETER
    bench.vp.exit_counts[R.CPUID] = 9
    bench.hypervisor.before_run()
    assert bench.counter(PAGE, VpCounter.CPUID_INSTRUCTIONS_COUNT, bench.guest.space) == 9
    assert bench.unmap(T.VP, bench.guest.id, vp=bench.vp) == S.SUCCESS, "its own id and SELF are the same"
    assert bench.unmap(T.VP, bench.guest.id, vp=bench.vp) == S.INVALID_PARAMETER


def test_a_viewer_that_ends_leaves_no_page_behind(bench):
    bench.guest.set_privileges(bench.guest.privileges | HvPrivilege.ACCESS_STATS)
    in_use = bench.guest.pool.in_use
    bench.map_at(PAGE, T.VP, bench.vp)
    msrs.write_msr(bench.vp, Msr.HV_STATS_PARTITION_RETAIL_PAGE, PAGE + 1 << 12 | 1)
    assert bench.guest.pool.in_use == in_use + 2
    bench.hypervisor.finalize_partition(bench.guest)
    bench.hypervisor.delete_vp(bench.guest, 0)
    assert bench.guest.pool.in_use == 0
    assert bench.hypervisor.before_run is do_nothing


# --- by MSR -------------------------------------------------------------------------------------------------------

def read(bench, place):
    bench.hypervisor.before_run()
    return bench.counter(PAGE, place, bench.guest.space)


@pytest.mark.parametrize(("msr", "place"), [
    (Msr.HV_STATS_VP_RETAIL_PAGE, VpCounter.CPUID_INSTRUCTIONS_COUNT), (Msr.HV_STATS_VP_INTERNAL_PAGE, R.CPUID),
    (Msr.HV_STATS_PARTITION_INTERNAL_PAGE, R.CPUID)])
def test_a_guest_reads_its_own_counters(bench, msr, place):
    assert msrs.read_msr(bench.vp, msr) == 0
    msrs.write_msr(bench.vp, msr, PAGE << 12 | 0xA51)
    assert msrs.read_msr(bench.vp, msr) == PAGE << 12 | 0xA51, "reserved bits are preserved"
    bench.vp.exit_counts[R.CPUID] = 6
    assert read(bench, place) == 6
    before = bench.guest.pool.in_use
    msrs.write_msr(bench.vp, msr, PAGE << 12)
    assert bench.guest.pool.in_use == before - 1
    assert bench.guest.space.overlay_at(PAGE) is None


def test_the_page_moves_and_uncovers_what_was_there(bench):
    bench.guest.space.write(PAGE << 12, b"before")
    msrs.write_msr(bench.vp, Msr.HV_STATS_PARTITION_RETAIL_PAGE, PAGE << 12 | 1)
    assert read(bench, PartitionCounter.PARTITION_ID) == bench.guest.id
    msrs.write_msr(bench.vp, Msr.HV_STATS_PARTITION_RETAIL_PAGE, PAGE + 1 << 12 | 1)
    assert bench.guest.space.read(PAGE << 12, 6) == b"before"
    assert bench.counter(PAGE + 1, PartitionCounter.PARTITION_ID, bench.guest.space) == bench.guest.id


@pytest.mark.parametrize("cause", ["outside", "no memory", "no privilege"])
def test_a_page_that_cannot_be_is_a_fault_and_changes_nothing(bench, cause):
    if cause == "no privilege":
        bench.guest.set_privileges(0)
    while cause == "no memory" and bench.guest.pool.available:
        bench.guest.pool.allocate()
    with pytest.raises(GuestFault) as caught:
        msrs.write_msr(bench.vp, Msr.HV_STATS_VP_RETAIL_PAGE, (1 << 60 if cause == "outside" else PAGE << 12) | 1)
    assert caught.value.vector == 13
    assert msrs.read_unchecked(bench.vp, Msr.HV_STATS_VP_RETAIL_PAGE) == 0
    assert bench.guest.space.overlay_at(PAGE) is None


def test_the_page_of_a_vp_goes_with_it(bench):
    msrs.write_msr(bench.vp, Msr.HV_STATS_VP_RETAIL_PAGE, PAGE << 12 | 1)
    msrs.write_msr(bench.vp, Msr.HV_STATS_PARTITION_RETAIL_PAGE, PAGE + 1 << 12 | 1)
    bench.hypervisor.delete_vp(bench.guest, 0)
    assert bench.guest.space.overlay_at(PAGE) is None
    assert bench.guest.space.overlay_at(PAGE + 1) is not None
    again = bench.hypervisor.create_vp(bench.guest, 0)
    assert msrs.read_msr(again, Msr.HV_STATS_VP_RETAIL_PAGE) == 0


def test_the_run_time_of_the_processor(bench):
    bench.vp.runtime_100ns, bench.vp.exit_counts[R.CPUID] = 1234, 10
    bench.clock.advance(1_000_000)
    assert bench.call(C.GET_LOGICAL_PROCESSOR_RUN_TIME, GetLogicalProcessorRunTimeInput()) == S.SUCCESS
    answer = GetLogicalProcessorRunTimeOutput.parse(bench.memory.read(OUT, 32))
    assert (answer.global_time, answer.local_run_time, answer.hypervisor_time) == (
        bench.clock.time_100ns, 1234, 10 * EXIT_TICKS // 200)
    assert bench.call(C.GET_LOGICAL_PROCESSOR_RUN_TIME, GetLogicalProcessorRunTimeInput(lp_index=1)) == \
        S.INVALID_LP_INDEX
    assert bench.call(C.GET_LOGICAL_PROCESSOR_RUN_TIME, GetLogicalProcessorRunTimeInput(), bench.vp) == S.ACCESS_DENIED


def test_an_empty_pool_maps_nothing(bench):
    while bench.root.pool.available:
        bench.root.pool.allocate()
    assert bench.map(T.HYPERVISOR)[0] == S.INSUFFICIENT_MEMORY
    with pytest.raises(HypercallError):
        bench.hypervisor.statistics.hide(bench.root, (1, 0, 0))
