"""A hypervisor in machine code: it enters VMX operation, launches its guest, and is told each of its mistakes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hv.machine.registers import Segment
from hv.spec.exits import ExitReason, VmInstructionError
from hv.spec.msrs import Msr
from hv.spec.vmcs import NO_VMCS, VmcsField
from hv.vmx.capabilities import PROCESSOR
from hv.vmx.root_operation.operation import VmxMode
from tests.machine.engine_box import DATA, FLAT_CODE_32
from tests.proves import proves
from tests.vmx.root_box import (
    ENTER,
    ERROR,
    FLAGS,
    LAUNCH,
    LOAD,
    OTHER_VMCS,
    POINTERS,
    RESULTS,
    VMCS,
    RootBox,
)
from tests.vmx.vcpu_box import vector_at

F, R, E = VmcsField, ExitReason, VmInstructionError
CF, ZF, OUTCOMES = 1, 0x40, 0x8D5
UD, SS, GP, PF = 6, 12, 13, 14
BAD = POINTERS + 24             # a place for one more pointer
SPOIL = "    mov eax, 0x7FFFFFFF\n    add eax, 1\n"      # OF, SF, PF and AF are 1
TELL = f"""
failed:
    pushfq
    pop qword ptr [{FLAGS}]
    mov eax, 0x4400
    mov qword ptr [{ERROR}], 0
    vmread qword ptr [{ERROR}], rax
    hlt
"""
NAMES = {"vmxon": "vmxon qword ptr [rbx]", "vmxoff": "vmxoff", "vmcall": "vmcall", "vmclear": "vmclear qword ptr [rbx]",
         "vmptrld": "vmptrld qword ptr [rbx]", "vmptrst": "vmptrst qword ptr [rbx]", "vmread": "vmread rax, rax",
         "vmwrite": "vmwrite rax, rax", "vmlaunch": "vmlaunch", "vmresume": "vmresume",
         "invept": "invept rax, xmmword ptr [rbx]", "invvpid": "invvpid rax, xmmword ptr [rbx]"}


@pytest.fixture
def root() -> Iterator[RootBox]:
    box = RootBox()
    yield box
    box.close()


def outcome(root: RootBox) -> tuple[int, int]:
    """The six flags that the code itself stored, and the VM-instruction error that it read."""
    return root.result(FLAGS) & OUTCOMES, root.result(ERROR)


@proves("instruction/VMXON", "instruction/VMLAUNCH", "instruction/VMRESUME", "instruction/VMREAD",
        "instruction/VMWRITE", "exit/CPUID", "exit/HLT")
def test_a_guest_runs_exits_and_is_resumed(root):
    root.start(LAUNCH, "mov edi, 7; cpuid; inc edi; cpuid; inc edi; hlt")
    assert root.log == [R.CPUID, R.CPUID, R.HLT]
    assert [exit.reason for exit in root.exits] == root.log
    assert root.cpu.state.rdi == 9
    assert root.operation.mode is VmxMode.ROOT


# --- who may ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [name for name in NAMES if name != "vmxon"])
def test_outside_vmx_operation_they_are_undefined(root, name):
    """SDM "VMX Instruction Reference": #UD, whatever CR4.VMXE is."""
    root.cpu.state.cr4 |= 0x2000
    root.start(NAMES[name])
    assert vector_at(root.cpu) == UD


@proves("instruction/VMXON")
@pytest.mark.parametrize(("change", "vector"), [
    ("", UD), ("or rax, 0x2000; mov cr4, rax", GP),         # without VMXE; with IA32_FEATURE_CONTROL not locked
    ("or rax, 0x2000; mov cr4, rax; mov ecx, 0x3A; mov eax, 1; xor edx, edx; wrmsr", GP),
    ("or rax, 0x2000; mov cr4, rax; mov ecx, 0x3A; mov eax, 4; xor edx, edx; wrmsr", GP),
    ("or rax, 0x2000; mov cr4, rax; mov ecx, 0x3A; mov eax, 5; xor edx, edx; wrmsr; mov rax, cr0; and eax, 0xFFFFFFDF;"
     "mov cr0, rax", GP)])
