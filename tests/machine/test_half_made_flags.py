"""SETcc, RCL and RCR of memory that must first be found, or that the guest has not mapped: the flags are the same."""

from __future__ import annotations

import pytest

from hv.machine.half_made_flags import knows_operation, overwrites_operand
from hv.machine.traps import Trap
from tests.guest_runner import assemble
from tests.machine.engine_box import CODE, DATA, TABLE, EngineBox

ARITHMETIC = 0x8D5
OPERATIONS = ("add eax, ebx", "sub eax, ebx", "cmp eax, ebx", "cmp al, bl", "and eax, ebx", "xor eax, eax",
              "shl eax, 1", "inc eax", "neg eax", "imul eax, ebx", "adc eax, ebx")
OPERANDS = ((1, 2), (0x7FFFFFFF, 1), (0x80000000, 0xFFFFFFFF), (5, 5), (2, 1), (0x14, 4))
# What may stand between the operation and the instruction: nothing, the end of a block, a shift by CL, a move.
BETWEEN = ("", "jmp s; s:", "mov ecx, 0; shl edx, cl", "mov r9d, 5; lea r10, [r9 + 4]")
READERS = (*(f"set{name} byte ptr [rdi]" for name in ("o", "no", "b", "e", "ne", "be", "a", "s", "p", "l", "ge", "le",
                                                      "g")),
           "rcl byte ptr [rdi], 1", "rcr qword ptr [rdi], 3", "rcr dword ptr [rdi], cl")


def outcome(box: EngineBox, operation: str, between: str, reader: str, operands: tuple[int, int], first: bool):
    """What is in memory, and the flags afterwards; *first*: the reader is the first to touch its page."""
    touch = "" if first else f"mov rdx, [rdi]; mov [rdi], rdx; push rdx; pop rdx; mov eax, {operands[0]}; "
    box.engine.invept()
    box.memory.write(DATA, bytes.fromhex("5513579955135799"))
    box.put(f"{touch}{operation}; {between}; {reader}; pushfq; pop r8; cpuid")
    state = box.state()
    state.rax, state.rbx = operands
    state.rdi, state.rcx = DATA, 3
    box.run(state)
    return box.memory.read(DATA, 8), state.r8 & ARITHMETIC


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_page_that_must_first_be_found_changes_nothing(box, operation, between):
    for n, reader in enumerate(READERS):
        for operands in OPERANDS[n % 2 :: 2]:
            results = [outcome(box, operation, between, reader, operands, first) for first in (False, True)]
            assert results[0] == results[1], (reader, operands)


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_page_fault_finds_the_flags_of_the_operation(box, operation, between):
    for n, reader in enumerate(READERS):
        operands, flags = OPERANDS[n % len(OPERANDS)], []
        for last in ("pushfq; pop r8; cpuid", reader):
            box.put(f"{operation}; {between}; {last}")
            state = box.state()
            state.rax, state.rbx = operands
            state.rdi, state.rcx = DATA, 3
            box.memory.write_u64(TABLE + 8 * (DATA >> 12), 0 if last == reader else DATA | 0x67)
            box.engine.invept()
            box.run(state)
            flags.append((state.rflags if last == reader else state.r8) & ARITHMETIC)
        assert box.traps[-1][:2] == (Trap.EXCEPTION, 14)
        assert flags[0] == flags[1], (reader, operands)


def machine_code(source: str, bits: int = 64) -> bytes:
    return b"".join(part for _, part in assemble(source, bits, CODE))


@pytest.mark.parametrize(("code", "operation", "before", "expected"), [
    ("0f 94 07", 16, "39 d8", False),           # SETE behind CMP in its block: ZF is that of the result
    ("0f 94 07", 16, "", True),                 # ... at the start of a block
    ("0f 9c 07", 16, "39 d8", False),           # SETL behind CMP
    ("0f 9c 07", 8, "01 d8", True),             # SETL behind ADD
    ("0f 90 07", 16, "39 d8", True),            # SETO
    ("0f 92 07", 8, "", False),                 # SETB: the carry alone
    ("0f 90 c0", 8, "", False),                 # of a register
    ("66 41 0f 90 07", 8, "", True),            # behind prefixes
    ("c0 17 02", 8, "", True), ("d3 1f", 8, "", True), ("d1 d0", 8, "", False), ("d1 27", 8, "", False),
    ("0f 90", 8, "", False), ("0f 90 85 00 00", 8, "", False), ("0f", 8, "", False), ("", 8, "", False),
    ("88 07", 8, "", False)])
def test_whether_an_operand_was_overwritten(code, operation, before, expected):
    code, before = bytes.fromhex(code), bytes.fromhex(before)
    assert overwrites_operand(code, 64, operation, lambda: before) is expected
    if expected and not before:
        assert overwrites_operand(code, 64, operation, lambda: None) is (code[:2] != b"\x0f\x94")


@pytest.mark.parametrize(("source", "known"), [
    ("nop", False), ("mov eax, 5; lea eax, [rax + 1]; not eax", False), ("add eax, 1; mov eax, 1", True),
    ("add eax, 1; shl eax, cl", False), ("shl eax, cl; add eax, 1", True), ("shl eax, 3", True), ("rol eax, cl", False),
    ("div ecx", False), ("test eax, eax; div ecx", True)])
def test_what_the_engine_knows_while_it_translates(source, known):
    assert knows_operation(machine_code(source), 64) is known
