"""A virtual processor: when it may run, what it takes before it goes on, INIT and SIPI."""

import pytest

from hv.machine.idt import Event, EventKind
from hv.spec.apic import Icr
from hv.spec.msrs import HvSynicSint, Msr
from hv.trace.events import Injected, VpEnded
from tests.hypervisor.exit_fakes import new_vp
from tests.hypervisor.fakes import Machine

STI = 0x202


class Bench:
    """A child with *count* real VirtualProcessors on fake vcpus, their APICs connected, let go by the parent."""

    def __init__(self, count=1):
        self.machine = Machine()
        self.woken = []
        hypervisor = self.machine.hypervisor
        hypervisor.on_wake = self.woken.append
        hypervisor.vp_factory = lambda partition, index: new_vp(hypervisor, partition, index)
        self.vps = [vp for _, vp in sorted(self.machine.child(vps=count).vps.items())]
        for vp in self.vps:
            vp.explicit_suspend = False
            vp.regs.rflags = STI
            vp.apic.write(0xF0, 0x1FF)

    def taken(self):
        """(vector, kind) of all injected, in order."""
        return [(event.vector, event.kind) for event in self.machine.events(Injected)]


def a_vp():
    bench = Bench()
    bench.vps[0].bench = bench
    return bench.vps[0]


# --- may it run ---------------------------------------------------------------------------------------------------

def test_a_new_vp_waits_for_its_parents_word():
    bench = Bench()
    vp = new_vp(bench.machine.hypervisor, bench.vps[0].partition, 5)
    assert vp.explicit_suspend
    assert not vp.runnable


@pytest.mark.parametrize("why", ["explicit_suspend", "intercept_suspend", "wait_for_sipi"])
def test_who_is_suspended_does_not_run(why):
    vp = a_vp()
    assert vp.runnable
    setattr(vp, why, True)
    assert not vp.runnable


def test_who_is_stopped_never_runs_again():
    vp = a_vp()
    vp.stop("a reason")
    assert not vp.runnable
    assert vp.bench.machine.events(VpEnded) == [VpEnded("a reason")]


def test_a_halted_vp_wakes_for_an_interrupt_only_while_it_may_take_one():
    """SDM "HLT": an enabled interrupt resumes execution."""
    vp = a_vp()
    vp.halted = True
    assert not vp.runnable
    vp.apic.accept(0x40)
    assert vp.runnable
    vp.regs.rflags = 2
    assert not vp.runnable


def test_a_halted_vp_wakes_for_an_nmi_whatever_if_says():
    vp = a_vp()
    vp.halted, vp.regs.rflags = True, 2
    vp.apic.on_nmi()
    assert vp.runnable


def test_a_halted_vp_wakes_for_what_its_parent_injects():
    vp = a_vp()
    vp.halted, vp.regs.rflags = True, 2
    vp.pending_event = Event(13, EventKind.EXCEPTION, 0)
    assert vp.runnable


@pytest.mark.parametrize(("changes", "expected"), [
    pytest.param({}, False, id="running"),
    pytest.param({"halted": True}, False, id="halted-with-interrupts-on"),
    pytest.param({"halted": True, "if": 0}, True, id="halted-with-interrupts-off"),
    pytest.param({"halted": True, "if": 0, "nmi_pending": True}, False, id="an-nmi-comes"),
    pytest.param({"wait_for_sipi": True}, True, id="never-started"),
    pytest.param({"wait_for_sipi": True, "explicit_suspend": True}, False, id="its-parent-holds-it"),
    pytest.param({"halted": True, "if": 0, "intercept_suspend": True}, False, id="its-parent-works-on-it"),
])
def test_asleep_for_good_is_who_only_another_vp_could_wake(changes, expected):
    vp = a_vp()
    for name, value in changes.items():
        if name == "if":
            vp.regs.rflags = 2
        else:
            setattr(vp, name, value)
    assert vp.asleep_for_good is expected


# --- what it takes before it goes on ------------------------------------------------------------------------------

def test_run_delivers_first_and_counts_its_time():
    vp = a_vp()
    vp.apic.accept(0x40)
    vp.vcpu.on_run = lambda: vp.partition.clock.advance(600)
    vp.run(1000)
    assert vp.bench.taken() == [(0x40, EventKind.EXTERNAL)]
    assert vp.vcpu.ran == [1000]
    assert (vp.runtime, vp.runtime_100ns) == (600, 3)


