"""The timer that counts while its VP executes; TLFS "Synthetic Time-Unhalted Timer"."""

import pytest

from hv.hypervisor.msrs.registry import read_msr, write_msr
from hv.hypervisor.partitions.cpuid import CHILD_PRIVILEGES, CpuidTable
from hv.hypervisor.partitions.reset import reset
from hv.hypervisor.registers.table import as_bytes, get_register, set_register
from hv.machine.clock import TICKS_PER_100NS
from hv.machine.faults import GuestFault
from hv.spec.assist_page import HvVpAssist
from hv.spec.cpuid import HvFeatures
from hv.spec.hv_registers import HvRegisterName
from hv.spec.msrs import HvUnhaltedTimerConfig, Msr
from hv.trace.events import UnhaltedTimerExpired
from tests.hypervisor.exit_fakes import new_vp
from tests.hypervisor.fakes import Machine

CONFIG, COUNT = Msr.HV_STIME_UNHALTED_TIMER_CONFIG, Msr.HV_STIME_UNHALTED_TIMER_COUNT
ASSIST = 0x7000
NMI, VECTOR = 2, 0x61
PERIOD = 1000                   # 100 ns


class Bench:
    """A real VP whose guest does what a test says, as long as it says."""

    def __init__(self, vector=VECTOR, period=PERIOD):
        self.machine = Machine()
        hypervisor = self.machine.hypervisor
        hypervisor.vp_factory = lambda partition, index: new_vp(hypervisor, partition, index)
        self.clock = self.machine.clock
        self.vp = self.machine.child().vps[0]
        self.vp.explicit_suspend = False
        self.vp.apic.write(0xF0, 0x1FF)
        self.vp.vcpu.on_run = lambda: self.clock.advance(self.work)
        self.configure(vector)
        write_msr(self.vp, COUNT, period)

    def configure(self, vector, on=1):
        write_msr(self.vp, CONFIG, HvUnhaltedTimerConfig(vector=vector, enabled=on).raw)

    def run(self, time_100ns):
        """The VP works so long, in one turn, and what is due behind it comes."""
        self.work = time_100ns * TICKS_PER_100NS
        self.vp.run(1 << 40)
        self.clock.run_due()

    def wait(self, time_100ns):
        """So long it has no turn."""
        self.clock.advance(time_100ns * TICKS_PER_100NS)
        self.clock.run_due()

    @property
    def told(self):
        return len(self.machine.events(UnhaltedTimerExpired))


@pytest.fixture
def bench():
    return Bench()


def test_it_expires_when_the_vp_has_worked_for_a_period_in_all(bench):
    for _ in range(3):
        bench.run(300)
        bench.wait(5 * PERIOD)
    assert bench.told == 0
    bench.run(100)
    assert bench.told == 1
    assert bench.vp.apic.irr == 1 << VECTOR


def test_it_is_periodic_and_each_period_begins_where_the_last_one_ended(bench):
    bench.run(PERIOD + 400)                     # late, by 400
    bench.run(599)
    assert bench.told == 1
    bench.run(1)
    assert bench.told == 2


def test_periods_that_nobody_could_be_told_of_are_one(bench):
    bench.run(5 * PERIOD + 1)
    assert bench.told == 1
    bench.run(PERIOD - 1)
    assert bench.told == 2


def test_it_ends_the_run_in_which_it_expires():
    bench = Bench()
    bench.run(400)
    bench.run(0)
    assert bench.vp.vcpu.ran[-1] == bench.clock.tsc + 600 * TICKS_PER_100NS


def test_nothing_is_to_come_while_the_vp_does_not_execute(bench):
    """The machine sleeps as long as it would without this timer."""
    bench.run(300)
    assert bench.clock.next_deadline() is None


def test_sleep_in_a_turn_is_no_work(bench):
    def sleep(vp):
        assert bench.clock.next_deadline() is None
        bench.clock.advance(10 * PERIOD * TICKS_PER_100NS)
        return True

    def work():
        bench.clock.advance(500 * TICKS_PER_100NS)
        bench.vp.sleep()
        bench.clock.advance(400 * TICKS_PER_100NS)
    bench.vp.hypervisor.on_halt = sleep
    bench.vp.vcpu.on_run = work
    bench.vp.run(1 << 40)
    bench.clock.run_due()
    assert bench.told == 0
    bench.vp.vcpu.on_run = lambda: bench.clock.advance(100 * TICKS_PER_100NS)
    bench.vp.run(1 << 40)
    bench.clock.run_due()
    assert bench.told == 1


