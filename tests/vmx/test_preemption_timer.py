"""The VMX-preemption timer; SDM "VMX-Preemption Timer"."""

import pytest

from hv.machine.clock import EXIT_TICKS
from hv.spec.ept import Eptp
from hv.spec.vmcs import (
    ActivityState,
    ExitControls,
    Interruptibility,
    PendingDebugExceptions,
    PinControls,
    SecondaryControls,
)
from hv.vmx.events.preemption_timer import SHIFT
from tests.proves import proves
from tests.vmx.event_box import CODE, F, R, control, put, reasons
from tests.vmx.test_vm_functions import VMFUNC, switching
from tests.vmx.vcpu_box import vector_at

TIMER, SAVE = PinControls.ACTIVATE_PREEMPTION_TIMER, ExitControls.SAVE_PREEMPTION_TIMER
SPIN = "again: inc ecx; jmp again"


def timed(box, value: int, source: str = SPIN, bits: int = 64, save: bool = False):
    vcpu = box.vcpu(bits)
    vcpu.state.rcx = 0
    box.put(source, bits)
    control(vcpu, TIMER)
    if save:
        control(vcpu, SAVE)
    put(vcpu, VMX_PREEMPTION_TIMER_VALUE=value)
    return vcpu


@proves("control/PinControls.ACTIVATE_PREEMPTION_TIMER", "exit/PREEMPTION_TIMER_EXPIRED",
        "capability/VmxMisc.preemption_timer_shift")
@pytest.mark.parametrize("value", [1, 7, 100])
def test_it_exits_when_the_counter_has_passed_so_many_units(box, value):
    """A unit is a change of bit X of the TSC, so the first one may be short."""
    vcpu = timed(box, value)
    start = box.clock.tsc
    box.go(vcpu)
    assert reasons(box) == [R.PREEMPTION_TIMER_EXPIRED]
    assert (box.clock.tsc - EXIT_TICKS) == (start >> SHIFT) + value << SHIFT
    assert 0 < vcpu.state.rcx <= value << SHIFT


def test_zero_exits_before_the_first_instruction(box):
    vcpu = timed(box, 0)
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip, vcpu.state.rcx) == ([R.PREEMPTION_TIMER_EXPIRED], CODE, 0)


def test_a_debug_exception_that_pends_goes_first(box):
    vcpu = timed(box, 0)
    put(vcpu, GUEST_PENDING_DEBUG_EXCEPTIONS=PendingDebugExceptions(bs=1).raw)
    box.go(vcpu)
    assert (reasons(box), vector_at(vcpu)) == ([R.PREEMPTION_TIMER_EXPIRED], 1)


@pytest.mark.parametrize("blocking", [Interruptibility.BLOCKING_BY_MOV_SS, Interruptibility.BLOCKING_BY_NMI])
def test_no_blocking_holds_it(box, blocking):
    vcpu = timed(box, 0)
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=blocking)
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip) == ([R.PREEMPTION_TIMER_EXPIRED], CODE)
    assert vcpu.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == blocking


def test_each_entry_loads_it_again(box):
    """Exits come more often than it expires, so it never does; and RDTSC, which does not exit, lets it run."""
    vcpu = timed(box, (EXIT_TICKS >> SHIFT) * 3, "mov ecx, 20; again: cpuid; loop again; more: rdtsc; jmp more")
    vcpu.vmcs.write(F.PRIMARY_PROC_CONTROLS, vcpu.vmcs.read(F.PRIMARY_PROC_CONTROLS))

    def handle(exit):
        vcpu.state.complete_instruction(exit.instruction_length)
        return exit.reason is R.CPUID

    box.handle = handle
    box.go(vcpu)
    assert reasons(box) == [R.CPUID] * 20 + [R.PREEMPTION_TIMER_EXPIRED]


