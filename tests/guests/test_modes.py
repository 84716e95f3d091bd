"""Guests that change the mode, the privilege and the tables of their processor, on the whole platform."""

from __future__ import annotations

import struct

import pytest

from hv.spec.exits import ExitReason
from hv.vmx.exit import VmExit
from tests.guest_runner import assemble, run_guest
from tests.proves import proves

OFF = "mov dx, 0x604; mov ax, 0x2000; out dx, ax"
IDT, CODE, GDT = 0x60000, 0x10000, 0x70000


def gate64(offset: int, dpl: int = 0, ist: int = 0) -> bytes:
    return struct.pack("<HHBBHQ", offset & 0xFFFF, 0x08, ist, 0x8E | dpl << 5, offset >> 16, 0)


def gate32(offset: int, dpl: int = 0) -> bytes:
    return struct.pack("<HHBBH", offset & 0xFFFF, 0x18, 0, 0x8E | dpl << 5, offset >> 16)


def handlers(bits: int, *, at: int = 0x50000, **special: str) -> dict[int, bytes]:
    """An IDT whose handler of vector n puts n into EBX and switches off; *special* (v6="...") is run instead."""
    gate = gate64 if bits == 64 else gate32
    code: dict[int, bytes] = {}
    table = b""
    for vector in range(34):
        source = special.get(f"v{vector}", f"mov ebx, {vector}; {OFF}")
        ((_, part),) = assemble(source, bits, at + 64 * vector)
        code[at + 64 * vector] = part.ljust(64, b"\x90")
        table += gate(at + 64 * vector, dpl=3)
    joined = b"".join(part for _, part in sorted(code.items()))
    return {IDT: table, at: joined, 0x5F000: struct.pack("<HQ", len(table) - 1, IDT)}


USER_GDT = struct.pack("<6Q", 0x00AFFB000000FFFF, 0x00CFF3000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF,
                       0x00AFFB000000FFFF, 0)
LOAD = "lidt [0x5F000]"


