"""What a refused access tells: each kind of access, by machine code in the engine, and by the processor itself."""

from __future__ import annotations

import pytest

from hv.machine.faults import Access
from hv.spec.ept import EptEntry, EptViolationQualification
from hv.spec.exits import ExitReason, InterruptionInfo
from hv.spec.vmcs import VmcsField
from hv.vmx.translation.ept import EptTables
from tests.machine.engine_box import DATA, DIRECTORY, PML4, STACK, TABLE
from tests.proves import proves
from tests.vmx.vcpu_box import ALL, CODE, VcpuBox, vector_at

READ, WRITE, EXECUTE = Access.READ, Access.WRITE, Access.EXECUTE
NONE = Access(0)
RMW = READ | WRITE
USER_WRITABLE = {"linear_user": 1, "linear_writable": 1}
NEXT = DATA - 0x1000


def refuse(box: VcpuBox, page: int, rights: Access) -> None:
    """Only *rights* are left to the page of *page*."""
    if rights:
        box.ept.map(page & ~0xFFF, page & ~0xFFF, rights)
    else:
        box.ept.unmap(page)
    box.ept.invept()


# id, source, bits, registers, what the page still allows -> what was tried, gva (= gpa, the tables being identity)
ACCESSES = [
    ("read", "mov rax, [rbx]; hlt", 64, {"rbx": DATA + 0x123}, NONE, READ, DATA + 0x123),
    ("write", "mov [rbx], eax; hlt", 64, {"rbx": DATA + 0x123}, READ | EXECUTE, WRITE, DATA + 0x123),
    ("write-nothing-there", "mov byte ptr [rbx], 1; hlt", 64, {"rbx": DATA}, NONE, WRITE, DATA),
    ("add-read-only", "add [rbx], rax; hlt", 64, {"rbx": DATA + 8}, READ, RMW, DATA + 8),
    ("add-nothing-there", "add [rbx], rax; hlt", 64, {"rbx": DATA + 8}, NONE, RMW, DATA + 8),
    ("xchg", "xchg [rbx], al; hlt", 64, {"rbx": DATA + 8}, READ, RMW, DATA + 8),
    ("lock-inc", "lock inc dword ptr [rbx + 4]; hlt", 64, {"rbx": DATA}, READ, RMW, DATA + 4),
    ("bts-far", "bts [rbx], rcx; hlt", 64, {"rbx": NEXT + 0xFF8, "rcx": 64}, READ, RMW, DATA),
    ("push", "push rax; hlt", 64, {"rsp": DATA + 0x1000}, READ, WRITE, DATA + 0xFF8),
    ("pop", "pop rax; hlt", 64, {"rsp": DATA + 16}, NONE, READ, DATA + 16),
    ("call", "call rbx", 64, {"rsp": DATA + 0x1000, "rbx": CODE}, READ, WRITE, DATA + 0xFF8),
    ("ret", "ret", 64, {"rsp": DATA + 16}, NONE, READ, DATA + 16),
    ("leave", "leave", 64, {"rbp": DATA + 16}, NONE, READ, DATA + 16),
    ("stos", "rep stosb; hlt", 64, {"rdi": DATA - 2, "rcx": 9}, READ, WRITE, DATA),
    ("lods", "lodsq; hlt", 64, {"rsi": DATA + 24}, NONE, READ, DATA + 24),
    ("movs-source", "movsd; hlt", 64, {"rsi": DATA, "rdi": CODE + 0x800}, NONE, READ, DATA),
    ("fxsave", "fxsave [rbx]; hlt", 64, {"rbx": DATA - 0x100}, READ, WRITE, DATA),
    ("crossing-read", "mov rax, [rbx]; hlt", 64, {"rbx": DATA - 4}, NONE, READ, DATA),
    ("crossing-write", "mov [rbx], rax; hlt", 64, {"rbx": DATA - 4}, READ, WRITE, DATA),
    ("protected-mode-without-paging", "mov eax, [ebx]; hlt", 32, {"rbx": DATA + 1}, NONE, READ, DATA + 1),
    ("real-mode", "mov al, [bx]; hlt", 16, {"rbx": 0x2004}, NONE, READ, 0x2004),
    ("real-mode-push", "push ax; hlt", 16, {"rsp": 0x3000}, READ, WRITE, 0x2FFE),
    ("absolute", "mov eax, [0x20010]; hlt", 32, {}, NONE, READ, DATA + 16),
]


