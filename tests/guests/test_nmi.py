"""The NMI and its latch, as a guest meets them; SDM "Nonmaskable Interrupt (NMI)", "Handling Multiple NMIs"."""

import pytest

from hv.hypervisor.hypervisor import Hypervisor
from tests.guest_runner import run_guest
from tests.guests.test_interrupts import EOI, guest, log_of, mark, xapic_ipi
from tests.guests.test_pc_interrupts import BELL, MASK_PIC, NO_APIC, PcGuest

NMI = xapic_ipi(0, 0x400)
IRETQ = b"\x48\xcf"


@pytest.fixture(autouse=True, params=[pytest.param(True, id="virtualized"), pytest.param(False, id="by-exits")])
def virtualized(request, monkeypatch):
    monkeypatch.setattr(Hypervisor, "apic_virtualization", request.param)


def log(body, handlers):
    return log_of(run_guest(guest(f"xor r13d, r13d; {body}; {mark('.')}", handlers)))


def test_it_is_taken_before_the_next_instruction():
    body = f"xor r12d, r12d; {NMI}; inc r12; inc r12; {mark('.')}"
    result = run_guest(guest(body, {2: f"mov r13, r12; {mark('N')}"}))
    assert (log_of(result), result.r13) == ("N.", 0)


def test_those_that_come_during_its_handler_are_one():
    handler = f"{mark('N')}; inc r13d; cmp r13d, 1; jne out_; {NMI}; {NMI}; {NMI}; {mark('-')}; out_:"
    assert log(f"{NMI}; nop", {2: handler}) == "N-N."


def test_the_next_one_comes_right_behind_its_iret():
    """No instruction of the interrupted program in between."""
    handler = f"{mark('N')}; mov r15, r12; inc r13d; cmp r13d, 1; jne out_; {NMI}; out_:"
    result = run_guest(guest(f"xor r13d, r13d; xor r12d, r12d; {NMI}; inc r12; inc r12; {mark('.')}", {2: handler}))
    assert (log_of(result), result.r15) == ("NN.", 0)


def test_any_iret_unblocks_it_also_that_of_another_handler():
    """An exception inside the handler ends the blocking with its IRET."""
    handler = f"{mark('(')}; inc r13d; cmp r13d, 1; jne out_; {NMI}; ud2; {mark('-')}; out_:; {mark(')')}"
    skip = f"{mark('U')}; add qword ptr [rsp], 2"
    assert log(f"{NMI}; nop", {2: handler, 6: skip}) == "(U()-)."


def test_an_iret_that_faults_has_unblocked_it():
    """SDM "Handling Multiple NMIs": blocking ends with the execution of IRET, also when that causes a fault."""
    bad = "mov rax, rsp; push 0; push rax; push 2; push 8; mov rcx, 0x800000000000; push rcx"
    handler = f"{mark('N')}; inc r13d; cmp r13d, 1; jne out_; {NMI}; {bad}; iretq; out_:"
    fault = f"{mark('G')}; cli; hlt"
    assert log_of(run_guest(guest(f"xor r13d, r13d; {NMI}; nop", {2: handler, 13: fault}))) == "NNG"


def test_it_wakes_a_processor_that_halts_and_returns_behind_the_halt():
    one = PcGuest(guest(f"{MASK_PIC}; cli; hlt; {mark('.')}; hlt", {2: mark("N")}, NO_APIC), [(4, 0x400)], vps=2)
    assert one.log == ""
    one.vm.worker.motherboard.lines.pulse(4)
    one.machine.scheduler.run(one.machine.clock.tsc + 400_000)
    assert one.log == "N."
    one.machine.close()


def test_it_comes_before_an_interrupt():
    """SDM "Priority Among Concurrent Events": both are raised by one OUT."""
    one = PcGuest(guest(f"{MASK_PIC}; sti; mov al, 0x54; out {BELL.start + 3}, al; nop; {mark('.')}",
                        {2: mark("N"), 0x45: f"{mark('A')}; {EOI}"}, NO_APIC), [(4, 0x400), (5, 0x45)])
    assert one.log == "NA."
    one.machine.close()


def test_it_does_not_come_before_the_iret_that_lets_it_in():
    """The processor looks at IRET before it is done. RIP in the second frame is the interrupted program's, and not that
    of the IRET; behind a device's OUT the VP's turn began anew in between."""
    handler = f"{mark('N')}; inc r13d; cmp r13d, 1; jne second; {NMI}; out 0x80, al; jmp out_; second:; " \
              "mov r15, [rsp]; out_:"
    one = PcGuest(guest(f"xor r13d, r13d; {NMI}; nop; {mark('.')}", {2: handler}))
    assert one.log == "NN."
    assert one.vm.worker.read(one.vm.partition.vps[0].regs.r15, 2) != IRETQ
    one.machine.close()