def test_a_guest_goes_from_real_to_protected_to_long_mode():
    gdt = struct.pack("<4Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF)
    long = assemble("mov rax, 0x1122334455667788; mov rbx, rax; mov dx, 0x604; mov ax, 0x2000; out dx, ax", 64, 0x9000)
    protected = assemble("mov ax, 0x10; mov ds, ax; mov ss, ax; mov eax, cr4; or eax, 0x20; mov cr4, eax;"
                         "mov eax, 0x20000; mov cr3, eax; mov ecx, 0xC0000080; rdmsr; or eax, 0x100; wrmsr;"
                         "mov eax, cr0;"
                         "or eax, 0x80000000; mov cr0, eax; jmp 0x18:0x9000", 32, 0x8000)
    data = {0x1000: gdt, 0x1100: struct.pack("<HI", len(gdt) - 1, 0x1000), 0x8000: protected[0][1], 0x9000: long[0][1],
            0x20000: struct.pack("<Q", 0x21003), 0x21000: struct.pack("<Q", 0x22003), 0x22000: struct.pack("<Q", 0x83)}
    result = run_guest("lgdt [0x1100]; mov eax, cr0; or al, 1; mov cr0, eax; jmp 0x8:0x8000", 16, data=data)
    assert (result.ended, result.rbx) == ("shutdown", 0x1122334455667788)
    assert (result.efer, result.cs.long) == (0x500, True)


@proves("cr4/PSE", "cr4/PAE")
@pytest.mark.parametrize("pae", [False, True], ids=["32-bit", "pae"])
def test_32_bit_paging_translates(pae):
    """Two linear pages of one frame: what is written through one is read through the other."""
    if pae:
        tables = {0x20000: struct.pack("<4Q", 0x21001, 0, 0, 0), 0x21000: struct.pack("<Q", 0x22003),
                  0x22000: b"".join(struct.pack("<Q", n << 12 | 3) for n in range(0x41)) + struct.pack("<Q", 0x40003)}
    else:
        tables = {0x20000: struct.pack("<I", 0x22003),
                  0x22000: b"".join(struct.pack("<I", n << 12 | 3) for n in range(0x41)) + struct.pack("<I", 0x40003)}
    result = run_guest(f"mov eax, {0x20 if pae else 0}; mov cr4, eax; mov eax, 0x20000; mov cr3, eax; mov eax, cr0;"
                       f"or eax, 0x80000000; mov cr0, eax; mov dword ptr [0x40010], 0x1234; mov ebx, [0x41010]; {OFF}",
                       32,
                       data=tables)
    assert (result.ended, result.rbx) == ("shutdown", 0x1234)


LET_USERS_IN = ("or qword ptr [0x71000], 4; or qword ptr [0x72000], 4; or qword ptr [0x73000], 4;"
                "mov rax, cr3; mov cr3, rax;")
USER = "push 0x3B; push 0x80000; push 0x202; push 0x33; push {rip}; iretq"


def user_mode(code: str, prepare: str = "", *, data: dict[int, bytes] | None = None, **special: str) -> object:
    """Run *prepare* at CPL 0, then *code* at CPL 3 in long mode; faults and interrupts come to `handlers`."""
    user = assemble(code, 64, 0x30000)[0][1]
    memory = handlers(64, **special) | {0x30000: user} | (data or {})
    # The tables of the loader are for the supervisor: let everybody in, and add user segments behind the TSS.
    prologue = (f"{LOAD}; {LET_USERS_IN}"
                "mov rax, 0x00AFFB000000FFFF; mov [0x70030], rax; mov rax, 0x00CFF3000000FFFF; mov [0x70038], rax;"
                "sub rsp, 16; mov word ptr [rsp], 0x3F; mov qword ptr [rsp + 2], 0x70000; lgdt [rsp];")
    return run_guest(prologue + prepare + USER.format(rip=0x30000), 64, data=memory)


def test_an_interrupt_of_a_user_comes_in_on_the_stack_of_the_tss():
    result = user_mode("mov eax, 0x77; int 0x21", v33=f"mov rbx, rsp; mov rcx, [rsp + 8]; mov rsi, [rsp + 24]; {OFF}")
    assert (result.ended, result.rbx, result.rcx, result.rsi, result.cpl) == ("shutdown", 0x98000 - 40, 0x33, 0x80000,
                                                                              0)


def test_a_privileged_instruction_of_a_user_is_general_protection():
    result = user_mode("cli")
    assert (result.ended, result.rbx) == ("shutdown", 13)


@pytest.mark.parametrize(("segment", "msr"), [("fs", 0xC0000100), ("gs", 0xC0000101)])
def test_a_base_that_an_msr_gave_outlives_an_iret_to_a_user(segment, msr):
    """SDM "IRET": a segment of the kernel becomes unusable for the user; its base is still there."""
    prepare = f"mov ax, 0x10; mov {segment}, ax; mov ecx, {msr}; mov eax, 0x12000; xor edx, edx; wrmsr;"
    result = user_mode("int 0x21", prepare, v33=f"mov ecx, {msr}; rdmsr; mov rbx, {segment}:[8]; {OFF}",
                       data={0x12008: bytes([0x77])})
    assert (result.ended, result.rbx, getattr(result, segment).base) == ("shutdown", 0x77, 0x12000)


def test_a_user_does_not_reach_a_supervisor_page():
    result = user_mode("mov rax, [0x400000]")
    assert (result.rbx, result.cr2) == (14, 0x400000)


@proves("cr4/SMEP")
def test_the_supervisor_does_not_run_the_code_of_a_user_under_smep():
    """SDM "Determination of Access Rights": #PF of a fetch from a page that is there; without SMEP it may."""
    source = (f"{LOAD}; or qword ptr [0x71000], 4; or qword ptr [0x72000], 4; or qword ptr [0x73010], 4;"
              "btr qword ptr [0x73010], 63; mov rax, cr3; mov cr3, rax; mov edi, 0x400000; mov byte ptr [rdi], 0xC3;"
              "call rdi; mov rax, cr4; bts rax, 20; mov cr4, rax; mov esi, 0x77; call rdi")
    result = run_guest(source, 64, data=handlers(64, v14=f"pop rcx; mov ebx, 14; {OFF}"), memory_mib=8)
    assert (result.ended, result.rbx, result.rcx, result.cr2, result.rsi) == ("shutdown", 14, 0x11, 0x400000, 0x77)


def test_syscall_and_sysret_go_there_and_back():
    kernel = assemble("mov rbx, r11; mov esi, cs; .byte 0x48, 0x0F, 0x07", 64, 0x34000)[0][1]
    user = assemble("mov eax, 5; syscall; mov ebp, cs; int 0x21", 64, 0x30000)[0][1]
    data = handlers(64, v33=OFF) | {0x30000: user, 0x34000: kernel}
    source = (f"{LOAD}; {LET_USERS_IN}"
              "mov rax, 0x00CFF3000000FFFF; mov [0x70030], rax; mov rax, 0x00AFFB000000FFFF; mov [0x70038], rax;"
              "sub rsp, 16; mov word ptr [rsp], 0x3F; mov qword ptr [rsp + 2], 0x70000; lgdt [rsp];"
              "mov ecx, 0xC0000080; rdmsr; or eax, 1; wrmsr; mov ecx, 0xC0000081; xor eax, eax;"
              "mov edx, 0x00280008; wrmsr;"
              "mov ecx, 0xC0000082; mov eax, 0x34000; xor edx, edx; wrmsr; push 0x33; push 0x80000;"
              "push 0x202; push 0x3B;"
              "push 0x30000; iretq")
    result = run_guest(source, 64, data=data)
    assert (result.ended, result.rcx, result.rbx, result.rsi) == ("shutdown", 0x30007, 0x202, 0x08)
    assert result.rbp == 0x3B


def test_an_interrupt_stack_of_the_table_is_used():
    data = handlers(64, v6=f"mov rbx, rsp; {OFF}")
    table = bytearray(data[IDT])
    table[6 * 16 + 4] = 1
    result = run_guest(f"{LOAD}; ud2", data=data | {IDT: bytes(table)})
    assert result.rbx == 0x98000 - 40


@pytest.mark.parametrize("bits", [32, 64])
def test_a_fault_whose_gate_is_missing_becomes_a_double_fault(bits):
    data = handlers(bits)
    size = 16 if bits == 64 else 8
    table = bytearray(data[IDT])
    table[13 * size : 14 * size] = bytes(size)
    result = run_guest(f"{LOAD}; mov ax, 0x1234; mov ds, ax", bits, data=data | {IDT: bytes(table)})
    assert (result.ended, result.rbx) == ("shutdown", 8)


def test_without_a_double_fault_gate_it_is_a_triple_fault():
    data = handlers(64)
    result = run_guest(f"{LOAD}; ud2", data=data | {IDT: bytes(16 * 34)})
    assert result.ended == "triple-fault"
    assert [exit.reason for exit in result.of(VmExit)][-1] is ExitReason.TRIPLE_FAULT


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("source", "vector"), [("ud2", 6), ("xor ecx, ecx; div ecx", 0), ("int3", 3), ("int 0x20",
                                                                                                        32)])