@proves("exit/EPT_VIOLATION", "control/SecondaryControls.ENABLE_EPT", "control/SecondaryControls.UNRESTRICTED_GUEST")
@pytest.mark.parametrize(("source", "bits", "registers", "rights", "tried", "gva"), [row[1:] for row in ACCESSES],
                         ids=[row[0] for row in ACCESSES])
def test_a_refused_access_says_what_was_tried_and_where(box, source, bits, registers, rights, tried, gva):
    """SDM "Exit Qualification for EPT Violations"; RIP is on the instruction, and CR2 is as it was."""
    refuse(box, gva, rights)
    vcpu, exit = box.exit_of(source, bits, **registers)
    assert exit.reason is ExitReason.EPT_VIOLATION
    expected = EptViolationQualification(int(tried) | int(rights) << 3, linear_valid=1, final=1, **USER_WRITABLE)
    assert EptViolationQualification(exit.qualification) == expected
    assert (exit.guest_linear_address, exit.guest_physical_address) == (gva, gva)
    assert (vcpu.state.cs.base + vcpu.state.rip, vcpu.state.cr2) == (CODE, 0)
    assert vcpu.vmcs.read(VmcsField.GUEST_LINEAR_ADDRESS) == gva
    assert vcpu.vmcs.read(VmcsField.GUEST_PHYSICAL_ADDRESS) == gva


@proves("exit/EPT_VIOLATION")
@pytest.mark.parametrize("offset", [0x123, -2], ids=["inside", "crossing"])
def test_a_refused_fetch_has_the_address_of_the_code(box, offset):
    """An instruction of four bytes; where it crosses into the page, the second part is what is refused."""
    box.memory.write(DATA + offset, b"\x48\x83\xc0\x01\xf4")
    refuse(box, DATA, RMW)
    vcpu, exit = box.exit_of("jmp rbx", rbx=DATA + offset)
    expected = EptViolationQualification(4 | 3 << 3, linear_valid=1, final=1, **USER_WRITABLE)
    assert EptViolationQualification(exit.qualification) == expected
    at = max(DATA, DATA + offset)
    assert (exit.guest_linear_address, exit.guest_physical_address, vcpu.state.rip) == (at, at, DATA + offset)


@proves("capability/EptVpidCap.advanced_violation_information")
@pytest.mark.parametrize(("entry", "said"), [
    (7, (1, 1, 0)), (3, (0, 1, 0)), (5, (1, 0, 0)), (1 << 63 | 7, (1, 1, 1))],
    ids=["user", "supervisor", "read-only", "no-execute"])
def test_the_guests_own_rights_are_told_too(box, entry, said):
    """Bits 11:9: what the guest's paging structures say of the linear address."""
    box.memory.write_u64(TABLE + 8 * (DATA >> 12), DATA | 0x60 | entry)
    refuse(box, DATA, NONE)
    _, exit = box.exit_of("mov rax, [rbx]; hlt", rbx=DATA)
    found = EptViolationQualification(exit.qualification)
    assert (found.linear_user, found.linear_writable, found.linear_no_execute) == said


@proves("exit/EPT_VIOLATION")
@pytest.mark.parametrize(("level", "index"), [(PML4, 0), (DIRECTORY, 0), (TABLE, CODE >> 12)],
                         ids=["pml4", "directory", "table"])
def test_a_refused_paging_structure_is_named(box, level, index):
    """SDM: bit 8 is 0; the linear address is the one that was being translated."""
    refuse(box, level, NONE)
    _, exit = box.exit_of("hlt")
    expected = EptViolationQualification(1, linear_valid=1)
    assert EptViolationQualification(exit.qualification) == expected
    assert (exit.guest_linear_address, exit.guest_physical_address) == (CODE, level + 8 * index)


