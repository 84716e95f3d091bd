"""What an expression is worth, and what it says when it is none."""

from __future__ import annotations

import pytest

from hv.image.errors import ImageError
from hv.image.expression import LIMIT, MAX_DEPTH, constant, linear

SYMBOLS = {"there": 0x1000, ".near": 0x20, "$": 0x500}


@pytest.mark.parametrize(("text", "value"), [
    ("0x1F", 31), ("0X1f", 31), ("1Fh", 31), ("9H", 9), ("0b101", 5), ("0o17", 15), ("1_000", 1000), ("0", 0),
    ("0x" + "0" * 200 + "5", 5), ("0" * 200 + "5", 5),
    ("'A'", 65), ("'\\n'", 10), ("'\\''", 39), ("'\\0'", 0),
    ("there + $", 0x1500), ("(.near)", 0x20), ("$", 0x500),
    ("6 ^ 3", 5), ("6 & 3", 2), ("6 | 3", 7), ("1 << 64", 1 << 64), ("5 << 0", 5), ("(1 << 64) >> 64", 1),
    ("7 * 6", 42), ("43 / 6", 7), ("43 % 6", 1), ("-7", -7), ("~5", -6), ("~-1", 0), ("+5", 5), ("- -5", 5),
])
def test_a_constant_is_worth(text: str, value: int) -> None:
    assert constant(text, SYMBOLS.__getitem__) == value


@pytest.mark.parametrize(("text", "grouped"), [
    ("1 | 6 ^ 3", "1 | (6 ^ 3)"), ("1 ^ 6 & 3", "1 ^ (6 & 3)"), ("3 & 1 << 1", "3 & (1 << 1)"),
    ("1 << 1 + 1", "1 << (1 + 1)"), ("2 + 3 * 4", "2 + (3 * 4)"), ("2 * 3 + 4", "(2 * 3) + 4"),
    ("9 - 4 - 3", "(9 - 4) - 3"), ("64 / 4 / 2", "(64 / 4) / 2"), ("64 >> 2 << 1", "(64 >> 2) << 1"),
    ("7 % 4 * 2", "(7 % 4) * 2"), ("-2 * 3", "(-2) * 3"), ("~1 & 3", "(~1) & 3"), ("9 - 4 + 3", "(9 - 4) + 3"),
])
def test_operators_bind_as_in_c(text: str, grouped: str) -> None:
    """The weakest first: `| ^ & << >> + - * / %`, those of one rank from the left."""
    assert constant(text, SYMBOLS.__getitem__) == constant(grouped, SYMBOLS.__getitem__)


@pytest.mark.parametrize(("text", "number", "registers"), [
    ("rbx + rcx*8 - 0x10", -0x10, {"rbx": 1, "rcx": 8}),
    ("4 + 2*(RSI + there)", 0x2004, {"rsi": 2}),
    ("rax + rax", 0, {"rax": 2}),
    ("rdx + 5 - 3*rdx", 5, {"rdx": -2}),
    ("3*rdx - rdx", 0, {"rdx": 2}),
    ("there + rax", 0x1000, {"rax": 1}),
    ("rax - there", -0x1000, {"rax": 1}),
    ("-rax", 0, {"rax": -1}),
    ("(rax)", 0, {"rax": 1}),
])
def test_an_address_is_a_number_and_scaled_registers(text: str, number: int, registers: dict[str, int]) -> None:
    value = linear(text, SYMBOLS.__getitem__)
    assert (value.constant, dict(value.registers)) == (number, registers)


@pytest.mark.parametrize(("text", "message"), [
    ("", "an operand is missing"),
    ("1 +", "ends where a value was expected"),
    ("1 2", "`2` was not expected in `1 2`"),
    ("1 )", "`)` was not expected"),
    ("(1", "`)` is missing"),
    ("(1 2", "`)` is missing"),
    ("* 3", "`*` was not expected in `* 3`"),
    ("1 ! 2", "`! 2` was not expected"),
    ("12x", "`12x` is not a number"),
    ("0b2", "`0b2` is not a number"),
    ("0o8", "`0o8` is not a number"),
    ("'\\q'", "no known escape"),
    ("rax * rbx", "`*` cannot be done with a register"),
    ("rax | 1", "`|` cannot be done with a register"),
    ("1 << rax", "`<<` cannot be done with a register"),
    ("~rax", "`~` cannot be done with a register"),
    ("8 % 0", "division by zero"),
    ("8 / (1 - 1)", "division by zero"),
    ("1 << 65", "a shift by 65 is out of range 0..64"),
    ("1 >> -1", "a shift by -1 is out of range 0..64"),
    (f"{LIMIT:#x}", "does not fit 128 bits"),
    (f"-{LIMIT - 1:#x} - 2", "does not fit 128 bits"),
    (f"{LIMIT - 1:#x} * 2", "does not fit 128 bits"),
    ("9" * 5000, "does not fit 128 bits"),
])
def test_what_is_no_expression_says_why(text: str, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        linear(text, SYMBOLS.__getitem__)
    assert message in caught.value.message


def test_a_constant_has_no_register() -> None:
    with pytest.raises(ImageError, match="`1 \\+ rax` has the register rax where a number was expected"):
        constant("1 + rax", SYMBOLS.__getitem__)


def test_the_largest_and_the_smallest_value_fit() -> None:
    assert constant(f"{LIMIT - 1:#x}", SYMBOLS.__getitem__) == LIMIT - 1
    assert constant(f"-{LIMIT - 1:#x} - 1", SYMBOLS.__getitem__) == -LIMIT


@pytest.mark.parametrize(("opening", "closing"), [("(", ")"), ("-", ""), ("~", "")])
def test_depth_is_counted_where_a_value_is_nested_and_not_where_terms_follow(opening: str, closing: str) -> None:
    def nested(levels: int) -> str:
        return opening * (levels - 1) + "1" + closing * (levels - 1)

    deepest = nested(MAX_DEPTH)
    assert constant(" + ".join([deepest] * 3), SYMBOLS.__getitem__) == 3 * constant(deepest, SYMBOLS.__getitem__)
    with pytest.raises(ImageError, match=f"nested deeper than {MAX_DEPTH}"):
        constant(nested(MAX_DEPTH + 1), SYMBOLS.__getitem__)
