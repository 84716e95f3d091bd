"""HV_RESET and HV_GUEST_IDLE: what is as it was, what stays, who is told, what wakes. TLFS "Partition Reset"."""

import pytest

from hv.hypervisor.msrs.registry import read_msr, write_msr
from hv.hypervisor.partitions.cpuid_results import CpuidResult
from hv.hypervisor.partitions.reset import reset
from hv.hypervisor.registers.register_page import RegisterPage
from hv.hypervisor.synic.synic import QueuedMessage
from hv.machine.faults import GuestFault
from hv.machine.idt import Event, EventKind
from hv.spec.intercepts import HvInterceptType
from hv.spec.msrs import HvStimerConfig, HvSynicSint, Msr
from hv.spec.partition import ANY_VP
from hv.spec.synic import HvMessage, HvMessageType, MsrIntercept
from hv.trace.events import PartitionReset, VpHalted
from tests.hypervisor.exit_fakes import new_vp
from tests.hypervisor.fakes import FakeVp, Machine

CHANGED = {
    Msr.HV_GUEST_OS_ID: 1, Msr.HV_HYPERCALL: 0x5003, Msr.HV_REFERENCE_TSC: 0x6001, Msr.HV_VP_ASSIST_PAGE: 0x7001,
    Msr.HV_SCONTROL: 1, Msr.HV_SIMP: 0x8001, Msr.HV_SIEFP: 0x9001, Msr.HV_SINT2: HvSynicSint(vector=0x52).raw,
    Msr.HV_STIMER0_COUNT: 10_000, Msr.HV_STIMER0_CONFIG: HvStimerConfig(enable=1, sintx=2, periodic=1).raw,
    Msr.HV_REENLIGHTENMENT_CONTROL: 0x10061, Msr.HV_TSC_INVARIANT_CONTROL: 1, Msr.HV_TPR: 0x40,
    Msr.APIC_BASE: 0xFEE0_0D00, Msr.HV_STATS_PARTITION_RETAIL_PAGE: 0xA001, Msr.HV_STATS_VP_INTERNAL_PAGE: 0xB001,
    Msr.HV_SYNTH_DEBUG_SEND_BUFFER: 0xC000, Msr.HV_SYNTH_DEBUG_RECEIVE_BUFFER: 0xD000,
    Msr.HV_SYNTH_DEBUG_PENDING_BUFFER: 0xE000, Msr.HV_STIME_UNHALTED_TIMER_CONFIG: 0x150,
    Msr.HV_STIME_UNHALTED_TIMER_COUNT: 1000, Msr.HV_NPIEP_CONFIG: 15,
}


class Bench:
    """A child with two real VPs that run, under a root that listens on SINT0."""

    def __init__(self, told=()):
        self.machine = Machine()
        hypervisor = self.machine.hypervisor
        hypervisor.vp_factory = lambda partition, index: (FakeVp(partition, index) if partition.is_root
                                                          else new_vp(hypervisor, partition, index))
        root = self.machine.root_vp
        for msr, value in ((Msr.HV_SCONTROL, 1), (Msr.HV_SIMP, 0x3001), (Msr.HV_SINT0, 0x52)):
            write_msr(root, msr, value)
        self.child = self.machine.child(vps=2)
        for msr in told:
            self.child.intercepts.install(HvInterceptType.MSR, msr, 3)
        self.vp, self.other = self.child.vps[0], self.child.vps[1]
        for vp in (self.vp, self.other):
            vp.explicit_suspend = vp.wait_for_sipi = False

    def write(self, msr, value):
        """WRMSR and what comes behind it."""
        write_msr(self.vp, msr, value)
        return not self.vp.event_pending or self.vp.deliver_pending()

    @property
    def message(self):
        return HvMessage.parse(self.machine.root.space.read(0x3000, 256))


@pytest.fixture
def bench():
    return Bench()


@pytest.mark.parametrize("msr", CHANGED, ids=lambda msr: msr.name)
def test_a_reset_gives_each_register_its_first_value_back(bench, msr):
    first = read_msr(bench.vp, msr)
    for each, value in CHANGED.items():
        write_msr(bench.vp, each, value)
    assert read_msr(bench.vp, msr) != first
    bench.write(Msr.HV_RESET, 1)
    assert read_msr(bench.vp, msr) == first


