"""Moves that were made ready do what instructions with one memory operand do, for any bytes."""

from __future__ import annotations

import random

import pytest

from hv.instructions.decode import linear_address
from hv.instructions.memory_operations import described, perform
from hv.instructions.moves import move_of
from tests.machine.fakes import FLAT_CODE_32, FLAT_CODE_64, FakeState

NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
OPCODES = (b"\x88", b"\x89", b"\x8a", b"\x8b", b"\xc6", b"\xc7", b"\xa0", b"\xa1", b"\xa2", b"\xa3", b"\x63",
           b"\x0f\xb6", b"\x0f\xb7", b"\x0f\xbe", b"\x0f\xbf")
PREFIXES = (b"", b"", b"", b"\x66", b"\x67", b"\x2e", b"\x36", b"\x66\x67", b"\x67\x3e", b"\xf0", b"\xf3")
MODE = {32: {"cr0": 0x11, "cs": FLAT_CODE_32}, 64: {"cr0": 0x80000011, "cr4": 0x20, "efer": 0x500, "cs": FLAT_CODE_64}}


def some_code(source: random.Random, bits: int) -> bytes:
    rex = bytes((0x40 | source.getrandbits(4),)) if bits == 64 and source.random() < 0.7 else b""
    return source.choice(PREFIXES) + rex + source.choice(OPCODES) + source.randbytes(15)


def done_slowly(code: bytes, bits: int, registers: list[int], memory: int) -> tuple[object, ...]:
    """(address, what was written, the registers after it)."""
    state = FakeState(**MODE[bits], rip=0x10000, **dict(zip(NAMES, registers, strict=True)))
    decoded, access = described(code, bits)
    address, written = linear_address(decoded, state, access.memory), []
    assert perform(state, access, lambda: memory & (1 << 8 * access.size) - 1, written.append)
    stored = [value & (1 << 8 * access.size) - 1 for value in written]
    return address, stored, [getattr(state, name) for name in NAMES], decoded.length, access.size


@pytest.mark.parametrize("bits", [32, 64])
def test_a_move_is_what_its_instruction_does(bits):
    source, loads, stores = random.Random(bits), 0, 0
    for _ in range(600):
        code = some_code(source, bits)[:15]
        move = move_of(code, bits)
        if move is None or move.segment in ("fs", "gs"):
            continue
        registers, memory = [source.getrandbits(bits) for _ in range(16)], source.getrandbits(64)
        wanted = done_slowly(code, bits, registers, memory)
        address, stored = move.address(registers, 0x10000), []
        if move.load is not None:
            move.load(registers, memory)
            loads += 1
        if move.value is not None:
            stored.append(move.value(registers))
            stores += 1
        assert (address, stored, registers, move.length, move.size) == wanted, code.hex(" ")
    assert loads > 60
    assert stores > 60


@pytest.mark.parametrize("code", [
    "01 03",            # ADD changes flags
    "48 ab",            # STOS moves RDI
    "8e 1b",            # a segment register
    "87 03",            # XCHG
    "89 c3",            # no memory
    "8d 03",            # nor has LEA
    "ff ff",            # nothing
    "0f 10 03",         # a vector register
    "66 0f 38 f0 03",   # MOVBE
])
def test_what_is_no_move_of_a_general_register_is_left_to_others(code):
    assert move_of(bytes.fromhex(code).ljust(15, b"\x90"), 64) is None


def test_a_high_byte_is_its_own_register():
    """MOV AH, [RBX]; MOV [RBX], BH; MOVSX CX, [RBX]."""
    registers = [0x1111_2222_3333_4444 for _ in range(16)]
    into, out, extended = (move_of(bytes.fromhex(code).ljust(15, b"\x90"), 64)
                           for code in ("8a 23", "88 3b", "66 0f be 0b"))
    into.load(registers, 0xFFAB)
    extended.load(registers, 0x80)
    assert registers[0] == 0x1111_2222_3333_AB44
    assert registers[1] == 0x1111_2222_3333_FF80
    assert out.value(registers) == 0x44