def test_the_time_it_ran_is_right_while_it_runs_and_without_what_it_slept():
    vp, seen = a_vp(), []

    def run():
        vp.partition.clock.advance(600)
        seen.append(vp.runtime)
        vp.hypervisor.on_halt = lambda vp: vp.partition.clock.advance(5000)
        vp.sleep()
        seen.append(vp.runtime)
        vp.partition.clock.advance(200)
    vp.vcpu.on_run = run
    vp.run(10_000)
    assert (seen, vp.runtime) == ([600, 600], 800)
    vp.partition.clock.advance(1000)
    assert vp.runtime == 800


def test_a_run_ends_when_delivering_ended_it():
    vp = a_vp()
    vp.apic.accept(0x40)
    vp.vcpu.goes_on = False
    vp.run(1000)
    assert vp.vcpu.ran == []


def test_the_order_is_what_the_parent_wants_then_nmi_then_interrupts():
    vp = a_vp()
    vp.apic.accept(0x40)
    vp.apic.on_nmi()
    vp.pending_event = Event(13, EventKind.EXCEPTION, 0)
    assert vp.deliver_pending()
    assert vp.bench.taken() == [(13, EventKind.EXCEPTION), (2, EventKind.NMI), (0x40, EventKind.EXTERNAL)]
    assert vp.pending_event is None
    assert not vp.nmi_pending


def test_of_two_interrupts_the_higher_vector_comes_first_and_the_window_is_asked_for():
    vp = a_vp()
    vp.apic.accept(0x35)
    vp.apic.accept(0x80)
    vp.deliver_pending()
    assert vp.bench.taken() == [(0x80, EventKind.EXTERNAL)]
    assert vp.vcpu.window is False                  # 0x35 waits for the EOI of 0x80, not for a window
    vp.apic.eoi()
    vp.deliver_pending()
    assert vp.bench.taken()[-1] == (0x35, EventKind.EXTERNAL)


@pytest.mark.parametrize(("rflags", "shadow"), [(2, False), (STI, True)], ids=["IF is 0", "behind STI"])
def test_an_interrupt_that_may_not_come_yet_asks_for_the_window(rflags, shadow):
    """SDM "Interrupt-Window Exiting"."""
    vp = a_vp()
    vp.regs.rflags, vp.regs.interrupt_shadow = rflags, shadow
    vp.apic.accept(0x40)
    vp.deliver_pending()
    assert vp.bench.taken() == []
    assert vp.vcpu.window is True
    vp.regs.rflags, vp.regs.interrupt_shadow = STI, False
    vp.deliver_pending()
    assert vp.bench.taken() == [(0x40, EventKind.EXTERNAL)]
    assert vp.vcpu.window is False


def test_an_nmi_behind_mov_ss_waits_for_its_window():
    vp = a_vp()
    vp.regs.interrupt_shadow = True
    vp.apic.on_nmi()
    vp.deliver_pending()
    assert (vp.bench.taken(), vp.vcpu.nmi_window) == ([], True)
    vp.regs.interrupt_shadow = False
    vp.deliver_pending()
    assert (vp.bench.taken(), vp.vcpu.nmi_window) == ([(2, EventKind.NMI)], False)


def test_a_second_nmi_waits_for_the_iret_of_the_first():
    """SDM "Handling Multiple NMIs"."""
    vp = a_vp()
    for _ in range(2):
        vp.apic.on_nmi()
        vp.deliver_pending()
    assert (len(vp.bench.taken()), vp.nmi_pending, vp.vcpu.nmi_window) == (1, True, True)
    vp.halted = True
    assert not vp.runnable                          # HLT in the handler does not end for it
    vp.vcpu.nmi_blocked = False
    vp.deliver_pending()
    assert (len(vp.bench.taken()), vp.nmi_pending, vp.vcpu.nmi_window) == (2, False, False)


def test_a_debug_exception_that_pends_is_not_lost_to_an_interrupt():
    """SDM "Delivery of Pending Debug Exceptions after VM Entry": an injection would discard it."""
    vp = a_vp()
    vp.apic.accept(0x40)
    vp.owe_single_step()
    vp.deliver_pending()
    assert (vp.bench.taken(), vp.vcpu.window) == ([], True)
    vp.vcpu.debug_pends = False
    vp.deliver_pending()
    assert vp.bench.taken() == [(0x40, EventKind.EXTERNAL)]


