"""Activity states, INIT, SIPI, and physical interrupts in each of them.

SDM "Guest Non-Register State", "Other Causes of VM Exits".
"""

import pytest

from hv.spec.exits import InterruptionInfo
from hv.spec.vmcs import ActivityState, ExitControls, PinControls, PrimaryControls
from tests.proves import proves
from tests.vmx.event_box import CODE, HANDLERS, F, R, T, control, frame, info, put, reasons
from tests.vmx.vcpu_box import vector_at

HLT, SHUTDOWN, WAIT = ActivityState.HLT, ActivityState.SHUTDOWN, ActivityState.WAIT_FOR_SIPI
NO_PIN, NO_EXIT, NO_PRIMARY = PinControls(0), ExitControls(0), PrimaryControls(0)
IF = 0x200


def activity(vcpu) -> int:
    return vcpu.vmcs.read(F.GUEST_ACTIVITY_STATE)


def interrupts(vcpu, *vectors: int) -> list[int]:
    """A controller in which *vectors* wait; what is left of them."""
    waiting = list(vectors)
    vcpu.interrupt_waits = lambda: bool(waiting)
    vcpu.external_interrupt = lambda: waiting.pop(0) if waiting else None
    return waiting


def in_state(box, state: int, rflags: int = 2 | IF, source: str = "inc ecx; hlt"):
    vcpu = box.vcpu()
    vcpu.state.rflags, vcpu.state.rcx = rflags, 0
    box.put(source)
    put(vcpu, GUEST_ACTIVITY_STATE=state)
    return vcpu


# --- sleeping --------------------------------------------------------------------------------------------------

@proves("event/HLT", "event/SHUTDOWN", "event/WAIT_FOR_SIPI", "capability/VmxMisc.activity_hlt",
        "capability/VmxMisc.activity_shutdown", "capability/VmxMisc.activity_wait_for_sipi")
@pytest.mark.parametrize("state", [HLT, SHUTDOWN, WAIT])
def test_entry_into_a_state_that_executes_nothing_sleeps(box, state):
    """Time jumps to the end of the run, and no instruction is executed."""
    vcpu = in_state(box, state)
    start = box.clock.tsc
    box.go(vcpu, 5000)
    assert (reasons(box), vcpu.state.rip, activity(vcpu)) == ([], CODE, state)
    assert box.clock.tsc == start + 5000


def test_sleep_ends_with_the_machines_next_timer(box):
    vcpu = in_state(box, HLT)
    due = box.clock.tsc + 700
    box.clock.at(due, lambda: None)
    box.go(vcpu, 5000)
    assert box.clock.tsc == due


@proves("event/ACTIVE")
@pytest.mark.parametrize(("state", "kind", "vector"), [
    (HLT, T.EXTERNAL_INTERRUPT, 0x21), (HLT, T.NMI, 2), (HLT, T.HARDWARE_EXCEPTION, 1), (HLT, T.HARDWARE_EXCEPTION, 18),
    (SHUTDOWN, T.NMI, 2), (SHUTDOWN, T.HARDWARE_EXCEPTION, 18)])
def test_an_injected_event_makes_it_active(box, state, kind, vector):
    vcpu = in_state(box, state)
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(vector, kind))
    box.go(vcpu)
    assert (vector_at(vcpu), activity(vcpu), frame(box, vcpu, "64", 1)) == (vector, 0, [CODE])


def test_an_injected_monitor_trap_leaves_it_asleep(box):
    vcpu = in_state(box, HLT)
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=info(0, T.OTHER_EVENT))
    box.go(vcpu)
    assert (reasons(box), activity(vcpu)) == ([R.MONITOR_TRAP_FLAG], HLT)


# --- HLT -------------------------------------------------------------------------------------------------------

@proves("control/PrimaryControls.HLT_EXITING", "instruction/HLT")
def test_hlt_without_its_control_halts_behind_itself(box):
    vcpu = box.vcpu()
    control(vcpu, NO_PRIMARY, PrimaryControls.HLT_EXITING)
    box.put("nop; hlt; inc ecx")
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip, activity(vcpu)) == ([], CODE + 2, HLT)


@pytest.mark.parametrize("flags", ["cli", "sti"])
def test_an_interrupt_that_exits_finds_the_processor_halted(box, flags):
    """Whatever RFLAGS.IF says; RIP is behind HLT, and the state is saved as it is."""
    vcpu = box.vcpu()
    control(vcpu, NO_PRIMARY, PrimaryControls.HLT_EXITING)
    box.put(f"{flags}; hlt; inc ecx")
    box.go(vcpu)
    interrupts(vcpu, 0x51)
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip, activity(vcpu)) == ([R.EXTERNAL_INTERRUPT], CODE + 2, HLT)