def test_vmxon_wants_vmxe_then_feature_control_and_the_fixed_bits(root, change, vector):
    root.start(f"mov rax, cr4; {change}\nmov rbx, {POINTERS}; vmxon qword ptr [rbx]")
    assert vector_at(root.cpu) == vector
    assert root.operation.mode is VmxMode.OFF


@pytest.mark.parametrize("name", NAMES)
def test_at_another_privilege_level_they_are_refused(name):
    """SDM: #GP(0) when CPL is not 0."""
    root = RootBox(user=True)
    root.in_root()
    root.start(f"mov rbx, {POINTERS}; {NAMES[name]}")
    assert vector_at(root.cpu) == GP
    assert root.memory.read_u64(root.cpu.state.rsp) == 0        # the error code
    root.close()


@pytest.mark.parametrize("name", NAMES)
def test_in_compatibility_mode_they_are_undefined(root, name):
    root.in_root()
    root.cpu.state.cs = FLAT_CODE_32
    root.host_bits = 32
    root.start(NAMES[name].replace("[rbx]", "[ebx]").replace("rax", "eax"))
    assert vector_at(root.cpu) == UD


def test_vmx_operation_keeps_its_bits_of_the_control_registers(root):
    """SDM "Restrictions on VMX Operation": MOV to CR4 that clears VMXE is #GP(0)."""
    root.start(ENTER + "mov rax, cr4; and eax, 0xFFFFDFFF; mov cr4, rax")
    assert vector_at(root.cpu) == GP


def test_vmxoff_lets_go_of_them(root):
    root.start(ENTER + "vmxoff; mov rax, cr4; and eax, 0xFFFFDFFF; mov cr4, rax; vmcall")
    assert vector_at(root.cpu) == UD
    assert root.operation.mode is VmxMode.OFF


@pytest.mark.parametrize("code", ["f30fc7f0", "0f01d4", "0f01c0", "66440f3880c8"])
def test_what_is_no_vmx_instruction_stays_undefined(root, code):
    """A register operand of VMXON or INVEPT, VMFUNC in root operation, ENCLV."""
    root.in_root()
    root.put(bytes.fromhex(code))
    root.resume()
    assert vector_at(root.cpu) == UD


# --- outcomes ---------------------------------------------------------------------------------------------------

@proves("event/VMCALL_IN_ROOT", "event/VMXON_IN_ROOT", "event/VMCLEAR_BAD_ADDRESS", "event/VMCLEAR_VMXON_POINTER",
        "event/VMPTRLD_BAD_ADDRESS", "event/VMPTRLD_VMXON_POINTER", "event/VMPTRLD_WRONG_REVISION",
        "event/UNSUPPORTED_COMPONENT", "event/VMRESUME_NOT_LAUNCHED", "event/INVALID_OPERAND")
