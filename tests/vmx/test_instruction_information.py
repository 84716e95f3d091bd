"""The exit qualification and the instruction information of instructions with operands, against hand-made numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.instructions.decode import decode
from hv.spec.exits import ExitReason, InstructionInfo
from hv.spec.vmcs import PrimaryControls, SecondaryControls, VmcsField
from hv.vmx.instruction_information import displacement, instruction_information
from hv.vmx.vmcs import DEFAULT_CONTROLS
from tests.guest_runner import assemble
from tests.proves import proves
from tests.vmx.vcpu_box import CODE

F, R = VmcsField, ExitReason
MINUS = 1 << 64

# Code, mode -> qualification, information. The bits: scale 1:0, register 1 6:3, address size 9:7, is a register 10,
# operand size 11, segment 17:15, index 21:18 (22: none), base 26:23 (27: none), register 2 or identity 31:28.
ENCODINGS = {
    "vmptrld [rax]": ("0fc730", 64, 0, 0x0041_8100),
    "vmclear [rbx+rcx*4+0x10]": ("660fc7748b10", 64, 0x10, 0x0185_8102),
    "vmxon [rip+0x10]": ("f30fc73510000000", 64, CODE + 8 + 0x10, 0x0841_8100),
    "vmptrld [eip-0x10]": ("670fc735f0ffffff", 64, CODE + 8 - 0x10, 0x0841_8080),
    "vmptrst [r13+r12*8-8]": ("430fc77ce5f8", 64, MINUS - 8, 0x06B1_8103),
    "vmptrld [r12]": ("410fc73424", 64, 0, 0x0641_8100),
    "vmptrld [rax+riz*8]": ("0fc734e0", 64, 0, 0x0041_8100),
    "vmptrld [0x8000]": ("0fc7342500800000", 64, 0x8000, 0x0841_8100),
    "vmptrld [rbp*2]": ("0fc7346d00000000", 64, 0, 0x0815_8101),
    "es: vmptrld [rax]": ("260fc730", 64, 0, 0x0041_8100),
    "cs: vmptrld [rbp]": ("2e0fc77500", 64, 0, 0x02C1_0100),
    "gs: vmptrld [rbp]": ("650fc77500", 64, 0, 0x02C2_8100),
    "vmptrld [eax]": ("670fc730", 64, 0, 0x0041_8080),
    "vmread rax, rbx": ("0f78d8", 64, 0, 0x3000_0400),
    "vmread [rsp+8], r9": ("440f784c2408", 64, 8, 0x9241_0100),
    "vmread edi, esi": ("0f78f7", 32, 0, 0x6000_0438),
    "vmwrite rbx, rax": ("0f79d8", 64, 0, 0x3000_0400),
    "vmwrite r9, r10": ("450f79ca", 64, 0, 0x9000_0450),
    "vmwrite ecx, [ebp-1]": ("0f794dff", 32, MINUS - 1, 0x12C1_0080),
    "invept rcx, [rax]": ("660f388008", 64, 0, 0x1041_8100),
    "invvpid r15, fs:[rdi]": ("6466440f38813f", 64, 0, 0xF3C2_0100),
    "invpcid rdx, [r8]": ("66410f388210", 64, 0, 0x2441_8100),
    "lgdt [rax]": ("0f0110", 64, 0, 0x2041_8100),
    "o16 lgdt [rax]": ("660f0110", 64, 0, 0x2041_8100),
    "lgdt [eax]": ("0f0110", 32, 0, 0x2041_8880),
    "o16 lgdt [eax]": ("660f0110", 32, 0, 0x2041_8080),
    "lgdt [bx+si]": ("0f0110", 16, 0, 0x2199_8000),
    "o32 lgdt [bx+si]": ("660f0110", 16, 0, 0x2199_8800),
    "o32 a32 lgdt [eax]": ("66670f0110", 16, 0, 0x2041_8880),
    "sgdt [bp+2]": ("0f014602", 16, 2, 0x02C1_0000),
    "sgdt [di-0x8000]": ("0f01850080", 16, MINUS - 0x8000, 0x03C1_8000),
    "cs: sidt [0x1234]": ("2e0f010e3412", 16, 0x1234, 0x1840_8000),
    "a16 sidt [bp+di]": ("670f010b", 32, 0, 0x129D_0800),
    "gs: lidt [ecx*2-0x80000000]": ("650f011c4d00000080", 32, MINUS - (1 << 31), 0x3806_8881),
    "sldt ax": ("660f00c0", 32, 0, 0x0000_0400),
    "sldt rdx": ("480f00c2", 64, 0, 0x0000_0410),
    "str r10d": ("410f00ca", 64, 0, 0x1000_0450),
    "str [esp]": ("0f000c24", 32, 0, 0x1241_0080),
    "lldt [rbp-1]": ("0f0055ff", 64, MINUS - 1, 0x22C1_0100),
    "ltr cx": ("0f00d9", 32, 0, 0x3000_0408),
}
STRINGS = {     # INS and OUTS, whose qualification is the port's
    "insb": ("6c", 64, 0x100), "a32 insd": ("676d", 64, 0x80), "insb-16": ("6c", 16, 0), "a32 insb": ("676c", 16, 0x80),
    "rep insw": ("f3666d", 32, 0x80), "fs: insb": ("646c", 32, 0x80), "outsb": ("6e", 64, 0x1_8100),
    "fs: outsb": ("646e", 64, 0x2_0100), "ss: outsb": ("366e", 64, 0x1_8100), "ss: outsb-32": ("366e", 32, 0x1_0080),
    "a16 es: rep outsd": ("6726f36f", 32, 0), "cs: outsb": ("2e6e", 16, 0x8000),
}
FIELDS = {F.SECONDARY_PROC_CONTROLS: DEFAULT_CONTROLS[F.SECONDARY_PROC_CONTROLS] | int(
              SecondaryControls.DESCRIPTOR_TABLE_EXITING | SecondaryControls.ENABLE_INVPCID),
          F.PRIMARY_PROC_CONTROLS: DEFAULT_CONTROLS[F.PRIMARY_PROC_CONTROLS] | int(PrimaryControls.INVLPG_EXITING)}


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_operand_is_described(name):
    """SDM "Information for VM Exits Due to Instruction Execution", tables of its formats."""
    code, bits, qualification, info = ENCODINGS[name]
    decoded = decode(bytes.fromhex(code), bits)
    assert (displacement(decoded, CODE), hex(instruction_information(decoded))) == (qualification, hex(info))
    assert decoded.length == len(code) // 2


@proves("exit/VMCLEAR", "exit/VMPTRLD", "exit/VMPTRST", "exit/VMREAD", "exit/VMWRITE", "exit/VMXON", "exit/INVEPT",
        "exit/INVVPID", "exit/INVPCID", "exit/GDTR_IDTR_ACCESS", "exit/LDTR_TR_ACCESS")
@pytest.mark.parametrize("name", ENCODINGS)
def test_the_exit_of_machine_code_records_it(box, name):
    """The operand is not looked at: the registers of most rows point nowhere."""
    code, bits, qualification, info = ENCODINGS[name]
    vcpu, exit = box.exit_of(bytes.fromhex(code), bits, fields=FIELDS)
    assert exit.reason not in (R.HLT, R.EXCEPTION_OR_NMI)
    assert (exit.qualification, hex(exit.instruction_info)) == (qualification, hex(info))
    assert exit.instruction_length == len(code) // 2
    assert vcpu.vmcs.read(F.EXIT_QUALIFICATION) == qualification
    assert vcpu.vmcs.read(F.EXIT_INSTRUCTION_INFO) == info
    assert vcpu.vmcs.read(F.EXIT_INSTRUCTION_LENGTH) == len(code) // 2


@pytest.mark.parametrize("source", ["cpuid", "hlt", "rdmsr", "vmcall", "mov cr8, rax", "out dx, al", "vmlaunch"])
def test_an_instruction_without_an_operand_in_memory_has_no_information(box, source):
    vcpu, exit = box.exit_of(source)
    assert (exit.instruction_info, vcpu.vmcs.read(F.EXIT_INSTRUCTION_INFO)) == (0, 0)


# --- whatever the assembler makes of a random operand -----------------------------------------------------

WIDE = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
NARROW = tuple(f"e{name[1:]}" for name in WIDE[:8])
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")


@st.composite
def operands(draw, names):
    """(base, index, scale, displacement, segment) by number; without a base there is an index that needs its scale."""
    base = draw(st.none() | st.integers(0, len(names) - 1))
    indexes = st.integers(0, len(names) - 1).filter(lambda n: n != 4)
    index = draw(indexes if base is None else st.none() | indexes)
    scale = draw(st.integers(1 if base in (None, index) else 0, 3)) if index is not None else 0
    offset = draw(st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-130, 130))
    return base, index, scale, offset, draw(st.none() | st.sampled_from(("fs", "gs")))


@pytest.mark.parametrize("bits", [32, 64])
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_random_operand_is_described_as_it_was_written(bits, data):
    """Assembled by one program, disassembled by another: base, index, scale, displacement and segment come back."""
    names = WIDE if bits == 64 else NARROW
    base, index, scale, offset, segment = data.draw(operands(names))
    parts = [names[base]] if base is not None else []
    parts += [f"{names[index]}*{1 << scale}"] if index is not None else []
    text = f"{' + '.join(parts)} {'-' if offset < 0 else '+'} {abs(offset)}"
    ((_, code),) = assemble(f"vmptrld {f'{segment}:' if segment else ''}[{text}]", bits, CODE)
    decoded = decode(code, bits)
    info = InstructionInfo(instruction_information(decoded))
    assert displacement(decoded, CODE) == offset & (1 << 64) - 1
    assert (info.address_size, info.base_invalid, info.index_invalid) == (bits // 32, base is None, index is None)
    if index is not None and scale == 0:    # either may be written as the base
        assert {info.base, info.index} == {base, index}
    else:
        assert (info.base, info.index, info.scale) == (base or 0, index or 0, scale)
    default = "ss" if not info.base_invalid and info.base in (4, 5) else "ds"
    assert SEGMENTS[info.segment] == (segment or default)