@pytest.mark.parametrize("enabled", [True, False])
def test_the_assist_page_says_that_it_has_expired(bench, enabled):
    """A byte of it is 1 until the guest resets it; nothing is written while the page is off."""
    write_msr(bench.vp, Msr.HV_VP_ASSIST_PAGE, ASSIST | 1)
    if not enabled:
        write_msr(bench.vp, Msr.HV_VP_ASSIST_PAGE, ASSIST)
    for _ in range(2):
        bench.run(PERIOD)
        page = bench.vp.synic.assist_page
        assert bench.machine.memory.read(page + 56, 1) == bytes([enabled])
        bench.machine.memory.write(page + 56, b"\0")
    assert bench.machine.memory.read(page, 56) == bytes(56)


def test_vector_2_is_an_nmi():
    bench = Bench(NMI)
    bench.run(PERIOD)
    assert (bench.vp.nmi_pending, bench.vp.apic.irr) == (True, 0)


@pytest.mark.parametrize(("vector", "on", "refused"), [
    (0, 1, True), (1, 1, True), (2, 1, False), (3, 1, True), (15, 1, True), (16, 1, False), (255, 1, False),
    (0, 0, False), (15, 0, False)])
def test_valid_vectors(bench, vector, on, refused):
    if refused:
        with pytest.raises(GuestFault):
            bench.configure(vector, on)
        assert read_msr(bench.vp, CONFIG) == HvUnhaltedTimerConfig(vector=VECTOR, enabled=1).raw
    else:
        bench.configure(vector, on)
        assert read_msr(bench.vp, CONFIG) == vector | on << 8


@pytest.mark.parametrize("off", [lambda bench: write_msr(bench.vp, COUNT, 0), lambda bench: bench.configure(VECTOR, 0),
                                 lambda bench: reset(bench.machine.hypervisor.partitions[bench.vp.partition.id])],
                         ids=["count-0", "disabled", "reset"])
def test_ways_to_stop_it(bench, off):
    bench.run(PERIOD - 1)
    off(bench)
    bench.run(3 * PERIOD)
    assert (bench.told, bench.vp.clock_of_work, bench.clock.next_deadline()) == (0, None, None)


def test_a_new_count_begins_a_period(bench):
    bench.run(PERIOD - 1)
    write_msr(bench.vp, COUNT, 500)
    bench.run(499)
    assert bench.told == 0
    bench.run(1)
    assert bench.told == 1


def test_a_guest_that_asks_for_too_many_gets_one_in_ten_microseconds():
    bench = Bench(period=1)
    for _ in range(1000):
        bench.run(1)
    assert bench.told == 10


@pytest.mark.parametrize("count", [1 << 63, (1 << 64) - 1])
def test_a_period_longer_than_the_machine_lives_never_ends(count):
    bench = Bench(period=count)
    bench.run(10 * PERIOD)
    assert (bench.told, read_msr(bench.vp, COUNT)) == (0, count)


def test_its_registers_by_name(bench):
    set_register(bench.vp, HvRegisterName.UNHALTED_TIMER_CONFIG, as_bytes(0x150))
    set_register(bench.vp, HvRegisterName.UNHALTED_TIMER_COUNT, as_bytes(77))
    assert [read_msr(bench.vp, msr) for msr in (CONFIG, COUNT)] == [0x150, 77]
    assert get_register(bench.vp, HvRegisterName.UNHALTED_TIMER_CONFIG)[:8] == as_bytes(0x150)
    seen = bench.vp.timers.inspect()["unhalted"]
    assert [seen[name] for name in ("vector", "enabled", "count", "left")] == [0x50, 1, 77, 77]


def test_root_has_one_too_whose_work_is_none():
    """Its program is Python, which executes nothing."""
    machine = Machine()
    write_msr(machine.root_vp, CONFIG, 0x150)
    write_msr(machine.root_vp, COUNT, 1)
    machine.clock.advance(1_000_000)
    assert machine.clock.run_due() == 0


def test_cpuid_offers_it():
    assert CpuidTable(CHILD_PRIVILEGES).lookup(0x40000003, 0)[3] & HvFeatures.SYNTHETIC_TIME_UNHALTED_TIMER


def test_the_layout_of_the_assist_page():
    assert HvVpAssist.SIZE == 624
    offsets = [HvVpAssist.offset_of(name) for name in (
        "vtl_control", "nested_enlightenments_control", "enlighten_vm_entry", "current_nested_vmcs",
        "synthetic_time_unhalted_timer_expired", "virtualization_fault_information", "intercept_message",
        "vtl_return_actions")]
    assert offsets == [8, 32, 40, 48, 56, 64, 112, 368]
