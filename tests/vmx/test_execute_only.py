"""Pages that the engine's tables cannot describe: execute-only ones, and page tables that may only be read."""

from __future__ import annotations

import pytest

from hv.machine.faults import Access
from hv.spec.ept import EptViolationQualification
from hv.spec.exits import ExitReason
from hv.spec.vmcs import PrimaryControls, VmcsField
from tests.machine.engine_box import DATA, DIRECTORY, PDPT, PML4, TABLE
from tests.proves import proves
from tests.vmx.event_box import control
from tests.vmx.vcpu_box import ALL, CODE, VcpuBox, vector_at

READ, WRITE, EXECUTE = Access.READ, Access.WRITE, Access.EXECUTE
ROW = "capability/EptVpidCap.execute_only"
NEXT = CODE + 0x1000


@pytest.fixture(params=["native", "python"])
def either_box(request, monkeypatch):
    """With the native routines and without."""
    if request.param == "python":
        monkeypatch.setenv("HVLAB_NO_NATIVE", "1")
    box = VcpuBox()
    yield box
    box.close()


def allow(box: VcpuBox, rights: Access, *pages: int) -> None:
    for page in pages:
        box.ept.map(page, page, rights)
    box.ept.invept()


@proves(ROW)
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_code_runs_from_an_execute_only_page(either_box, bits):
    """Calls, jumps back and forth, data elsewhere, an exception, exits."""
    box = either_box
    allow(box, EXECUTE, CODE)
    source = "mov ecx, 20; again: inc ebx; call sub; dec ecx; jnz again; cpuid; ud2; sub: mov [0x9800], ebx; ret"
    vcpu = box.vcpu(bits)
    box.put(source, bits)
    vcpu.state.rbx = 0
    box.handle = box.advance(vcpu)
    box.go(vcpu, 1_000_000)
    assert [exit.reason for exit in box.exits] == [ExitReason.CPUID, ExitReason.HLT]
    assert (vector_at(vcpu), vcpu.state.rbx, box.memory.read_u32(0x9800)) == (6, 20, 20)


READS = [("by-register", "48 8b 03", {"rbx": CODE}), ("its-own-bytes", "48 8b 05 f9 ff ff ff", {}),
         ("behind-another-access", "48 8b 02 48 8b 03", {"rbx": CODE + 8, "rdx": DATA}),
         ("string", "a4", {"rsi": CODE, "rdi": DATA}), ("pop", "58", {"rsp": CODE}),
         ("add", "48 01 03", {"rbx": CODE}), ("write", "48 89 03", {"rbx": CODE})]


@proves(ROW, "exit/EPT_VIOLATION")
@pytest.mark.parametrize(("code", "registers"), [row[1:] for row in READS], ids=[row[0] for row in READS])
def test_reading_an_execute_only_page_is_a_violation(either_box, code, registers):
    """SDM "Exit Qualification for EPT Violations": bits 5:3 are 100b. RIP is on the instruction."""
    box = either_box
    allow(box, EXECUTE, CODE)
    vcpu, exit = box.exit_of(bytes.fromhex(code) + b"\xf4", **registers)
    found = EptViolationQualification(exit.qualification)
    assert (exit.reason, found.readable, found.writable, found.executable) == (ExitReason.EPT_VIOLATION, 0, 0, 1)
    tried = {"48 89 03": 2, "48 01 03": 3}.get(code, 1)
    assert (exit.qualification & 7, found.linear_valid, found.final) == (tried, 1, 1)
    assert exit.guest_linear_address in (CODE, CODE + 8)
    assert vcpu.state.rip == CODE + (3 if len(code) == 17 else 0)


@proves(ROW)
def test_an_instruction_may_lie_in_two_execute_only_pages(either_box):
    box = either_box
    allow(box, EXECUTE, CODE, NEXT)
    box.memory.write(NEXT - 2, b"\x48\x83\xc0\x07\xf4")        # add rax, 7; hlt
    vcpu, exit = box.exit_of("jmp rbx", rbx=NEXT - 2)
    assert (exit.reason, vcpu.state.rax) == (ExitReason.HLT, 7)


@proves(ROW)
def test_what_others_write_into_an_execute_only_page_is_executed(either_box):
    """By another address of the same page, which may be written."""
    box = either_box
    box.ept.map(0x400_0000, CODE, READ | WRITE)
    box.memory.write_u64(TABLE + 8 * (DATA >> 12), 0x400_0067)
    allow(box, EXECUTE, CODE)
    box.put("mov eax, 1; ret")
    box.put("call rdx; mov ecx, eax; mov byte ptr [rbx + 1], 9; call rdx; hlt", at=NEXT)
    vcpu = box.vcpu()
    vcpu.state.rip, vcpu.state.rbx, vcpu.state.rdx = NEXT, DATA, CODE
    box.go(vcpu)
    assert (box.exits[0].reason, vcpu.state.rcx, vcpu.state.rax) == (ExitReason.HLT, 1, 9)


