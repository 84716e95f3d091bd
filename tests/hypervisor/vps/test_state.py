"""HvCallGetVpState and HvCallSetVpState, and what CPUID and destinations are to a VP."""

import pytest

from hv.hypervisor.partitions.cpuid_results import CpuidResult
from hv.root.winhv import HvError
from hv.spec.fxsave import FxSaveImage, X87Register
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.vp_state import (
    CpuidLeafInfo,
    CpuidValues,
    GetVpCpuidValuesInput,
    GetVpSetFromMdaInput,
    GetVpSetFromMdaOutput,
    VpStateInput,
)
from hv.spec.partition import ANY_VP
from hv.spec.vp_state import HvGetSetVpStateType as T
from hv.spec.vp_state import LocalApicState, StimerState, SyntheticTimersState, XsaveArea
from hv.spec.x86 import PAGE_SIZE
from tests.hypervisor.hypercalls.test_call_parameters import GUEST, OUT
from tests.hypervisor.hypercalls.test_call_parameters import Bench as FakeBench
from tests.hypervisor.registers_bench import Bench

BAD = S.INVALID_SAVE_RESTORE_STATE


@pytest.mark.parametrize(("layout", "size"), [
    (LocalApicState, 176), (XsaveArea, 576), (SyntheticTimersState, 200), (VpStateInput, 40), (CpuidLeafInfo, 24),
    (GetVpCpuidValuesInput, 24), (CpuidValues, 16), (GetVpSetFromMdaInput, 24), (GetVpSetFromMdaOutput, 528)])
def test_a_layout_has_its_size(layout, size):
    assert size == layout.SIZE


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.close()


def refused(status):
    return pytest.raises(HvError, match=rf": {status.name}$")


class Saved:
    """The states of the VP of *bench*, by kind."""

    def __init__(self, bench):
        self.bench = bench

    def __getitem__(self, kind):
        return self.bench.winhv.get_vp_state(self.bench.id, 0, kind)

    def __setitem__(self, kind, data):
        self.bench.winhv.set_vp_state(self.bench.id, 0, kind, data)


def test_every_state_takes_back_what_it_gave(bench):
    states = Saved(bench)
    bench.set(N.APIC_SPURIOUS, 0x1FF)
    bench.vp.apic.accept(0x41)
    for kind in T:
        states[kind] = states[kind]
        assert states[kind] == states[kind], kind.name


@pytest.mark.parametrize("base", [0xFEE00900, 0xFEE00D00], ids=["xapic", "x2apic"])
def test_the_apic_is_saved_and_restored(bench, base):
    states = Saved(bench)
    for name, value in ((N.APIC_BASE, base), (N.APIC_SPURIOUS, 0x1FF), (N.APIC_LVT_TIMER, 0x10041),
                        (N.APIC_DIVIDE, 0xB), (N.APIC_LVT_ERROR, 0x52), (N.APIC_INIT_COUNT, 1 << 30)):
        bench.set(name, value)
    apic = bench.vp.apic
    apic.accept(0x41)
    apic.accept(0x91, level=True)
    apic.acknowledge()
    saved = LocalApicState.parse(states[T.LAPIC_STATE])
    assert (saved.isr[4], saved.tmr[4], saved.irr[2], saved.spurious) == (1 << 17, 1 << 17, 1 << 1, 0x1FF)
    assert (saved.lvt_timer, saved.lvt_error, saved.initial_count) == (0x10041, 0x52, 1 << 30)
    assert 0 < saved.counter_value <= 1 << 30
    apic.init()
    states[T.LAPIC_STATE] = saved.pack()
    again = LocalApicState.parse(states[T.LAPIC_STATE])
    assert again.counter_value <= saved.counter_value
    again.counter_value = saved.counter_value
    assert again == saved


def test_a_restored_timer_goes_on_from_its_count(bench):
    states = Saved(bench)
    bench.set(N.APIC_SPURIOUS, 0x1FF)
    saved = LocalApicState.parse(states[T.LAPIC_STATE])
    saved.lvt_timer, saved.initial_count, saved.counter_value, saved.divide_configuration = 0x41, 1000, 400, 0xB
    states[T.LAPIC_STATE] = saved.pack()
    clock = bench.machine.clock
    assert clock.next_deadline() - clock.tsc <= 400 * 20


