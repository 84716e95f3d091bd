"""What makes a guest exit, with which qualification and length, and what is done without an exit."""

from __future__ import annotations

import pytest

from hv.spec.exits import (
    CrQualification,
    DrQualification,
    ExitReason,
    InterruptionInfo,
    InterruptionType,
    IoQualification,
)
from hv.spec.msrs import Msr
from hv.spec.vmcs import PrimaryControls, VmcsField
from hv.vmx.root_operation.operation import VmxOperation
from hv.vmx.vmcs import DEFAULT_CONTROLS
from tests.proves import proves
from tests.vmx.vcpu_box import BITMAP_A, BITMAP_B, CODE, MSR_BITMAP, vector_at

R, F = ExitReason, VmcsField
PRIMARY = DEFAULT_CONTROLS[F.PRIMARY_PROC_CONTROLS]
UD, GP, PF = 6, 13, 14
HLT_HANDLER = R.HLT         # a handler of the test's IDT: the fault was delivered


def primary(*, on: int = 0, off: int = 0) -> dict[VmcsField, int]:
    return {F.PRIMARY_PROC_CONTROLS: (PRIMARY | on) & ~off}


# --- instructions that exit ------------------------------------------------------------------------------

UNCONDITIONAL = {
    "cpuid": (R.CPUID, 2), "invd": (R.INVD, 2), "vmcall": (R.VMCALL, 3), "hlt": (R.HLT, 1), "pause": (R.PAUSE, 2),
    "rdmsr": (R.RDMSR, 2), "wrmsr": (R.WRMSR, 2),
}


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("source", UNCONDITIONAL)
def test_an_instruction_exits_with_its_length(box, source, bits):
    vcpu, exit = box.exit_of(f"nop; {source}", bits)
    assert (exit.reason, exit.instruction_length) == UNCONDITIONAL[source]
    assert exit.qualification == 0
    assert vcpu.state.rip == (0 if bits == 16 else CODE) + 1
    assert vcpu.exits[exit.reason] == 1
    assert vcpu.vmcs.read(F.EXIT_REASON) == exit.reason


VMX = {"vmclear [rbx]": R.VMCLEAR, "vmlaunch": R.VMLAUNCH, "vmptrld [rbx]": R.VMPTRLD, "vmptrst [rbx]": R.VMPTRST,
       "vmread rax, rbx": R.VMREAD, "vmresume": R.VMRESUME, "vmwrite rax, rbx": R.VMWRITE, "vmxoff": R.VMXOFF,
       "vmxon [rbx]": R.VMXON, "invept rax, [rbx]": R.INVEPT, "invvpid rax, [rbx]": R.INVVPID}


@pytest.mark.parametrize("source", VMX)
def test_a_vmx_instruction_exits(box, source):
    """SDM "Instructions That Cause VM Exits Unconditionally"."""
    _, exit = box.exit_of(source, rbx=0x20000)
    assert exit.reason is VMX[source]
    assert exit.instruction_length >= 3


def test_hlt_exits(box):
    """Without its control the guest would sleep in the processor; nobody asks for that."""
    _, exit = box.exit_of("hlt", fields=primary(on=int(PrimaryControls.HLT_EXITING)))
    assert exit.reason is R.HLT


@pytest.mark.parametrize(("source", "control", "reason"), [
    ("pause", PrimaryControls.PAUSE_EXITING, R.PAUSE),
    ("rdtsc", PrimaryControls.RDTSC_EXITING, R.RDTSC), ("rdpmc", PrimaryControls.RDPMC_EXITING, R.RDPMC),
    ("mov dr3, rbx", PrimaryControls.MOV_DR_EXITING, R.MOV_DR),
    ("out dx, al", PrimaryControls.UNCONDITIONAL_IO_EXITING, R.IO_INSTRUCTION)])
def test_a_control_decides_whether_an_instruction_exits(box, source, control, reason):
    _, exit = box.exit_of(source, fields=primary(on=int(control)))
    assert exit.reason is reason
    _, exit = box.exit_of(f"{source}; cpuid", fields=primary(off=int(control)))
    assert exit.reason is (HLT_HANDLER if source == "rdpmc" else R.CPUID)