@proves("control/ExitControls.SAVE_PREEMPTION_TIMER")
@pytest.mark.parametrize("save", [False, True])
def test_an_exit_saves_what_is_left_when_it_is_asked_to(box, save):
    vcpu = timed(box, 1000, "nop; cpuid; hlt", save=save)
    start = box.clock.tsc
    box.go(vcpu)
    units = (box.clock.tsc - EXIT_TICKS >> SHIFT) - (start >> SHIFT)
    assert reasons(box) == [R.CPUID]
    assert vcpu.vmcs.read(F.VMX_PREEMPTION_TIMER_VALUE) == (1000 - units if save else 1000)


def test_a_timer_that_expired_saves_zero(box):
    vcpu = timed(box, 5, save=True)
    box.go(vcpu)
    assert vcpu.vmcs.read(F.VMX_PREEMPTION_TIMER_VALUE) == 0


def test_the_largest_value_is_no_error(box):
    vcpu = timed(box, 0xFFFF_FFFF, "nop; hlt")
    box.go(vcpu)
    assert reasons(box) == [R.HLT]


def test_the_budget_of_a_run_is_no_vm_exit(box):
    """The timer goes on where it was when the guest runs on."""
    vcpu = timed(box, 1000)
    start = box.clock.tsc
    while not box.exits:
        box.go(vcpu, 500)
    assert box.clock.tsc - EXIT_TICKS == (start >> SHIFT) + 1000 << SHIFT


@pytest.mark.parametrize("activity", [ActivityState.HLT, ActivityState.SHUTDOWN])
def test_it_runs_while_the_processor_sleeps_and_the_exit_leaves_it_asleep(box, activity):
    vcpu = timed(box, 100)
    put(vcpu, GUEST_ACTIVITY_STATE=activity)
    start = box.clock.tsc
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip) == ([R.PREEMPTION_TIMER_EXPIRED], CODE)
    assert box.clock.tsc - EXIT_TICKS == (start >> SHIFT) + 100 << SHIFT
    assert vcpu.vmcs.read(F.GUEST_ACTIVITY_STATE) == activity


def test_a_processor_that_waits_for_sipi_does_not_see_it(box):
    vcpu = timed(box, 1)
    put(vcpu, GUEST_ACTIVITY_STATE=ActivityState.WAIT_FOR_SIPI)
    box.go(vcpu)
    assert reasons(box) == []


def test_without_the_control_the_field_means_nothing(box):
    vcpu = timed(box, 0, "nop; hlt")
    control(vcpu, PinControls(0), TIMER, F.PIN_BASED_CONTROLS)
    box.go(vcpu)
    assert (reasons(box), vcpu.watchful) == ([R.HLT], False)


def switches_views(box):
    return switching(box, f"again: {VMFUNC}; jmp again", rcx=0)


def dirties_pages(box):
    vcpu = box.vcpu()
    box.put("again: mov [rbx], rax; add rbx, 0x1000; mov ecx, 200; wait: dec ecx; jnz wait; jmp again")
    vcpu.state.rbx = 0x80000
    put(vcpu, EPT_POINTER=box.ept.eptp.raw | Eptp(accessed_dirty=1).raw, PML_ADDRESS=0x72000, PML_INDEX=511)
    control(vcpu, SecondaryControls.ENABLE_PML, field=F.SECONDARY_PROC_CONTROLS)
    return vcpu


@proves("control/PinControls.ACTIVATE_PREEMPTION_TIMER", "instruction/VMFUNC", "control/SecondaryControls.ENABLE_PML")
@pytest.mark.parametrize("guest", [switches_views, dirties_pages])
def test_what_the_processor_writes_to_the_vmcs_is_no_vm_entry(box, guest):
    """EPTP switching and page-modification logging change fields, and the guest goes on: the timer goes on too."""
    vcpu = guest(box)
    control(vcpu, TIMER)
    put(vcpu, VMX_PREEMPTION_TIMER_VALUE=50)
    start = box.clock.tsc
    box.go(vcpu)
    assert reasons(box) == [R.PREEMPTION_TIMER_EXPIRED]
    assert box.clock.tsc - EXIT_TICKS == (start >> SHIFT) + 50 << SHIFT