@pytest.mark.parametrize(("source", "flags", "error"), [
    pytest.param("vmcall", ZF, E.VMCALL_IN_ROOT, marks=proves("instruction/VMCALL")),
    pytest.param("vmxon qword ptr [rbx]", ZF, E.VMXON_IN_ROOT, marks=proves("instruction/VMXON")),
    pytest.param("vmxon qword ptr [rax]", ZF, E.VMXON_IN_ROOT, id="vmxon, whose operand is not read"),
    pytest.param("vmclear qword ptr [rbx + 24]", ZF, E.VMCLEAR_BAD_ADDRESS, marks=proves("instruction/VMCLEAR")),
    pytest.param("vmclear qword ptr [rbx]", ZF, E.VMCLEAR_VMXON_POINTER, marks=proves("instruction/VMCLEAR")),
    pytest.param("vmptrld qword ptr [rbx + 24]", ZF, E.VMPTRLD_BAD_ADDRESS, marks=proves("instruction/VMPTRLD")),
    pytest.param("vmptrld qword ptr [rbx]", ZF, E.VMPTRLD_VMXON_POINTER, marks=proves("instruction/VMPTRLD")),
    pytest.param("vmptrld qword ptr [rbx + 32]", ZF, E.VMPTRLD_WRONG_REVISION, marks=proves("instruction/VMPTRLD")),
    pytest.param("mov eax, 0x482C; vmread rcx, rax", ZF, E.UNSUPPORTED_COMPONENT,
                 marks=proves("instruction/VMREAD")),
    pytest.param("mov eax, 0x681F; vmwrite rax, rcx", ZF, E.UNSUPPORTED_COMPONENT,
                 marks=proves("instruction/VMWRITE")),
    pytest.param("vmresume", ZF, E.VMRESUME_NOT_LAUNCHED, marks=proves("instruction/VMRESUME")),
    pytest.param("xor eax, eax; invept rax, xmmword ptr [rbx]", ZF, E.INVALID_OPERAND,
                 marks=proves("instruction/INVEPT")),
    pytest.param("mov eax, 9; invvpid rax, xmmword ptr [rbx]", ZF, E.INVALID_OPERAND,
                 marks=proves("instruction/INVVPID")),
    pytest.param("mov eax, 2; invept rax, xmmword ptr [rbx]", 0, 0, marks=proves("instruction/INVEPT")),
    pytest.param("mov eax, 2; mov rbx, 0x75000; invvpid rax, xmmword ptr [rbx]", 0, 0,
                 marks=proves("instruction/INVVPID")),
    pytest.param("vmptrld qword ptr [rbx + 16]", 0, 0, id="vmptrld"),
    pytest.param("mov eax, 0x681E; vmread rcx, rax", 0, 0, id="vmread"),
    pytest.param("vmclear qword ptr [rbx + 8]; vmlaunch", CF, 0, id="vmlaunch of nothing"),
    pytest.param("vmclear qword ptr [rbx + 8]; vmptrld qword ptr [rbx]", CF, 0, id="vmptrld without a current VMCS"),
    pytest.param("vmclear qword ptr [rbx + 8]; vmread rcx, rax", CF, 0, id="vmread of nothing"),
    pytest.param("vmclear qword ptr [rbx + 8]; mov rsi, 0x800000; vmwrite rax, qword ptr [rsi]", CF, 0,
                 id="vmwrite of nothing, whose operand is not read"),
])
def test_the_code_sees_the_outcome_in_its_flags_and_in_the_error_field(root, source, flags, error):
    """SDM "Conventions": exactly one of CF and ZF, the other five flags 0; VMsucceed clears all six."""
    root.memory.write_u64(BAD, 0x70008)
    root.memory.write_u64(BAD + 8, DATA)        # no revision identifier there
    root.start(ENTER + LOAD + SPOIL + source + TELL)
    assert outcome(root) == (flags, error)


@proves("instruction/VMXON")
@pytest.mark.parametrize("pointer", [0x70008, 1 << 46, DATA])
def test_vmxon_of_a_bad_region_is_vmfail_invalid(root, pointer):
    root.memory.write_u64(POINTERS, pointer)
    root.start(ENTER + f"pushfq; pop qword ptr [{FLAGS}]; hlt")
    assert root.result(FLAGS) & OUTCOMES == CF
    assert root.operation.mode is VmxMode.OFF


@proves("instruction/VMLAUNCH", "event/BLOCKING_BY_MOV_SS")
@pytest.mark.parametrize(("shadow", "error"), [("mov eax, ss; mov ss, eax", E.ENTRY_BLOCKED_BY_MOV_SS), ("sti", None)])
def test_mov_ss_blocks_an_entry_and_sti_does_not(root, shadow, error):
    root.start(ENTER + LOAD + shadow + "\nvmlaunch\n" + TELL)
    if error is None:
        assert root.log == [R.HLT]
    else:
        assert outcome(root) == (ZF, error)


@proves("event/VMLAUNCH_NOT_CLEAR")
@proves("instruction/VMLAUNCH")
def test_a_launched_vmcs_is_not_launched_again(root):
    handler = f"vmlaunch\n{TELL}"
    root.start(LAUNCH, "cpuid", handler)
    assert outcome(root) == (ZF, E.VMLAUNCH_NOT_CLEAR)


@proves("event/VMRESUME_AFTER_VMXOFF")
@proves("instruction/VMRESUME")
def test_vmresume_after_vmxoff_is_an_error_of_its_own(root):
    handler = f"vmxoff; mov rbx, {POINTERS}; vmxon qword ptr [rbx]; vmptrld qword ptr [rbx + 8]; vmresume\n{TELL}"
    root.start(LAUNCH, "cpuid", handler)
    assert outcome(root) == (ZF, E.VMRESUME_AFTER_VMXOFF)


