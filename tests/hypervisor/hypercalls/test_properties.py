"""The properties of a partition: read, set, when, and what each really does; TLFS "HV_PARTITION_PROPERTY_CODE"."""

import pytest

from hv.hypervisor.hypercalls import properties
from hv.hypervisor.hypercalls.door import hypercall
from hv.machine.clock import TICKS_PER_100NS
from hv.root.winhv import HvError, RootMemory, WinHv
from hv.spec.apic import ApicRegister, Lvt
from hv.spec.cpuid import CpuidLeaf, ExtendedSignatureEcx, FeaturesEcx
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.partitions import SetPartitionPropertyExInput
from hv.spec.msrs import HvStimerConfig
from hv.spec.partition import CreatePartitionFlags
from hv.spec.partition import HvPartitionProperty as P
from hv.spec.processor_features import CPUID_BITS, HvProcessorFeatures
from hv.trace.events import PropertySet, SyntheticTimerExpired
from tests.hypervisor.fakes import Machine

F = HvProcessorFeatures
IN = 0x4000


class Bench(Machine):
    """Root's calls, by winhv, about one child in any state."""

    def __init__(self):
        super().__init__(pages=2048)
        memory = RootMemory(self.root.space.read, self.root.space.write, range(512, 1024))
        self.winhv = WinHv(lambda *words: hypercall(self.hypervisor, self.root_vp, *words), memory)

    def a_child(self, state):
        made = self.winhv.create_partition()
        if state != "created":
            self.winhv.initialize_partition(made)
        if state == "finalized":
            self.winhv.finalize_partition(made)
        return made

    def outcome(self, partition_id, code, value):
        try:
            self.winhv.set_partition_property(partition_id, code, value)
        except HvError as error:
            return error.status
        assert self.winhv.get_partition_property(partition_id, code) == value
        return S.SUCCESS


@pytest.fixture
def bench():
    return Bench()


RANGE, DENIED, STATE = S.PROPERTY_VALUE_OUT_OF_RANGE, S.OPERATION_DENIED, S.INVALID_PARTITION_STATE
EVER, FIRST = (S.SUCCESS, S.SUCCESS, STATE), (S.SUCCESS, STATE, STATE)
SETS = [
    # property, value, what comes of it in state created, active, finalized
    (P.PRIVILEGE_FLAGS, 0x40, FIRST), (P.PRIVILEGE_FLAGS, 1 << 63, (RANGE, STATE, STATE)),
    (P.SUSPEND, 1, EVER), (P.SUSPEND, 0, EVER), (P.SUSPEND, 2, (RANGE, RANGE, STATE)),
    (P.TIME_FREEZE, 1, EVER), (P.TIME_FREEZE, 0, EVER), (P.TIME_FREEZE, 2, (RANGE, RANGE, STATE)),
    (P.REFERENCE_TIME, 12345, FIRST), (P.REFERENCE_TIME, properties.LATEST_TIME, FIRST),
    (P.REFERENCE_TIME, properties.LATEST_TIME + 1, (RANGE, STATE, STATE)),
    (P.CPU_WEIGHT, 1, EVER), (P.CPU_WEIGHT, 10_000, EVER), (P.CPU_WEIGHT, 0, (RANGE, RANGE, STATE)),
    (P.CPU_CAP, 1 << 16, EVER), (P.CPU_CAP, (1 << 16) + 1, (RANGE, RANGE, STATE)), (P.CPU_RESERVE, 0, EVER),
    (P.UNIMPLEMENTED_MSR_ACTION, 1, EVER), (P.UNIMPLEMENTED_MSR_ACTION, 2, (RANGE, RANGE, STATE)),
    (P.VIRTUAL_IOMMU, 0, (STATE, S.SUCCESS, STATE)), (P.VIRTUAL_IOMMU, 2, (STATE, RANGE, STATE)),
    (P.DEBUG_CHANNEL_ID, 7, (STATE, S.SUCCESS, STATE)), (P.DEBUG_CHANNEL_ID, 1 << 32, (STATE, RANGE, STATE)),
    (P.PROCESSOR_FEATURES, int(F.SSE3), FIRST), (P.PROCESSOR_FEATURES0, 0, FIRST),
    (P.PROCESSOR_FEATURES0, int(F.XOP), (RANGE, STATE, STATE)), (P.PROCESSOR_FEATURES0, 1 << 63, (RANGE, STATE, STATE)),
    *((code, 0, (DENIED,) * 3) for code in (
        P.REFERENCE_TSC_PAGE_ACTIVE, P.APIC_FREQUENCY, P.ISOLATION_STATE,
        P.AUTO_EOI_ENABLED, P.PROCESSOR_VENDOR, P.PROCESSOR_CL_FLUSH_SIZE,
        P.COMPATIBILITY_VERSION, P.PHYSICAL_ADDRESS_WIDTH, P.PROCESSOR_CLOCK_FREQUENCY, P.GUEST_OS_ID)),
    (P.VSM_CONFIG, 0, (S.UNKNOWN_PROPERTY,) * 3), (0xFFFF_FFFF, 0, (S.UNKNOWN_PROPERTY,) * 3),
]


