"""What counts as a number at the prompt."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.debug.errors import DebugError
from hv.debug.numbers import address, number, ticks

NAMES = {"rsp": 0x9000, "start": 0x10000, "start.wait": 0x10041}


@pytest.mark.parametrize(("text", "value"), [
    ("16", 16), ("0x10", 16), ("10h", 16), ("0FFh", 255), ("rsp+8", 0x9008), ("start-1", 0xFFFF),
    ("start.wait+1", 0x10042), ("2*3<<4", 96),
    ("~0&0xFF", 255), ("-1", -1), ("7/2", 3), ("(1|2)^3", 0), ("+7", 7), ("7//2", 3), ("7%4", 3), ("7>>1", 3),
    ("6&3", 2), ("1<<63", 1 << 63), ("1<<0", 1), ("1<<64>>64", 1), ("(1<<64)-1", (1 << 64) - 1),
    ("-(1<<63)", -(1 << 63)),
    ("0ah", 10), ("rsp+0Ah", 0x900A),
])
def test_expressions_of_numbers_registers_and_symbols(text, value):
    assert number(text, NAMES) == value


@pytest.mark.parametrize("text", ["", "foo", "1+", "1.5", "'a'", "rsp.bit_length()", "__import__('os')", "1/0",
                                  "1<<99999", "[1]", "(" * 500, "rsp if 1 else 2", "10**10", "True", "1<<64",
                                  "-(1<<63)-1", "9" * 5000, "1<<-1", "2*(1<<63)"])
def test_anything_else_is_refused_in_one_line(text):
    with pytest.raises(DebugError) as caught:
        number(text, NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "part"), [
    ("1<<64", "`1<<64` is 0x10000000000000000; expected at most 64 bits"), ("1/0", "`1/0` divides by zero"),
    ("1<<65", "`1<<65` shifts by 65; expected 0..64"), ("1<<-1", "shifts by -1"), ("1>>65", "shifts by 65"),
    ("foo", "`foo` is no register and no symbol"), ("start.foo", "`start.foo` is no register and no symbol"),
    ("True", "`True` is no number"), ("not 1", "`not 1` is no number"), ("2@3", "`2@3` is no number"),
])
def test_a_number_that_has_no_use_says_why(text, part):
    with pytest.raises(DebugError) as caught:
        number(text, NAMES)
    assert part in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("rsp", 0x9000), ("(1<<64)-1", (1 << 64) - 1)])
def test_an_address_is_not_negative(text, value):
    assert address(text, NAMES) == value
    with pytest.raises(DebugError, match=r"expected an address, 0\.\.2\^64-1"):
        address(f"-({text})-1" if value < 1 << 63 else "-1", NAMES)


@pytest.mark.parametrize(("text", "value"), [
    ("1", 1), ("20_000", 20_000), (" 5 ", 5), ("1s", 2_000_000_000), ("10ms", 20_000_000), ("500us", 1_000_000),
    ("0.5ms", 1_000_000), ("1.25us", 2500), (str((1 << 62) - 1), (1 << 62) - 1),
])
def test_a_time_is_ticks_of_the_2_ghz_counter(text, value):
    assert ticks(text) == value


@pytest.mark.parametrize(("text", "part"), [
    ("0", "`0` is out of range"), ("0.0ms", "is out of range"), (str(1 << 62), "is out of range"),
    ("9" * 20 + "s", "out of range"),
    ("1.5", "`1.5` is no time"), ("", "is no time"), ("-1", "is no time"), ("1 ms", "is no time"), ("1h", "is no time"),
    (".5ms", "is no time"), ("1.ms", "is no time"), ("1" * 31, "is no time"),
])
def test_what_is_no_time_is_refused(text, part):
    with pytest.raises(DebugError) as caught:
        ticks(text)
    assert part in str(caught.value)


@given(st.text(max_size=30))
def test_no_text_escapes_as_another_exception(text):
    for read in (lambda: number(text, NAMES), lambda: ticks(text)):
        with contextlib.suppress(DebugError):
            assert isinstance(read(), int)