@pytest.mark.parametrize("source", ["rdtscp", "vmmcall", "vmrun", "stgi", "ud2", "invlpga"])
def test_what_the_processor_does_not_offer_is_an_invalid_opcode(box, source):
    code = {"rdtscp": "0f01f9", "vmmcall": "0f01d9", "vmrun": "0f01d8",
            "stgi": "0f01dc", "ud2": "0f0b", "invlpga": "0f01df"}[source]
    vcpu, exit = box.exit_of(bytes.fromhex(code))
    assert (exit.reason, vector_at(vcpu)) == (HLT_HANDLER, UD)


def test_wbinvd_goes_on(box):
    _, exit = box.exit_of("wbinvd; cpuid")
    assert exit.reason is R.CPUID


# --- time ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("offset", [0, 0x1_0000_0000, (1 << 64) - 0x100])
def test_rdtsc_reads_the_clock_and_the_offset(box, offset):
    """SDM "Time-Stamp Counter Offset and Multiplier"."""
    vcpu, _ = box.exit_of("rdtsc; cpuid",
                          fields=primary(on=int(PrimaryControls.USE_TSC_OFFSETTING)) | {F.TSC_OFFSET: offset})
    tsc = vcpu.state.edx << 32 | vcpu.state.eax
    assert 0 < (tsc - offset) % (1 << 64) <= box.clock.tsc


def test_the_counter_moves_for_a_guest_that_polls_it(box):
    vcpu, _ = box.exit_of("rdtsc; mov ebx, eax; rdtsc; cpuid")
    assert vcpu.state.eax > vcpu.state.ebx


@proves("cr4/TSD")
@pytest.mark.parametrize("tsd", [False, True])
def test_rdtsc_of_a_user_needs_tsd_clear(box, tsd):
    vcpu, exit = box.exit_of("rdtsc; int3", user=True, cr4=0x620 | 4 * tsd)
    assert (exit.reason, vector_at(vcpu)) == (HLT_HANDLER, GP if tsd else 3)


# --- MSRs ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("half", ["read", "write"])
@pytest.mark.parametrize(("index", "known"), [(0x174, True), (0x277, True), (0xC0000082, True), (0xC0000102, True),
                                              (0x40000000, False), (0xC0002000, False)])
@pytest.mark.parametrize("bit", [0, 1])
def test_the_msr_bitmap_decides(box, half, index, known, bit):
    """SDM "MSR-Bitmap Address": outside its ranges every access exits."""
    box.memory.write(MSR_BITMAP, (b"\xff" if bit else b"\0") * 4096)
    fields = primary(on=int(PrimaryControls.USE_MSR_BITMAPS)) | {F.MSR_BITMAP: MSR_BITMAP}
    source = "rdmsr; cpuid" if half == "read" else "wrmsr; cpuid"
    vcpu, exit = box.exit_of(source, fields=fields, rcx=index, rax=0x06, rdx=0x04)
    passes = known and not bit
    assert exit.reason is (R.CPUID if passes else R.RDMSR if half == "read" else R.WRMSR)
    if passes:
        value = vcpu.state.msrs[index]
        assert half == "read" or value == (0x04 << 32 | 0x06 if index != 0x174 else 0x06)
        assert half == "write" or (vcpu.state.rdx << 32 | vcpu.state.rax) == value


@proves("control/PrimaryControls.USE_MSR_BITMAPS", "instruction/RDMSR", "instruction/WRMSR", "exit/RDMSR", "exit/WRMSR")
@pytest.mark.parametrize("source", ["rdmsr", "wrmsr"])
@pytest.mark.parametrize("index", [0x1A4, 0x1FFE, 0x1FFF, 0xC0001FFF])
@pytest.mark.parametrize("bit", [0, 1, None])
def test_an_msr_that_the_processor_does_not_have_exits_or_is_general_protection(box, source, index, bit):
    """The exit comes first; an access that the bitmap lets through is #GP(0). Without bitmaps every access exits."""
    box.memory.write(MSR_BITMAP, (b"\xff" if bit else b"\0") * 4096)
    fields = primary(on=int(PrimaryControls.USE_MSR_BITMAPS)) | {F.MSR_BITMAP: MSR_BITMAP} if bit is not None else {}
    vcpu, exit = box.exit_of(source, fields=fields, rcx=index)
    if bit == 0:
        assert (exit.reason, vector_at(vcpu), box.memory.read_u64(vcpu.state.rsp)) == (HLT_HANDLER, GP, 0)
    else:
        assert (exit.reason, exit.instruction_length, vcpu.state.rip) == (R[source.upper()], 2, CODE)


