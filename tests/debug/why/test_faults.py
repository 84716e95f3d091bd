"""Why a VP got its last exception, by guests that make them."""

import pytest

from hv.spec.vmcs import VmcsField
from tests.debug.why.guests import refused, said, session_over_code

SHUT_DOWN = "a fault in the delivery of #DF shuts the processor down: a triple fault"
# The guest has no IDT, so each of these ends in a triple fault.
ROWS = {
    "not-present": ("mov eax, 0x8000000; mov [rax], al", "#PF(0x2) of a.0 at start+0x5",
                    "✗ PDE at gpa 0x73200 is 0x0: P=0 W=0 U=0 NX=0: PDE is not present"),
    "no-execute": ("mov eax, 0x200000; jmp rax", "#PF(0x11) of a.0 at 0x200000",
                   "✗ PDE at gpa 0x73008 is 0x80000000002000e3: P=1 W=1 U=0 NX=1: the page is no-execute"),
    "other-tables": ("xor eax, eax; mov cr3, rax; nop", "#PF(0x10) of a.0 at start+0x5",
                     "- CR3 is 0x0\n      set: E0:2 by `mov cr3, rax` of a.0"),
    "non-canonical": ("mov rax, 0x8000000000000000; mov [rax], al", "#GP(0x0) of a.0 at start+0xa",
                      "linear address 0x8000000000000000 is not canonical"),
    "selector": ("mov eax, 0x1230; mov ds, ax", "#GP(0x1230) of a.0",
                 "selector 0x1230 names entry 582 of the GDT, which ends at 0x2f"),
    "divide": ("xor ecx, ecx; div ecx", "#DE of a.0 at start+0x2", "the divisor is 0"),
    "undefined": ("ud2", "#UD of a.0 at start", "raised at CPL 0 by `ud2`"),
    "breakpoint": ("int3", "#BP of a.0 at start", "INT3 or INTO asks for it"),
    "hypervisor": ("mov ecx, 0x1234; rdmsr", "#GP(0x0) of a.0 at start+0x5", "✗ nobody has an MSR 0x1234"),
    "idt": ("lidt [rip + short]; ud2; short: .word 0x6F; .quad 0x60000", "#UD of a.0",
            "the gate of #UD is at offset 0x60 of the IDT: 0x0: type 0x0"),
}


@pytest.mark.parametrize(("source", "subject", "wanted"), ROWS.values(), ids=ROWS)
def test_an_exception_is_led_back_to_what_refused(source, subject, wanted):
    """SDM "Interrupt and Exception Handling"."""
    answer = said(session_over_code(source), "why fault")
    assert subject in answer.splitlines()[0]
    assert wanted in answer
    assert SHUT_DOWN in answer


def test_the_nesting_of_a_triple_fault_is_told_in_its_order():
    """SDM "Interrupt 8 - Double Fault Exception (#DF)"."""
    lines = said(session_over_code("lidt [rip + none]; ud2; none: .word 0; .quad 0"), "why fault").splitlines()
    assert [line for line in lines if line[0] in "✗-"][1:] == [
        "✗ the delivery of #UD met #GP(0x33)", "✗ the delivery of #GP met #GP(0x6b)",
        "- two such exceptions make #DF, which is delivered instead", "✗ the delivery of #DF met #GP(0x43)",
        f"✗ {SHUT_DOWN}"]
    assert "  ✗ the gate of #UD is at offset 0x60 of the IDT, whose limit is 0x0: it lies beyond" in lines


MENDED = """
    mov edi, 14; mov eax, offset handler; call idt_set; call idt_load
    mov rax, cr0; or eax, 0x10000; mov cr0, rax
the_mistake: mov dword ptr [START_PD + 8], 0x200081
    invlpg [0x200000]
    mov ecx, 3
again: dec ecx; jnz again
the_bug: mov byte ptr [0x200010], 1
    cpuid; cli; hlt
handler: or dword ptr [START_PD + 8], 2
    add rsp, 8
    iretq
    .include "lib/idt64.inc"
"""


def test_a_fault_that_the_guest_mended_is_seen_as_it_was_and_who_made_it():
    """The handler has changed the entry since: the machine is taken back to the instruction that faulted."""
    session = session_over_code(MENDED)
    before = session.do("regs")
    answer = session.do("why fault")
    head = answer.splitlines()[0]
    assert "#PF(0x3) of a.0 at the_bug" in head
    assert "W=0 U=0 NX=1: write to a read-only page\n      set: E0:" in answer
    assert "by `mov dword ptr [0x73008], 0x200081` of a.0" in answer
    assert session.do("regs") == before
    session.do(f"goto {head.split()[0]}")
    assert "mov byte ptr [0x200010], 1" in session.do("disasm rip 1")
    session.machine.close()


def test_without_a_recording_the_tables_are_those_of_now():
    session = session_over_code(MENDED, recorded=False)
    answer = said(session, "why fault")
    assert "the tables allow it now: they were changed since" in answer
    assert "the tables are those of now" in answer


def test_a_vm_entry_that_fails_is_told_by_its_rules():
    """SDM "VM-Entry Failures"."""
    def wrong(vm):
        vm.partition.vps[0].vmcs.write(VmcsField.GUEST_CR4, 0x40000)
        vm.partition.vps[0].vmcs.write(VmcsField.GUEST_RFLAGS, 0)

    session = session_over_code("nop", wrong)
    answer = session.do("why fault")
    assert answer.splitlines()[0] == "VM entry of a.0 fails"
    assert "guest-rflags" in answer
    assert "GUEST_CR4" in answer
    assert "VM entry failed" in session.do("why")
    session.machine.close()


def test_a_vp_without_an_exception_says_so():
    session = session_over_code("cpuid; cli; hlt")
    assert "this VP has had no exception" in refused(session, "why fault")
    assert "a has no vp `7`" in refused(session, "why fault 7")
    session.machine.close()
