"""I/O instructions: what exits, what is recorded of a string, and what comes before what."""

from __future__ import annotations

import pytest

from hv.instructions.decode import decode
from hv.spec.exits import ExitReason, IoQualification
from hv.spec.vmcs import PrimaryControls, VmcsField
from hv.vmx.intercepts.ports import _PLAIN
from hv.vmx.vmcs import DEFAULT_CONTROLS
from tests.proves import proves
from tests.vmx.test_instruction_information import STRINGS
from tests.vmx.vcpu_box import BITMAP_A, BITMAP_B, CODE, vector_at

R, F, P = ExitReason, VmcsField, PrimaryControls
GP, PF = 13, 14
PRIMARY = DEFAULT_CONTROLS[F.PRIMARY_PROC_CONTROLS]
NONE = {F.PRIMARY_PROC_CONTROLS: PRIMARY & ~int(P.UNCONDITIONAL_IO_EXITING | P.USE_IO_BITMAPS)}
BITMAPS = {F.PRIMARY_PROC_CONTROLS: PRIMARY | int(P.UNCONDITIONAL_IO_EXITING | P.USE_IO_BITMAPS),
           F.IO_BITMAP_A: BITMAP_A, F.IO_BITMAP_B: BITMAP_B}
DATA, FAR = 0x20000, 0x1234567000
ROWS = ("exit/IO_INSTRUCTION", "instruction/INS", "instruction/OUTS")


# --- what is recorded ------------------------------------------------------------------------------------

@proves(*ROWS, "capability/VmxBasic.io_instruction_info")
@pytest.mark.parametrize("name", STRINGS)
def test_a_string_instruction_is_described(box, name):
    """SDM "Information for VM Exits Due to Instruction Execution", INS and OUTS: address size and segment."""
    code, bits, info = STRINGS[name]
    vcpu, exit = box.exit_of(bytes.fromhex(code), bits, rcx=3, rdi=0x4000, rsi=0x4000, rdx=0x80)
    assert (exit.reason, hex(exit.instruction_info)) == (R.IO_INSTRUCTION, hex(info))
    assert exit.instruction_length == len(code) // 2
    assert vcpu.vmcs.read(F.EXIT_INSTRUCTION_INFO) == info


LINEAR = {      # source, mode, segment that has the base 0x3000 -> the linear address of the string
    "insb": ("insb", 64, "es", 0x1_0000_4001), "outsb": ("outsb", 64, "ds", 0x1_0000_5001),
    "outsb-fs": ("fs outsb", 64, "fs", 0x1_0000_8001), "a32": ("67 6c", 64, "es", 0x4001),
    "insb-32": ("insb", 32, "es", 0x7001), "outsb-32": ("outsb", 32, "ds", 0x8001),
    "outsb-es": ("26 6e", 32, "es", 0x8001), "insb-16": ("insb", 16, "es", 0x7001),
    "outsb-16": ("outsb", 16, "ds", 0x8001),
}


@proves(*ROWS)
@pytest.mark.parametrize("case", LINEAR)
def test_the_linear_address_of_the_string_is_recorded(box, case):
    """SDM "Basic VM-Exit Information", guest-linear address."""
    source, bits, segment, linear = LINEAR[case]
    vcpu = box.vcpu(bits)
    setattr(vcpu.state, segment, getattr(vcpu.state, segment)._replace(base=0x3000))
    vcpu.state.rdi, vcpu.state.rsi = 0x1_0000_4001, 0x1_0000_5001
    code = {"fs outsb": "646e", "insb": "6c", "outsb": "6e"}.get(source, source)
    box.memory.write_u64(0x1000, 0x2000 | 7)
    box.put(bytes.fromhex(code), bits)
    box.go(vcpu)
    assert (box.exits[0].reason, box.exits[0].guest_linear_address) == (R.IO_INSTRUCTION, linear)
    vcpu.state.rdi = vcpu.state.rsi = 0         # software went on with them
    assert vcpu.vmcs.read(F.GUEST_LINEAR_ADDRESS) == linear