@pytest.mark.parametrize(("field", "value"), [
    ("apic_id", 5 << 24), ("version", 0), ("ldr", 1), ("spurious", 1 << 20), ("lvt_timer", 1 << 20),
    ("lvt_lint0", 1 << 31), ("lvt_cmci", 1 << 12 | 1 << 20), ("isr", (1, 0, 0, 0, 0, 0, 0, 0)),
    ("irr", (0x8000, 0, 0, 0, 0, 0, 0, 0)), ("tmr", (2, 0, 0, 0, 0, 0, 0, 0)), ("icr_low", 1 << 31), ("esr", 0x100),
    ("error_status", 1 << 20), ("divide_configuration", 4), ("counter_value", 1)])
def test_an_apic_that_cannot_be_is_refused(bench, field, value):
    states = Saved(bench)
    before = states[T.LAPIC_STATE]
    state = LocalApicState.parse(before)
    setattr(state, field, value)
    with refused(BAD):
        states[T.LAPIC_STATE] = state.pack()
    assert states[T.LAPIC_STATE][:176] == before[:176]


def test_x87_and_sse_are_an_xsave_area(bench):
    states = Saved(bench)
    bench.set(N.XMM15, 7 << 100)
    area = XsaveArea.parse(states[T.XSAVE])
    assert (area.components, area.compaction, area.legacy.xmm[31]) == (3, 0, 7 << 36)
    area.legacy.control, area.legacy.xmm = 0x37F, tuple(range(32))
    area.legacy.st = tuple(X87Register(mantissa=n) for n in range(8))
    states[T.XSAVE] = area.pack()
    assert bench.number(N.XMM1) == 3 << 64 | 2
    assert bench.get(N.FP_MMX5)[0] == 5
    area.components = 2                                 # x87 as after FNINIT
    states[T.XSAVE] = area.pack()
    assert bench.vp.regs.fp.save().st == FxSaveImage().st
    assert (bench.vp.regs.fp.control, bench.number(N.XMM1)) == (0x37F, 3 << 64 | 2)
    area.components = 0
    states[T.XSAVE] = area.pack()
    assert bench.number(N.XMM1) == 0


@pytest.mark.parametrize("changed", [{"components": 4}, {"compaction": 1 << 63}, {"reserved": b"\1" + bytes(47)},
                                     {"legacy": FxSaveImage(mxcsr=1 << 16)}])
def test_an_xsave_area_that_cannot_be_is_refused(bench, changed):
    with refused(BAD):
        Saved(bench)[T.XSAVE] = XsaveArea(**changed).pack()


def test_the_synics_pages_are_whole_pages(bench):
    states = Saved(bench)
    for kind, page in ((T.SIM_PAGE, bench.vp.synic.message_page), (T.SIEF_PAGE, bench.vp.synic.event_page)):
        states[kind] = bytes(range(256)) * 16
        assert bench.machine.memory.read(page, PAGE_SIZE) == bytes(range(256)) * 16 == states[kind]


def test_timers_stand_in_the_parameters(bench):
    states = Saved(bench)
    wanted = SyntheticTimersState(timers=(StimerState(config=0x10000, count=0x1234), *(StimerState(),) * 3))
    states[T.SYNTHETIC_TIMERS] = wanted.pack()
    assert states[T.SYNTHETIC_TIMERS] == wanted.pack()
    assert bench.number(N.STIMER0_COUNT) == 0x1234


def test_a_timer_with_reserved_bits_is_refused_before_any_is_taken_over(bench):
    states = Saved(bench)
    before = states[T.SYNTHETIC_TIMERS]
    timers = (StimerState(config=0x10000, count=0x1234), StimerState(), StimerState(), StimerState(config=1 << 13))
    with pytest.raises(HvError, match="INVALID_SAVE_RESTORE_STATE"):
        states[T.SYNTHETIC_TIMERS] = SyntheticTimersState(timers=timers).pack()
    assert states[T.SYNTHETIC_TIMERS] == before


# --- parameters ---------------------------------------------------------------------------------------------------

@pytest.fixture
def fakes():
    return FakeBench()


def ask(fakes, code, units=(), **fields):
    fields = {"partition_id": GUEST, "state_type": T.SIM_PAGE, **fields}
    return fakes.variable(code, units, **fields)


