"""Every register of a processor is read as it was written, and the engine sees what belongs to it."""

from __future__ import annotations

from typing import Any

import pytest

from hv.machine import context as at
from hv.machine.engine import Trap
from hv.machine.registers import Segment, Table
from hv.machine.watched import Watched
from hv.spec.msrs import Msr
from tests.machine.engine_box import CODE, DATA, FLAT_CODE_32, FLAT_CODE_64, FLAT_DATA, GDT, USER_DATA

WORDS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
         "rip",
         "cr2", "cr3", "dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")


@pytest.mark.parametrize("name", WORDS)
def test_a_register_is_read_as_it_was_written_and_no_other_changes(box, name):
    state = box.state()
    before = {other: getattr(state, other) for other in WORDS}
    setattr(state, name, 0xFEDCBA9876543210)
    assert {other: getattr(state, other) for other in WORDS} == before | {name: 0xFEDCBA9876543210}
    setattr(state, name, -1)
    assert getattr(state, name) == (1 << 64) - 1


@pytest.mark.parametrize("name", ["cr0", "cr4"])
def test_a_control_register_is_read_as_it_was_written(box, name):
    state = box.state(16)
    setattr(state, name, 0x80000031)
    assert getattr(state, name) == 0x80000031


@pytest.mark.parametrize("name", ["eax", "ecx", "edx", "ebx"])
def test_writing_the_low_half_clears_the_high_half(box, name):
    state = box.state()
    full = "r" + name[1:]
    setattr(state, full, 0x1111222233334444)
    assert getattr(state, name) == 0x33334444
    setattr(state, name, 0x1_0000_0005)
    assert getattr(state, full) == 5


def test_the_general_registers_are_also_a_list(box):
    state = box.state()
    for number, name in enumerate(WORDS[:16]):
        state.gpr[number] = number + 100
        assert getattr(state, name) == number + 100


@pytest.mark.parametrize("number", [0, 1, 5, 8, 15])
def test_an_xmm_register_is_what_the_guest_has_there(box, number):
    """What was written outside the guest sees, what it loads is read outside, and no other register changes."""
    box.put(f"movdqu [rsi], xmm{number}; movdqu xmm{number}, [rdi]; cpuid")
    box.answer = lambda trap, detail: False
    state = box.state()
    for other in range(16):
        state.write_xmm(other, bytes([other]) * 16)
    state.write_xmm(number, bytes(range(16)))
    state.rsi, state.rdi = DATA, DATA + 16
    box.memory.write(DATA + 16, b"sixteen letters!")
    box.run(state)
    assert box.memory.read(DATA, 16) == bytes(range(16))
    assert state.read_xmm(number) == b"sixteen letters!"
    assert [state.read_xmm(other) for other in range(16) if other != number] == [
        bytes([other]) * 16 for other in range(16) if other != number]


@pytest.mark.parametrize("value", [0, 0x1, 0x100, 0xD00, 0xD01])
def test_efer_hides_the_engines_own_bit(box, value):
    state = box.state(16)
    state.efer = value
    assert state.efer == value
    assert state.efer_raw & 1 << 12


@pytest.mark.parametrize("name", [*SEGMENTS, "ldtr"])
@pytest.mark.parametrize("segment", [
    Segment(0x08, 0x12345000, 0xFFFFFFFF, 0xA09B), Segment(0x33, 0, 0xFFFF, 0xF3), Segment(0xFFFF, 0xFFFF0, 0xFFFF,
                                                                                           0x93),
    Segment(0x18, (1 << 64) - 0x1000, 0xFFFFFFFF, 0xC093)], ids=["code", "user", "real", "high"])
def test_a_segment_is_read_as_it_was_written(box, name, segment):
    state = box.state(32)
    setattr(state, name, segment)
    assert getattr(state, name) == segment


