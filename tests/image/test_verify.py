"""An assembler's answer is passed on only when it says what the source says."""

from __future__ import annotations

import pytest

from hv.image.complaints import refused
from hv.image.errors import ImageError
from hv.image.instruction import Instruction, Recipe, cut, finish
from hv.image.operands import Mem, parse_operand
from hv.image.verify import check


def checked(bits: int, source: str, code: str) -> None:
    instruction = cut(source, bits)
    operands = tuple(parse_operand(text, {}.__getitem__, bits) for text in instruction.operands)
    check(instruction, Recipe(operands, text=source), bytes.fromhex(code), 0x1000)


@pytest.mark.parametrize(("bits", "source", "right", "wrong"), [
    (64, "mov eax, ebx", "89d8", "89c3"),                                   # the other way round
    (64, "mov eax, ebx", "8bc3", "4889d8"),                                 # other sizes
    (64, "mov eax, ebx", "89d8", "89d890"),                                 # more than it
    (64, "mov eax, ebx", "89d8", "89"),                                     # less than it
    (64, "add eax, ebx", "01d8", "29d8"),                                   # another instruction
    (64, "mov eax, 5", "b805000000", "b806000000"),
    (64, "mov eax, -1", "b8ffffffff", "b8feffffff"),
    (64, "mov eax, 0xffffffff", "b8ffffffff", "b8ffffff7f"),
    (64, "mov eax, 5", "b805000000", "8b0500000000"),                       # memory for a number
    (64, "mov rax, [rbx]", "488b03", "488b01"),
    (64, "mov rax, [rbx + rcx]", "488b040b", "488b044b"),                   # another scale
    (64, "mov rax, [rbx + rcx]", "488b0419", "488b03"),                     # no index; and either may be the base
    (64, "mov rax, [rbx + 5]", "488b4305", "488b4306"),
    (64, "mov eax, fs:[rbx]", "648b03", "8b03"),
    (64, "mov eax, [rbx]", "8b03", "648b03"),
    (64, "mov eax, [rip + 0x1100]", "8b05fa000000", "8b05fb000000"),
    (64, "inc dword ptr [rax]", "ff00", "fe00"),
    (64, "inc dword ptr [rax]", "ff00", "48ff00"),
    (64, "xchg eax, ebx", "93", "91"),
    (64, "test [rbx], eax", "8503", "850b"),
    (64, "xchg [rbx], eax", "8703", "8701"),
    (64, "cmovz eax, ebx", "0f44c3", "0f45c3"),
    (64, "setnae al", "0f92c0", "0f93c0"),
    (64, "sal eax, 1", "d1e0", "d1e8"),
    (64, "ltr eax", "0f00d8", "0f00d9"),
    (64, "str eax", "0f00c8", "0f00c9"),
    (64, "mov ds, eax", "8ed8", "8ed9"),
    (64, "mov eax, ds", "8cd8", "8cc0"),
    (64, "fld st(0)", "d9c0", "d9c1"),
    (64, "shl eax, cl", "d3e0", "d1e0"),                                    # an operand less
    (64, "lgdt [rax]", "0f0110", "660f0110"),                               # a prefix nobody asked for
    (32, "lgdt [0x1000]", "0f011500100000", "660f011500100000"),
    (64, "mov ax, bx", "6689d8", "89d8"),
    (16, "mov eax, [bx]", "668b07", "8b07"),
    (16, "lgdt [bx]", "0f0117", "660f0117"),
    (64, "movdqa xmm0, xmm1", "660f6fc1", "0f6fc1"),
    (64, "invept rax, [rbx]", "660f388003", "660f388103"),
    (32, "mov eax, [0xfee00000]", "a10000e0fe", "a10000e0ff"),
])
def test_bytes_that_say_something_else_are_refused(bits: int, source: str, right: str, wrong: str) -> None:
    checked(bits, source, right)
    with pytest.raises(ImageError, match="assembled as"):
        checked(bits, source, wrong)


@pytest.mark.parametrize(("bits", "source", "code"), [
    (64, "mov al, 256", "b000"), (64, "mov al, -129", "b07f"), (64, "mov ax, 0x10000", "66b80000"),
    (64, "add eax, 0x100000000", "83c000"),
])
def test_a_number_that_lost_bits_is_refused(bits: int, source: str, code: str) -> None:
    with pytest.raises(ImageError, match=r"does not fit (8|16|32) bits"):
        checked(bits, source, code)