@pytest.mark.parametrize("code", [C.GET_VP_STATE, C.SET_VP_STATE])
@pytest.mark.parametrize(("units", "fields", "status"), [
    ((8,), {}, S.SUCCESS), ((), {}, S.INVALID_PARAMETER), ((8, 9), {}, S.INVALID_PARAMETER),
    ((1 << 60,), {}, S.INVALID_PARAMETER), ((1 << 20,), {}, S.INVALID_PARAMETER),
    ((8,), {"state_type": 0}, S.INVALID_PARAMETER), ((8,), {"state_type": 5}, S.INVALID_PARAMETER),
    ((8,), {"state_type": T.SYNTHETIC_TIMERS}, S.INVALID_PARAMETER), ((8,), {"reserved": 1}, S.INVALID_PARAMETER),
    ((8,), {"xsave_flags": 1}, S.INVALID_PARAMETER), ((8,), {"xsave_states": 3}, S.INVALID_PARAMETER),
    ((8,), {"vp_index": 7}, S.INVALID_VP_INDEX), ((8,), {"input_vtl": 0x11}, S.INVALID_VTL_STATE),
    ((8,), {"partition_id": 9}, S.INVALID_PARTITION_ID), ((8,), {"partition_id": 1}, S.ACCESS_DENIED)])
def test_what_is_asked_for_is_checked(fakes, code, units, fields, status):
    assert ask(fakes, code, units, **fields) == status


def test_a_child_asks_for_nobodys_state(fakes):
    assert ask(fakes, C.GET_VP_STATE, (1,), vp=fakes.guest.vps[0]) == S.ACCESS_DENIED


def test_cpuid_values_are_those_that_the_vp_reads(bench):
    values = bench.winhv.get_vp_cpuid_values(bench.id, 0, [(1, 0), (0x40000000, 0), (0x40000001, 0), (0x7777, 0)])
    table = bench.partition.cpuid
    assert values == [table.lookup(1, 0, 0), table.lookup(0x40000000, 0), table.lookup(0x40000001, 0), (0, 0, 0, 0)]


@pytest.mark.parametrize(("flags", "answer"), [(0, (0, 0, 0, 0)), (2, (0x10, 0, 0, 0xFFFF))])
def test_what_was_registered_is_applied_when_that_is_asked_for(fakes, flags, answer):
    """TLFS "HvCallGetVpCpuidValues": in the bits of the masks, over what the hypervisor would answer."""
    fakes.guest.cpuid_results.register((ANY_VP, 0x7777, None), CpuidResult((0x11, 5, 0, 0xFFFF), (0x10, 0, 0, 0xFFFF)))
    elements = [CpuidLeafInfo(eax=0x7777)]
    assert fakes.ask(C.GET_VP_CPUID_VALUES, elements, partition_id=GUEST, flags=flags) == (S.SUCCESS, 1)
    values = CpuidValues.parse(fakes.memory.read(OUT, CpuidValues.SIZE))
    assert (values.eax, values.ebx, values.ecx, values.edx) == answer


def test_unknown_flags_of_cpuid_values_are_refused(fakes):
    elements = [CpuidLeafInfo(eax=1)]
    assert fakes.ask(C.GET_VP_CPUID_VALUES, elements, partition_id=GUEST, flags=3) == (S.SUCCESS, 1)
    assert fakes.ask(C.GET_VP_CPUID_VALUES, elements, partition_id=GUEST, flags=4) == (S.INVALID_PARAMETER, 0)


@pytest.mark.parametrize(("destination", "logical", "mask"), [
    (0, 0, 0b001), (2, 0, 0b100), (9, 0, 0), (0xFF, 0, 0b111), (1, 1, 0b001), (6, 1, 0b110)])
def test_a_destination_means_vps(fakes, destination, logical, mask):
    for index in (1, 2):
        fakes.hypervisor.create_vp(fakes.guest, index)
    for index, vp in fakes.guest.vps.items():
        vp.apic.write(0xD0, 1 << 24 + index)
    answer = fakes.done(C.GET_VP_SET_FROM_MDA, partition_id=GUEST, destination_address=destination,
                        destination_mode_logical=logical)
    assert (answer.format, answer.valid_bank_mask, answer.banks[0]) == (0, int(mask != 0), mask)


@pytest.mark.parametrize("fields", [{"destination_mode_logical": 2}, {"destination_address": 1 << 32}])
def test_a_destination_that_cannot_be_is_refused(fakes, fields):
    assert fakes.ask(C.GET_VP_SET_FROM_MDA, partition_id=GUEST, **fields)[0] == S.INVALID_PARAMETER