@proves("exit/EPT_VIOLATION")
def test_a_paging_structure_met_by_data_names_the_data(box):
    """The directory entry behind the second 2 MiB leads to a table of its own, which is not there."""
    other = 0x9000
    box.memory.write_u64(DIRECTORY + 8, other | 7)
    refuse(box, other, NONE)
    _, exit = box.exit_of("mov [rbx], rax; hlt", rbx=0x203008)
    assert EptViolationQualification(exit.qualification) == EptViolationQualification(1, linear_valid=1)
    assert (exit.guest_linear_address, exit.guest_physical_address) == (0x203008, other + 8 * 3)


@proves("exit/EPT_VIOLATION")
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_a_refused_access_during_delivery_names_the_event(box, bits):
    """SDM "Information for VM Exits During Event Delivery": the push of the frame of a #UD."""
    stack = 0x9000 if bits == 16 else STACK
    refuse(box, stack - 1, READ)
    _, exit = box.exit_of("ud2", bits)
    assert exit.reason is ExitReason.EPT_VIOLATION
    met = InterruptionInfo(exit.idt_vectoring_info)
    assert (met.valid, met.vector) == (1, 6)
    found = EptViolationQualification(exit.qualification)
    assert (found.write, found.readable, found.linear_valid, found.final) == (1, 1, 1, 1)


# --- misconfigurations ---------------------------------------------------------------------------------------------

WRONG = [
    ("write-only", 1, EptEntry(write=1)), ("write-execute", 1, EptEntry(write=1, execute=1)),
    ("memory-type", 1, EptEntry(read=1, write=1, memory_type=3)),
    ("reserved-address", 1, EptEntry(read=1, memory_type=6, frame=1 << 38)),
    ("type-in-a-table-entry", 2, EptEntry(read=1, memory_type=6)),
    ("address-of-2m", 2, EptEntry(read=1, large=1, memory_type=6, frame=1)),
    ("address-of-1g", 3, EptEntry(read=1, large=1, memory_type=6, frame=512)),
    ("bit-7-of-pml4e", 4, EptEntry(read=1, large=1)),
]


