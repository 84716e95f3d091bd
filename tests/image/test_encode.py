"""The encodings that are ours, byte by byte; SDM volume 2, "Instruction Set Reference", for each."""

from __future__ import annotations

import pytest

from hv.image.encode import absolute_from_relative, branch, far_through_memory, own, reaches_short
from hv.image.errors import ImageError
from hv.image.operands import Far, Imm, Operand, Reg

OWN: list[tuple[int, str, Operand | None, str]] = [
    (64, "ret", Imm(0), "c20000"), (64, "retn", Imm(0xFFFF), "c2ffff"), (32, "retf", Imm(8), "ca0800"),
    (64, "int", Imm(0x80), "cd80"), (16, "int", Imm(0xFF), "cdff"),
    (64, "push", Imm(127), "6a7f"), (64, "push", Imm(128), "6880000000"), (64, "push", Imm(-128), "6a80"),
    (64, "push", Imm(-129), "687fffffff"), (64, "push", Imm(-0x80000000), "6800000080"),
    (32, "push", Imm(0xFFFFFFFF), "6aff"), (32, "push", Imm(0x80000000), "6800000080"),
    (16, "push", Imm(0xFFFF), "6aff"), (16, "push", Imm(0x8000), "680080"), (16, "push", Imm(0x7FFF), "68ff7f"),
    (16, "push", Imm(-0x8000), "680080"),
    (32, "push", Reg("es"), "06"), (32, "push", Reg("cs"), "0e"), (16, "push", Reg("ss"), "16"),
    (32, "pop", Reg("ds"), "1f"), (32, "pop", Reg("es"), "07"), (64, "push", Reg("fs"), "0fa0"),
    (64, "pop", Reg("gs"), "0fa9"), (64, "push", Reg("rax"), ""),
    (16, "jmp", Far(0x10, 0xFFFF), "eaffff1000"), (16, "jmp", Far(0x10, 0x10000), "66ea000001001000"),
    (16, "call", Far(8, 5, 4), "669a050000000800"), (32, "jmp", Far(8, 5), "ea050000000800"),
    (32, "jmp", Far(8, 5, 2), "66ea05000800"), (32, "jmp", Far(8, 0x10000, 4), "ea000001000800"),
    (64, "rdpid", Reg("rdi"), "f30fc7ff"), (64, "rdpid", Reg("r15"), "f3410fc7ff"),
    (64, "rdpid", Reg("r8"), "f3410fc7f8"),
    (32, "rdpid", Reg("ecx"), "f30fc7f9"), (16, "rdpid", Reg("esp"), "f30fc7fc"),
    (16, "iretd", None, "66cf"), (32, "movsw", None, "66a5"), (64, "cqo", None, "4899"), (64, "mfence", None, ""),
    (64, "mov", Imm(1), ""),
]


@pytest.mark.parametrize(("bits", "mnemonic", "operand", "code"), OWN)
def test_an_instruction_of_ours_is(bits: int, mnemonic: str, operand: Operand | None, code: str) -> None:
    """"" = Keystone may have it."""
    assert own(mnemonic, [operand] if operand else [], bits) == (bytes.fromhex(code) if code else None)


@pytest.mark.parametrize(("bits", "mnemonic", "operand", "message"), [
    (64, "ret", Imm(0x10000), "0x10000 is out of range 0..0xffff"), (64, "ret", Imm(-1), "out of range"),
    (64, "int", Imm(0x100), "0x100 is out of range 0..0xff"),
    (64, "push", Imm(0x80000000), "in 64-bit code, -0x80000000..0x7fffffff"),
    (64, "push", Imm(-0x80000001), "does not fit"),
    (32, "push", Imm(0x100000000), "in 32-bit code, -0x80000000..0xffffffff"),
    (16, "push", Imm(0x10000), "in 16-bit code, -0x8000..0xffff"), (16, "push", Imm(-0x8001), "does not fit"),
    (64, "push", Reg("es"), "push es does not exist in 64-bit code"), (64, "pop", Reg("ss"), "pop ss does not exist"),
    (32, "pop", Reg("cs"), "pop cs does not exist in 32-bit code"),
    (64, "jmp", Far(8, 5), "does not exist in 64-bit code"), (32, "jmp", Far(8, -1), "out of range"),
    (16, "jmp", Far(8, 0x10000, 2), "0x10000 is out of range 0..0xffff"),
    (64, "rdpid", Reg("eax"), "takes a 64-bit register, not eax"), (64, "rdpid", Reg("rip"), "not rip"),
    (32, "rdpid", Reg("rax"), "takes a 32-bit register"), (32, "rdpid", Reg("eip"), "not eip"),
    (64, "rdpid", Reg("cr0"), "not cr0"), (64, "popa", None, "popa does not exist in 64-bit code"),
    (16, "sysret", None, "sysret does not exist in 16-bit code"),
])
def test_an_instruction_of_ours_that_does_not_exist_says_so(bits: int, mnemonic: str, operand: Operand | None,
                                                            message: str) -> None:
    with pytest.raises(ImageError) as caught:
        own(mnemonic, [operand] if operand else [], bits)
    assert message in caught.value.message


