"""Synthetic timers: each rule of TLFS "Synthetic Timers" a row or a test, on the virtual clock."""

import pytest

from hv.hypervisor.msrs.registry import read_msr, write_msr
from hv.hypervisor.partitions.cpuid import CHILD_PRIVILEGES, CpuidTable
from hv.hypervisor.registers.table import as_bytes, get_register, set_register
from hv.hypervisor.synic.synic import QueuedMessage
from hv.machine.clock import TICKS_PER_100NS
from hv.machine.faults import GuestFault
from hv.spec.cpuid import HvFeatures, HvPrivilege
from hv.spec.hv_registers import HvRegisterName
from hv.spec.msrs import HvStimerConfig, HvSynicSint, Msr, stimer_msrs
from hv.spec.synic import HvMessage, TimerMessage
from hv.spec.vp_state import StimerState, SyntheticTimersState
from hv.trace.events import SyntheticTimerExpired, SyntheticTimerSkipped
from tests.hypervisor.exit_fakes import new_vp
from tests.hypervisor.fakes import Machine

CREATED = 7                     # ticks that have passed when the partition is created, in units of 100 ns
SIM, SINT, VECTOR = 0x3000, 2, 0x52
ON = {"enable": 1, "sintx": SINT}
PERIODIC = {**ON, "periodic": 1}
DIRECT = {"enable": 1, "direct_mode": 1, "apic_vector": 0x61}


class Bench:
    """A VP whose SynIC is on, and a hand on the clock. *now* is the partition's reference time."""

    def __init__(self, real_vp=False):
        self.machine = Machine()
        self.machine.clock.advance(CREATED * TICKS_PER_100NS)
        if real_vp:
            hypervisor = self.machine.hypervisor
            hypervisor.vp_factory = lambda partition, index: new_vp(hypervisor, partition, index)
        self.vp = self.machine.child().vps[0]
        self.vp.apic.write(0xF0, 0x1FF)
        write_msr(self.vp, Msr.HV_SCONTROL, 1)
        write_msr(self.vp, Msr.HV_SIMP, SIM | 1)
        write_msr(self.vp, Msr.HV_SINT0 + SINT, HvSynicSint(vector=VECTOR).raw)

    @property
    def now(self):
        return read_msr(self.vp, Msr.HV_TIME_REF_COUNT)

    def configure(self, timer=0, **fields):
        write_msr(self.vp, stimer_msrs(timer)[0], HvStimerConfig(**fields).raw)

    def count(self, value, timer=0):
        write_msr(self.vp, stimer_msrs(timer)[1], value)

    def start(self, count, timer=0, **fields):
        self.count(count, timer)
        self.configure(timer, **fields)

    def until(self, now):
        """Let time pass until the reference counter shows *now*, as a processor does: from deadline to deadline."""
        clock, end = self.machine.clock, self.vp.partition.tsc_at(now)
        while (deadline := clock.next_deadline()) is not None and deadline <= end:
            clock.skip_to_next()
            clock.run_due()
        clock.advance(end - clock.tsc)

    def config(self, timer=0):
        return HvStimerConfig(read_msr(self.vp, stimer_msrs(timer)[0]))

    @property
    def slot(self):
        return HvMessage.parse(self.vp.partition.space.read(SIM + SINT * 256, 256))

    def take(self):
        """The expiry in the slot as a guest takes it, or None: read, free, EOM if more waits."""
        message = self.slot
        if not message.header.message_type:
            return None
        self.vp.partition.space.write(SIM + SINT * 256, bytes(4))
        if message.header.message_flags & 1:
            write_msr(self.vp, Msr.HV_EOM, 0)
        return TimerMessage.parse(message.payload)

    def expiries(self):
        return [event.expiration for event in self.machine.events(SyntheticTimerExpired)]


@pytest.fixture
def bench():
    return Bench()


# --- the table of the manual ----------------------------------------------------------------------------------------