@pytest.mark.parametrize(("code", "value", "statuses"), SETS,
                         ids=[f"{getattr(row[0], 'name', 'none')}-{row[1]:#x}" for row in SETS])
def test_a_property_is_set_when_it_may_be_to_what_it_may_be(code, value, statuses):
    """Created, active, finalized; what was set is read."""
    bench = Bench()
    assert tuple(bench.outcome(bench.a_child(state), code, value)
                 for state in ("created", "active", "finalized")) == statuses


def test_the_table_above_has_every_property():
    assert {row[0] for row in SETS} >= set(properties.PROPERTIES)


@pytest.mark.parametrize("state", ["created", "active", "finalized"])
def test_every_property_is_read_in_every_state(bench, state):
    child = bench.a_child(state)
    values = {code: bench.winhv.get_partition_property(child, code) for code in properties.PROPERTIES}
    some = P.PHYSICAL_ADDRESS_WIDTH, P.PROCESSOR_CL_FLUSH_SIZE, P.ISOLATION_STATE
    assert [values[code] for code in some] == [40, 8, 0]


def test_a_property_is_provided_once():
    with pytest.raises(TypeError, match="CPU_CAP is provided twice"):
        properties.provide(P.CPU_CAP, lambda partition: 0)


def test_what_is_set_is_told(bench):
    child = bench.a_child("active")
    bench.outcome(child, P.CPU_CAP, 5)
    bench.outcome(child, P.CPU_CAP, 1 << 20)
    assert bench.events(PropertySet) == [PropertySet(child, P.CPU_CAP, 5)]


@pytest.mark.parametrize(("units", "status"), [
    ((7,), S.SUCCESS), ((), S.INVALID_PARAMETER), ((7, 0), S.INVALID_PARAMETER), ((1 << 20,), RANGE)])
def test_the_extended_call_takes_its_value_from_the_variable_header(bench, units, status):
    child = bench.a_child("active")
    data = SetPartitionPropertyExInput(partition_id=child, property_code=P.CPU_CAP).pack()
    bench.memory.write(IN, data + b"".join(unit.to_bytes(8, "little") for unit in units))
    word = HypercallControl(call_code=C.SET_PARTITION_PROPERTY_EX, variable_header_size=len(units))
    assert HypercallResult(hypercall(bench.hypervisor, bench.root_vp, word.raw, IN, 0)).status == status
    assert bench.winhv.get_partition_property(child, P.CPU_CAP) == (7 if status == S.SUCCESS else 0)


# --- processor features -------------------------------------------------------------------------------------------

def ecx(bench, partition_id, leaf):
    return bench.hypervisor.partitions[partition_id].cpuid.lookup(leaf, 0)[2]


def test_a_feature_disabled_at_creation_is_not_in_cpuid(bench):
    whole = bench.winhv.create_partition()
    less = bench.winhv.create_partition(disabled_features=int(F.CMPXCHG16B | F.LAHF_SAHF | F.XOP) | 1 << 63)
    for leaf, lost in ((CpuidLeaf.FEATURES, FeaturesEcx.CMPXCHG16B),
                       (CpuidLeaf.EXTENDED_SIGNATURE, ExtendedSignatureEcx.LAHF_SAHF)):
        assert ecx(bench, whole, leaf) == ecx(bench, less, leaf) | lost
        assert not ecx(bench, less, leaf) & lost
    found = bench.winhv.get_partition_property(whole, P.PROCESSOR_FEATURES0)
    assert bench.winhv.get_partition_property(less, P.PROCESSOR_FEATURES0) == found & ~int(F.CMPXCHG16B | F.LAHF_SAHF)


def test_a_feature_that_was_taken_does_not_come_back(bench):
    child = bench.winhv.create_partition(disabled_features=int(F.SSE3))
    assert bench.outcome(child, P.PROCESSOR_FEATURES0, int(F.SSE3)) == RANGE
    assert bench.outcome(child, P.PROCESSOR_FEATURES0, int(F.CMPXCHG16B)) == S.SUCCESS
    bench.winhv.set_partition_property(child, P.PRIVILEGE_FLAGS, 0)       # which makes the table anew
    assert bench.winhv.get_partition_property(child, P.PROCESSOR_FEATURES0) == F.CMPXCHG16B


def test_every_feature_has_a_cpuid_bit_of_its_own():
    assert set(CPUID_BITS) == set(HvProcessorFeatures)
    assert len(set(CPUID_BITS.values())) == len(CPUID_BITS)


def test_a_partition_may_be_asked_to_have_what_it_has_anyway(bench):
    flags = CreatePartitionFlags(smt_enabled_guest=1, gpa_super_pages_enabled=1, lapic_enabled=1, x2apic_capable=1)
    assert bench.winhv.create_partition(flags.raw) == 2


@pytest.mark.parametrize("name", ["nested_virtualization_capable", "exo_partition", "vtl1_override", "vtl2_override",
                                  "perfmon_pmu", "lbr", "intercept_message_page", "hypercall_doorbell_page"])
