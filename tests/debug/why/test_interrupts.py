"""Why an interrupt has not come: each link of the chain broken once, and the bugs of the labs."""

from pathlib import Path

import pytest

from hv.debug.session import Session
from hv.image.load import load
from hv.lab.faults import FAULTS
from hv.platform import Machine
from tests.debug.why.guests import refused, said, session_over_code

LAB = Path(__file__).parents[3] / "labs" / "18_lost_interrupts" / "five_ticks.asm"
TIMER = """
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov dword ptr [rbx + APIC_DIVIDE], 0x0B
    mov dword ptr [rbx + APIC_LVT_TIMER], 0x30
    mov dword ptr [rbx + APIC_INITIAL], 1000
"""
SPIN = "again: pause; jmp again"
ROWS = {
    "if": (TIMER + SPIN, "", "RFLAGS.IF is 0"),
    "not-enabled": ("sti;" + SPIN, "0x30", "software has not enabled it: bit 8 of SVR is 0"),
    "tpr": (TIMER + "mov eax, 5; mov cr8, rax; sti;" + SPIN, "", "the task priority is 0x50: class 0x5 holds it back"),
    "masked": (TIMER + "mov dword ptr [rbx + APIC_LVT_TIMER], 0x10030; sti;" + SPIN, "0x30",
               "✗ LVT_TIMER has that vector, and is masked"),
    "stopped": (TIMER + "mov dword ptr [rbx + APIC_INITIAL], 0; sti;" + SPIN, "0x30",
                "✗ the timer (one_shot) stands still: its initial count is 0"),
    "nobody": (TIMER + SPIN, "0x77", "✗ nobody that the hypervisor knows would raise it"),
    "sint-masked": (TIMER + "mov ecx, HV_SINT2; mov eax, 0x10041; xor edx, edx; wrmsr; sti;" + SPIN, "0x41",
                    "✗ SINT2 has that vector, and is masked"),
    "synic-off": (TIMER + "mov ecx, HV_SINT2; mov eax, 0x41; xor edx, edx; wrmsr; sti;" + SPIN, "0x41",
                  "✗ the SynIC is off: bit 0 of HV_SCONTROL is 0"),
    "nmi": (SPIN, "2", "an NMI is not pending"),
}


@pytest.mark.parametrize(("source", "vector", "wanted"), ROWS.values(), ids=ROWS)
def test_the_first_link_that_is_broken_is_the_answer(source, vector, wanted):
    """SDM "Local APIC"; TLFS "SynIC"."""
    answer = said(session_over_code(source, budget="100us"), f"why no interrupt {vector}".strip())
    assert "has not come to a.0: " in answer.splitlines()[0]
    assert wanted in answer


def test_who_cleared_if_is_the_instruction():
    answer = said(session_over_code("sti; nop;" + TIMER + "mov dword ptr [rbx + APIC_INITIAL], 100000; cli;" + SPIN,
                                    budget="20us"), "why no interrupt 0x30")
    assert "✗ RFLAGS.IF is 0\n    set: E" in answer
    assert "by `cli` of a.0" in answer


def test_an_interrupt_that_nothing_holds_back_comes():
    session = session_over_code(TIMER.replace("1000", "90000") + "sti;" + SPIN, budget="10us")
    assert "nothing keeps vector 0x30 from a.0" in said(session, "why no interrupt").splitlines()[0]


def test_a_vp_that_waits_for_sipi_says_so():
    """SDM "MP Initialization Protocol Algorithm"."""
    session = session_over_code(SPIN, vps=2, budget="100us")
    assert "✗ the VP is waiting for a start-up IPI" in session.do("why no interrupt 0x30 a.1")
    assert session.vp_index == 0
    session.machine.close()


def with_bug(name, recorded):
    machine = Machine(memory_mib=24, apic_virtualization=False)
    image = load(LAB)
    vm = machine.create_vm("lab", image, 4, 1)
    FAULTS[name](vm, lambda: None)
    session = Session(machine, [vm], {"lab": image})
    session.do("record 2ms" if recorded else "until 2ms")
    return session


@pytest.mark.parametrize(("recorded", "place"), [(True, "E7+1"), (False, "#")])
def test_a_missing_eoi_is_found_with_where_the_guest_wrote_it(recorded, place):
    """SDM "Signaling Interrupt Servicing Completion"; the bug of lab 18, and the exit at which it first shows."""
    answer = said(with_bug("missing-eoi", recorded), "why no interrupt")
    assert "vector 0x30 has not come to lab.0: vector 0x30 is in service (ISR)" in answer.splitlines()[0]
    assert f"the guest has written EOI since, at {place}" in answer
    assert "the hypervisor has not ended it (missing EOI)" in answer
    if recorded:
        assert "set: E6+2 by HLT of lab.0 (Injected vector=0x30" in answer


def test_a_wrong_rip_advance_is_found():
    """SDM "Instruction length"; RIP behind CPUID."""
    answer = said(with_bug("wrong-rip-advance", True), "why E1")
    assert "ends at 0x10007: RIP was not moved by the instruction length (wrong RIP advance)" in answer


def test_a_sound_machine_shows_no_mistake():
    session = session_over_code("cpuid; mov ecx, 0x10; rdmsr; cli; hlt")
    assert "✗" not in session.do("why E1") + session.do("why E2") + session.do("why E3")
    session.machine.close()


STALE = """
    mov ecx, HV_GUEST_OS_ID; mov eax, 1; xor edx, edx; wrmsr
    mov eax, [HYPERCALL_PAGE]
    mov ecx, HV_HYPERCALL; mov eax, HYPERCALL_PAGE + 1; xor edx, edx; wrmsr
    mov eax, [HYPERCALL_PAGE]
    cpuid; cli; hlt
"""


def test_a_stale_translation_is_found_with_who_changed_the_tables():
    """SDM "INVEPT"; the hypercall page is laid over a page that the processor has cached."""
    session = session_over_code(STALE, lambda vm: FAULTS["stale-tlb"](vm, lambda: None))
    answer = said(session, "why last reason == CPUID")
    assert "the processor goes by an old translation of gpa 0x61000" in answer
    assert "INVEPT is missing (stale TLB)\n    set: E2+1 by WRMSR HV_HYPERCALL" in answer


@pytest.mark.parametrize(("line", "part"), [
    ("why no interrupt 5", "is no interrupt; expected 2 (NMI) or 0x10..0xff"), ("why no interrupt 0x100", "is no"),
    ("why no interrupt 0x30 9", "a has no vp `9`"), ("why no interrupt 1 2 3", "`3` is too much"),
    ("why no", "`no` is nothing that `why` knows")])
def test_a_question_that_makes_no_sense_is_refused(line, part):
    session = session_over_code("cpuid; cli; hlt")
    assert part in refused(session, line)
    session.machine.close()