def test_an_exception_reaches_its_handler(source, vector, bits):
    result = run_guest(f"{LOAD}; {source}", bits, data=handlers(bits))
    assert (result.ended, result.rbx) == ("shutdown", vector)


def test_a_handler_returns_behind_the_instruction_it_skips():
    data = handlers(64, v6="add qword ptr [rsp], 2; inc ecx; iretq")
    result = run_guest(f"{LOAD}; mov ebp, 100; again: ud2; dec ebp; jnz again; {OFF}", data=data)
    assert (result.ended, result.rcx) == ("shutdown", 100)


def test_flags_survive_an_exit_to_the_parent():
    """The serial port's status is read between a comparison and its jump."""
    result = run_guest(f"mov dx, 0x3FD; cmp ecx, ecx; in al, dx; jne wrong; mov ebx, 7; wrong: {OFF}")
    assert result.rbx == 7


def test_sse_and_x87_compute():
    result = run_guest("mov eax, 3; cvtsi2sd xmm0, eax; addsd xmm0, xmm0; cvttsd2si ebx, xmm0; fninit; fld1; fld1;"
                       f".byte 0xDE, 0xC1; sub rsp, 16; fistp dword ptr [rsp]; mov ecx, [rsp]; {OFF}")
    assert (result.rbx, result.rcx) == (6, 2)