@proves("instruction/VMCLEAR")
def test_a_cleared_vmcs_is_copied_and_the_copy_launched(root):
    """The clone goes on where the original stood."""
    handler = f"""
        cmp qword ptr [{RESULTS}], 1
        je done
        inc qword ptr [{RESULTS}]
        mov eax, 0x681E
        vmread rcx, rax
        add rcx, 2
        vmwrite rax, rcx
        mov rbx, {POINTERS}
        vmclear qword ptr [rbx + 8]
        mov esi, {VMCS}
        mov edi, {OTHER_VMCS}
        mov ecx, 512
        rep movsq
        vmptrld qword ptr [rbx + 16]
        vmlaunch
    done:
        hlt
    """
    root.start(LAUNCH, "mov r12d, 1; cpuid; mov r12d, 2; hlt", handler)
    assert [exit.reason for exit in root.exits] == [R.CPUID, R.HLT]
    assert root.cpu.state.r12 == 2
    assert root.operation.vmptrst() == OTHER_VMCS


def test_the_pointer_of_no_vmcs_is_all_ones(root):
    root.start(ENTER + f"vmptrst qword ptr [{RESULTS}]; vmptrld qword ptr [rbx + 8]\n"
               f"vmptrst qword ptr [{RESULTS + 8}]; hlt")
    assert [root.result(RESULTS), root.result(RESULTS + 8)] == [NO_VMCS, VMCS]


# --- operands ---------------------------------------------------------------------------------------------------

@proves("instruction/VMREAD", "instruction/VMWRITE")
def test_fields_go_through_memory_and_registers(root):
    root.start(ENTER + LOAD + f"""
        mov qword ptr [{RESULTS}], -1
        mov eax, 0x2010
        vmwrite rax, qword ptr [{RESULTS}]
        mov r9, 0x4002
        vmread r8, r9
        mov ebx, 0x2011
        vmread qword ptr [{RESULTS + 8}], rbx
        mov r10, 0x1122334455667788
        vmwrite rbx, r10
        vmread r11, rax
        mov r12d, 0x6c16
        vmread [rsp + rcx*4 - 0x40], r12
        hlt
    """ + TELL)
    assert root.cpu.state.r8 == root.fields[F.PRIMARY_PROC_CONTROLS]
    assert root.result(RESULTS + 8) == 0xFFFF_FFFF
    assert root.cpu.state.r11 == 0x5566_7788_FFFF_FFFF
    assert root.result(root.cpu.state.rsp - 0x40) == root.fields[F.HOST_RIP]


@pytest.mark.parametrize(("source", "vector"), [
    ("mov rsi, 0x800000; vmptrld qword ptr [rsi]", PF), ("mov rsi, 0x800000; vmptrst qword ptr [rsi]", PF),
    ("mov rsi, 0x800000; mov eax, 0x681E; vmread qword ptr [rsi], rax", PF),
    ("mov rsi, 0x800000; mov eax, 0x482C; vmwrite rax, qword ptr [rsi]", PF),
    ("mov rsi, 0x800000000000; vmclear qword ptr [rsi]", GP), ("mov rbp, 0x800000000000; vmclear qword ptr [rbp]", SS),
    ("mov rbp, 0x800000000000; vmptrst qword ptr [rbp]", SS),
    ("mov rsi, 0x800000; mov eax, 7; invept rax, xmmword ptr [rsi]", PF),
    ("mov rsi, 0x3FFFFC; invvpid rax, xmmword ptr [rsi]", PF)])
def test_a_memory_operand_faults_as_any_other(root, source, vector):
    root.start(ENTER + LOAD + source + TELL)
    assert vector_at(root.cpu) == vector
    if vector == PF:
        assert root.cpu.state.cr2 in (0x800000, 0x400000)


def test_an_unsupported_field_is_found_before_its_destination_is_written(root):
    root.start(ENTER + LOAD + "mov rsi, 0x800000; mov eax, 0x482C; vmread qword ptr [rsi], rax\n" + TELL)
    assert outcome(root) == (ZF, E.UNSUPPORTED_COMPONENT)