@proves("exit/EPT_MISCONFIGURATION")
@pytest.mark.parametrize(("level", "entry"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
@pytest.mark.parametrize("source", ["mov rax, [rbx]; hlt", "mov [rbx], rax; hlt", "jmp rbx"])
def test_a_misconfigured_entry_exits_at_its_use(box, level, entry, source):
    """SDM "EPT Misconfigurations": no qualification; only the guest-physical address is recorded."""
    box.memory.write_u64(TABLE + 8 * (DATA >> 12), 0x40_2020_3067)
    gpa = 0x40_2020_3000                # nothing else is under its entries
    box.ept.map(gpa, DATA, ALL)
    step = next(step for step in box.ept.walk(gpa).entries if step.level == level)
    if level < 4:
        box.memory.write_u64(step.spa, entry.raw)
    else:
        box.memory.write_u64(TABLE + 8 * (DATA >> 12), 1 << 39 | 0x67)
        gpa = 1 << 39
        box.memory.write_u64(step.spa + 8, entry.raw)
    _, exit = box.exit_of(source, rbx=DATA + 5)
    assert (exit.reason, exit.qualification) == (ExitReason.EPT_MISCONFIGURATION, 0)
    assert (exit.guest_physical_address, exit.guest_linear_address) == (gpa + 5, None)


@proves("exit/EPT_MISCONFIGURATION")
def test_tables_outside_memory_are_misconfigured(box):
    """What nobody answers reads as ones, where reserved bits must be 0."""
    _, exit = box.exit_of("hlt", fields={VmcsField.EPT_POINTER: 0x3FFF_FFFF_F01E})
    assert (exit.reason, exit.guest_physical_address) == (ExitReason.EPT_MISCONFIGURATION, PML4)


# --- the pointer is a field of the VMCS ----------------------------------------------------------------------------

@proves("control/SecondaryControls.ENABLE_EPT")
def test_the_walk_starts_at_the_pointer_of_the_vmcs(box):
    """SDM "Extended-Page-Table Pointer (EPTP)": written between two entries, and inside an exit."""
    free = iter(range(0x3A0000, 0x400000, 4096))
    other = EptTables(box.memory, lambda: next(free), lambda spa: None)
    for page in range(0x300):
        other.map(page << 12, page << 12, ALL)
    other.map(DATA, DATA + 0x1000, ALL)
    box.memory.write_u64(DATA, 1), box.memory.write_u64(DATA + 0x1000, 2)
    vcpu = box.vcpu()
    box.put("mov rax, [rbx]; cpuid; mov rcx, [rbx]; hlt")
    vcpu.state.rbx = DATA
    seen = []

    def handle(exit) -> bool:
        seen.append(vcpu.state.rax)
        if exit.reason is ExitReason.HLT:
            return False
        vcpu.vmcs.write(VmcsField.EPT_POINTER, other.eptp.raw)
        vcpu.state.complete_instruction(exit.instruction_length)
        return True

    box.handle = handle
    box.go(vcpu)
    assert (seen[0], vcpu.state.rcx) == (1, 2)


@proves("control/SecondaryControls.ENABLE_EPT")
def test_without_ept_addresses_are_the_machines(box):
    box.ept.map(DATA, DATA + 0x1000, ALL)
    box.memory.write_u64(DATA, 1), box.memory.write_u64(DATA + 0x1000, 2)
    vcpu, _ = box.exit_of("mov rax, [rbx]; hlt", rbx=DATA, fields={VmcsField.SECONDARY_PROC_CONTROLS: 0})
    assert vcpu.state.rax == 1


@pytest.mark.parametrize("size", [1 << 21, 1 << 30], ids=["2m", "1g"])
@proves("capability/EptVpidCap.page_2m", "capability/EptVpidCap.page_1g")
def test_a_guest_runs_in_a_large_page(box, size):
    """A page that reaches beyond memory too: what is behind it is not touched."""
    for gpa, _, _, _ in list(box.ept.mappings()):
        box.ept.unmap(gpa)
    box.ept.map(0, 0, ALL, size)
    box.ept.invept()
    assert box.ept.walk(DATA).page_size == size
    vcpu, exit = box.exit_of("mov [rbx], rbx; mov rax, [rbx]; hlt", rbx=DATA)
    assert (exit.reason, vcpu.state.rax, box.memory.read_u64(DATA)) == (ExitReason.HLT, DATA, DATA)


@pytest.mark.parametrize(("source", "bits"), [
    ("mov rax, [rbx]; hlt", 64), ("mov [rbx], rax; mov rax, [rbx + 8]; hlt", 64), ("mov eax, [ebx]; hlt", 32)])
def test_where_nobody_answers_ones_are_read(box, source, bits):
    """An EPT may lead anywhere."""
    box.ept.map(DATA, 0x2000_0000, ALL)
    box.ept.invept()
    vcpu, exit = box.exit_of(source, bits, rbx=DATA, rax=0)
    assert (exit.reason, vcpu.state.rax & 0xFFFF_FFFF) == (ExitReason.HLT, 0xFFFF_FFFF)


def test_code_where_nobody_answers_is_undefined(box):
    box.ept.map(DATA, 0x2000_0000, ALL)
    box.ept.invept()
    vcpu, exit = box.exit_of("jmp rbx", rbx=DATA + 0x100)
    assert (exit.reason, vector_at(vcpu)) == (ExitReason.HLT, 6)


def test_page_tables_where_nobody_answers_have_reserved_bits_set(box):
    box.memory.write_u64(DIRECTORY + 8, 0x40_0000_0067)
    box.ept.map(0x40_0000_0000, 0x2000_0000, ALL)
    box.ept.invept()
    vcpu, exit = box.exit_of("mov rax, [rbx]; hlt", rbx=0x200000)
    assert (exit.reason, vector_at(vcpu), box.memory.read_u64(STACK - 48)) == (ExitReason.HLT, 14, 9)


def test_without_ept_addresses_outside_memory_are_the_bus(box):
    """With paging: a guest without EPT is no unrestricted one."""
    box.memory.write_u64(DIRECTORY + 16, 0x1000_0000 | 0xE7)
    vcpu, exit = box.exit_of("mov eax, [rbx]; hlt", rbx=0x40_0000, fields={VmcsField.SECONDARY_PROC_CONTROLS: 0})
    assert (exit.reason, vcpu.state.rax) == (ExitReason.HLT, 0xFFFF_FFFF)