def test_a_timer_without_sint_and_vector_cannot_be_enabled(bench):
    """"If SINTx is 0 ... the Enable bit is forced to 0"; checklist 9."""
    bench.configure(enable=1)
    assert bench.config().enable == 0
    bench.start(1, enable=1, auto_enable=1)
    bench.count(5)
    assert bench.config().enable == 0
    bench.configure(enable=1, direct_mode=1)
    assert bench.config().enable == 1


def test_enabled_with_a_count_of_0_it_is_not_armed_and_reads_enabled(bench):
    bench.configure(**ON)
    assert (bench.config().enable, bench.machine.clock.next_deadline()) == (1, None)
    bench.count(50)
    bench.until(50)
    assert bench.expiries() == [50]


def test_a_count_enables_an_auto_enabled_timer(bench):
    bench.configure(auto_enable=1, sintx=SINT)
    assert bench.config().enable == 0
    bench.count(30)
    assert bench.config().enable == 1
    bench.until(30)
    assert (bench.expiries(), bench.config().enable) == ([30], 0)
    bench.count(60)
    bench.until(60)
    assert bench.expiries() == [30, 60]


def test_a_count_of_0_stops_and_disables(bench):
    """The Enable bit is cleared, and auto-enable sets nothing."""
    bench.start(30, **ON, auto_enable=1)
    bench.count(0)
    assert (bench.config().enable, bench.config().auto_enable) == (0, 1)
    assert bench.machine.clock.next_deadline() is None


def test_a_count_alone_enables_nothing(bench):
    bench.configure(sintx=SINT)
    bench.count(30)
    assert (bench.config().enable, bench.machine.clock.next_deadline()) == (0, None)


def test_a_new_count_of_an_enabled_timer_replaces_the_old_one(bench):
    bench.start(30, **ON)
    bench.count(40)
    bench.until(100)
    assert bench.expiries() == [40]


def test_a_one_shot_timer_disables_itself(bench):
    bench.start(30, **ON)
    bench.until(30)
    assert bench.config().enable == 0
    bench.until(100)
    assert bench.expiries() == [30]


def test_a_new_configuration_of_an_enabled_timer_starts_it_anew(bench):
    bench.start(30, **PERIODIC)
    bench.until(20)
    bench.configure(**PERIODIC)
    bench.until(49)
    assert bench.expiries() == []
    bench.until(50)
    assert bench.expiries() == [50]


def test_the_first_period_starts_when_it_is_enabled(bench):
    bench.until(1000)
    bench.start(300, **PERIODIC)
    bench.until(1299)
    assert bench.expiries() == []
    bench.until(1300)
    assert bench.expiries() == [1300]


@pytest.mark.parametrize("count", [1, 500, 999, 1000])
def test_a_one_shot_time_that_is_past_expires_at_once(bench, count):
    bench.until(1000)
    bench.start(count, **ON)
    expired = bench.take()
    assert (expired.expiration_time, expired.delivery_time) == (count, 1000)
    assert bench.config().enable == 0


def test_it_never_expires_early(bench):
    bench.start(30, **ON)
    bench.machine.clock.advance(30 * TICKS_PER_100NS - 1)
    bench.machine.clock.run_due()
    assert (bench.now, bench.slot.header.message_type) == (29, 0)
    bench.machine.clock.advance(1)
    bench.machine.clock.run_due()
    assert (bench.now, bench.take().expiration_time) == (30, 30)


def test_a_periodic_timer_goes_on_from_its_last_expiry(bench):
    bench.start(300, **PERIODIC)
    seen = []
    for moment in range(0, 1600, 10):
        bench.until(moment)
        if (expired := bench.take()) is not None:
            seen.append((expired.expiration_time, expired.delivery_time))
    assert seen == [(300, 300), (600, 600), (900, 900), (1200, 1200), (1500, 1500)]
    assert bench.config().enable == 1


def test_ticks_that_come_late_are_one_and_the_next_is_on_the_grid(bench):
    """Nobody ran the clock's timers for three and a half periods."""
    bench.start(300, **DIRECT, periodic=1)
    bench.machine.clock.advance(1050 * TICKS_PER_100NS)
    bench.machine.clock.run_due()
    assert bench.expiries() == [300]
    bench.until(1200)
    assert bench.expiries() == [300, 1200]


