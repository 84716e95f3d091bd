"""An interrupt that becomes deliverable is taken at the next instruction boundary, whatever made it so.

Each guest does one thing that lets vector 0x41 through, and then counts instructions until its handler looks. SDM
"Interrupt Acceptance for Fixed Interrupts", "Priority Among Concurrent Events".
"""

import pytest

from hv.hypervisor.hypervisor import Hypervisor
from hv.spec.msrs import Msr
from tests.guest_runner import run_guest
from tests.guests.test_interrupts import (
    EOI,
    X2APIC_EOI,
    X2APIC_ON,
    XAPIC_ON,
    guest,
    log_of,
    mark,
    x2apic_ipi,
    xapic_ipi,
)
from tests.guests.test_pc_interrupts import BELL, HIGH_DIRECTORY, MASK_PIC, NO_APIC, PcGuest, ring

COUNT = "inc r12; " * 4
XAPIC, X2APIC = (XAPIC_ON, EOI), (X2APIC_ON, X2APIC_EOI)


@pytest.fixture(autouse=True, params=[pytest.param(True, id="virtualized"), pytest.param(False, id="by-exits")])
def virtualized(request, monkeypatch):
    monkeypatch.setattr(Hypervisor, "apic_virtualization", request.param)


def wrmsr(index, value=0, high=0):
    return f"mov ecx, 0x{index:x}; mov eax, 0x{value:x}; mov edx, 0x{high:x}; wrmsr"


def counted(before, cause, apic=XAPIC, after="", more=()):
    """How many instructions behind *cause* the handler came, and the guest's log."""
    on, eoi = apic
    result = run_guest(guest(f"xor r12d, r12d; {before}; {cause}; {COUNT}{after}; {mark('.')}", {
        0x41: f"mov r13, r12; {mark('A')}; {eoi}", **dict(more)}, on))
    return result.r13, log_of(result)


SELF_X, SELF_X2 = xapic_ipi(0x41), x2apic_ipi(0x41)
TPR = "mov dword ptr [rbx+0x80]"
LATE = "mov dword ptr [rbx+0x320], 0x40041"     # the timer's entry: TSC-deadline


@pytest.mark.parametrize(("before", "cause", "apic"), [
    pytest.param("sti", SELF_X, XAPIC, id="icr-of-the-page"),
    pytest.param("sti", SELF_X2, X2APIC, id="icr-msr"),
    pytest.param("sti", x2apic_ipi(0x41, 0xFFFFFFFF, 0), X2APIC, id="icr-msr-broadcast"),
    pytest.param("sti", wrmsr(0x83F, 0x41), X2APIC, id="self-ipi-msr"),
    pytest.param("sti", wrmsr(Msr.HV_ICR, 0x40041), XAPIC, id="icr-of-the-hypervisor"),
    pytest.param(f"{TPR}, 0x40; sti; {SELF_X}", f"{TPR}, 0x3F", XAPIC, id="tpr-of-the-page"),
    pytest.param(f"{TPR}, 0x40; sti; {SELF_X}; xor eax, eax", "mov cr8, rax", XAPIC, id="cr8"),
    pytest.param(f"mov eax, 4; mov cr8, rax; sti; {SELF_X2}", wrmsr(0x808), X2APIC, id="tpr-msr"),
    pytest.param(f"mov eax, 4; mov cr8, rax; sti; {SELF_X}", wrmsr(Msr.HV_TPR), XAPIC, id="tpr-of-the-hypervisor"),
    pytest.param(f"{LATE}; sti", wrmsr(0x6E0, 1), XAPIC, id="a-deadline-that-is-past"),
    pytest.param(f"{SELF_X}; push 0x202", "popfq", XAPIC, id="popf"),
    pytest.param(f"{SELF_X}; mov rax, rsp; mov ecx, ss; push rcx; push rax; push 0x202; mov eax, cs; push rax; "
                 "lea rax, [next]; push rax", "iretq; next:", XAPIC, id="iret"),
    pytest.param(f"sti; {SELF_X2.replace('wrmsr', 'nop')}", "wrmsr", X2APIC, id="wrmsr-alone"),
])
def test_it_is_taken_before_the_next_instruction(before, cause, apic):
    assert counted(before, cause, apic) == (0, "A.")


