"""Operands: what the learner's text means, and what it cannot mean."""

from __future__ import annotations

import pytest

from hv.image.errors import ImageError
from hv.image.operands import Far, Imm, Mem, Operand, Reg, parse_operand, split_operands

SYMBOLS = {"there": 0x1000, "high": 0xFFFF_FFFF_FEE0_0000}


def parsed(text: str, bits: int = 64) -> Operand:
    return parse_operand(text, SYMBOLS.__getitem__, bits)


def at(base: str = "", index: str = "", scale: int = 1, displacement: int = 0, size: int = 0, segment: str = "",
       far: bool = False) -> Mem:
    return Mem(size, segment, base, index, scale, displacement, far)


@pytest.mark.parametrize(("text", "parts"), [
    ("", []), ("a", ["a"]), (" a , b ", ["a", "b"]), ("[a, b], (c, d)", ["[a, b]", "(c, d)"]), ("a,", ["a", ""]),
    ("[a], (b), c", ["[a]", "(b)", "c"]), ("',', b", ["','", "b"]), ('"a,b", c', ['"a,b"', "c"]),
    ("\"it's\", 'x'", ["\"it's\"", "'x'"]), (r'"\"", a', [r'"\""', "a"]), (r'"\\", a', [r'"\\"', "a"]),
    (r'"\\\",", a', [r'"\\\","', "a"]), (r"'\'', a", [r"'\''", "a"]),
])
def test_operands_part_at_commas_outside_brackets_and_quotes(text: str, parts: list[str]) -> None:
    assert split_operands(text) == parts


@pytest.mark.parametrize(("text", "quote"), [("a, 'b", "'"), ('"a, b', '"'), (r'"a\"', '"')])
def test_a_quote_that_is_not_closed_is_told(text: str, quote: str) -> None:
    with pytest.raises(ImageError, match=f"a {quote} is not closed"):
        split_operands(text)


@pytest.mark.parametrize(("text", "operand"), [
    ("rax", Reg("rax")), ("R8D", Reg("r8d")), ("(eax)", Reg("eax")), ("st(3)", Reg("st(3)")),
    ("ST ( 0 )", Reg("st(0)")),
    ("st", Reg("st")), ("fs", Reg("fs")), ("cr3", Reg("cr3")),
    ("5", Imm(5)), ("-there", Imm(-0x1000)), ("offset there", Imm(0x1000)), ("offset there + 1", Imm(0x1001)),
    ("':'", Imm(58)),
    ("short there", Imm(0x1000, "short")), ("NEAR ptr there", Imm(0x1000, "near")),
    ("0x10:there", Far(0x10, 0x1000)), ("dword 8:5", Far(8, 5, 4)), ("word 0:5", Far(0, 5, 2)),
    ("0xffff:0", Far(0xFFFF, 0)), ("dword ptr there:there", Far(0x1000, 0x1000, 4)),
    ("[rax]", at("rax")), ("[ there ]", at(displacement=0x1000)), ("[rax + 5]", at("rax", displacement=5)),
    ("[rcx*8]", at("", "rcx", 8)), ("[rbx + rcx*4 - 2]", at("rbx", "rcx", 4, -2)),
    ("[rcx*2 + rbx]", at("rbx", "rcx", 2)),
    ("[rbx + rcx]", at("rbx", "rcx")), ("[rcx*1]", at("rcx")), ("[rbx + rcx - rcx]", at("rbx")),
    ("[rax*3]", at("rax", "rax", 2)), ("[rax*5]", at("rax", "rax", 4)), ("[rax*9 + 1]", at("rax", "rax", 8, 1)),
    ("[rax + rsp]", at("rsp", "rax")), ("[rsp + rax]", at("rsp", "rax")), ("[rsp + rax*4]", at("rsp", "rax", 4)),
    ("[rax + rbp]", at("rax", "rbp")),
    ("byte [rax]", at("rax", size=1)), ("word ptr [rax]", at("rax", size=2)), ("DWORD PTR [rax]", at("rax", size=4)),
    ("fword ptr [rax]", at("rax", size=6)), ("qword[rax]", at("rax", size=8)), ("tbyte ptr [rax]", at("rax", size=10)),
    ("oword ptr [rax]", at("rax", size=16)), ("ymmword ptr [rax]", at("rax", size=32)),
    ("far [rax]", at("rax", far=True)), ("far dword ptr [rax]", at("rax", size=4, far=True)),
    ("dword far ptr [rax]", at("rax", size=4, far=True)),
    ("fs:[rax]", at("rax", segment="fs")), ("[gs:rax + 1]", at("rax", displacement=1, segment="gs")),
    ("dword ptr es : [rax]", at("rax", size=4, segment="es")), ("[ds:5]", at(displacement=5, segment="ds")),
    ("[rip + there]", at("rip", displacement=0x1000)), ("[rel there]", at("rip", displacement=0x1000)),
    ("[fs:rel there]", at("rip", displacement=0x1000, segment="fs")),
    ("[rip + high]", at("rip", displacement=SYMBOLS["high"])),
])
def test_a_text_means_one_operand(text: str, operand: Operand) -> None:
    assert parsed(text) == operand