@proves(ROW)
def test_an_execute_only_page_table_is_refused(box):
    allow(box, EXECUTE, TABLE)
    _, exit = box.exit_of("hlt")
    assert EptViolationQualification(exit.qualification) == EptViolationQualification(1, linear_valid=1, executable=1)


@proves(ROW)
def test_after_a_page_became_execute_only_a_stale_read_ends_with_invept(box):
    vcpu = box.vcpu()
    box.put("mov rax, [rbx]; cpuid; mov rcx, [rbx]; hlt")
    vcpu.state.rbx = CODE

    def handle(exit) -> bool:
        if exit.reason is not ExitReason.CPUID:
            return False
        allow(box, EXECUTE, CODE)
        vcpu.state.complete_instruction(2)
        return True

    box.handle = handle
    box.go(vcpu)
    assert (box.exits[-1].reason, box.exits[-1].guest_linear_address) == (ExitReason.EPT_VIOLATION, CODE)


@proves(ROW)
def test_one_step_is_one_instruction_of_an_execute_only_page(box):
    allow(box, EXECUTE, CODE)
    vcpu = box.vcpu()
    box.put("inc eax; inc eax; jmp next; next: inc eax; hlt")
    rips = []
    for _ in range(4):
        assert not vcpu.step()
        rips.append(vcpu.state.rip - CODE)
    assert (rips, vcpu.state.rax) == ([2, 4, 6, 8], 3)


JUMP, LOOP, MOVE = b"\xeb\xfe", b"\xe2\xfe", b"\xf3\xa4"
PUSH_POP = b"\xff\x36\x8f\x07"         # push [rsi]; pop [rdi]


@proves(ROW)
@pytest.mark.parametrize("page", [CODE, TABLE], ids=["execute-only", "table"])
@pytest.mark.parametrize(("code", "steps"), [
    (JUMP, [(0, 3)] * 4), (LOOP, [(0, 2), (0, 1), (2, 0), (3, 0)]), (MOVE, [(0, 2), (0, 1), (2, 0), (3, 0)]),
    (PUSH_POP, [(2, 3), (4, 3), (5, 3), (6, 3)]),
], ids=["jump-to-itself", "loop", "movs", "push-pop"])
def test_one_step_is_one_instruction_also_where_a_page_is_shown_again_each_time(box, page, code, steps):
    """One that comes back to itself is done once in a step, and a step that gets nowhere ends; SDM "Monitor Trap
    Flag" counts by them."""
    allow(box, EXECUTE if page == CODE else READ, page)
    vcpu = box.vcpu()
    vcpu.state.rcx, vcpu.state.rsi, vcpu.state.rdi = 3, DATA + 0xFFC, DATA + 0x1FFC
    box.put(code + b"\x90" * 8, 64)
    control(vcpu, PrimaryControls.MONITOR_TRAP_FLAG)
    seen = []
    for _ in steps:
        box.go(vcpu)
        seen.append((vcpu.state.rip - CODE, vcpu.state.rcx))
    assert seen == steps
    assert {exit.reason for exit in box.exits} == {ExitReason.MONITOR_TRAP_FLAG}


def test_a_guest_in_an_execute_only_page_ends_with_its_budget(either_box):
    box = either_box
    allow(box, EXECUTE, CODE)
    vcpu = box.vcpu()
    box.put("again: call next; next: pop rcx; inc rax; jmp again")
    start = box.clock.tsc
    box.go(vcpu, 2_000)
    assert 0 <= box.clock.tsc - start <= 2_000
    assert box.exits == []
    assert vcpu.state.rax > 50


def test_an_interrupt_window_opens_in_an_execute_only_page(either_box):
    box = either_box
    allow(box, EXECUTE, CODE)
    vcpu = box.vcpu()
    vcpu.want_window(True)
    box.put("inc ecx; sti; inc ecx; inc ecx; jmp next; next: hlt")
    box.go(vcpu)
    assert (box.exits[0].reason, vcpu.state.rcx) == (ExitReason.INTERRUPT_WINDOW, 2)


# --- page tables that may only be read -------------------------------------------------------------------------------

TABLES = (PML4, PDPT, DIRECTORY, TABLE)


def mark_used(box: VcpuBox) -> None:
    """The tables of the box have all flags set, but for the upper levels'."""
    for table, entry in ((PML4, PDPT), (PDPT, DIRECTORY), (DIRECTORY, TABLE)):
        box.memory.write_u64(table, entry | 0x67)