def test_the_shadow_of_sti_is_one_instruction_long():
    """SDM "STI"."""
    assert counted(SELF_X, "sti") == (1, "A.")


@pytest.mark.parametrize(("cause", "log"), [("sti; cli", "."), ("sti; nop; cli", "A."),
                                            ("push 0x202; popfq; cli", "A.")])
def test_cli_in_the_shadow_of_sti_keeps_it_out(cause, log):
    assert counted(SELF_X, cause)[1] == log


@pytest.mark.parametrize(("apic", "ipi", "eoi"), [
    pytest.param(XAPIC, xapic_ipi, EOI, id="page"),
    pytest.param(X2APIC, x2apic_ipi, wrmsr(0x80B), id="msr"),
    pytest.param(XAPIC, xapic_ipi, wrmsr(Msr.HV_EOI), id="hypervisor")])
def test_an_eoi_lets_the_next_one_in(apic, ipi, eoi):
    """In the handler of a higher class, with interrupts on."""
    handler = f"{ipi(0x41)}; sti; nop; {mark('1')}; {eoi}; {COUNT}{mark('2')}"
    assert counted("sti", ipi(0x51), apic, more={0x51: handler}.items()) == (0, "1A2.")


def test_what_wakes_a_processor_comes_before_the_instruction_behind_hlt():
    """SDM "HLT": the handler returns behind it."""
    timer = "mov dword ptr [rbx+0x320], 0x41; mov dword ptr [rbx+0x3E0], 0xB; mov dword ptr [rbx+0x380], 1000"
    assert counted(f"{timer}; sti", "hlt") == (0, "A.")


def test_two_that_wait_come_back_to_back():
    """The first one's IRET is the boundary at which the second is taken."""
    second = {0x42: f"mov r15, r12; {mark('B')}; {EOI}"}
    assert counted(f"{SELF_X}; {xapic_ipi(0x42)}; nop", "sti; nop", more=second.items()) == (0, "BA.")


# --- devices --------------------------------------------------------------------------------------------------------

IO_APIC = f"mov dword ptr [0x{HIGH_DIRECTORY + 8 * 0x1F6:x}], 0xFEC000F3; mov esi, 0xFEC00000"
DEVICES = [
    pytest.param("nop", ring(4).split("; ")[0], f"out {BELL.start + 2}, al", [(4, 0x41)], id="out"),
    pytest.param("nop", "cli; mov al, 4; sti", f"out {BELL.start + 2}, al", [(4, 0x41)], id="out-in-the-shadow-of-sti"),
    pytest.param("mov edx, 0xE2; lea rsi, [bell]", "mov ecx, 1", "rep outsb; jmp on; bell:; .byte 4; on:",
                 [(4, 0x41)], id="outs"),
    pytest.param(f"{IO_APIC}; {ring(9, 1)}", "mov dword ptr [rsi], 0x22", "mov dword ptr [rsi+0x10], 0x8041",
                 [(9, 0x18041)], id="store-that-unmasks-a-level"),
    pytest.param(f"{IO_APIC}; {ring(9, 1)}; mov dword ptr [rsi], 0x22", "nop", "and dword ptr [rsi+0x10], 0xFFFEFFFF",
                 [(9, 0x18041)], id="read-modify-write"),
]


@pytest.mark.parametrize(("before", "almost", "cause", "entries"), DEVICES)
def test_a_line_that_is_raised_by_the_instruction(before, almost, cause, entries):
    """The parent completes the instruction, and the interrupt is there; a shadow of STI has ended with it."""
    handler = f"mov r13, r12; {mark('A')}; {ring(9, 0)}; {EOI}"
    one = PcGuest(guest(f"{MASK_PIC}; xor r12d, r12d; {before}; sti; {almost}; {cause}; {COUNT}{mark('.')}",
                        {0x41: handler}, NO_APIC), entries)
    registers = one.vm.partition.vps[0].regs
    assert (one.log, registers.r13) == ("A.", 0)
    one.machine.close()