@pytest.mark.parametrize(("text", "message"), [
    ("rax + 1", "adds to a register outside brackets"), ("rax + rbx", "outside brackets"),
    ("rax*2", "outside brackets"),
    ("-rax", "outside brackets"), ("eip", "eip cannot be an operand"),
    ("0x10000:0", "selector 0x10000 is out of range 0..0xffff"), ("-1:0", "selector -0x1 is out of range"),
    ("qword 8:5", "a far pointer is a word or a dword offset"), ("byte 8:5", "a far pointer is a word or a dword"),
    ("qword 5", "`qword 5` has a size but no memory reference"),
    ("[rax", "`[rax` is no memory reference"), ("[rax]]", "`]` was not expected"),
    ("[rax] + 1", "is no memory reference"),
    ("[rax][rbx]", "`[rax][rbx]` is no memory reference"), ("fs:[gs:rax]", "`:rax` was not expected"),
    ("[xmm1]", "xmm1 cannot be part of an address"), ("[cr3]", "cr3 cannot be part"), ("[dr7]", "dr7 cannot be part"),
    ("[al]", "al cannot be part"), ("[fs]", "fs cannot be part"),
    ("[rax + ebx]", "mixes registers of different sizes"),
    ("[rax + rbx + rcx]", "is no address of the processor"), ("[rax*6]", "is no address"),
    ("[rax*2 + rbx*2]", "is no address"),
    ("[-rax]", "is no address"), ("[rax*7]", "is no address"), ("[rax*16]", "is no address"),
    ("[rbx + rax*3]", "is no address"),
    ("[rip + rax]", "an address relative to rip is"), ("[eip + 4]", "an address relative to rip is"),
    ("[rax + 0x80000000]", "address 0x80000000 does not fit a signed 32-bit displacement"),
    ("[-0x80000001]", "address -0x80000001 does not fit a signed"),
    ("[rax + 0xffffffff7fffffff]", "address 0xffffffff7fffffff does not fit a signed"),
    ("[rax + 0x10000000000000000]", "does not fit a signed"),
    ("[eax + 0x100000000]", "address 0x100000000 does not fit 32 bits"), ("[eax - 0x80000001]", "does not fit 32 bits"),
])
def test_a_text_that_means_no_operand_says_why(text: str, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        parsed(text)
    assert message in caught.value.message


@pytest.mark.parametrize(("bits", "text", "displacement"), [
    (64, "[rax + 0x7fffffff]", 0x7FFFFFFF), (64, "[rax - 0x80000000]", -0x80000000),
    (64, "[0xffffffff80000000]", -0x80000000), (64, "[rcx*8 + 0xffffffffffffffff]", -1), (64, "[high]", -0x1200000),
    (64, "[eax + 0xffffffff]", -1), (64, "[eax + 0x80000000]", -0x80000000), (64, "[ecx*2 - 0x80000000]", -0x80000000),
    (64, "[eax + 0x7fffffff]", 0x7FFFFFFF),
    (32, "[0xfee00000]", 0xFEE00000), (32, "[-1]", 0xFFFFFFFF), (32, "[bx - 1]", -1),
    (16, "[0xffff]", 0xFFFF), (16, "[-0x8000]", 0x8000), (16, "[bx + 0xffff]", -1), (16, "[bx + 0x7fff]", 0x7FFF),
    (16, "[ebx + 0x12345678]", 0x12345678),
])
def test_a_displacement_has_the_sign_of_its_address_size(bits: int, text: str, displacement: int) -> None:
    """An address without a register is unsigned in 16- and 32-bit code; any other displacement is signed."""
    memory = parsed(text, bits)
    assert isinstance(memory, Mem)
    assert memory.displacement == displacement


@pytest.mark.parametrize(("bits", "text"), [(16, "[0x10000]"), (16, "[-0x8001]"), (32, "[0x100000000]"),
                                            (32, "[bx + 0x10000]"), (32, "[rip + 4]")])
def test_an_address_belongs_to_its_mode(bits: int, text: str) -> None:
    with pytest.raises(ImageError, match=f"does not fit {16 if 'bx' in text else bits} bits|64-bit code only"):
        parsed(text, bits)


@pytest.mark.parametrize(("memory", "text"), [
    (at("rax"), "[rax]"), (at("rax", displacement=-5), "[rax - 0x5]"), (at("rax", "rcx", 4, 5), "[rax + rcx*4 + 0x5]"),
    (at("rax", "rcx"), "[rax + rcx]"), (at("", "rcx", 8), "[rcx*8]"), (at(), "[0x0]"), (at(displacement=-5), "[-0x5]"),
    (at(displacement=5), "[0x5]"), (at("rax", size=8, segment="fs"), "qword ptr fs:[rax]"),
    (at("rax", size=6), "fword ptr [rax]"),
])
def test_a_memory_operand_is_written_in_one_form(memory: Mem, text: str) -> None:
    assert memory.text() == text
    assert Imm(-5).text() == "-0x5"
    assert Imm(0).text() == "0x0"
    assert [Reg(name).size for name in ("st(3)", "eax", "r9b", "xmm3")] == [10, 4, 1, 16]