def test_an_interrupt_of_the_guests_own_wakes_it_and_returns_behind_hlt(box):
    """A timer of the machine raises it while the guest sleeps."""
    vcpu = box.vcpu()
    control(vcpu, NO_PRIMARY, PrimaryControls.HLT_EXITING)
    control(vcpu, NO_PIN, PinControls.EXTERNAL_INTERRUPT_EXITING, F.PIN_BASED_CONTROLS)
    waiting = interrupts(vcpu)
    box.memory.write(HANDLERS + 16 * 0x51, b"\xff\xc3\x48\xcf")
    vcpu.state.rbx = vcpu.state.rcx = 0
    box.put("sti; hlt; inc ecx; cpuid")
    box.clock.at(box.clock.tsc + 3000, lambda: waiting.append(0x51))
    end = box.clock.tsc + 20_000
    while not box.exits and box.clock.tsc < end:
        vcpu.run(end)
        box.clock.run_due()
    assert (reasons(box), vcpu.state.rbx, vcpu.state.rcx) == ([R.CPUID], 1, 1)


def test_a_halted_guest_that_is_deaf_to_interrupts_sleeps_on(box):
    vcpu = in_state(box, HLT, rflags=2)
    control(vcpu, NO_PIN, PinControls.EXTERNAL_INTERRUPT_EXITING, F.PIN_BASED_CONTROLS)
    waiting = interrupts(vcpu, 0x51)
    box.go(vcpu)
    assert (reasons(box), activity(vcpu), waiting) == ([], HLT, [0x51])


def test_windows_wake_a_halted_processor_and_leave_it_halted(box):
    vcpu = in_state(box, HLT)
    control(vcpu, PrimaryControls.INTERRUPT_WINDOW_EXITING)
    box.go(vcpu)
    assert (reasons(box), activity(vcpu)) == ([R.INTERRUPT_WINDOW], HLT)
    box.exits.clear()
    for state in (HLT, SHUTDOWN):
        vcpu = in_state(box, state)
        control(vcpu, PinControls.VIRTUAL_NMIS)
        control(vcpu, PrimaryControls.NMI_WINDOW_EXITING)
        box.go(vcpu)
        assert activity(vcpu) == state
    assert reasons(box) == [R.NMI_WINDOW, R.NMI_WINDOW]


@pytest.mark.parametrize("state", [SHUTDOWN, WAIT])
def test_shutdown_and_wait_for_sipi_open_no_interrupt_window(box, state):
    vcpu = in_state(box, state)
    control(vcpu, PrimaryControls.INTERRUPT_WINDOW_EXITING)
    box.go(vcpu)
    assert reasons(box) == []


# --- signals ---------------------------------------------------------------------------------------------------

@proves("exit/INIT_SIGNAL")
@pytest.mark.parametrize("state", [0, HLT, SHUTDOWN])
def test_init_exits_and_changes_nothing(box, state):
    vcpu = in_state(box, state)
    vcpu.signal_init()
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rip, vcpu.state.cr0, activity(vcpu)) == ([R.INIT_SIGNAL], CODE, 0x80010033, state)


def test_init_is_blocked_while_the_processor_waits_for_sipi(box):
    vcpu = in_state(box, WAIT)
    vcpu.signal_init()
    vcpu.signal_nmi()
    interrupts(vcpu, 0x51)
    box.go(vcpu)
    assert reasons(box) == []
    put(vcpu, GUEST_ACTIVITY_STATE=0)
    box.handle = lambda exit: exit.reason is not R.HLT
    box.go(vcpu)
    assert reasons(box)[:3] == [R.INIT_SIGNAL, R.EXCEPTION_OR_NMI, R.EXTERNAL_INTERRUPT]     # in order of priority


@proves("exit/SIPI")
def test_sipi_exits_with_its_vector_where_it_is_waited_for_and_is_dropped_elsewhere(box):
    vcpu = in_state(box, 0, source="hlt")
    vcpu.signal_sipi(0x12)
    box.go(vcpu)
    assert reasons(box) == [R.HLT]
    put(vcpu, GUEST_ACTIVITY_STATE=WAIT)
    box.go(vcpu)
    vcpu.signal_sipi(0x9A)
    box.go(vcpu)
    assert (reasons(box)[1:], box.exits[1].qualification, activity(vcpu)) == ([R.SIPI], 0x9A, WAIT)
    assert vcpu.state.cr0 == 0x80010033


@pytest.mark.parametrize("state", [SHUTDOWN, WAIT])
def test_an_interrupt_does_not_reach_a_processor_that_is_shut_down(box, state):
    """SDM "Other Causes of VM Exits": external interrupts are blocked there, and no VM exit occurs."""
    vcpu = in_state(box, state)
    waiting = interrupts(vcpu, 0x51)
    box.go(vcpu)
    assert (reasons(box), waiting) == ([], [0x51])