@proves("exit/EPT_VIOLATION", "control/SecondaryControls.ENABLE_EPT")
def test_a_guest_runs_by_page_tables_that_it_may_only_read(either_box):
    """SDM "EPT and Memory Accesses": walking them reads them, as long as no flag is to be set."""
    box = either_box
    mark_used(box)
    allow(box, READ, *TABLES)
    source = "mov ecx, 9; again: mov [rbx], rcx; add rdx, [rbx]; call sub; dec ecx; jnz again; hlt; sub: ret"
    vcpu, exit = box.exit_of(source, rbx=DATA, rdx=0)
    assert (exit.reason, vcpu.state.rdx, vcpu.state.interrupt_shadow) == (ExitReason.HLT, 45, False)


@proves("exit/EPT_VIOLATION")
@pytest.mark.parametrize("source", ["mov [rbx], rax; hlt", "mov rcx, [rbx]; mov [rbx], rax; hlt",
                                    "mov rcx, [rbx]; nop; mov rdx, [rdx]; add [rbx], rax; hlt", "push rax; hlt"])
@pytest.mark.parametrize("table", TABLES)
def test_storing_to_such_a_page_table_is_refused(either_box, source, table):
    """Also behind a read of it, when the engine has cached that, and when the store walks by what it stores to."""
    box = either_box
    mark_used(box)
    allow(box, READ, *TABLES)
    before = box.memory.read(table, 0x1000)
    vcpu, exit = box.exit_of(source, rbx=table + 8, rdx=DATA, rsp=table + 16, rax=0x55)
    assert (exit.reason, exit.guest_linear_address) == (ExitReason.EPT_VIOLATION, table + 8)
    found = EptViolationQualification(exit.qualification)
    assert (found.write, found.readable, found.writable, found.final) == (1, 1, 0, 1)
    assert (box.memory.read(table, 0x1000), vcpu.state.interrupt_shadow) == (before, False)


@proves("exit/EPT_VIOLATION")
@pytest.mark.parametrize(("source", "entry", "refused"), [
    ("mov rax, [rbx]; hlt", 0x07, True), ("mov rax, [rbx]; hlt", 0x27, False), ("mov [rbx], rax; hlt", 0x27, True),
    ("mov [rbx], rax; hlt", 0x67, False)], ids=["accessed", "not-dirty-for-a-read", "dirty", "nothing"])
def test_a_flag_that_must_be_set_in_one_is_a_violation(either_box, source, entry, refused):
    """SDM "Exit Qualification for EPT Violations": it was read and written, and is no access to the page itself."""
    box = either_box
    mark_used(box)
    box.memory.write_u64(TABLE + 8 * (DATA >> 12), DATA | entry)
    allow(box, READ, *TABLES)
    _, exit = box.exit_of(source, rbx=DATA)
    assert (exit.reason is ExitReason.EPT_VIOLATION) is refused
    if refused:
        expected = EptViolationQualification(3, readable=1, linear_valid=1)
        assert EptViolationQualification(exit.qualification) == expected
        assert (exit.guest_linear_address, exit.guest_physical_address) == (DATA, TABLE + 8 * (DATA >> 12))


def test_both_kinds_of_page_at_once(either_box):
    box = either_box
    mark_used(box)
    allow(box, READ, *TABLES)
    allow(box, EXECUTE, CODE, NEXT)
    box.memory.write(NEXT - 2, b"\x48\x83\xc0\x07\xff\xe1")     # add rax, 7; jmp rcx
    vcpu, exit = box.exit_of("mov [rdx], rbx; jmp rbx; nop; nop; add rax, [rdx]; hlt", rbx=NEXT - 2, rdx=DATA,
                             rcx=CODE + 7)
    assert (exit.reason, vcpu.state.rax) == (ExitReason.HLT, NEXT + 5)


def test_with_flags_kept_the_same_tables_are_refused(box):
    mark_used(box)
    allow(box, READ, *TABLES)
    _, exit = box.exit_of("hlt", fields={VmcsField.EPT_POINTER: box.ept.eptp.raw | 0x40})
    assert EptViolationQualification(exit.qualification) == EptViolationQualification(3, readable=1, linear_valid=1)


def test_rights_given_back_are_used_at_full_speed_again(box):
    mark_used(box)
    allow(box, READ, *TABLES)
    box.exit_of("mov [rbx], rax; hlt", rbx=DATA)
    allow(box, ALL, *TABLES)
    _, exit = box.exit_of("mov [rbx], rax; hlt", rbx=TABLE + 0xFF8, rax=5)
    assert (exit.reason, box.memory.read_u64(TABLE + 0xFF8)) == (ExitReason.HLT, 5)