def test_a_reset_makes_the_vps_wait_as_new_ones_do(bench):
    bench.vp.regs.rip, bench.vp.regs.msrs[Msr.LSTAR] = 0x1234, 0x5678
    bench.vp.vcpu.tsc = 77
    bench.vp.pending_event, bench.vp.nmi_pending = Event(3, EventKind.EXCEPTION), True
    bench.other.halted = True
    assert bench.write(Msr.HV_RESET, 1) is False            # the run is over
    for vp in (bench.vp, bench.other):
        assert (vp.explicit_suspend, vp.halted, vp.nmi_pending, vp.pending_event) == (True, False, False, None)
        assert (vp.regs.rip, vp.guest_regs.cr0, vp.regs.msrs[Msr.LSTAR]) == (0xFFF0, 0x6000_0010, 0)
        assert vp.tsc_offset == 0
    assert (bench.vp.wait_for_sipi, bench.other.wait_for_sipi) == (False, True)


def test_a_reset_stops_timers_and_drops_messages(bench):
    for each, value in CHANGED.items():
        write_msr(bench.vp, each, value)
    for _ in range(3):
        bench.vp.synic.post(2, QueuedMessage(1, b"x", 7))
    bench.write(Msr.HV_RESET, 1)
    assert bench.machine.clock.next_deadline() is None
    assert not any(bench.vp.synic.queues)
    assert not bench.child.space.inspect()["overlays"]


def test_time_crash_parameters_and_memory_survive_a_reset(bench):
    bench.child.space.write(0x2000, b"kept")
    write_msr(bench.vp, Msr.HV_CRASH_P2, 99)
    bench.machine.clock.advance(20_000)
    bench.write(Msr.HV_RESET, 1)
    assert (read_msr(bench.vp, Msr.HV_CRASH_P2), read_msr(bench.vp, Msr.HV_TIME_REF_COUNT)) == (99, 100)
    assert bench.child.space.read(0x2000, 4) == b"kept"


def test_x87_and_xmm_are_as_after_power_up(bench):
    first = bench.vp.regs.fp.save()
    bench.vp.regs.fp.control, bench.vp.regs.fp.mxcsr, bench.vp.regs.fp.tag = 0x37F, 0x1FC0, 0x81
    bench.vp.regs.fp.set_xmm(7, bytes(range(16)))
    bench.vp.regs.fp.set_st(0, bytes(range(10)))
    bench.write(Msr.HV_RESET, 1)
    assert bench.vp.regs.fp.save() == first


def test_what_the_parent_gave_a_vp_stays(bench):
    """Its register page and its CPUID results."""
    bench.vp.register_page = page = RegisterPage(bench.vp, bench.machine.root, None)
    bench.child.cpuid_results.register((ANY_VP, 0x77, None), CpuidResult((5, 0, 0, 0), (0xFF, 0, 0, 0)))
    bench.write(Msr.HV_RESET, 1)
    assert bench.vp.register_page is page
    assert bench.child.cpuid_results.find(0, 0x77, 0).value[0] == 5


def test_a_reset_is_an_event(bench):
    bench.write(Msr.HV_RESET, 1)
    assert bench.machine.events(PartitionReset) == [PartitionReset(bench.child.id)]


def test_nobody_writes_where_the_guest_before_the_reset_listened(bench):
    """The pending page of its debugger is memory like any other to the guest that starts now."""
    write_msr(bench.vp, Msr.HV_SYNTH_DEBUG_PENDING_BUFFER, 0x5000)
    channels = bench.machine.hypervisor.debug_channels
    for partition in (bench.child, bench.machine.root):
        channels.join(partition, 7)
    bench.write(Msr.HV_RESET, 1)
    bench.child.space.write(0x5000, b"\xee")
    channels.end_of(bench.machine.root).send(b"x")
    assert bench.child.space.read(0x5000, 1) == b"\xee"


def test_a_reset_can_be_done_again_and_again(bench):
    used = bench.child.pool.in_use
    for _ in range(3):
        for each, value in CHANGED.items():
            write_msr(bench.vp, each, value)
        reset(bench.child)
    assert bench.child.pool.in_use == used


@pytest.mark.parametrize("value", [2, 1 << 31, 1 << 63, 3])
def test_a_reserved_bit_of_reset_is_refused(bench, value):
    with pytest.raises(GuestFault):
        write_msr(bench.vp, Msr.HV_RESET, value)
    assert not bench.vp.explicit_suspend