def test_the_task_priority_holds_interrupts_back_without_a_window():
    """SDM "Task and Processor Priorities": TPR class 4 masks vectors up to 0x4F."""
    vp = a_vp()
    vp.apic.cr8 = 4
    vp.apic.accept(0x4F)
    vp.deliver_pending()
    assert (vp.bench.taken(), vp.vcpu.window) == ([], False)
    vp.apic.cr8 = 3
    assert vp.event_pending
    vp.deliver_pending()
    assert vp.bench.taken() == [(0x4F, EventKind.EXTERNAL)]


def test_an_auto_eoi_interrupt_is_ended_as_it_is_taken():
    """TLFS "SINTx Registers", AutoEOI."""
    vp = a_vp()
    vp.synic.write_msr(Msr.HV_SINT2, HvSynicSint(vector=0x40, auto_eoi=1).raw)
    vp.apic.accept(0x40)
    vp.deliver_pending()
    assert vp.apic.isr == 0
    vp.apic.accept(0x41)
    vp.deliver_pending()
    assert vp.apic.isr == 1 << 0x41


def test_a_kick_is_heard_by_the_scheduler():
    vp = a_vp()
    vp.bench.woken.clear()
    vp.apic.accept(0x40)
    assert vp in vp.bench.woken
    assert vp.event_pending


# --- INIT and SIPI ------------------------------------------------------------------------------------------------

def test_only_vp_0_starts_by_itself():
    assert [vp.wait_for_sipi for vp in Bench(3).vps] == [False, True, True]


def test_init_then_sipi_starts_a_vp_in_real_mode_at_the_page():
    """SDM "MP Initialization Protocol"."""
    first, second = Bench(2).vps
    second.regs.rax, second.halted, second.nmi_pending = 7, True, True
    second.apic.accept(0x40)
    first.apic.send(Icr(delivery_mode=5, level=1, shorthand=3))
    assert second.wait_for_sipi
    assert not second.runnable
    assert (second.regs.rax, second.halted, second.nmi_pending, second.apic.irr) == (0, False, False, 0)
    first.apic.send(Icr(delivery_mode=6, level=1, shorthand=3, vector=0x08))
    assert second.runnable
    assert (second.regs.cs.selector, second.regs.cs.base, second.regs.rip, second.regs.cr0 & 1) == (0x800, 0x8000, 0, 0)
    assert second.vcpu.state_written                # VM entry checks what was written


def test_a_second_sipi_is_ignored():
    first, second = Bench(2).vps
    first.apic.send(Icr(delivery_mode=6, level=1, shorthand=3, vector=0x08))
    second.regs.rip = 0x1234
    first.apic.send(Icr(delivery_mode=6, level=1, shorthand=3, vector=0x09))
    assert (second.regs.rip, second.regs.cs.base) == (0x1234, 0x8000)


def test_init_of_the_first_processor_starts_it_again():
    vp = a_vp()
    vp.regs.rip = 0x1234
    vp.apic.on_init()
    assert vp.runnable
    assert (vp.regs.rip, vp.regs.cs.base) == (0xFFF0, 0xFFFF_0000)


def test_init_that_a_processor_sends_itself_waits_for_the_end_of_the_instruction():
    vp = a_vp()

    def instruction():
        vp.apic.on_init()
        vp.regs.complete_instruction(3)
        assert vp.deliver_pending() is False        # the run ends here
    vp.vcpu.on_run = instruction
    vp.regs.rip = 0x1000
    vp.run(1000)
    assert vp.regs.rip == 0xFFF0


def test_a_second_processor_that_inits_itself_waits_for_sipi():
    vp = Bench(2).vps[1]
    vp.wait_for_sipi = False
    vp.vcpu.on_run = lambda: (vp.apic.on_init(), vp.deliver_pending())
    vp.run(1000)
    assert vp.wait_for_sipi
    assert not vp.runnable


def test_inspect_is_plain_data():
    shown = a_vp().inspect()
    assert (shown["index"], shown["runnable"], shown["apic"]["id"]) == (0, True, 0)