@proves("instruction/IN", "instruction/OUT")
def test_in_and_out_have_no_linear_address(box):
    vcpu, exit = box.exit_of("in al, dx")
    assert (exit.guest_linear_address, vcpu.vmcs.read(F.GUEST_LINEAR_ADDRESS), exit.instruction_info) == (None, 0, 0)


# --- priorities ------------------------------------------------------------------------------------------

FAULTS = {      # source, registers -> the fault of the memory side
    "ins-not-mapped": ("insb", {"rdi": FAR}, PF), "outs-not-mapped": ("outsd", {"rsi": FAR}, PF),
    "rep-ins": ("rep insw", {"rdi": FAR + 0xFFE}, PF), "ins-not-canonical": ("insb", {"rdi": 1 << 62}, GP),
    "outs-not-canonical": ("outsb", {"rsi": 1 << 62}, GP), "ins-crosses": ("insd", {"rdi": DATA + 0xFFD}, PF),
    "outs-crosses": ("outsw", {"rsi": DATA + 0xFFF}, PF),
}


@proves(*ROWS)
@pytest.mark.parametrize("case", FAULTS)
def test_the_exit_of_a_string_comes_before_the_faults_of_its_memory(box, case):
    """SDM "Relative Priority of Faults and VM Exits"; without the exit it is the fault."""
    source, registers, vector = FAULTS[case]
    box.memory.write_u64(0x4000 + 8 * (DATA + 0x1000 >> 12), 0)
    vcpu, exit = box.exit_of(source, rdx=0x3F8, rcx=5, **registers)
    assert (exit.reason, exit.interruption_info, vcpu.state.rip) == (R.IO_INSTRUCTION, 0, CODE)
    io = IoQualification(exit.qualification)
    assert (io.port, io.in_, io.string, io.rep) == (0x3F8, source.lstrip("rep ")[0] == "i", 1, "rep" in source)
    assert exit.guest_linear_address == next(iter(registers.values()))
    assert vcpu.state.cr2 == 0
    vcpu, exit = box.exit_of(source, fields=NONE, rdx=0x3F8, rcx=5, **registers)
    assert (exit.reason, vector_at(vcpu)) == (R.HLT, vector)


@proves(*ROWS, "exit/EPT_VIOLATION")
@pytest.mark.parametrize(("source", "offset"), [("insb", 0x10), ("outsd", 0xFFC), ("rep outsb", 0)])
def test_the_exit_of_a_string_comes_before_an_ept_violation_of_its_memory(box, source, offset):
    box.ept.unmap(DATA)
    box.ept.invept()
    _, exit = box.exit_of(source, rdx=0x80, rcx=2, rdi=DATA + offset, rsi=DATA + offset)
    assert (exit.reason, exit.guest_linear_address) == (R.IO_INSTRUCTION, DATA + offset)
    _, exit = box.exit_of(source, fields=NONE, rdx=0x80, rcx=2, rdi=DATA + offset, rsi=DATA + offset)
    assert (exit.reason, exit.guest_physical_address) == (R.EPT_VIOLATION, DATA + offset)


@proves("exit/IO_INSTRUCTION")
@pytest.mark.parametrize("source", ["in al, dx", "outsb", "insb"])
@pytest.mark.parametrize("address", [DATA, FAR])
def test_the_permission_of_a_port_comes_before_the_exit_and_the_memory(box, source, address):
    """A TSS without a bitmap permits a user nothing."""
    box.memory.write(0x8066, b"\x68\0")
    vcpu, exit = box.exit_of(source, user=True, rdx=0x80, rdi=address, rsi=address)
    assert (exit.reason, vector_at(vcpu), vcpu.state.cr2) == (R.HLT, GP, 0)


def test_an_access_that_only_looks_like_a_string_has_its_own_fault(box):
    """MOVSB from where OUTSB would read: the instruction is looked at."""
    vcpu, exit = box.exit_of("movsb", rsi=FAR, rdi=DATA)
    assert (exit.reason, vector_at(vcpu), vcpu.state.cr2) == (R.HLT, PF, FAR)


