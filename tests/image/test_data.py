"""The data directives, byte by byte."""

from __future__ import annotations

import pytest

from hv.image.data import check_count, data_bytes
from hv.image.errors import ImageError

SYMBOLS = {"there": 0x1000}


def data(name: str, *operands: str, location: int = 0, room: int = 1 << 24) -> bytes:
    return data_bytes(name, operands, SYMBOLS.__getitem__, location, room)


@pytest.mark.parametrize(("name", "operands", "code"), [
    (".byte", ["255", "-128", "'a'"], "ff8061"), (".word", ["0xffff", "-0x8000", "there"], "ffff00800010"),
    (".long", ["0xffffffff", "-0x80000000"], "ffffffff00000080"),
    (".quad", ["0xffffffffffffffff", "-0x8000000000000000", "1"], "ffffffffffffffff00000000000000800100000000000000"),
    (".ascii", ['""'], ""), (".asciz", ['""', '"a"'], "006100"), (".ascii", ['"é"'], "c3a9"),
    (".ascii", [r'"\n\r\t\0\\\'\""'], "0a0d09005c2722"), (".ascii", [r'"\x41B\x7e"'], "41427e"),
    (".ascii", [r'"\\x41"'], "5c783431"),
    (".ascii", [r'"\n\n1"'], "0a0a31"),
    (".skip", ["3"], "000000"), (".skip", ["2", "0xee"], "eeee"), (".skip", ["0"], ""), (".skip", ["2", "-1"], "ffff"),
])
def test_a_directive_holds(name: str, operands: list[str], code: str) -> None:
    assert data(name, *operands).hex() == code


@pytest.mark.parametrize(("location", "alignment", "gap"), [
    (0, 4, 0), (1, 4, 3), (4, 4, 0), (5, 1, 0), (0x1FF, 0x200, 1), (1, 1 << 21, (1 << 21) - 1),
])
def test_align_fills_with_nops_up_to_the_boundary(location: int, alignment: int, gap: int) -> None:
    assert data(".align", f"{alignment}", location=location) == b"\x90" * gap
    assert data(".align", f"{alignment}", "0", location=location) == bytes(gap)


@pytest.mark.parametrize(("name", "operand", "message"), [
    (".byte", "256", "0x100 does not fit 1 byte"), (".byte", "-129", "-0x81 does not fit 1 byte"),
    (".word", "0x10000", "0x10000 does not fit 2 bytes"), (".word", "-0x8001", "does not fit 2 bytes"),
    (".long", "0x100000000", "does not fit 4 bytes"), (".quad", "1 << 64", "does not fit 8 bytes"),
    (".byte", '"a"', "is a string"), (".byte", "rax", "has the register rax"),
    (".align", "0", "alignment 0x0 is no power of two"), (".align", "-4", "is no power of two"),
    (".align", "6", "is no power"),
    (".align", "1 << 22", "alignment 0x400000 is no power of two up to 2 MiB"),
    (".skip", "-1", ".skip -0x1 is out of range 0..0x1000000"), (".skip", "0x1000001", "out of range"),
    (".ascii", '"', "is no string"), (".ascii", 'a"', "is no string"), (".ascii", '"a', "is no string"),
    (".ascii", "a", "is no string"),
    (".ascii", r'"\q"', r"`\q` is no known escape"), (".ascii", r'"\x4"', r"`\x` is no known escape"),
    (".ascii", r'"\xg1"', r"`\x` is no known escape"), (".ascii", r'"\x 1"', r"`\x` is no known escape"),
])
def test_a_directive_that_cannot_hold_that_says_so(name: str, operand: str, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        data(name, operand)
    assert message in caught.value.message


def test_skip_and_align_may_fill_the_room_that_is_left() -> None:
    assert data(".skip", "16", room=16) == bytes(16)
    assert len(data(".align", "16", location=0x101, room=15)) == 15
    with pytest.raises(ImageError, match=r"0x10 is out of range 0\.\.0xf"):
        data(".skip", "16", room=15)


@pytest.mark.parametrize(("name", "low", "high"), [(".org", 1, 1), (".align", 1, 2), (".skip", 1, 2),
(".byte", 1, 4096)])
def test_a_directive_takes_so_many_operands(name: str, low: int, high: int) -> None:
    check_count(name, ["1"] * low)
    check_count(name, ["1"] * high)
    for count in (low - 1, high + 1):
        takes = f"takes {low} operand, not {count}" if low == high else f"takes {low}..{high} operands, not {count}"
        with pytest.raises(ImageError, match=takes):
            check_count(name, ["1"] * count)