@proves("control/PrimaryControls.USE_MSR_BITMAPS")
def test_a_guest_of_a_processor_in_vmx_operation_reads_what_it_offers(box):
    """The capability MSRs are the processor's own: let through, they are read, and #GP when written."""
    box.memory.write(MSR_BITMAP, bytes(4096))
    for source, outcome in (("rdmsr; cpuid", R.CPUID), ("wrmsr; cpuid", HLT_HANDLER)):
        vcpu = box.vcpu()
        vcpu.vmx = VmxOperation(box.memory)
        for field, value in (primary(on=int(PrimaryControls.USE_MSR_BITMAPS)) | {F.MSR_BITMAP: MSR_BITMAP}).items():
            vcpu.vmcs.write(field, value)
        vcpu.state.rcx = Msr.VMX_BASIC
        box.put(source)
        box.exits.clear()
        box.go(vcpu)
        assert box.exits[0].reason is outcome
    assert vector_at(vcpu) == GP


@proves("control/PrimaryControls.USE_MSR_BITMAPS", "instruction/RDMSR", "instruction/WRMSR", "exit/RDMSR", "exit/WRMSR")
@pytest.mark.parametrize(("index", "half", "offset"), [(0x277, "read", 0x4E), (0x277, "write", 0x84E),
                                                       (0xC0000082, "read", 0x410), (0xC0000082, "write", 0xC10)])
def test_each_msr_has_a_bit_for_reading_and_one_for_writing(box, index, half, offset):
    box.memory.write(MSR_BITMAP, bytes(4096))
    box.memory.write(MSR_BITMAP + offset, bytes((1 << (index & 7),)))
    fields = primary(on=int(PrimaryControls.USE_MSR_BITMAPS)) | {F.MSR_BITMAP: MSR_BITMAP}
    for other in ("rdmsr", "wrmsr"):
        _, exit = box.exit_of(f"{other}; cpuid", fields=fields, rcx=index, rax=0, rdx=0)
        watched = (other == "rdmsr") == (half == "read")
        assert exit.reason is ({"rdmsr": R.RDMSR, "wrmsr": R.WRMSR}[other] if watched else R.CPUID)


@pytest.mark.parametrize("source", ["rdmsr", "wrmsr", "hlt", "mov rax, cr0", "mov cr3, rax", "clts", "invd", "wbinvd",
                                    "mov cr8, rax", "lgdt [rbx]", "ltr ax", "mov dr7, rax"])
def test_a_privileged_instruction_of_a_user_faults_before_it_exits(box, source):
    """SDM "Relative Priority of Faults and VM Exits"."""
    vcpu, exit = box.exit_of(source, user=True)
    assert (exit.reason, vector_at(vcpu)) == (HLT_HANDLER, GP)
    assert box.memory.read_u64(vcpu.state.rsp) == 0
    assert box.memory.read_u64(vcpu.state.rsp + 8) == CODE


# --- ports -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("source", "size", "read", "string", "rep", "immediate", "length"), [
    ("in al, dx", 1, 1, 0, 0, 0, 1), ("in ax, dx", 2, 1, 0, 0, 0, 2), ("in eax, dx", 4, 1, 0, 0, 0, 1),
    ("out dx, al", 1, 0, 0, 0, 0, 1), ("out dx, ax", 2, 0, 0, 0, 0, 2), ("out dx, eax", 4, 0, 0, 0, 0, 1),
    ("in al, 0x70", 1, 1, 0, 0, 1, 2), ("out 0x70, eax", 4, 0, 0, 0, 1, 2), ("insb", 1, 1, 1, 0, 0, 1),
    ("outsd", 4, 0, 1, 0, 0, 1), ("rep outsb", 1, 0, 1, 1, 0, 2), ("rep insw", 2, 1, 1, 1, 0, 3)])