def test_a_creation_flag_that_asks_for_what_is_not_built_is_refused(bench, name):
    before = bench.root.pool.inspect()
    with pytest.raises(HvError) as refused:
        bench.winhv.create_partition(CreatePartitionFlags(**{name: 1}).raw)
    assert (refused.value.status, bench.root.pool.inspect()) == (S.INVALID_PARAMETER, before)


# --- time and suspension ------------------------------------------------------------------------------------------

def test_the_reference_counter_stands_while_it_is_frozen_and_goes_on_from_there(bench):
    child = bench.child()
    bench.clock.advance(1000 * TICKS_PER_100NS + 77)
    assert child.reference_time == 1000
    child.freeze_time(True)
    bench.clock.advance(500_123)
    child.freeze_time(True)                     # again: nothing happens
    assert child.reference_time == 1000
    child.freeze_time(False)
    child.freeze_time(False)
    assert child.reference_time == 1000
    bench.clock.advance(TICKS_PER_100NS - 78)
    assert child.reference_time == 1000
    bench.clock.advance(1)
    assert child.reference_time == 1001
    assert child.time.tsc_at(1001) == bench.clock.tsc


def test_a_frozen_counter_is_set_and_goes_on_from_what_was_set(bench):
    child = bench.child()
    assert bench.outcome(child.id, P.REFERENCE_TIME, 5) == STATE
    bench.outcome(child.id, P.TIME_FREEZE, 1)
    assert bench.outcome(child.id, P.REFERENCE_TIME, 1_000_000) == S.SUCCESS
    bench.clock.advance(999_999)
    bench.outcome(child.id, P.TIME_FREEZE, 0)
    bench.clock.advance(3 * TICKS_PER_100NS)
    assert child.reference_time == 1_000_003


def test_what_is_frozen_has_no_timer_that_expires_and_no_tsc_that_goes_on(bench):
    child = bench.child()
    vp = child.vps[0]
    vp.apic.write(ApicRegister.LVT_TIMER, Lvt(vector=0x40).raw)
    vp.apic.write(ApicRegister.TIMER_DIVIDE, 0xB)
    vp.apic.write(ApicRegister.TIMER_INITIAL, 100)
    child.freeze_time(True)
    bench.clock.advance(5000)
    bench.clock.run_due()
    assert (vp.apic.irr, vp.tsc_offset) == (0, 0)
    child.freeze_time(False)
    assert vp.tsc_offset == -5000
    bench.clock.advance(1000)
    bench.clock.run_due()
    assert vp.apic.irr == 1 << 0x40


@pytest.mark.parametrize("periodic", [0, 1])
def test_a_synthetic_timer_stands_with_its_reference_counter(bench, periodic):
    """It expires when the counter has reached its time, also one that was set while the counter stood."""
    child = bench.child()
    vp, told = child.vps[0], []
    bench.trace.listen(told.append)
    config = HvStimerConfig(enable=1, periodic=periodic, direct_mode=1, apic_vector=0x41).raw
    vp.timers[0].set_config(config)
    vp.timers[0].set_count(1000)
    child.freeze_time(True)
    vp.timers[1].set_config(config)
    vp.timers[1].set_count(1000)
    for stands in (True, False):
        bench.clock.advance(999 * TICKS_PER_100NS)
        bench.clock.run_due()
        bench.clock.advance(1)
        if stands:
            bench.clock.advance(5000 * TICKS_PER_100NS)
            bench.clock.run_due()
            child.freeze_time(False)
        assert vp.apic.irr == 0
    bench.clock.advance(TICKS_PER_100NS)
    bench.clock.run_due()
    expired = [record.event for record in told if isinstance(record.event, SyntheticTimerExpired)]
    assert [(event.timer, event.expiration) for event in expired] == [(0, 1000), (1, 1000)]


def test_a_vp_made_later_has_the_time_of_the_others(bench):
    child = bench.child(pool=40)
    child.freeze_time(True)
    bench.clock.advance(5000)
    bench.hypervisor.create_vp(child, 1)        # while time stands
    child.freeze_time(False)
    bench.hypervisor.create_vp(child, 2)
    assert [child.vps[n].tsc_offset for n in range(3)] == [-5000] * 3


@pytest.mark.parametrize("how", ["suspend", "freeze_time"])
def test_a_partition_that_stands_still_wakes_the_scheduler_when_it_goes_on(bench, how):
    child = bench.child(vps=2)
    getattr(child, how)(True)
    assert child.stands_still
    before = [vp.kicks for vp in child.vps.values()]
    getattr(child, how)(False)
    assert not child.stands_still
    assert [vp.kicks for vp in child.vps.values()] == [kicks + 1 for kicks in before]


@pytest.mark.parametrize("state", ["created", "active"])
def test_time_is_frozen_and_goes_on_in_every_state_that_has_one(bench, state):
    child = bench.a_child(state)
    for frozen in (1, 0):
        assert bench.outcome(child, P.TIME_FREEZE, frozen) == S.SUCCESS
        bench.clock.advance(1000)
    bench.winhv.finalize_partition(child)
    assert bench.outcome(child, P.TIME_FREEZE, 1) == STATE