def test_a_period_too_short_to_be_served_is_coalesced(bench):
    """At most one expiry for each 10 us, on the grid of the period."""
    bench.start(30, **DIRECT, periodic=1)
    bench.until(400)
    assert bench.expiries() == [30, 150, 270, 390]


@pytest.mark.parametrize("kind", [ON, PERIODIC], ids=["one-shot", "periodic"])
def test_a_message_waits_for_its_slot_and_the_timer_for_its_message(bench, kind):
    """The slot's MessagePending says so; Enable of a one-shot timer is cleared with delivery."""
    bench.vp.synic.post(SINT, QueuedMessage(1, b"in the way", 7))
    bench.start(300, **kind)
    bench.until(1000)
    assert (bench.expiries(), bench.config().enable) == ([300], 1)
    assert bench.slot.header.message_flags == 1
    bench.take()
    assert bench.config().enable == kind.get("periodic", 0)
    expired = bench.take()
    assert (expired.expiration_time, expired.delivery_time) == (300, 1000)
    bench.until(1200)
    assert bench.expiries() == ([300, 1200] if kind is PERIODIC else [300])


def test_the_end_of_the_interrupt_delivers_too(bench):
    bench.vp.synic.post(SINT, QueuedMessage(1, b"in the way", 7))
    bench.start(30, **ON)
    bench.until(40)
    assert bench.vp.apic.acknowledge() == VECTOR
    bench.vp.partition.space.write(SIM + SINT * 256, bytes(4))
    bench.vp.apic.eoi()
    assert bench.take().delivery_time == 40


def test_a_message_waits_for_a_synic_that_is_off(bench):
    write_msr(bench.vp, Msr.HV_SCONTROL, 0)
    bench.start(30, **ON)
    bench.until(50)
    assert (bench.slot.header.message_type, bench.config().enable) == (0, 1)
    write_msr(bench.vp, Msr.HV_SCONTROL, 1)
    assert (bench.take().delivery_time, bench.config().enable) == (50, 0)


@pytest.mark.parametrize("change", [
    lambda bench: bench.configure(), lambda bench: bench.count(0), lambda bench: bench.vp.timers.reset(),
], ids=["configuration", "count", "reset"])
def test_a_timer_that_is_stopped_takes_its_message_back(bench, change):
    bench.vp.synic.post(SINT, QueuedMessage(1, b"in the way", 7))
    bench.start(30, **ON)
    bench.until(40)
    change(bench)
    assert bench.slot.payload.startswith(b"in the way")
    assert bench.take() is not None
    assert bench.take() is None


def test_four_timers_are_four(bench):
    for timer, moment in ((0, 40), (1, 10), (2, 30), (3, 20)):
        bench.start(moment, timer, **ON)
    seen = []
    for moment in range(50):
        bench.until(moment)
        if (expired := bench.take()) is not None:
            seen.append((expired.timer_index, expired.expiration_time))
    assert seen == [(1, 10), (3, 20), (2, 30), (0, 40)]


def test_four_timers_that_share_a_slot_lose_nothing(bench):
    for timer in range(4):
        bench.start(30, timer, **ON)
    bench.until(30)
    assert [bench.take().timer_index for _ in range(4)] == [0, 1, 2, 3]
    assert bench.take() is None


def test_the_message_to_the_byte(bench):
    """HV_MESSAGE of type HvMessageTimerExpired: 24 bytes, sent by nobody."""
    bench.start(0x1234, timer=3, **ON)
    bench.until(0x1234)
    data = bench.vp.partition.space.read(SIM + SINT * 256, 40).hex()
    assert data == ("10000080" "18" "00" "0000" + "00" * 8 + "03000000" "00000000" + "3412000000000000" * 2)