def test_a_port_access_is_described(box, source, size, read, string, rep, immediate, length):
    """SDM "Exit Qualification for I/O Instructions"."""
    _, exit = box.exit_of(source, rdx=0x3F8, rcx=5, rsi=0x20000, rdi=0x20000)
    assert (exit.reason, exit.instruction_length) == (R.IO_INSTRUCTION, length)
    assert IoQualification(exit.qualification) == IoQualification(
        size_minus_1=size - 1, in_=read, string=string, rep=rep, immediate=immediate, port=0x70 if immediate else 0x3F8)


@pytest.mark.parametrize(("port", "size", "exits"), [(0x80, 1, True), (0x81, 1, False), (0x7D, 4, True), (0x7F, 2,
                                                                                                          True),
                                                     (0x7E, 2, False), (0x8000, 1, True), (0x7FFF, 1, False),
                                                     (0x7FFF, 2, True), (0xFFFF, 2, True), (0xFFFF, 1, False)])
def test_the_io_bitmaps_decide(box, port, size, exits):
    """SDM "I/O-Bitmap Addresses": A for ports below 8000h, B above; a wrap around exits."""
    box.memory.write(BITMAP_A, bytes(8192))
    box.memory.write(BITMAP_A + 0x10, b"\1")
    box.memory.write(BITMAP_B, b"\1")
    fields = primary(on=int(PrimaryControls.USE_IO_BITMAPS)) | {F.IO_BITMAP_A: BITMAP_A, F.IO_BITMAP_B: BITMAP_B}
    register = {1: "al", 2: "ax", 4: "eax"}[size]
    vcpu, exit = box.exit_of(f"in {register}, dx; cpuid", fields=fields, rdx=port, rax=0)
    assert exit.reason is (R.IO_INSTRUCTION if exits else R.CPUID)
    assert exits or vcpu.state.rax == (1 << 8 * size) - 1


@pytest.mark.parametrize(("iopl", "bitmap", "faults"), [(3, 0xFF, False), (0, 0xFF, True), (0, 0x00, False), (2, 0xFF,
                                                                                                              True)])
def test_a_port_of_a_user_needs_iopl_or_the_bit_of_the_tss(box, iopl, bitmap, faults):
    """SDM "I/O Permission Bit Map"; before any exit."""
    box.memory.write(0x8066, b"\x68\0" + bytes((bitmap,)) * 0x80 + b"\xff")
    vcpu = box.vcpu(64, user=True)
    vcpu.state.tr = type(vcpu.state.tr)(0x20, 0x8000, 0x67 + 0x81, 0x8B)
    vcpu.state.rflags, vcpu.state.rdx = 2 | iopl << 12, 0x3F8
    box.put("out dx, al")
    box.go(vcpu)
    assert box.exits[0].reason is (HLT_HANDLER if faults else R.IO_INSTRUCTION)
    assert not faults or vector_at(vcpu) == GP


# --- control registers -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("source", "access", "gpr"), [("mov cr8, rcx", 0, 1), ("mov rdi, cr8", 1, 7), ("mov cr8, r15",
                                                                                                        0, 15)])
def test_the_task_priority_exits_with_its_register(box, source, access, gpr):
    """SDM "Exit Qualification for Control-Register Accesses"."""
    _, exit = box.exit_of(source)
    assert (exit.reason, exit.instruction_length) == (R.CR_ACCESS, 4)
    assert CrQualification(exit.qualification) == CrQualification(number=8, access=access, register=gpr)


@pytest.mark.parametrize(("source", "register", "kept"), [
    ("mov dr0, rbx", 0, 0x2401), ("mov dr7, rbx", 7, 0x2401), ("mov dr5, rbx", 7, 0x2401),
    ("mov dr4, rbx", 6, 0xFFFF2FF1)])
def test_a_debug_register_is_kept(box, source, register, kept):
    vcpu, exit = box.exit_of(f"{source}; cpuid", rbx=0x2401)
    assert (exit.reason, getattr(vcpu.state, f"dr{register}")) == (R.CPUID, kept)


def test_a_debug_register_exits_with_its_registers(box):
    _, exit = box.exit_of("mov dr3, rsi", fields=primary(on=int(PrimaryControls.MOV_DR_EXITING)))
    assert DrQualification(exit.qualification) == DrQualification(number=3, from_dr=0, register=6)


