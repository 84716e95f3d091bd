"""Labels, modes, directives and errors of the assembler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.image.assembler import assemble
from hv.image.errors import ImageError
from hv.image.passes import Assembly
from hv.image.source import read_statements
from hv.image.worker import Worker

Encode = Callable[..., bytes]


def test_labels_are_right_across_a_mode_switch() -> None:
    program = assemble("""
        .bits 16
        .org 0x7C00
    start: jmp dword 0x18:next     ; comment
        .bits 32                   # comment
    next:  mov eax, offset data    // comment
           hlt
    data:  .long next, data - next
    """)
    assert program.bits == 16
    assert program.entry == 0x7C00
    assert program.symbols == {"start": 0x7C00, "next": 0x7C08, "data": 0x7C0E}
    (gpa, code), = program.segments
    assert gpa == 0x7C00
    assert code.hex() == "66ea087c00001800" "b80e7c0000" "f4" "087c0000" "06000000"
    assert program.lines == {0x7C00: 4, 0x7C08: 6, 0x7C0D: 7}


@pytest.mark.parametrize(("gap", "code"), [(0, "eb00"), (127, "eb7f"), (128, "e980000000")])
def test_a_branch_is_short_when_it_reaches(encode: Encode, gap: int, code: str) -> None:
    assert encode(f"jmp there\n.skip {gap}\nthere: hlt").hex().startswith(code)


@pytest.mark.parametrize(("gap", "code"), [(0, "74fe"), (126, "7480"), (127, "0f847bffffff")])
def test_a_branch_back_is_short_when_it_reaches(encode: Encode, gap: int, code: str) -> None:
    assert encode(f"there: .skip {gap}\nje there")[gap:].hex() == code


def test_near_and_short_insist(encode: Encode) -> None:
    assert encode("jmp near x\nx: hlt").hex() == "e900000000f4"
    with pytest.raises(ImageError, match=r"-128\.\.127"):
        encode("jmp short x\n.skip 300\nx: hlt")


def test_local_labels_belong_to_the_label_before(encode: Encode) -> None:
    code = encode("one: jmp .end\n.end: nop\ntwo: jmp .end\n.end: nop\njmp one.end")
    assert code.hex() == "eb0090eb0090ebfa"


def test_data_is_little_endian_and_aligned(encode: Encode) -> None:
    source = """
        .byte 1, 'A', -1, '\\n'
        .word 0x1234
        .align 4
        .long -2
        .quad there, 2*(3+4) | 1 << 8
        .ascii "a;b#c\\x41"
        .asciz "//\\""
        .skip 3
    there: .skip 2, 0xEE
    """
    data = encode(source)
    assert encode(r'.ascii "a\\\"b, c\\", "d"') == rb'a\"b, c\d'
    assert data.hex() == ("0141ff0a" "3412" "9090" "feffffff" "2910000000000000" "0e01000000000000" "613b62236341"
                          "2f2f2200" "000000" "eeee")


def test_constants_may_look_ahead_and_come_from_the_caller() -> None:
    program = assemble("mov eax, SIZE\n.equ SIZE, end - start + EXTRA\nstart: hlt\nend: nop", defines={"EXTRA": 4})
    assert program.segments[0][1].hex() == "b805000000f490"


def test_the_entry_is_named_or_start_or_the_first_instruction() -> None:
    assert assemble("a: .byte 1\nb: hlt").entry == 0x10001
    assert assemble("hlt\nstart: hlt").entry == 0x10001
    assert assemble("hlt\nstart: hlt\nthird: hlt\n.entry third").entry == 0x10002


def test_segments_are_sorted_and_may_leave_gaps() -> None:
    program = assemble(".org 0x3000\nhlt\n.org 0x1000\nnop\n.org 0x2000\n.org 0x200000\n.byte 7")
    assert program.segments == [(0x1000, b"\x90"), (0x3000, b"\xf4"), (0x200000, b"\x07")]


def test_assembly_is_deterministic() -> None:
    source = "start: " + "\n".join(f"l{n}: je l{(n * 37) % 60}\nmov eax, [l{n}]" for n in range(60))
    assert assemble(source) == assemble(source)


def test_a_constant_is_worked_out_once() -> None:
    """Else each line of these would double the work."""
    doubles = "\n".join(f"a{n} = a{n + 1} + a{n + 1}" for n in range(50))
    assert assemble(doubles + "\na50 = 1\nmov rax, a0").segments == assemble("mov rax, 1 << 50").segments


def test_dollar_is_the_address_of_its_statement(encode: Encode) -> None:
    """In a constant, too, which takes no room: the address of what follows."""
    assert encode("nop\njmp $\n.long $, $ + 1").hex() == "90ebfe" "03100000" "04100000"
    source = "jmp there\nSTART: .ascii \"text\"\nLENGTH = $ - START\nthere: mov al, LENGTH\n.skip 200\njmp there"
    assert encode(source).hex().startswith("eb0474657874" "b004")


def test_what_moves_is_right_when_it_has_settled(encode: Encode) -> None:
    """First the labels are guesses: what is wrong by them only is no error, and nothing keeps what they made of it."""
    assert encode("mov eax, X\nX = there\njmp over\n.skip 200\nover: there: hlt").hex().startswith("b8d2100000e9c8")
    program = assemble(".org base - 0x100\nhlt\n.org 0x20000\nbase: .skip base - 0x1FFFF\nnop")
    assert program.segments == [(0x1FF00, b"\xf4"), (0x20000, b"\0\x90")]


@pytest.mark.parametrize(("source", "bits", "places"), [
    (".bits 16\nhlt", 16, [0x7C00]), ("hlt\n.bits 16\nnop", 64, [0x10000]), (".bits 16\n.bits 32\nhlt", 32, [0x10000]),
    (".code32\npusha", 32, [0x10000]), (".code16\nhlt", 16, [0x7C00]), (".CODE64\nswapgs", 64, [0x10000]),
    (".org 0\nhlt", 64, [0]), (f".org {(1 << 52) - 1:#x}\nhlt", 64, [(1 << 52) - 1]),
    (".bits 16\n.org 0xFFFF\nhlt", 16, [0xFFFF]), (".org 0x1000\nnop\n.org 0x1001\nhlt", 64, [0x1000, 0x1001]),
])
def test_a_program_starts_where_its_mode_or_its_org_says(source: str, bits: int, places: list[int]) -> None:
    program = assemble(source)
    assert program.bits == bits
    assert [gpa for gpa, _ in program.segments] == places
    assert program.entry == places[0]


def test_the_caller_names_mode_origin_and_constants() -> None:
    program = assemble("pusha\n.byte X", defines={"X": 7}, bits=32, origin=0x5000)
    assert (program.segments, program.bits) == ([(0x5000, b"\x60\x07")], 32)
    with pytest.raises(ImageError, match="X is already defined by the caller"):
        assemble("X: hlt", defines={"X": 7})
    with pytest.raises(ImageError, match="bits is 8"):
        assemble("hlt", bits=8)


def test_a_constant_may_need_sixty_four_others() -> None:
    chain = [f"a{n} = a{n + 1} + 1" for n in range(65)]
    assert assemble("\n".join([*chain[1:], "a65 = 1", "mov al, a1"])).segments == [(0x10000, b"\xb0\x41")]
    with pytest.raises(ImageError, match="a0 needs more than 64 constants"):
        assemble("\n".join([*chain, "a65 = 1", "mov al, a0"]))


BAD = [
    ("", "no instruction and no data"),
    ("; only a comment", "no instruction and no data"),
    (".byte 1", "has no instruction"),
    ("hlt\nhlt\njmp nowhere", "source:3: `jmp nowhere`: `nowhere` is not defined"),
    ("loop_here: hlt\njmp loop_her", "did you mean `loop_here`"),
    ("a: hlt\na: hlt", "a is already defined at source:1"),
    ("rax: hlt", "rax is a register"),
    (".equ a, b\n.equ b, a\nmov eax, a", "is defined by itself"),
    ("\n".join(f"a{n} = a{n + 1}" for n in range(80)) + "\na80 = 1\nmov eax, a0", "more than 64 constants"),
    (".equ a, 1\n.equ a, 2", "already defined"),
    ("hlt\n.equ UNUSED, nothing + 1", "source:2: `.equ UNUSED, nothing + 1`: `nothing` is not defined"),
    ("hlt\nUNUSED = rax", "source:2: `.equ UNUSED, rax`: `rax` has the register rax where a number was expected"),
    ("hlt\n.equ a, b\n.equ b, a", "is defined by itself"),
    ("hlt\n.equ a, 1 / 0", "source:2: `.equ a, 1 / 0`: division by zero"),
    (".equ a", "write .equ NAME, value"),
    (".equ 5, 5", "a name was expected"),
    (".equ a, 5, 6", "a name was expected"),
    (".entry", "write .entry label"),
    (".entry a, b", "a name was expected"),
    (".entry 5", "a name was expected"),
    ("a: hlt\n.entry a\n.entry a", "source:3: `.entry a`: the entry is already named at line 2"),
    ("a: .skip b - a\nnop\nb: jmp nowhere", "source:3: `jmp nowhere`: `nowhere` is not defined"),
    ("a: .skip b - a\nnop\nb: .byte nowhere", "source:3: `.byte nowhere`: `nowhere` is not defined"),
    (f".org {1 << 52:#x}\nhlt", "out of range 0..0xfffffffffffff"),
    ("1: jmp 1b", "source:1: `1: jmp 1b`: labels are not numbers"),
    ("a:\na:\nhlt", "source:2: `a:`: a is already defined at source:1"),
    ("nop\nb: .c: d:\n.c: b:\nhlt", "source:3: `.c: b:`: b is already defined at source:2"),
    (".bits 20", "is no mode"),
    (".entry nowhere\nhlt", "`nowhere` is not defined"),
    (".entry a\na: .byte 1\nhlt", "is not the start of an instruction"),
    (".bits 16\n.org 0x20000\nhlt", "above 64 KiB"),
    (".org -1\nhlt", "out of range"),
    (".org 1 << 60\nhlt", "out of range"),
    ("hlt\n.org 0x10000\nhlt", "overlaps"),
    (".skip 1 << 40", "out of range"),
    (".skip -1", "out of range"),
    (".align 3", "no power of two"),
    (".byte 256", "does not fit 1 byte"),
    (".byte \"text\"", "is a string"),
    (".ascii text", "is no string"),
    (".ascii \"\\q\"", "no known escape"),
    (".ascii \"open", "is not closed"),
    (".glob main", ".glob is no directive here"),
    (".algin 4", "did you mean .align?"),
    (".macro x", "is no directive here"),
    (".org", "takes 1 operand, not 0"),
    ("mov eax, 1 +", "ends where a value was expected"),
    ("mov eax, (1", "`)` is missing"),
    ("mov eax, 1 / 0", "division by zero"),
    ("mov eax, 1 << 1000000000", "shift"),
    ("mov eax, 99999999999999999999999999999999999999999999", "does not fit 128 bits"),
    ("mov eax, " + "9" * 4000, "does not fit 128 bits"),
    ("mov eax, " + "(" * 4000, "nested deeper"),
    ("mov eax, 0xZZ", "is not a number"),
    ("mov eax, 'ab'", "was not expected"),
    ("mov eax, ebx + 1", "outside brackets"),
    ("mov byte al, 1", "a size but no memory reference"),
    ("mov eax ebx", "was not expected"),
    ("a: .skip b - a\nnop\nb: hlt", "do not settle"),
    ("hlt\0", "NUL"),
    ("hlt\nmov eax, 1" + "+1" * 5000, "source:2: `mov eax, 1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1"),
    ("mov eax, 1" + "+1" * 5000, "the statement has 10010 characters; expected at most 4096; write it on several"),
    (".ascii \"" + "a" * 4096 + "\"", "the statement has 4105 characters"),
    ("хлт", "was expected"),
    (".byte ٣", "was not expected"),
]


@pytest.mark.parametrize(("source", "message"), BAD, ids=[source[:24] or "empty" for source, _ in BAD])
def test_a_mistake_is_told_in_one_line(source: str, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        assemble(source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value).replace(source, "")


def test_a_comment_may_have_any_length() -> None:
    assert assemble("hlt ; " + "long " * 10_000).segments == assemble("hlt").segments


def test_a_program_has_a_size_limit() -> None:
    with pytest.raises(ImageError, match="more than 50000 statements"):
        assemble("nop\n" * 60_000)
    with pytest.raises(ImageError, match="larger than 1 MiB"):
        assemble(" " * (2 << 20))


@pytest.mark.parametrize(("limit", "value", "fits", "message"), [
    ("assembler.MAX_SOURCE_BYTES", 3, "hlt", "is larger than"),
    ("passes.MAX_BYTES", 16, ".skip 13\nmov rax, rbx", "the program is larger than"),
    ("passes.MAX_BYTES", 17, "hlt\n.skip 16", r"\.skip 0x10 is out of range 0\.\.0xf"),
])
def test_a_program_may_be_as_large_as_the_limit(monkeypatch: pytest.MonkeyPatch, limit: str, value: int, fits: str,
                                                message: str) -> None:
    monkeypatch.setattr(f"hv.image.{limit}", value)
    assert assemble(fits).segments
    monkeypatch.setattr(f"hv.image.{limit}", value - 1)
    with pytest.raises(ImageError, match=message):
        assemble(fits)


WORDS = ["mov", "jmp", "rax", "[", "]", "+", "*", ",", "0x10", "label", "label:", ".byte", ".org", ".skip", ".align",
         "lock", "qword ptr", "rip", "\n", "'", '"', "-", "(", ")", "8:", ".equ a,", ".bits 16", "ret", "push", ":",
         "$", "fs:", "#"]


@given(st.lists(st.sampled_from(WORDS), max_size=14), st.text(max_size=8))
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_any_text_is_a_program_or_an_image_error(shared: Worker, words: list[str], tail: str) -> None:
    try:
        assembly = Assembly(64, None, {})
        assembly.run(read_statements(" ".join(words) + tail, "fuzz", ()), shared)
        assembly.find_entry("fuzz")
    except ImageError as error:
        if "crashed" in error.message:
            shared.__exit__()


@pytest.fixture(scope="module")
def shared() -> Worker:
    return Worker()