def test_direct_mode_is_an_interrupt_and_no_message(bench):
    bench.start(30, **DIRECT)
    bench.until(30)
    assert bench.vp.apic.irr == 1 << 0x61
    assert (bench.slot.header.message_type, bench.config().enable) == (0, 0)


def test_direct_mode_needs_no_synic(bench):
    bench.vp.synic.reset()
    bench.start(30, **DIRECT)
    bench.until(30)
    assert bench.vp.apic.irr == 1 << 0x61


def test_a_direct_vector_below_16_is_an_error_of_the_apic(bench):
    """No rule forbids it; the local APIC does not accept it and notes why. SDM "Error Handling"."""
    bench.start(30, enable=1, direct_mode=1, apic_vector=3)
    bench.until(30)
    assert bench.vp.apic.irr == 0
    bench.vp.apic.write(0x280, 0)
    assert bench.vp.apic.read(0x280) == 1 << 6


@pytest.mark.parametrize("fields", [{"masked": 1}, {"polling": 1}], ids=["masked", "polling"])
def test_a_quiet_sint_gets_the_message_alone(bench, fields):
    write_msr(bench.vp, Msr.HV_SINT0 + SINT, HvSynicSint(vector=VECTOR, **fields).raw)
    bench.start(30, **ON)
    bench.until(30)
    assert (bench.take().expiration_time, bench.vp.apic.irr) == (30, 0)


@pytest.mark.parametrize("bit", [13, 14, 15, 20, 31, 32, 63])
def test_a_reserved_bit_is_refused_and_changes_nothing(bench, bit):
    bench.start(30, **ON)
    before = bench.config()
    with pytest.raises(GuestFault):
        write_msr(bench.vp, Msr.HV_STIMER0_CONFIG, 1 << bit)
    assert bench.config() == before
    bench.until(30)
    assert bench.expiries() == [30]