def test_an_nmi_ends_shutdown(box):
    vcpu = in_state(box, SHUTDOWN)
    vcpu.signal_nmi()
    box.go(vcpu)
    assert (reasons(box), activity(vcpu)) == ([R.EXCEPTION_OR_NMI], SHUTDOWN)
    control(vcpu, NO_PIN, PinControls.NMI_EXITING | PinControls.VIRTUAL_NMIS, F.PIN_BASED_CONTROLS)
    vcpu.signal_nmi()
    box.go(vcpu)
    assert (vector_at(vcpu), activity(vcpu)) == (2, 0)


# --- external interrupts -----------------------------------------------------------------------------------------

@proves("control/PinControls.EXTERNAL_INTERRUPT_EXITING", "control/ExitControls.ACKNOWLEDGE_INTERRUPT",
        "exit/EXTERNAL_INTERRUPT")
@pytest.mark.parametrize("acknowledges", [True, False])
def test_an_interrupt_is_acknowledged_on_exit_or_stays_in_its_controller(box, acknowledges):
    vcpu = box.vcpu()
    control(vcpu, NO_EXIT, NO_EXIT if acknowledges else ExitControls.ACKNOWLEDGE_INTERRUPT, F.VM_EXIT_CONTROLS)
    waiting = interrupts(vcpu, 0x51)
    box.put("inc ecx; hlt")
    box.go(vcpu)
    found = InterruptionInfo(box.exits[0].interruption_info)
    assert (reasons(box), vcpu.state.rip) == ([R.EXTERNAL_INTERRUPT], CODE)
    assert (found.valid, found.vector) == ((1, 0x51) if acknowledges else (0, 0))
    assert waiting == ([] if acknowledges else [0x51])


def test_an_interrupt_that_nobody_acknowledges_exits_until_the_time_is_over(box):
    vcpu = box.vcpu()
    control(vcpu, NO_EXIT, ExitControls.ACKNOWLEDGE_INTERRUPT, F.VM_EXIT_CONTROLS)
    interrupts(vcpu, 0x51)
    box.handle = lambda exit: True
    box.go(vcpu, 10_000)
    assert set(reasons(box)) == {R.EXTERNAL_INTERRUPT}
    assert len(box.exits) == 10


@pytest.mark.parametrize("source", ["inc ecx; sti; inc ecx; inc ecx; hlt",
                                    "inc ecx; push 0x202; popfq; inc ecx; inc ecx; hlt"], ids=["sti", "popf"])
def test_without_external_interrupt_exiting_the_guests_own_idt_takes_it_when_if_is_set(box, source):
    vcpu = box.vcpu()
    control(vcpu, NO_PIN, PinControls.EXTERNAL_INTERRUPT_EXITING, F.PIN_BASED_CONTROLS)
    waiting = interrupts(vcpu, 0x51)
    vcpu.state.rcx = 0
    box.put(source)
    box.go(vcpu)
    assert (reasons(box), vector_at(vcpu), waiting) == ([R.HLT], 0x51, [])
    assert vcpu.state.rcx == (2 if "sti" in source else 1)


def test_one_that_comes_while_the_guest_runs_stops_it(box):
    """As the processor's APIC does: it takes the limits away."""
    vcpu = box.vcpu()
    control(vcpu, NO_PIN, PinControls.EXTERNAL_INTERRUPT_EXITING, F.PIN_BASED_CONTROLS)
    waiting = interrupts(vcpu)

    def handle(exit):
        if exit.reason is R.CPUID:
            vcpu.state.complete_instruction(2)
            waiting.append(0x51)
            box.counter.limit = box.counter.deadline = 0
            return True
        return False

    box.handle = handle
    vcpu.state.rcx = 0
    box.put("sti; nop; cpuid; inc ecx; inc ecx; hlt")
    box.go(vcpu)
    assert (vector_at(vcpu), vcpu.state.rcx) == (0x51, 0)


@pytest.mark.parametrize("blocking", [1, 2])
def test_blocking_holds_an_exit_for_an_interrupt_for_one_instruction(box, blocking):
    vcpu = box.vcpu()
    vcpu.state.rflags, vcpu.state.rcx = 2 | IF, 0
    interrupts(vcpu, 0x51)
    box.put("inc ecx; inc ecx; hlt")
    put(vcpu, GUEST_INTERRUPTIBILITY_STATE=blocking)
    box.go(vcpu)
    assert (reasons(box), vcpu.state.rcx) == ([R.EXTERNAL_INTERRUPT], 1)


def test_stepping_takes_what_is_due_as_a_step_of_its_own(box):
    vcpu = box.vcpu()
    control(vcpu, NO_PIN, PinControls.NMI_EXITING | PinControls.VIRTUAL_NMIS, F.PIN_BASED_CONTROLS)
    box.put("nop; nop; hlt")
    vcpu.signal_nmi()
    assert vcpu.step() is False
    assert (vcpu.state.rip, vector_at(vcpu)) == (HANDLERS + 32, 2)
    assert vcpu.step() is True
    assert reasons(box) == [R.HLT]