@pytest.mark.parametrize(("source", "code"), [
    ("mov al, 255", "b0ff"), ("mov al, -128", "b080"), ("mov al, -1", "b0ff"), ("add eax, -1", "83c0ff"),
    ("add eax, 0xffffffff", "83c0ff"),
])
def test_a_number_may_be_written_with_or_without_its_sign(source: str, code: str) -> None:
    checked(64, source, code)


def test_bytes_of_ours_are_one_instruction_and_a_branch_goes_where_it_says() -> None:
    branch = cut("jmp 0x1010", 64)
    recipe = Recipe((parse_operand("0x1010", {}.__getitem__, 64),), b"\xeb\x0e")
    check(branch, recipe, b"\xeb\x0e", 0x1000)
    for code, here in ((b"\xeb\x0f", 0x1000), (b"\xeb\x0e", 0x1001), (b"\xeb\x0e\x90", 0x1000)):
        with pytest.raises(ImageError, match="assembled as"):
            check(branch, recipe, code, here)


@pytest.mark.parametrize("raw", ["8b03", "44332211", "9044332211", "8b0444332211"],
                         ids=["no placeholder", "nothing before", "no opcode", "another form"])
def test_an_address_is_written_only_where_the_instruction_has_one(raw: str) -> None:
    instruction, memory = Instruction((), "mov", ("eax", "[rip + 5]"), 64), Mem(4, "", "rip", "", 1, 5)
    recipe = Recipe((memory,), patch=memory)
    with pytest.raises(ImageError, match="this instruction takes no such address"):
        finish(instruction, recipe, bytes.fromhex(raw), 0x1000)
    assert finish(instruction, recipe, bytes.fromhex("8b0544332211"), 0x1000).hex() == "8b05ffefffff"


@pytest.mark.parametrize(("target", "reaches"), [(0x80001005, True), (0x80001006, False), (-0x7FFFEFFA, True),
                                                 (-0x7FFFEFFB, False)])
def test_rip_relative_reaches_2_gib(target: int, reaches: bool) -> None:
    instruction, memory = Instruction((), "mov", ("eax", "[rip + X]"), 64), Mem(4, "", "rip", "", 1, target)
    recipe = Recipe((memory,), patch=memory)
    if reaches:
        assert len(finish(instruction, recipe, bytes.fromhex("8b0544332211"), 0x1000)) == 6
    else:
        with pytest.raises(ImageError, match="rip-relative addresses reach 2 GiB"):
            finish(instruction, recipe, bytes.fromhex("8b0544332211"), 0x1000)


@pytest.mark.parametrize(("mnemonic", "bits", "numbers", "complaint", "message", "hint"), [
    ("frob", 64, [], "MNEMONICFAIL", "`frob` is no instruction of 64-bit code", "check the spelling"),
    ("lret", 32, [], "MNEMONICFAIL", "`lret` is no instruction of 32-bit code", "write retf"),
    ("pushad", 64, [], "INVALIDOPERAND", "`pushad` is no instruction of 64-bit code", "one by one"),
    ("add", 64, [5, 1 << 31], "INVALIDOPERAND", "add has no form with the immediate 0x80000000", "only mov"),
    ("add", 64, [-(1 << 31) - 1], "INVALIDOPERAND", "add has no form with the immediate -0x80000001", "only mov"),
    ("add", 64, [(1 << 31) - 1, -(1 << 31)], "INVALIDOPERAND", "these operands do not go with add", "destination"),
    ("add", 32, [1 << 31], "INVALIDOPERAND", "these operands do not go with add", "destination first"),
    ("jrcxz", 32, [], "MISSINGFEATURE", "this form of jrcxz does not exist in 32-bit code", "check .bits"),
])
def test_a_refusal_is_said_in_our_words(mnemonic: str, bits: int, numbers: list[int], complaint: str, message: str,
                                        hint: str) -> None:
    error = refused(mnemonic, bits, numbers, complaint)
    assert error.message.startswith(message)
    assert hint in error.hint