def test_a_real_mode_interrupt_returns():
    handler = assemble("inc cx; iret", 16, 0x7E00)[0][1]
    result = run_guest(f"mov word ptr [0x84], 0x7E00; mov word ptr [0x86], 0; int 0x21; int 0x21; {OFF}", 16,
                       data={0x7E00: handler})
    assert (result.ended, result.rcx) == ("shutdown", 2)


def test_every_run_of_a_guest_is_the_same_run():
    source = f"{LOAD}; mov ecx, 50; again: cpuid; rdtsc; mov ecx, eax; out 0x80, al; ud2"
    runs = {run_guest(source, data=handlers(64)).fingerprint() for _ in range(3)}
    assert len(runs) == 1


# --- single step -----------------------------------------------------------------------------------------------

LOG = 0x40000       # where the next entry goes, DR6, and the entries
NOTE_64 = (f"push rax; push rdi; mov rdi, [{LOG}]; mov rax, [rsp + 16]; mov [rdi], rax; add qword ptr [{LOG}], 8;"
           f"mov rax, dr6; mov [{LOG + 8}], rax; pop rdi; pop rax; iretq")
NOTE_32 = (f"push eax; push edi; mov edi, [{LOG}]; mov eax, [esp + 8]; mov [edi], eax; add dword ptr [{LOG}], 8;"
           f"mov eax, dr6; mov [{LOG + 8}], eax; pop edi; pop eax; iretd")
SET_TF = {64: "pushfq; or dword ptr [rsp], 0x100; popfq", 32: "pushfd; or dword ptr [esp], 0x100; popfd"}
BS = 1 << 14
# What runs with TF set, and where in it #DB comes; SDM "Single-Step Exception Condition". The first instruction after
# POPF is the first that is traced.
STEPS = {
    "plain": ("nop; inc ecx; nop", {32: (1, 2, 3), 64: (1, 3, 4)}),
    "cpuid": ("nop; cpuid; nop", (1, 3, 4)),
    "rdtsc": ("nop; rdtsc; nop", (1, 3, 4)),
    "pause": ("nop; pause; nop", (1, 3, 4)),
    "wbinvd": ("nop; wbinvd; nop", (1, 3, 4)),
    "rdmsr": ("mov ecx, 0xC0000080; rdmsr; nop", (5, 7, 8)),
    "out": ("nop; out 0x80, al; nop", (1, 3, 4)),
    "in": ("nop; in al, 0x80; nop", (1, 3, 4)),
    "mov-cr": ("mov {a}, cr0; mov cr0, {a}; nop", (3, 6, 7)),
    "mov-dr": ("mov {a}, dr7; mov dr7, {a}; nop", (3, 6, 7)),
    "mov-ss": ("mov eax, ss; mov ss, eax; nop; nop", (2, 5, 6)),
    "mov-ss-cpuid": ("mov eax, ss; mov ss, eax; cpuid; nop", (2, 6, 7)),
    "sti": ("sti; cli; nop", (1, 2, 3)),
    "rep": ("mov ecx, 3; mov edi, 0x41000; rep stosb; nop", (5, 10, 10, 10, 12, 13)),
}


def steps_of(source: str, bits: int, **special: str) -> tuple[object, list[int]]:
    """Run *source* with TF set: where #DB came, counted from the beginning of *source*."""
    prologue = f"{LOAD}; {SET_TF[bits]};"
    start = 0x10000 + sum(len(part) for _, part in assemble(prologue, bits))
    data = handlers(bits, v1=NOTE_64 if bits == 64 else NOTE_32, **special) | {LOG: struct.pack("<Q", LOG + 16)}
    source = source.format(a="rax" if bits == 64 else "eax")
    result = run_guest(f"{prologue}{source}; {OFF}", bits, data=data)
    end = int.from_bytes(result.memory[LOG : LOG + 4], "little")
    return result, [int.from_bytes(result.memory[at : at + 4], "little") - start for at in range(LOG + 16, end, 8)]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("case", STEPS)