@pytest.mark.parametrize("name", ["ss", "ds", "es", "fs", "gs", "ldtr"])
@pytest.mark.parametrize("dpl", [0, 3])
def test_an_unusable_segment_stays_unusable_and_keeps_its_privilege(box, name, dpl):
    state = box.state()
    setattr(state, name, Segment.null(dpl))
    found = getattr(state, name)
    assert not found.usable
    assert (found.selector, found.dpl) == (dpl, dpl)


@pytest.mark.parametrize("name", ["gdtr", "idtr"])
def test_a_table_register_is_read_as_it_was_written(box, name):
    state = box.state()
    setattr(state, name, Table(0xFFFF800000001000, 0x7FF))
    assert getattr(state, name) == Table(0xFFFF800000001000, 0x7FF)


@pytest.mark.parametrize("rights", [0x8B, 0x89, 0x83])
def test_the_busy_mark_of_tr_is_never_shown_to_the_engine_and_always_to_us(box, rights):
    """It would end the process when it looks for a stack there."""
    state = box.state()
    state.tr = Segment(0x20, 0x8000, 0x67, rights)
    assert state.tr == Segment(0x20, 0x8000, 0x67, rights | 2)
    flags = state.dwords[(at.SEGMENTS + 24 * 7 + 20) // 4]
    assert flags >> 8 & 0xF == rights & 0xF & ~2


@pytest.mark.parametrize("index", [Msr.STAR, Msr.LSTAR, Msr.CSTAR, Msr.SFMASK, Msr.KERNEL_GS_BASE, Msr.SYSENTER_CS,
                                   Msr.SYSENTER_ESP, Msr.SYSENTER_EIP, Msr.PAT, Msr.TSC_AUX, Msr.FS_BASE, Msr.GS_BASE])
def test_an_msr_is_read_as_it_was_written_and_no_other_changes(box, index):
    state = box.state()
    before = dict(state.msrs)
    state.msrs[index] = 0x12345678
    assert dict(state.msrs) == before | {index: 0x12345678}


def test_the_set_of_msrs_is_fixed(box):
    state = box.state()
    assert Msr.LSTAR in state.msrs
    assert 0x1234 not in state.msrs
    with pytest.raises(TypeError, match="cannot be removed"):
        del state.msrs[Msr.LSTAR]


def test_the_base_of_fs_is_its_msr(box):
    state = box.state()
    state.fs = Segment(0x33, 0x7000, 0xFFFFFFFF, 0xC0F3)
    assert state.msrs[Msr.FS_BASE] == 0x7000
    state.msrs[Msr.FS_BASE] = 0x9000
    assert state.fs.base == 0x9000


# --- RFLAGS --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bit", [0, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 19, 20, 21])
def test_each_flag_is_read_as_it_was_written(box, bit):
    state = box.state()
    state.rflags = 2 | 1 << bit
    assert state.rflags == 2 | 1 << bit
    assert state.interrupts_enabled is (bit == 9)


OPERATIONS = ("add {a}, {b}", "sub {a}, {b}", "adc {a}, {b}", "sbb {a}, {b}", "and {a}, {b}", "or {a}, {b}",
              "xor {a}, {b}",
              "cmp {a}, {b}", "test {a}, {b}", "inc {a}", "dec {a}", "neg {a}", "shl {a}, 3", "shr {a}, 1",
              "sar {a}, 5",
              "rol {a}, 1", "ror {a}, 1", "rcl {a}, 1", "bt {a}, {b}", "imul {a}, {b}", "mul {b}", "cmc", "stc", "clc",
              "std",
              "cld", "bsf {a}, {b}", "shld {a}, {b}, 4", "xadd {a}, {b}", "cmpxchg {b}, {a}")
VALUES = ((0, 0), (1, 0xFFFFFFFFFFFFFFFF), (0x7FFFFFFFFFFFFFFF, 1), (0x8000000000000000, 0x8000000000000000), (0xF0F,
                                                                                                               0x10F1))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("registers", [("rax", "rbx"), ("eax", "ebx"), ("ax", "bx")])
def test_lazy_flags_are_what_the_guest_itself_would_push(box, operation, registers):
    """The engine keeps the last operation instead of its flags; PUSHFQ makes it compute them."""
    source = operation.format(a=registers[0], b=registers[1])
    length = box.put(f"{source}; cpuid; pushfq; pop rcx; hlt")
    for a, b in VALUES:
        state = box.state()
        state.rax, state.rbx, state.rflags = a, b, 2 | (a & 1)
        box.answer = lambda trap, detail: False
        box.run(state)
        outside = state.rflags
        seen: list[int] = []

        def answer(trap: Trap, detail: int, seen: list[int] = seen) -> bool:
            if trap is Trap.CPUID:
                seen.append(box.engine.current.rflags)
                box.engine.current.complete_instruction(2)
                return True
            return False

        box.answer = answer
        state.rip = CODE
        state.rax, state.rbx, state.rflags = a, b, 2 | (a & 1)
        box.run(state)
        assert seen == [outside] == [state.rcx]
    assert length


# --- what is derived -----------------------------------------------------------------------------------

MODES: dict[str, tuple[int, dict[str, Any], int, int]] = {
    "real": (16, {}, 16, 0),
    "protected-16": (32, {"cs": Segment(0x18, 0, 0xFFFF, 0x9B)}, 16, 0),
    "protected-32": (32, {}, 32, 0),
    "protected-32-user": (32, {"cs": Segment(0x2B, 0, 0xFFFFFFFF, 0xC0FB), "ss": USER_DATA}, 32, 3),
    "compatibility": (64, {"cs": FLAT_CODE_32}, 32, 0),
    "long": (64, {}, 64, 0),
    "long-user": (64, {"cs": Segment(0x2B, 0, 0xFFFFFFFF, 0xA0FB), "ss": USER_DATA}, 64, 3),
}


@pytest.mark.parametrize("mode", MODES)
def test_what_the_engine_derives_itself_is_what_we_derive(box, mode):
    """After one instruction in each mode, the hidden flags are computed again from the registers and stay the same."""
    bits, registers, wanted, cpl = MODES[mode]
    box.put(b"\x90\x90\x90\x0f\xa2")
    box.answer = lambda trap, detail: False
    state = box.state(bits)
    for name, value in registers.items():
        setattr(state, name, value)
    assert (state.bits, state.cpl) == (wanted, cpl)
    hidden = state.dwords[at.HFLAGS // 4]
    box.run(state)
    assert box.traps[-1][0] is Trap.CPUID
    assert state.dwords[at.HFLAGS // 4] == hidden
    state.refresh_hidden_flags()
    assert state.dwords[at.HFLAGS // 4] == hidden
    assert state.in_long_mode is (bits == 64)
    assert state.protected is (bits != 16)


@pytest.mark.parametrize(("cs", "operand_bits"), [(FLAT_CODE_64, 64), (FLAT_CODE_32, 32)])
def test_code_is_executed_in_the_mode_that_cs_says(box, cs, operand_bits):
    """48 FF C0 is INC RAX in 64-bit code, DEC EAX and INC EAX elsewhere."""
    box.put(b"\x48\xff\xc0\x0f\xa2")
    state = box.state(64)
    state.cs, state.rax = cs, 7
    box.run(state)
    assert state.rax == (8 if operand_bits == 64 else 7)


def test_a_base_of_64_bit_code_can_be_ignored(box):
    """SDM "Segmentation in IA-32e Mode (64-Bit Mode)": it is treated as zero; the engine would add it."""
    box.put("mov ebx, 7; cpuid")
    state = box.state(64)
    state.cs = Segment(0x08, 0x5000, 0xFFFFFFFF, 0xA09B)
    state.ignore_code_base()
    assert state.cs.base == 0
    box.run(state)
    assert state.rbx == 7
    state.cs = Segment(0x18, 0x5000, 0xFFFFFFFF, 0xC09B)
    state.ignore_code_base()
    assert state.cs.base == 0x5000


def test_a_segment_base_counts_in_16_and_32_bit_code_and_not_in_64(box):
    box.memory.write(0x20010, b"\x11\0\0\0")
    box.memory.write(0x21010, b"\x22\0\0\0")
    for bits, wanted in ((32, 0x22), (64, 0x11)):
        box.put(b"\x8b\x03\x0f\xa2")        # mov eax, [(r/e)bx]
        state = box.state(bits)
        state.ds, state.rbx = Segment(0x10, 0x1000, 0xFFFFFFFF, 0xC093), 0x20010
        box.run(state)
        assert state.eax == wanted


@pytest.mark.parametrize(("bits", "rip", "base", "linear"), [
    (64, 0x10000, 0x500, 0x10000), (64, 1 << 47, 0, 1 << 47), (32, 0x10000, 0x500, 0x10500),
    (16, 0xFFFF, 0xFFFF0, 0x10FFEF), (32, 0xFFFFFFFF, 2, 1),
])
def test_the_base_of_cs_counts_outside_64_bit_mode(box, bits, rip, base, linear):
    state = box.state(bits)
    state.cs, state.rip = state.cs._replace(base=base), rip
    assert state.linear_rip == linear


def test_the_interrupt_shadow_ends_with_its_instruction(box):
    state = box.state()
    state.interrupt_shadow = True
    assert state.interrupt_shadow
    state.rip = (1 << 64) - 1
    state.complete_instruction(2)
    assert (state.interrupt_shadow, state.rip) == (False, 1)


def test_writing_ss_sets_the_privilege(box):
    state = box.state()
    state.ss = USER_DATA
    assert state.cpl == 3
    state.ss = FLAT_DATA
    assert state.cpl == 0


# --- what leaves a guest only when it is watched -----------------------------------------------------------

@pytest.mark.parametrize(("source", "bit", "trap"), [
    ("mov rax, cr0", Watched.READ_CR0, Trap.CR_READ), ("smsw ax", Watched.READ_CR0, Trap.CR_READ),
    ("mov rax, cr3", Watched.READ_CR3, Trap.CR_READ), ("mov rax, cr4", Watched.READ_CR4, Trap.CR_READ),
    ("mov cr3, rbx", Watched.WRITE_CR3, Trap.CR_WRITE), ("invlpg [rbx]", Watched.INVLPG, Trap.INVLPG),
    *((source, Watched.LOAD_TABLES, Trap.DESCRIPTOR_TABLE) for source in ("lgdt [rbp]", "lidt [rbp]", "lldt cx")),
    *((source, Watched.STORE_TABLES, Trap.DESCRIPTOR_TABLE) for source in ("sgdt [rbp]", "sidt [rbp]", "sldt cx",
                                                                           "str cx"))])
@pytest.mark.parametrize("watched", [False, True])
def test_an_instruction_leaves_the_guest_only_while_it_is_watched(box, source, bit, trap, watched):
    state = box.state()
    state.rbx, state.rbp = state.cr3, 0x20000
    box.memory.write(0x20000, (0x3F).to_bytes(2, "little") + GDT.to_bytes(8, "little"))
    state.watch(bit if watched else every_other(bit))
    assert state.watched == (bit if watched else every_other(bit))
    box.put(f"{source}; hlt")
    box.run(state)
    assert box.traps[0][0] is (trap if watched else Trap.HLT)


def every_other(bit: Watched) -> int:
    return sum(Watched) & ~bit


def test_an_image_of_the_registers_says_nothing_of_what_is_watched(box):
    state = box.state()
    image = box.engine.save_image(state)
    state.watch(Watched.READ_CR3)
    box.engine.load_image(state, image)
    assert state.watched == Watched.READ_CR3
