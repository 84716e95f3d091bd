"""Instructions at RIP: lengths, operands, and what an emulated device does for them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicorn import UC_ARCH_X86, UC_MODE_64, Uc
from unicorn import x86_const as uc_x86

from hv.instructions.arithmetic import compute
from hv.instructions.decode import (
    ControlAccess,
    MemoryOperand,
    PortAccess,
    Undecodable,
    bits_of,
    decode,
    instruction_length,
    linear_address,
    read_register,
    register_number,
    write_register,
)
from hv.instructions.memory_operations import memory_access, perform
from hv.machine.faults import GuestFault
from hv.machine.fetch import decode_at
from hv.machine.registers import Segment
from tests.machine.fakes import FLAT_CODE_32, FLAT_CODE_64, FakeMemory, FakeState

LONG = {"cr0": 0x80000011, "cr4": 0x20, "efer": 0x500, "cs": FLAT_CODE_64}


def code(text: str) -> bytes:
    return bytes.fromhex(text)


# --- Length --------------------------------------------------------------------------------------

LENGTHS = [
    ("cpuid", "0f a2", 64, 2), ("rdmsr", "0f 32", 64, 2), ("wrmsr", "0f 30", 32, 2), ("hlt", "f4", 16, 1),
    ("vmcall", "0f 01 c1", 64, 3), ("vmmcall", "0f 01 d9", 64, 3), ("pause", "f3 90", 64, 2),
    ("mov-to-cr3", "0f 22 d8", 64, 3), ("mov-moffs64", "a1 00 00 00 00 00 00 00 00", 64, 9),
    ("same-bytes-in-32-bit-code", "a1 00 00 00 00 00 00 00 00", 32, 5),
    ("same-bytes-in-16-bit-code", "a1 00 00 00 00 00 00 00 00", 16, 3),
]


@pytest.mark.parametrize(("text", "bits", "length"), [row[1:] for row in LENGTHS], ids=[row[0] for row in LENGTHS])
def test_the_length_of_an_instruction_depends_on_its_bytes_and_mode(text, bits, length):
    assert instruction_length(code(text) + b"\x90" * 6, bits) == length


def test_the_short_way_agrees_with_the_disassembler():
    for text in ("0fa2", "0f32", "0f30", "0f31", "f390", "f4"):
        for bits in (16, 32, 64):
            assert instruction_length(code(text), bits) == decode(code(text), bits).length == len(text) // 2


def test_frequent_exits_do_not_load_the_disassembler():
    check = ("import sys; from hv.instructions.decode import instruction_length as f; "
             "f(bytes.fromhex('0fa2'), 64); f(bytes.fromhex('f4'), 64); sys.exit('capstone' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("text", ["", "0f", "c8", "ff ff"], ids=["nothing", "half", "cut", "none"])
def test_bytes_that_are_no_instruction_are_undecodable(text):
    with pytest.raises(Undecodable):
        decode(code(text), 64)


# --- Control and debug registers, ports, VMX -----------------------------------------------------

CONTROL = [
    ("mov-rax-cr0", "0f 20 c0", 64, ControlAccess.MOV_FROM, 0, 0),
    ("mov-cr0-rax", "0f 22 c0", 64, ControlAccess.MOV_TO, 0, 0),
    ("mov-cr3-rsp", "0f 22 dc", 64, ControlAccess.MOV_TO, 3, 4),
    ("mov-r9-cr4", "41 0f 20 e1", 64, ControlAccess.MOV_FROM, 4, 9),
    ("mov-cr8-r15", "45 0f 22 c7", 64, ControlAccess.MOV_TO, 8, 15),
    ("mov-eax-cr0-real-mode", "0f 20 c0", 16, ControlAccess.MOV_FROM, 0, 0),
    ("mod-bits-are-ignored", "0f 22 18", 64, ControlAccess.MOV_TO, 3, 0),
    ("clts", "0f 06", 64, ControlAccess.CLTS, 0, 0),
    ("lmsw-bx", "0f 01 f3", 64, ControlAccess.LMSW, 0, 3),
    ("lmsw-memory", "0f 01 30", 64, ControlAccess.LMSW, 0, 0),
    ("smsw-ecx", "0f 01 e1", 64, ControlAccess.SMSW, 0, 1),
]


@pytest.mark.parametrize(("text", "bits", "kind", "register", "gpr"), [row[1:] for row in CONTROL],
                         ids=[row[0] for row in CONTROL])
def test_a_control_register_access_is_described_as_the_exit_qualification_does(text, bits, kind, register, gpr):
    access = decode(code(text), bits).control_register
    assert (access.kind, access.register, access.gpr) == (kind, register, gpr)


def test_lmsw_of_memory_keeps_its_operand():
    access = decode(code("0f 01 30"), 64).control_register
    assert access.operand == MemoryOperand("ds", "rax", None, 1, 0, 2, 64)


@pytest.mark.parametrize(("text", "write", "register", "gpr"),
                         [("0f 23 f8", True, 7, 0), ("0f 21 f1", False, 6, 1)], ids=["mov-dr7-rax", "mov-rcx-dr6"])
def test_a_debug_register_access_names_both_registers(text, write, register, gpr):
    access = decode(code(text), 64).debug_register
    assert (access.write, access.register, access.gpr) == (write, register, gpr)


PORTS = [
    ("in-al-imm8", "e4 60", 64, PortAccess(True, 1, 0x60, False, False)),
    ("in-eax-imm8", "e5 f8", 64, PortAccess(True, 4, 0xF8, False, False)),
    ("in-al-dx", "ec", 64, PortAccess(True, 1, None, False, False)),
    ("out-imm8-al", "e6 80", 16, PortAccess(False, 1, 0x80, False, False)),
    ("out-dx-ax", "66 ef", 64, PortAccess(False, 2, None, False, False)),
    ("out-dx-ax-16-bit-code", "ef", 16, PortAccess(False, 2, None, False, False)),
    ("rep-insb", "f3 6c", 64, PortAccess(True, 1, None, True, True)),
    ("outsd", "6f", 32, PortAccess(False, 4, None, True, False)),
]


@pytest.mark.parametrize(("text", "bits", "port"), [row[1:] for row in PORTS], ids=[row[0] for row in PORTS])
def test_a_port_access_tells_direction_size_port_and_repetition(text, bits, port):
    assert decode(code(text), bits).port == port


def test_string_port_instructions_name_their_segment():
    """INS writes ES:DI whatever the prefix; OUTS reads DS:SI unless one overrides."""
    assert decode(code("64 6c"), 32).memory.segment == "es"
    assert decode(code("6e"), 32).memory.segment == "ds"
    assert decode(code("64 6e"), 32).memory.segment == "fs"


@pytest.mark.parametrize(("text", "mnemonic"), [
    ("0f 01 c1", "vmcall"), ("0f 01 d9", "vmmcall"), ("0f 01 c2", "vmlaunch"), ("0f 01 c3", "vmresume"),
    ("0f 01 c4", "vmxoff"), ("f3 0f c7 37", "vmxon"), ("0f c7 37", "vmptrld"), ("66 0f c7 37", "vmclear"),
    ("0f c7 3f", "vmptrst"), ("0f 78 07", "vmread"), ("0f 79 c8", "vmwrite"), ("66 0f 38 80 07", "invept"),
    ("66 0f 38 81 07", "invvpid"),
], ids=lambda value: value if value.isalpha() else "")
def test_vmx_instructions_are_recognized(text, mnemonic):
    decoded = decode(code(text), 64)
    assert decoded.mnemonic == mnemonic
    assert decoded.length == len(code(text))


def test_invlpg_gives_the_address_it_names():
    decoded = decode(code("0f 01 3f"), 64)
    assert decoded.mnemonic == "invlpg"
    assert linear_address(decoded, FakeState(rdi=0x1234567, **LONG)) == 0x1234567


# --- Addresses -----------------------------------------------------------------------------------

FS = Segment(0, 0x7FFF_0000_0000, 0xFFFFFFFF, 0xC093)
SS = Segment(0x18, 0x50000, 0xFFFFFFFF, 0xC093)
ADDRESSES = [
    ("base", "8b 07", 64, {"rdi": 5}, 5),
    ("base-index-scale-displacement", "8b 44 b3 10", 64, {"rbx": 0x1000, "rsi": 3}, 0x101C),
    ("negative-displacement", "8b 47 ff", 64, {"rdi": 0x1000}, 0xFFF),
    ("rip-relative", "8b 0d 10 00 00 00", 64, {"rip": 0x400000}, 0x400016),
    ("rip-relative-with-immediate", "c7 05 10 00 00 00 78 56 34 12", 64, {"rip": 0x400000}, 0x40001A),
    ("absolute-sign-extended", "8b 04 25 00 00 e0 fe", 64, {}, 0xFFFF_FFFF_FEE0_0000),
    ("moffs64", "a1 00 00 00 00 00 00 00 ff", 64, {}, 0xFF00_0000_0000_0000),
    ("fs-base-in-64-bit-code", "64 8b 04 25 10 00 00 00", 64, {"fs": FS}, 0x7FFF_0000_0010),
    ("no-ds-base-in-64-bit-code", "3e 8b 07", 64, {"rdi": 8, "ds": SS}, 8),
    ("address-size-prefix", "67 8b 07", 64, {"rdi": 0xF_FFFF_FFFF}, 0xFFFF_FFFF),
    ("ds-base-in-32-bit-code", "8b 07", 32, {"rdi": 8, "ds": SS}, 0x50008),
    ("ebp-means-ss", "8b 45 08", 32, {"rbp": 0x10, "ss": SS}, 0x50018),
    ("wraps-at-4-gib", "8b 07", 32, {"rdi": 0xFFFFFFFF, "ds": SS}, 0x4FFFF),
    ("bx-plus-si-wraps-at-64-kib", "8b 00", 16, {"rbx": 0xFFFF, "rsi": 2, "ds": SS}, 0x50001),
    ("stos-goes-to-es", "aa", 32, {"rdi": 4, "es": SS}, 0x50004),
]


@pytest.mark.parametrize(("text", "bits", "registers", "gva"), [row[1:] for row in ADDRESSES],
                         ids=[row[0] for row in ADDRESSES])
def test_a_memory_operand_becomes_a_linear_address(text, bits, registers, gva):
    assert linear_address(decode(code(text), bits), FakeState(**registers)) == gva


def test_an_instruction_without_memory_operand_has_no_address():
    with pytest.raises(Undecodable):
        linear_address(decode(b"\x90", 64), FakeState())


# --- Registers -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "value", "after"), [
    ("rax", 0x12345678_9ABCDEF0, 0x12345678_9ABCDEF0), ("eax", 0x9ABCDEF0, 0x9ABCDEF0),
    ("ax", 0x1234, 0xFFFFFFFF_FFFF1234), ("al", 0x12, 0xFFFFFFFF_FFFFFF12), ("ah", 0x12, 0xFFFFFFFF_FFFF12FF),
])
def test_a_part_of_a_register_is_written_as_the_processor_does(name, value, after):
    """SDM "General-Purpose Registers in 64-Bit Mode": 32-bit results are zero-extended, smaller ones merge."""
    state = FakeState(rax=(1 << 64) - 1)
    write_register(state, name, value)
    assert state.rax == after
    assert read_register(state, name) == value


def test_registers_are_numbered_as_instructions_encode_them():
    names = ("eax", "cl", "rsp", "dil", "r8b", "r15d", "bh")
    assert [register_number(name) for name in names] == [0, 1, 4, 7, 8, 15, 3]


# --- Memory operations ---------------------------------------------------------------------------

def carry_out(text: str, memory: int, bits: int = 64, **registers: int) -> tuple[FakeState, int, bool]:
    state, cell = FakeState(**registers), [memory]
    access = memory_access(decode(code(text), bits))
    done = perform(state, access, lambda: cell[0], lambda value: cell.__setitem__(0, value))
    return state, cell[0], done


def test_a_store_to_a_device_does_not_read_it():
    access = memory_access(decode(code("89 07"), 64))
    assert (access.read, access.write, access.size, access.operation) == (False, True, 4, "mov")


@pytest.mark.parametrize(("text", "before", "rax", "after"), [
    ("8a 07", 0x80, 0x1111, 0x1180), ("8b 07", 0x80000000, (1 << 64) - 1, 0x80000000), ("0f b6 07", 0x80, 7, 0x80),
    ("0f be 07", 0x80, 7, 0xFFFFFF80), ("48 63 07", 0x80000000, 7, 0xFFFFFFFF_80000000), ("ac", 0x42, 0x1100, 0x1142),
], ids=["mov8", "mov32", "movzx", "movsx", "movsxd", "lods"])
def test_a_load_from_a_device_extends_as_the_instruction_says(text, before, rax, after):
    state, memory, done = carry_out(text, before, rax=rax)
    assert (state.rax, memory, done) == (after, before, True)


def test_rep_stos_writes_one_element_at_a_time():
    """SDM "REP/REPE/REPZ": each iteration is an instruction of its own to interrupts and exits."""
    state, memory, done = carry_out("f3 ab", 0, rax=0x55, rcx=2, rdi=0x1000)
    assert (memory, done, state.rcx, state.rdi) == (0x55, False, 1, 0x1004)
    state, memory, done = carry_out("f3 ab", 0, rax=0x55, rcx=1, rdi=0x1000, rflags=0x402)
    assert (memory, done, state.rcx, state.rdi) == (0x55, True, 0, 0xFFC)
    assert carry_out("f3 ab", 9, rcx=0)[1:] == (9, True)


@pytest.mark.parametrize("text", ["a4", "0f c7 0f", "f2 0f 10 07", "0f a4 0f 01", "8e 1f", "ff 37", "f7 27", "90"],
                         ids=["movs", "cmpxchg8b", "movsd-sse", "shld", "mov-ds", "push", "mul", "nop"])
def test_what_is_not_carried_out_is_refused(text):
    with pytest.raises(Undecodable):
        memory_access(decode(code(text), 64))


MODIFY = ["01 07", "11 07", "29 07", "19 07", "21 07", "09 07", "31 07", "39 07", "85 07", "03 07", "2b 07", "3b 07",
          "87 07", "81 07 00 01 00 80", "83 2f ff", "ff 07", "ff 0f", "f7 17", "f7 1f", "f7 07 01 00 00 00", "00 07",
          "66 01 07", "48 01 07", "48 83 17 ff", "0f ba 2f 05", "0f ba 37 05", "0f ba 27 05", "0f ba 3f 05", "38 27"]
EDGES = st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000,
                                                                  0xFFFFFFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]))
FLAGS = 0x8D5
LOGICAL = {"and", "or", "xor", "test"}


@pytest.fixture(scope="module")
def engine() -> Uc:
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    uc.mem_map(0x1000, 0x2000)
    return uc


@settings(max_examples=400)
@given(text=st.sampled_from(MODIFY), rax=EDGES, memory=EDGES, carry=st.booleans())
def test_an_operation_on_memory_leaves_what_the_engine_leaves(engine, text, rax, memory, carry):
    decoded = decode(code(text), 64)
    size = decoded.memory.size
    cell = [memory & (1 << 8 * size) - 1]
    state = FakeState(rax=rax, rflags=2 | carry)
    perform(state, memory_access(decoded), lambda: cell[0], lambda value: cell.__setitem__(0, value))
    engine.mem_write(0x1000, code(text))
    engine.mem_write(0x2000, memory.to_bytes(8, "little"))
    for register, value in ((uc_x86.UC_X86_REG_RAX, rax), (uc_x86.UC_X86_REG_RDI, 0x2000),
                            (uc_x86.UC_X86_REG_EFLAGS, 2 | carry)):
        engine.reg_write(register, value)
    engine.emu_start(0x1000, 0x1000 + decoded.length)
    compared = FLAGS & ~0x10 if decoded.mnemonic in LOGICAL else 1 if decoded.mnemonic.startswith("bt") else FLAGS
    assert cell[0] == int.from_bytes(engine.mem_read(0x2000, size), "little")
    assert state.rax == engine.reg_read(uc_x86.UC_X86_REG_RAX)
    assert state.rflags & compared == engine.reg_read(uc_x86.UC_X86_REG_EFLAGS) & compared


def test_inc_leaves_the_carry_flag():
    assert compute("inc", 0xFF, 0, 1, 3) == (0, 3 | 0x10 | 0x40 | 0x4)


# --- At RIP --------------------------------------------------------------------------------------

def test_the_width_of_code_follows_mode_and_segment():
    assert bits_of(FakeState()) == 16
    assert bits_of(FakeState(cr0=0x11, cs=FLAT_CODE_32)) == 32
    assert bits_of(FakeState(**LONG)) == 64
    assert bits_of(FakeState(**{**LONG, "cs": FLAT_CODE_32})) == 32


def test_the_instruction_at_rip_is_fetched_through_cs():
    memory, state = FakeMemory(), FakeState(cr0=0x11, cs=Segment(8, 0x3000, 0xFFFFF, 0xC09B), rip=0x10)
    memory.data[0x3010:0x3012] = b"\x0f\xa2"
    assert decode_at(state, memory.linear(state)).mnemonic == "cpuid"


def test_an_instruction_cut_by_a_page_that_faults_gets_the_page_fault():
    """The bytes beyond are needed, so the fault of fetching them comes before #UD."""
    memory = FakeMemory()
    state = FakeState(cr0=0x80000011, cr3=0x1000, cs=FLAT_CODE_32, rip=0x4FFE)
    memory.store(0x1000, 0x2007, 4)
    memory.store(0x2000 + 4 * 4, 0x4007, 4)
    memory.data[0x4FFE:0x5000] = b"\x0f\x22"
    with pytest.raises(GuestFault) as refused:
        decode_at(state, memory.linear(state))
    assert (refused.value.vector, refused.value.address) == (14, 0x5000)
    memory.data[0x4FFE:0x5000] = b"\x0f\xa2"
    assert decode_at(state, memory.linear(state)).mnemonic == "cpuid"