@pytest.fixture
def legacy() -> Iterator[RootBox]:
    """A hypervisor that is 32-bit code."""
    box = RootBox(32)
    box.in_root()
    yield box
    box.close()


@proves("instruction/VMREAD", "instruction/VMWRITE")
def test_32_bit_code_has_operands_of_32_bits(legacy):
    """A full VMWRITE clears the upper half; HIGH access is for that. VMREAD gives the lower half."""
    legacy.operation.vmwrite(F.TSC_OFFSET, (1 << 64) - 1)
    legacy.operation.vmwrite(F.HOST_RSP, 0x1_2345_6789)
    legacy.start(f"""
        mov eax, 0x2010
        mov ecx, 0x1234
        vmwrite eax, ecx
        mov eax, 0x6C14
        mov dword ptr [{RESULTS + 4}], 0x77
        vmread dword ptr [{RESULTS}], eax
        vmread edx, eax
        vmptrst qword ptr [{RESULTS + 8}]
        hlt
    """)
    assert legacy.operation.vmread(F.TSC_OFFSET) == 0x1234
    assert legacy.result(RESULTS) == 0x77_2345_6789
    assert legacy.cpu.state.rdx == 0x2345_6789
    assert legacy.result(RESULTS + 8) == VMCS


@pytest.mark.parametrize(("segment", "source", "vector"), [
    (Segment(0x10, 0, 0x20006, 0x4093), "vmptrld qword ptr [0x20000]", GP),
    (Segment(0x10, 0, 0x20007, 0x4093), "vmptrst qword ptr [0x20000]", None),
    (Segment(0x10, 0x1000, 0xFFFFFFFF, 0xC091), "vmptrst qword ptr [0x20000]", GP),
    (Segment(0x10, 0, 0xFFFFFFFF, 0xC091), "vmptrld qword ptr [0x73008]", None),
    (Segment(0x10, 0, 0x1FFFF, 0x4097), "vmptrst qword ptr [0x20000]", None),
    (Segment(0x10, 0, 0x20000, 0x4097), "vmptrst qword ptr [0x20000]", GP),
    (Segment.null(), "vmptrst qword ptr [0x20000]", GP)])
def test_32_bit_code_obeys_segments(legacy, segment, source, vector):
    legacy.cpu.state.ds = segment
    legacy.start(source + "; hlt")
    assert vector_at(legacy.cpu) == vector


def test_16_bit_code_knows_vmclear_from_vmptrld(legacy):
    """66 is a part of VMCLEAR's opcode, and no operand size."""
    legacy.cpu.state.cs = Segment(0x18, 0, 0xFFFF_FFFF, 0x009B)
    legacy.cpu.state.rip = 0x10000
    legacy.memory.write_u64(0x9000, VMCS)
    legacy.put(bytes.fromhex("660fc7360090 f4"))
    legacy.resume()
    assert legacy.operation.vmptrst() == NO_VMCS


@pytest.mark.parametrize("code", ["660f78c8", "660fc73e0090", "660f79c8"])
def test_66_makes_no_other_vmx_instruction(legacy, code):
    legacy.cpu.state.cs = Segment(0x18, 0, 0xFFFF_FFFF, 0x009B)
    legacy.put(bytes.fromhex(code) + b"\xf4")
    legacy.resume()
    assert vector_at(legacy.cpu) == UD


# --- MSRs -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("index", sorted(PROCESSOR.msrs))
def test_a_capability_msr_is_read_and_never_written(root, index):
    """SDM appendix "VMX Capability Reporting Facility"."""
    root.start(f"mov ecx, {index}; rdmsr; mov [{RESULTS}], eax; mov [{RESULTS + 4}], edx; wrmsr")
    assert root.result(RESULTS) == PROCESSOR.msrs[index]
    assert vector_at(root.cpu) == GP


def test_feature_control_is_written_until_it_is_locked(root):
    root.start(f"mov ecx, {int(Msr.FEATURE_CONTROL)}; xor edx, edx; mov eax, 4; wrmsr; mov eax, 5; wrmsr; rdmsr;"
               f"mov [{RESULTS}], eax; mov eax, 4; wrmsr")
    assert root.result(RESULTS) == 5
    assert vector_at(root.cpu) == GP