# --- exceptions ------------------------------------------------------------------------------------------

EXCEPTIONS = {0: ("xor ecx, ecx; div ecx", None), 6: ("ud2", None), 13: ("mov rax, [rbx]", 0), 14: ("mov rax, [rdi]",
                                                                                                    0)}


@pytest.mark.parametrize("vector", EXCEPTIONS)
@pytest.mark.parametrize("wanted", [False, True])
def test_the_exception_bitmap_decides(box, vector, wanted):
    source, error_code = EXCEPTIONS[vector]
    vcpu, exit = box.exit_of(source, fields={F.EXCEPTION_BITMAP: wanted << vector}, rbx=1 << 62, rdi=0x1234567000)
    if not wanted:
        assert (exit.reason, vector_at(vcpu)) == (HLT_HANDLER, vector)
        assert vcpu.state.cr2 == (0x1234567000 if vector == PF else 0)
        return
    assert exit.reason is R.EXCEPTION_OR_NMI
    info = InterruptionInfo(exit.interruption_info)
    assert (info.valid, info.vector, info.type) == (1, vector, InterruptionType.HARDWARE_EXCEPTION)
    assert (info.error_code_valid, exit.interruption_error_code) == (int(error_code is not None), 0)
    assert exit.qualification == (0x1234567000 if vector == PF else 0)
    assert vcpu.state.cr2 == 0


@pytest.mark.parametrize(("bitmap", "mask", "match", "code", "exits"), [
    (1 << PF, 0, 0, 0, True), (1 << PF, 2, 2, 0, False), (1 << PF, 2, 2, 2, True), (0, 2, 2, 2, False), (0, 2, 2, 0,
                                                                                                         True),
    (0, 0, 0, 0, False), (1 << PF, 0, 1, 0, False), (0, 0, 1, 0, True)])
def test_page_faults_are_chosen_by_mask_and_match(box, bitmap, mask, match, code, exits):
    """SDM "Exceptions": the bitmap's bit 14 means "matching", or "not matching" when it is clear."""
    fields = {F.EXCEPTION_BITMAP: bitmap, F.PAGE_FAULT_ERROR_CODE_MASK: mask, F.PAGE_FAULT_ERROR_CODE_MATCH: match}
    _, exit = box.exit_of("mov [rdi], eax" if code else "mov eax, [rdi]", fields=fields, rdi=0x1234567000)
    assert exit.reason is (R.EXCEPTION_OR_NMI if exits else HLT_HANDLER)


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize(("source", "vector"), [("int 0x33", 0x33), ("int 3", 3), ("int3", 3), ("int 0x80", 0x80)])
def test_a_software_interrupt_goes_through_the_idt_and_returns_behind_itself(box, source, vector, bits):
    vcpu, exit = box.exit_of(f"nop; {source}", bits)
    assert (exit.reason, vector_at(vcpu)) == (HLT_HANDLER, vector)
    length = 1 if source == "int3" else 2
    size = {16: 2, 32: 4, 64: 8}[bits]
    stack = vcpu.state.ss.base + vcpu.state.rsp
    pushed = int.from_bytes(box.memory.read(stack, size), "little")
    assert pushed == (0 if bits == 16 else CODE) + 1 + length


def test_into_is_an_interrupt_only_with_overflow(box):
    for flags, vector in ((2, None), (0x802, 4)):
        vcpu, exit = box.exit_of(b"\xce\x0f\xa2", 32, rflags=flags)
        assert exit.reason is (R.CPUID if vector is None else HLT_HANDLER)
        assert vector_at(vcpu) == vector


@proves("instruction/INT3", "instruction/INTO", "exit/EXCEPTION_OR_NMI")
@pytest.mark.parametrize(("code", "bits", "vector", "length"), [(b"\xcc", 64, 3, 1), (b"\xce", 32, 4, 1)])
def test_int3_and_into_exit_by_the_bitmap_as_software_exceptions(box, code, bits, vector, length):
    _, exit = box.exit_of(code, bits, fields={F.EXCEPTION_BITMAP: 1 << vector}, rflags=0x802)
    info = InterruptionInfo(exit.interruption_info)
    assert (exit.reason, info.vector, info.type) == (R.EXCEPTION_OR_NMI, vector, InterruptionType.SOFTWARE_EXCEPTION)
    assert exit.instruction_length == length