@pytest.mark.parametrize("count", [1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("fields", [ON, PERIODIC, DIRECT], ids=["one-shot", "periodic", "direct"])
def test_a_time_that_never_comes_sets_no_timer(bench, count, fields):
    bench.start(count, **fields)
    assert bench.machine.clock.next_deadline() is None
    assert (bench.config().enable, read_msr(bench.vp, Msr.HV_STIMER0_COUNT)) == (1, count)


# --- lazy -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def busy():
    """A VP that another one keeps from running, with a lazy tick every 100 us."""
    bench = Bench(real_vp=True)
    bench.vp.explicit_suspend = bench.vp.halted = False
    bench.start(1000, **DIRECT, periodic=1, lazy=1)
    return bench


def runs(bench):
    bench.vp.run(bench.machine.clock.tsc)
    return bench.expiries()


def test_a_lazy_tick_waits_until_its_vp_runs(busy):
    """TLFS "Periodic Timers": the signal is deferred until the VP is available."""
    busy.until(1300)
    assert busy.expiries() == []
    assert runs(busy) == [1000]
    busy.until(2400)
    assert runs(busy) == [1000, 2000]


def test_a_lazy_tick_is_skipped_shortly_before_the_next(busy):
    busy.until(1800)
    assert runs(busy) == []
    assert [event.expiration for event in busy.machine.events(SyntheticTimerSkipped)] == [1000]
    busy.until(2100)
    assert runs(busy) == [2000]


def test_lazy_ticks_of_several_periods_are_one(busy):
    busy.until(4200)
    assert runs(busy) == [1000]
    busy.until(5000)
    assert runs(busy) == [1000, 5000]


def test_a_lazy_timer_that_is_stopped_meanwhile_is_forgotten(busy):
    busy.until(1300)
    busy.count(0)
    assert runs(busy) == []


@pytest.mark.parametrize(("state", "told"), [
    ({"halted": True}, [1000]), ({"halted": True, "explicit_suspend": True}, []), ({"intercept_suspend": True}, []),
], ids=["idle", "suspended", "asks-its-parent"])
def test_a_lazy_tick_wakes_an_idle_vp_and_no_suspended_one(busy, state, told):
    for name, value in state.items():
        setattr(busy.vp, name, value)
    busy.until(1300)
    assert busy.expiries() == told


def test_lazy_means_nothing_to_a_one_shot_timer():
    bench = Bench(real_vp=True)
    bench.vp.explicit_suspend = bench.vp.halted = False
    bench.start(1000, **DIRECT, lazy=1)
    bench.until(1000)
    assert bench.expiries() == [1000]


# --- what is left behind, and what is kept ---------------------------------------------------------------------------

def test_a_disabled_timer_leaves_nothing_on_the_clock(bench):
    for timer in range(4):
        bench.start(1000, timer, **PERIODIC)
        bench.configure(timer, **{**PERIODIC, "enable": 0})
    assert bench.machine.clock.next_deadline() is None


@pytest.mark.parametrize("end", ["delete_vp", "finalize"])
def test_no_timer_outlives_its_vp(bench, end):
    bench.start(1000, **PERIODIC)
    hypervisor, partition = bench.machine.hypervisor, bench.vp.partition
    if end == "delete_vp":
        hypervisor.delete_vp(partition, 0)
    else:
        hypervisor.finalize_partition(partition)
    assert bench.machine.clock.next_deadline() is None


def test_the_saved_state_is_200_bytes():
    assert (StimerState.SIZE, SyntheticTimersState.SIZE) == (40, 200)


def test_a_state_that_is_saved_and_restored_goes_on(bench):
    """A timer that is armed, one whose message waits, a periodic one between two ticks, one that is off."""
    bench.vp.synic.post(SINT, QueuedMessage(1, b"in the way", 7))
    bench.start(900, 0, **ON)
    bench.start(300, 1, **ON)
    bench.start(400, 2, **DIRECT, periodic=1)
    bench.until(500)
    state = bench.vp.timers.save()
    again = SyntheticTimersState.parse(state.pack())
    bench.vp.timers.reset()
    assert bench.machine.clock.next_deadline() is None
    bench.vp.timers.restore(again)
    assert bench.vp.timers.save() == state
    bench.until(1250)
    bench.take()
    assert (bench.take().expiration_time, bench.take().expiration_time) == (300, 900)
    assert [expiry for expiry in bench.expiries() if expiry % 400 == 0] == [400, 800, 1200]


@pytest.mark.parametrize("fill", [b"\xff", b"\x01", b"\x80"])
def test_any_bytes_can_be_restored(bench, fill):
    bench.vp.timers.restore(SyntheticTimersState.parse(fill * 200))
    bench.until(2000)
    bench.vp.timers.reset()
    assert bench.machine.clock.next_deadline() is None


def test_the_registers_by_name_are_the_msrs(bench):
    N = HvRegisterName
    set_register(bench.vp, N.STIMER3_COUNT, as_bytes(500).ljust(16, b"\0"))
    set_register(bench.vp, N.STIMER3_CONFIG, as_bytes(HvStimerConfig(**ON).raw).ljust(16, b"\0"))
    assert get_register(bench.vp, N.STIMER3_COUNT) == as_bytes(500).ljust(16, b"\0")
    bench.until(500)
    assert bench.take().timer_index == 3


def test_timers_and_their_direct_mode_are_offered():
    eax, _, _, edx = CpuidTable(CHILD_PRIVILEGES).lookup(0x40000003, 0)
    assert eax & HvPrivilege.ACCESS_SYNTHETIC_TIMER_REGS
    assert edx & HvFeatures.USE_DIRECT_SYNTHETIC_TIMERS


@pytest.mark.parametrize("index", range(Msr.HV_STIMER0_CONFIG, Msr.HV_STIMER3_COUNT + 1))
def test_each_register_needs_the_privilege(bench, index):
    write_msr(bench.vp, index, 0)
    bench.vp.partition.set_privileges(CHILD_PRIVILEGES & ~int(HvPrivilege.ACCESS_SYNTHETIC_TIMER_REGS))
    for access in (lambda: read_msr(bench.vp, index), lambda: write_msr(bench.vp, index, 0)):
        with pytest.raises(GuestFault):
            access()