BRANCHES = [
    # bits, mnemonic, distance from the branch's own address, wide, bytes
    (64, "jmp", 2, False, "eb00"), (64, "jmp", 129, False, "eb7f"), (64, "jmp", -126, False, "eb80"),
    (64, "jmp", 5, True, "e900000000"), (32, "jmp", 0, True, "e9fbffffff"), (16, "jmp", 3, True, "e90000"),
    (64, "call", 5, False, "e800000000"), (16, "call", 0, False, "e8fdff"),
    (64, "jo", 2, False, "7000"), (64, "jg", 2, False, "7f00"), (64, "jnz", 6, True, "0f8500000000"),
    (16, "jz", 4, True, "0f840000"), (32, "jnae", 2, False, "7200"),
    (64, "loop", 2, False, "e200"), (64, "loopz", 2, False, "e100"), (64, "loopne", 2, False, "e000"),
    (64, "jrcxz", 2, False, "e300"), (64, "jecxz", 3, False, "67e300"), (32, "jecxz", 2, False, "e300"),
    (32, "jcxz", 3, False, "67e300"), (16, "jcxz", 2, False, "e300"), (16, "jecxz", 3, False, "67e300"),
    (64, "jmp", 5 + 0x7FFFFFFF, True, "e9ffffff7f"), (64, "jmp", 5 - 0x80000000, True, "e900000080"),
    (16, "jmp", 3 + 0xFFFF, True, "e9ffff"),
]


@pytest.mark.parametrize(("bits", "mnemonic", "distance", "wide", "code"), BRANCHES)
def test_a_branch_counts_from_its_own_end(bits: int, mnemonic: str, distance: int, wide: bool, code: str) -> None:
    assert branch(mnemonic, 0x1000 + distance, 0x1000, bits, wide).hex() == code


@pytest.mark.parametrize(("bits", "mnemonic", "distance", "wide", "message"), [
    (64, "jmp", 130, False, "0x80 bytes away, and this branch reaches -128..127"),
    (64, "loop", -127, False, "-0x81 bytes away"), (16, "loop", 130, False, "-128..127 bytes"),
    (64, "jmp", 5 + 0x80000000, True, "0x80000000 bytes away, and this branch reaches 2 GiB"),
    (64, "call", 5 - 0x80000001, False, "-0x80000001 bytes away"),
    (64, "jcxz", 0, False, "jcxz does not exist in 64-bit code"), (32, "jrcxz", 0, False, "does not exist in 32-bit"),
    (16, "jrcxz", 0, False, "does not exist in 16-bit code"),
])
def test_a_branch_that_does_not_reach_says_how_far_it_does(bits: int, mnemonic: str, distance: int, wide: bool,
                                                           message: str) -> None:
    with pytest.raises(ImageError) as caught:
        branch(mnemonic, 0x1000 + distance, 0x1000, bits, wide)
    assert message in caught.value.message


@pytest.mark.parametrize(("distance", "reaches"), [(129, True), (130, False), (-126, True), (-127, False)])
@pytest.mark.parametrize("mnemonic", ["jmp", "je"])
def test_a_short_branch_reaches_what_it_can_encode(mnemonic: str, distance: int, reaches: bool) -> None:
    assert reaches_short(mnemonic, 0x1000 + distance, 0x1000, 64) is reaches


@pytest.mark.parametrize(("code", "modrm", "wide", "far"), [
    ("ff20", 1, False, "ff28"), ("ff10", 1, False, "ff18"), ("ff20", 1, True, "48ff28"),
    ("67ff20", 2, True, "6748ff28"),
    ("41ff6108", 2, True, "49ff6908"), ("41ff6108", 2, False, "41ff6908"),
])
def test_a_near_jump_through_memory_becomes_a_far_one(code: str, modrm: int, wide: bool, far: str) -> None:
    assert far_through_memory(bytes.fromhex(code), modrm, wide).hex() == far


@pytest.mark.parametrize(("code", "modrm", "address", "absolute"), [
    ("8b0544332211", 1, 0x1000, "8b042500100000"), ("c7054433221107000000", 1, -1, "c70425ffffffff07000000"),
    ("48893d44332211", 2, 5, "48893c2505000000"),
])
def test_a_relative_operand_becomes_an_absolute_one(code: str, modrm: int, address: int, absolute: str) -> None:
    assert absolute_from_relative(bytes.fromhex(code), modrm, address).hex() == absolute
