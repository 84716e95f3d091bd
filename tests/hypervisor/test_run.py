"""The run loop obeys: one verdict, one effect on RIP, one answer whether the guest is entered again."""

import pytest

from hv.hypervisor import run
from hv.hypervisor.run import inject_exception, obey
from hv.hypervisor.verdicts import ADVANCE, ASK_PARENT, RETRY, YIELD, Advance, Halt, Inject
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.spec.exits import ExitReason
from hv.spec.synic import HvMessageType
from hv.trace.events import Fault, InterceptSent
from hv.vmx.exit import VmExit
from tests.hypervisor.exit_fakes import a_vp


@pytest.fixture
def obeyed(monkeypatch):
    """obeyed(vp, verdict or exception): what `obey` answers when the handler of CPUID decides that."""
    def act(vp, decision, length=2):
        def handler(vp, exit):
            if isinstance(decision, Exception):
                raise decision
            return decision
        handlers = [*run._BY_REASON]
        handlers[ExitReason.CPUID] = handler
        monkeypatch.setattr(run, "_BY_REASON", handlers)
        return obey(vp, VmExit(ExitReason.CPUID, 0, length))
    return act


@pytest.mark.parametrize(("verdict", "again", "moved", "deliveries"), [
    pytest.param(ADVANCE, True, 2, 0, id="advance"),
    pytest.param(Advance(), True, 2, 1, id="advance-made-anew"),
    pytest.param(YIELD, False, 2, 0, id="yield"),
    pytest.param(RETRY, True, 0, 1, id="retry"),
    pytest.param(Inject(13, 0), True, 0, 1, id="inject"),
    pytest.param(ASK_PARENT, False, 0, 0, id="ask-parent"),
    pytest.param(Halt("the end"), False, 0, 0, id="halt"),
])
def test_a_verdict_moves_rip_and_says_whether_to_enter_again(obeyed, verdict, again, moved, deliveries):
    vp = a_vp()
    vp.regs.rip = 0x1000
    assert obeyed(vp, verdict) is again
    assert vp.regs.rip == 0x1000 + moved
    assert vp.deliveries == deliveries
    assert vp.stopped_because == ("the end" if isinstance(verdict, Halt) else "")


def test_an_advance_looks_for_events_when_something_happened(obeyed):
    vp = a_vp()
    vp.event_pending = True
    assert obeyed(vp, ADVANCE) is True
    assert vp.deliveries == 1


def test_a_completed_instruction_ends_the_interrupt_shadow(obeyed):
    vp = a_vp()
    vp.regs.interrupt_shadow = True
    obeyed(vp, ADVANCE)
    assert not vp.regs.interrupt_shadow


def test_yielding_to_an_interrupt_leaves_the_shadow_of_sti(obeyed):
    """Else an interrupt could slip in between STI and HLT."""
    vp = a_vp()
    vp.regs.interrupt_shadow = True
    assert obeyed(vp, YIELD, length=0) is False
    assert vp.regs.interrupt_shadow


def test_a_guests_fault_is_injected_at_its_instruction(obeyed):
    vp = a_vp()
    assert obeyed(vp, GuestFault(14, 2, 0x5000)) is True
    event = vp.vcpu.injected[0]
    assert (event.vector, event.error_code, event.address) == (14, 2, 0x5000)
    assert vp.machine.events(Fault) == [Fault(14, 2, 0x5000)]


def test_memory_that_is_not_there_is_asked_for_wherever_a_handler_meets_it(obeyed):
    vp = a_vp()
    assert obeyed(vp, NestedFault(0x9999_0000, Access.WRITE)) is False
    assert [event.message_type for event in vp.machine.events(InterceptSent)] == [HvMessageType.UNMAPPED_GPA]
    assert vp.intercept_suspend


def test_an_injection_that_ends_the_run_ends_it(obeyed):
    vp = a_vp()
    vp.vcpu.goes_on = False                         # a triple fault on the way
    assert obeyed(vp, Inject(13, 0)) is False
    assert vp.deliveries == 0


def test_exceptions_have_no_error_code_in_real_mode():
    """SDM "Error Code": none is pushed in real-address mode."""
    vp = a_vp()
    vp.regs.cr0 = 0x10
    inject_exception(vp, 13, 0, None)
    assert vp.vcpu.injected[0].error_code is None


def test_an_exit_nobody_expected_is_never_stepped_over():
    vp = a_vp()
    vp.regs.rip = 0x1000
    assert obey(vp, VmExit(ExitReason.GETSEC, 0, 2)) is False
    assert vp.stopped_because == "no handler for exit GETSEC"
    assert vp.regs.rip == 0x1000


def test_every_exit_is_an_event(obeyed):
    vp = a_vp()
    obeyed(vp, ADVANCE)
    assert [exit.reason for exit in vp.machine.events(VmExit)] == [ExitReason.CPUID]


def test_a_bug_of_ours_is_not_the_guests(obeyed):
    with pytest.raises(ZeroDivisionError):
        obeyed(a_vp(), ZeroDivisionError())