@proves("instruction/INT_N")
def test_int_n_never_exits_by_the_bitmap(box):
    vcpu, exit = box.exit_of(b"\xcd\x03", fields={F.EXCEPTION_BITMAP: 0xFFFFFFFF})
    assert (exit.reason, vector_at(vcpu)) == (HLT_HANDLER, 3)


def test_int_n_of_a_user_needs_the_privilege_of_the_gate(box):
    vcpu = box.vcpu(64, user=True)
    box.gate(0x33, 64, kind=0x8E)
    box.put("int 0x33")
    box.go(vcpu)
    assert vector_at(vcpu) == GP
    assert box.memory.read_u64(vcpu.state.rsp) == 0x33 << 3 | 2


# --- fast system calls -----------------------------------------------------------------------------------

def test_syscall_enters_at_lstar(box):
    vcpu, exit = box.vcpu(64, user=True), None
    vcpu.state.efer, vcpu.state.rflags = 0xD01, 0x203
    vcpu.state.msrs[0xC0000081], vcpu.state.msrs[0xC0000082], vcpu.state.msrs[0xC0000084] = 0x8 << 32, 0x40000, 0x200
    box.memory.write(0x40000, b"\x0f\xa2")
    box.put("nop; syscall")
    box.go(vcpu)
    exit, state = box.exits[0], vcpu.state
    assert (exit.reason, state.rip, state.rcx, state.r11, state.cpl) == (R.CPUID, 0x40000, CODE + 3, 0x203, 0)
    assert state.rflags == 3


@pytest.mark.parametrize("bits", [32, 64])
def test_sysenter_and_sysexit_go_there_and_back(box, bits):
    """In long mode too, where the engine has neither."""
    vcpu = box.vcpu(bits, user=True)
    vcpu.state.msrs[0x174], vcpu.state.msrs[0x175], vcpu.state.msrs[0x176] = 0x8, 0x45000, 0x40000
    vcpu.state.rcx, vcpu.state.rdx, vcpu.state.rbx = 0x46000, 0x42000, 0
    box.memory.write(0x40000, b"\x43\x43" if bits == 32 else b"\xff\xc3\xff\xc3")
    box.memory.write(0x40004, b"\x48\x0f\x35" if bits == 64 else b"\x90\x0f\x35")
    box.memory.write(0x42000, b"\xcc")
    if bits == 32:
        box.memory.write(0x40002, b"\x90\x90")
    box.put("nop; sysenter", bits)
    box.go(vcpu)
    assert vector_at(vcpu) == 3
    size = bits // 8
    frame = [int.from_bytes(box.memory.read(vcpu.state.rsp + size * n, size), "little") for n in range(5)]
    assert frame[0] == 0x42001
    assert frame[1] == (0x2B if bits == 64 else 0x1B)
    assert frame[3:] == [0x46000, 0x33 if bits == 64 else 0x23]
    assert vcpu.state.rbx == 2


@pytest.mark.parametrize("source", ["sysenter", "sysexit"])
def test_fast_calls_without_their_selector_are_general_protection(box, source):
    vcpu, _ = box.exit_of(source, 64)
    assert vector_at(vcpu) == GP


# --- LTR -------------------------------------------------------------------------------------------------

def test_ltr_loads_the_tss_and_marks_it_busy(box):
    box.memory.write_u64(0x7020, 0x0000_8900_8000_0067)
    box.memory.write_u64(0x7028, 0)
    vcpu, exit = box.exit_of("mov ax, 0x20; ltr ax; cpuid")
    assert exit.reason is R.CPUID
    assert (vcpu.state.tr.selector, vcpu.state.tr.base, vcpu.state.tr.type) == (0x20, 0x8000, 11)
    assert box.memory.read_u64(0x7020) == 0x0000_8B00_8000_0067


@pytest.mark.parametrize(("selector", "vector", "code"), [
    (0, GP, 0), (3, GP, 0), (0x24, GP, 0x24), (0x10, GP, 0x10), (0x20, GP, 0x20), (0x38, GP, 0x38), (0x28, 11, 0x28)])