def test_writing_0_resets_nothing_and_it_reads_0(bench):
    assert bench.write(Msr.HV_RESET, 0) is True
    assert read_msr(bench.vp, Msr.HV_RESET) == 0


def test_root_does_not_reset_itself(bench):
    with pytest.raises(GuestFault):
        write_msr(bench.machine.root_vp, Msr.HV_RESET, 1)


@pytest.mark.parametrize(("msr", "value", "suspended"), [
    (Msr.HV_RESET, 1, True), (Msr.HV_CRASH_CTL, 1 << 63, False)], ids=["reset", "crash"])
def test_a_parent_that_asked_gets_a_message_and_the_vp_waits(msr, value, suspended):
    bench = Bench(told=[msr])
    bench.vp.regs.rax, bench.vp.regs.rdx, bench.vp.regs.rip = value & 0xFFFF_FFFF, value >> 32, 0x4444
    assert bench.write(msr, value) is False
    message = bench.message
    intercept = MsrIntercept.parse(message.payload)
    assert (message.header.message_type, message.header.sender) == (HvMessageType.X64_MSR_INTERCEPT, bench.child.id)
    assert (intercept.msr_number, intercept.header.access_type, intercept.header.rip) == (msr, 1, 0x4444)
    assert intercept.rdx << 32 | intercept.rax == value
    assert (bench.vp.intercept_suspend, bench.vp.explicit_suspend) == (True, suspended)


@pytest.mark.parametrize("msr", [Msr.HV_RESET, Msr.HV_CRASH_CTL])
def test_a_parent_that_did_not_ask_gets_none(bench, msr):
    bench.write(msr, 1 if msr is Msr.HV_RESET else 1 << 63)
    assert bench.message.header.message_type == 0
    assert not bench.vp.intercept_suspend


def test_a_crash_that_is_not_to_be_notified_is_no_message():
    bench = Bench(told=[Msr.HV_CRASH_CTL])
    assert bench.write(Msr.HV_CRASH_CTL, 1 << 62) is True
    assert bench.message.header.message_type == 0


# --- idle -----------------------------------------------------------------------------------------------------------

def test_an_idle_vp_ends_its_run_and_wakes_whatever_if_says(bench):
    """TLFS "Guest Idle": until an interrupt is pending, which IF need not let through."""
    bench.vp.regs.rflags = 2
    assert read_msr(bench.vp, Msr.HV_GUEST_IDLE) == 0
    assert bench.vp.deliver_pending() is False
    assert (bench.vp.runnable, bench.vp.asleep_for_good) == (False, False)
    assert bench.machine.events(VpHalted)
    bench.vp.apic.write(0xF0, 0x1FF)
    bench.vp.apic.accept(0x61)
    assert bench.vp.runnable
    bench.vp.run(0)
    assert (bench.vp.vcpu.injected, bench.vp.idles, bench.vp.vcpu.window) == ([], False, True)


def test_an_idle_vp_does_not_wait_for_what_is_pending_already(bench):
    bench.vp.regs.rflags = 2
    bench.vp.apic.write(0xF0, 0x1FF)
    bench.vp.apic.accept(0x61)
    read_msr(bench.vp, Msr.HV_GUEST_IDLE)
    assert (bench.vp.halted, bench.vp.leaving) == (False, None)


def test_an_interrupt_below_the_task_priority_wakes_nobody(bench):
    bench.vp.apic.write(0xF0, 0x1FF)
    bench.vp.apic.set_tpr(0x70)
    bench.vp.apic.accept(0x61)
    read_msr(bench.vp, Msr.HV_GUEST_IDLE)
    assert not bench.vp.runnable


def test_a_later_hlt_is_none_that_an_interrupt_wakes_with_if_clear(bench):
    bench.vp.regs.rflags = 2
    read_msr(bench.vp, Msr.HV_GUEST_IDLE)
    bench.vp.apic.write(0xF0, 0x1FF)
    bench.vp.apic.accept(0x61)
    bench.vp.run(0)
    bench.vp.halted = True
    assert not bench.vp.runnable


def test_idle_is_read_only(bench):
    with pytest.raises(GuestFault):
        write_msr(bench.vp, Msr.HV_GUEST_IDLE, 0)


@pytest.mark.parametrize("msr", [Msr.HV_POWER_STATE_TRIGGER_C1, Msr.HV_POWER_STATE_CONFIG_C1])
def test_a_child_manages_no_processor(bench, msr):
    with pytest.raises(GuestFault):
        read_msr(bench.vp, msr)