def test_a_single_step_is_a_trap_behind_each_instruction(case, bits):
    source, expected = STEPS[case]
    wanted = expected[bits] if isinstance(expected, dict) else expected
    result, found = steps_of(source, bits)
    assert result.ended == "shutdown"
    assert found[: len(wanted)] == list(wanted)
    assert int.from_bytes(result.memory[LOG + 8 : LOG + 12], "little") & BS


def test_a_handler_of_an_instruction_that_faults_is_not_traced():
    """The fault comes instead of the #DB, and TF is clear in the handler; here it skips the load of 6 bytes."""
    skip = "add rsp, 8; add qword ptr [rsp], 6; iretq"
    result, found = steps_of("nop; mov eax, [rbx + 0x10000000]; nop", 64, v14=skip)
    assert (result.ended, found[:2]) == ("shutdown", [1, 8])


def test_an_interrupt_instruction_is_not_traced():
    """INT n clears TF; what it returns to is traced again."""
    _, found = steps_of("nop; int 0x21; nop; nop", 64, v33="nop; iretq")
    assert found[:3] == [1, 4, 5]


def test_clearing_tf_is_the_last_instruction_that_is_traced():
    """The trap comes by the TF that an instruction began with."""
    _, found = steps_of("pushfq; and dword ptr [rsp], 0xFFFFFEFF; popfq; nop; cpuid; nop", 64)
    assert found == [1, 8, 9]


def test_a_32_bit_iret_is_traced_by_the_tf_it_began_with():
    _, found = steps_of("pushfd; and dword ptr [esp], 0xFFFFFEFF; push cs; call next; next: add dword ptr [esp], 5;"
                        "iretd; nop; cpuid", 32)
    assert found[-1] == found[-2] + 1


# --- virtual-8086 mode -------------------------------------------------------------------------------------------

V86_CODE, V86_STACK = 0x20000, 0x7000
V86_SELECTOR = V86_CODE >> 4
VM = 1 << 17


def virtual_8086(code: str, iopl: int = 0, ports: int = 0xFF, flags: int = 0, **special: str) -> object:
    """Run *code* in virtual-8086 mode: an IRETD goes there, an exception comes back.

    *ports* fills the I/O permission bitmap. The handler puts the vector into EBX; ECX is the saved IP, ESI the saved
    EFLAGS (of an exception without error code; with one, the code and the IP).
    """
    handler = "mov ecx, [esp]; mov esi, [esp + 8]; mov edi, [esp + 4]"
    data = handlers(32, **({f"v{n}": f"{handler}; mov ebx, {n}; {OFF}" for n in (1, 3, 6, 13, 14, 33)} | special))
    tss = bytearray(0x88)
    struct.pack_into("<IH", tss, 4, 0x98000, 0x10)
    struct.pack_into("<H", tss, 0x66, 0x68)
    tss[0x68:0x88] = bytes((ports,)) * 32
    data |= {V86_CODE: assemble(code, 16, 0)[0][1], 0x42000: bytes(tss)}
    frame = (0, 0, 0, 0, V86_SELECTOR, V86_STACK, VM | 2 | iopl << 12 | flags, V86_SELECTOR, 0)
    source = f"{LOAD}; " + "; ".join(f"push {word}" for word in frame) + "; iretd"

    def prepare(machine: object, vm: object) -> None:
        state = vm.partition.vps[0].regs
        state.tr = state.tr._replace(base=0x42000, limit=0x87)

    return run_guest(source, 32, data=data, prepare=prepare)


@pytest.mark.parametrize("source", ["cli", "sti", "pushf", "popf", "int 0x21", "iret"])
def test_virtual_8086_mode_without_iopl_may_not(source):
    """SDM "Sensitive Instructions": #GP(0) at the instruction."""
    result = virtual_8086(source)
    assert (result.ended, result.rbx, result.rcx, result.rdi) == ("shutdown", 13, 0, 0)


@pytest.mark.parametrize("source", ["hlt", "mov eax, cr0", "lgdt [0]", "rdmsr"])
@pytest.mark.parametrize("iopl", [0, 3])
def test_virtual_8086_mode_has_no_privilege(source, iopl):
    result = virtual_8086(source, iopl)
    assert (result.rbx, result.rcx, result.rdi) == (13, 0, 0)