def test_ltr_refuses(box, selector, vector, code):
    """Null, LDT, data, a busy TSS, beyond the limit, not present; SDM "LTR - Load Task Register"."""
    box.memory.write_u64(0x7028, 0x0000_0900_8000_0067)
    box.memory.write_u64(0x7030, 0)
    vcpu, _ = box.exit_of("ltr ax", rax=selector)
    assert vector_at(vcpu) == vector
    assert box.memory.read_u64(vcpu.state.rsp) == code


# --- memory ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("source", "access"), [("mov rax, [rbx]", 1), ("mov [rbx], rax", 2), ("jmp rbx", 4)])
def test_an_unmapped_page_is_an_ept_violation(box, source, access):
    box.ept.unmap(0x20000)
    box.ept.invept()
    vcpu, exit = box.exit_of(source, rbx=0x20008)
    assert exit.reason is R.EPT_VIOLATION
    assert exit.qualification & 0x3F == access
    assert exit.guest_physical_address == 0x20008
    assert vcpu.state.rip == (0x20008 if access == 4 else CODE)
    assert vcpu.vmcs.read(F.GUEST_PHYSICAL_ADDRESS) == 0x20008


def test_a_misconfigured_entry_is_an_ept_misconfiguration(box):
    box.ept.walk(0x20000)
    box.memory.write_u64(box.ept.walk(0x20000).entries[-1].spa, 0x20000 | 2)
    _, exit = box.exit_of("mov rax, [rbx]", rbx=0x20008)
    assert (exit.reason, exit.guest_physical_address) == (R.EPT_MISCONFIGURATION, 0x20008)


# --- debug registers ---------------------------------------------------------------------------------------

DR_RULES = {
    "dr0-takes-64-bits": ("mov dr0, rsi; mov rbx, dr0; cpuid", {"rsi": 1 << 63 | 5}, None, 1 << 63 | 5),
    "dr6-upper-half": ("mov dr6, rsi", {"rsi": 1 << 32}, GP, 0),
    "dr7-upper-half": ("mov dr7, rsi", {"rsi": 1 << 32}, GP, 0),
    "dr6-fixed-bits": ("mov dr6, rsi; mov rbx, dr6; cpuid", {"rsi": 0xE00F}, None, 0xFFFF_EFFF),
    "dr6-cleared": ("mov dr6, rsi; mov rbx, dr6; cpuid", {"rsi": 0}, None, 0xFFFF_0FF0),
    "dr7-fixed-bits": ("mov dr7, rsi; mov rbx, dr7; cpuid", {"rsi": 0xD800}, None, 0x400),
    "dr4-is-dr6": ("mov dr6, rsi; mov rbx, dr4; cpuid", {"rsi": 1}, None, 0xFFFF_0FF1),
    "dr4-with-de": ("mov rbx, dr4", {"cr4": 0x628}, UD, 0),
    "dr5-with-de": ("mov dr5, rsi", {"cr4": 0x628}, UD, 0),
    "general-detect-read": ("mov rbx, dr0", {"dr7": 0x2400}, 1, 0),
    "general-detect-write": ("mov dr0, rsi", {"dr7": 0x2400}, 1, 0),
}


@pytest.mark.parametrize("rule", DR_RULES)
def test_a_debug_register(box, rule):
    """SDM "Debug Registers", "MOV - Move to/from Debug Registers"."""
    source, registers, vector, value = DR_RULES[rule]
    vcpu, exit = box.exit_of(source, rbx=0, **registers)
    assert exit.reason is (R.CPUID if vector is None else HLT_HANDLER)
    assert (vector_at(vcpu), vcpu.state.rbx) == (vector, value)
    if rule.startswith("general-detect"):
        assert (vcpu.state.dr6 & 0x2000, vcpu.state.dr7 & 0x2000) == (0x2000, 0)


def test_reading_a_debug_register_exits_by_the_same_control(box):
    """SDM "Exit Qualification for MOV DR"."""
    _, exit = box.exit_of("mov rsi, dr3", fields=primary(on=int(PrimaryControls.MOV_DR_EXITING)))
    assert (exit.reason, exit.qualification) == (R.MOV_DR, 3 | 1 << 4 | 6 << 8)