# --- controls --------------------------------------------------------------------------------------------

@proves("control/PrimaryControls.USE_IO_BITMAPS", "control/PrimaryControls.UNCONDITIONAL_IO_EXITING", *ROWS)
@pytest.mark.parametrize(("fields", "port", "exits"), [
    (BITMAPS, 0x80, True), (BITMAPS, 0x7F, False), (BITMAPS, 0x7D, True), (BITMAPS, 0xFFFD, True),
    (BITMAPS, 0xFFFC, False), (NONE, 0x80, False), (NONE, 0xFFFF, False), ({}, 0x7F, True)])
@pytest.mark.parametrize("source", ["insd", "outsd", "in eax, dx", "out dx, eax"])
def test_the_bitmaps_or_the_control_decide(box, fields, port, exits, source):
    """"Use I/O bitmaps" makes "unconditional I/O exiting" nothing. An access beyond port FFFF exits with bitmaps."""
    box.memory.write(BITMAP_A, bytes(0x10) + b"\x01" + bytes(0xFEF))
    box.memory.write(BITMAP_B, bytes(4096))
    if port == 0x7F:
        box.memory.write(BITMAP_A, bytes(4096))
    vcpu, exit = box.exit_of(f"{source}; cpuid", fields=fields, rdx=port, rdi=DATA, rsi=DATA)
    assert exit.reason is (R.IO_INSTRUCTION if exits else R.CPUID)
    assert exits or vcpu.state.rip > CODE


@proves("instruction/INS", "instruction/OUTS", "instruction/IN")
@pytest.mark.parametrize(("source", "stored", "rdi", "rsi", "rcx"), [
    ("insb", 1, 1, 0, 3), ("rep insw", 6, 6, 0, 0), ("outsd", 0, 0, 4, 3), ("rep outsb", 0, 0, 3, 0),
    ("std; insb; cld", 1, -1, 0, 3), ("rep insd", 12, 12, 0, 0)])
def test_a_string_that_does_not_exit_meets_an_empty_bus(box, source, stored, rdi, rsi, rcx):
    """INS stores all ones, element by element; the registers move on as the manual says."""
    vcpu, exit = box.exit_of(f"{source}; cpuid", fields=NONE, rdx=0x80, rcx=3, rdi=DATA + 8, rsi=DATA + 8)
    assert exit.reason is R.CPUID
    assert (vcpu.state.rdi - DATA - 8, vcpu.state.rsi - DATA - 8, vcpu.state.rcx) == (rdi, rsi, rcx)
    assert box.memory.read(DATA + 8, 16) == b"\xff" * stored + bytes(16 - stored)


def test_each_repetition_is_single_stepped(box):
    """#DB behind each element, with RIP on the instruction until the last; SDM "REP", "Single-Step Exception"."""
    vcpu = box.vcpu()
    for field, value in NONE.items():
        vcpu.vmcs.write(field, value)
    vcpu.state.rflags, vcpu.state.rdx, vcpu.state.rcx, vcpu.state.rdi = 0x102, 0x80, 2, DATA
    box.put("rep insb; cpuid")
    box.go(vcpu)
    assert (vector_at(vcpu), box.memory.read_u64(vcpu.state.rsp), vcpu.state.rcx) == (1, CODE, 1)


def test_rep_with_a_count_of_0_does_nothing(box):
    _, exit = box.exit_of("rep insb; cpuid", rdi=FAR, rcx=0)
    assert exit.reason is R.CPUID


def test_the_plain_instructions_are_described_as_the_disassembler_would():
    """Those without a prefix do not go through it."""
    for (opcode, size), (qualification, length) in _PLAIN.items():
        decoded = decode(bytes([opcode, 0x60, 0x90]), 16 if size == 2 else 32)
        io = IoQualification(qualification)
        assert (decoded.length, decoded.port.input, decoded.port.size, decoded.port.port is not None) == (
            length, bool(io.in_), io.size, bool(io.immediate))