def test_virtual_8086_mode_with_iopl_interrupts_through_the_idt():
    """The frame holds the segments too; RFLAGS.VM is in the saved image and clear in the handler."""
    result = virtual_8086("nop; int 0x21", iopl=3)
    assert (result.rbx, result.rcx, result.rdi, result.cpl) == (33, 3, V86_SELECTOR, 0)
    assert (result.rsi & VM, result.rflags & VM, result.rsp) == (VM, 0, 0x98000 - 36)
    assert not result.ds.usable


def test_an_exception_of_virtual_8086_mode_comes_back():
    result = virtual_8086("nop; ud2")
    assert (result.rbx, result.rcx, result.rsi & (VM | 0x3000)) == (6, 1, VM)


@pytest.mark.parametrize("iopl", [0, 3])
@pytest.mark.parametrize(("ports", "expected"), [(0, (6, 2)), (0xFF, (13, 0))])
def test_virtual_8086_mode_asks_the_bitmap_whatever_iopl(ports, expected, iopl):
    """SDM "I/O Permission Bit Map": IOPL is no permission here."""
    result = virtual_8086("in al, 0x80; ud2", iopl, ports)
    assert (result.rbx, result.rcx if expected[0] == 6 else 0) == expected


def test_addresses_of_virtual_8086_mode_are_segment_and_offset():
    result = virtual_8086("mov ax, 0x4300; mov ds, ax; mov word ptr [5], 0x1234; ud2")
    assert int.from_bytes(result.memory[0x43005:0x43007], "little") == 0x1234


def test_virtual_8086_mode_is_single_stepped():
    result = virtual_8086("nop; nop; ud2", flags=0x100)
    assert (result.rbx, result.rcx, result.rsi & 0x100, result.dr6 & BS) == (1, 1, 0x100, BS)


def test_cpuid_exits_in_virtual_8086_mode():
    result = virtual_8086("cpuid; ud2")
    assert (result.rbx, result.rcx) == (6, 2)
    assert any(exit.reason is ExitReason.CPUID for exit in result.of(VmExit))


FAR = "mov r15, 0x8000000000000000; mov r14, rsp; mov rbp, r15"
STACK_1 = {"v12": f"mov rsp, r14; mov ebx, 12; {OFF}", "v13": f"mov rsp, r14; mov ebx, 13; {OFF}"}


@pytest.mark.parametrize(("source", "vector"), [
    ("mov rax, [rbp]", 12), ("mov [rbp + 8], rax", 12), ("mov rsp, r15; push rax", 12), ("mov rsp, r15; pop rax", 12),
    ("mov rsp, r15; call next; next:", 12), ("mov rsp, r15; ret", 12), ("leave", 12), ("mov rsp, r15; pushfq", 12),
    ("mov rsp, r15; mov rax, [rsp]", 12), ("mov rax, [r15]", 13), ("mov rbp, r14; mov rax, [r15 + rbp]", 13),
    (".byte 0x4d, 0x89, 0xfc; .byte 0x49, 0x8b, 0x04, 0x64", 13), ("mov rsp, r15; .byte 0x48, 0x8b, 0x04, 0x64", 12),
    (".byte 0xc4, 0xc2, 0x71, 0x92, 0x04, 0x17", 6),      # VGATHERDPS, whose index is a vector
    ("mov rsp, r15; mov rax, [r15]", 13), ("push qword ptr [r15]", 13), ("jmp r15", 13),
    ("mov ecx, 0xC0000082; mov edx, 0x80000000; wrmsr", 13)])
def test_a_stack_that_is_not_canonical_is_a_stack_fault(source, vector):
    """SDM "Canonical Addressing": #SS for what goes by way of SS, #GP for everything else."""
    data = handlers(64, **STACK_1)
    table = bytearray(data[IDT])
    table[12 * 16 + 4] = table[13 * 16 + 4] = 1         # IST 1: the guest's own stack is of no use
    result = run_guest(f"{LOAD}; {FAR}; {source}; {OFF}", data=data | {IDT: bytes(table)})
    assert (result.ended, result.rbx) == ("shutdown", vector)
