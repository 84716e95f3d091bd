"""Constant and linear expressions: `table + 4*2`, `rbx + rcx*8 - 0x10`.

Values are integers within 128 bits. A result is `Linear`: a constant plus registers times a scale, which is all
an address may be. `$` is the address of the statement itself. Precedence as in C: `| ^ & << >> + - * / %`, and the
unary `- ~ +`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from hv.image.errors import ImageError
from hv.image.registers import SIZES

Lookup = Callable[[str], int]

LIMIT = 1 << 127
MAX_DEPTH = 32
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d\w*)|(?P<char>'(?:\\.|[^'\\])')|(?P<name>[.A-Za-z_][\w.]*|\$)|(?P<op><<|>>|[-+*/%&|^~()]))",
    re.ASCII,
)
_RANK = {"|": 0, "^": 1, "&": 2, "<<": 3, ">>": 3, "+": 4, "-": 4, "*": 5, "/": 5, "%": 5}
ESCAPES = {"n": 10, "r": 13, "t": 9, "0": 0, "\\": 92, "'": 39, '"': 34, "b": 8, "a": 7, "e": 27}


@dataclass(frozen=True, slots=True)
class Linear:
    """`constant + sum(register * scale)`; registers in the order they were written."""

    constant: int
    registers: tuple[tuple[str, int], ...] = ()

    def plus(self, other: Linear, sign: int) -> Linear:
        if not self.registers and not other.registers:
            return Linear(_bounded(self.constant + sign * other.constant))
        scales = dict(self.registers)
        for name, scale in other.registers:
            scales[name] = scales.get(name, 0) + sign * scale
        return Linear(_bounded(self.constant + sign * other.constant), tuple(scales.items()))

    def times(self, factor: int) -> Linear:
        return Linear(_bounded(self.constant * factor), tuple((name, scale * factor) for name, scale in self.registers))


def number(text: str) -> int:
    """`0x1F`, `1Fh`, `0b101`, `0o17` or decimal, `_` between digits; ImageError otherwise."""
    digits = text.lower().replace("_", "")
    base = {"0x": 16, "0b": 2, "0o": 8}.get(digits[:2], 10)
    if base != 10:
        digits = digits[2:]
    elif digits.endswith("h"):
        digits, base = digits[:-1], 16
    try:
        return _bounded(int(digits.lstrip("0")[:129] or digits[:1], base))   # 129 digits are too many in any base
    except ValueError:
        raise ImageError(f"`{text}` is not a number", "write 0x1F, 0b101 or 31") from None


def constant(text: str, lookup: Lookup) -> int:
    """*text* as a number; ImageError when a register is in it."""
    value = linear(text, lookup)
    if value.registers:
        raise ImageError(f"`{text}` has the register {value.registers[0][0]} where a number was expected")
    return value.constant


def linear(text: str, lookup: Lookup) -> Linear:
    """*text* evaluated; *lookup* gives the value of a symbol or raises ImageError."""
    if text.isalnum() and text[0].isdigit() and text.isascii():       # most are: as fast as may be
        return Linear(number(text))
    return _Parser(text, lookup).parse()


class _Parser:
    def __init__(self, text: str, lookup: Lookup) -> None:
        self.text, self.lookup, self.at, self.depth = text.strip(), lookup, 0, 0
        self.tokens = list(self._tokens())

    def _tokens(self) -> list[tuple[str, str]]:
        found, position = [], 0
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if not match:
                raise ImageError(f"`{self.text[position:].strip()[:20]}` was not expected in `{self.text}`")
            found.append((str(match.lastgroup), match.group(str(match.lastgroup))))
            position = match.end()
        return found

    def parse(self) -> Linear:
        if not self.tokens:
            raise ImageError("an operand is missing")
        value = self._level(0)
        if self.at < len(self.tokens):
            raise ImageError(f"`{self.tokens[self.at][1]}` was not expected in `{self.text}`",
                             "an operator or a comma is missing before it")
        return value

    def _level(self, rank: int) -> Linear:
        """A value, and the operators behind it that bind at least as closely as *rank*."""
        value = self._unary()
        while self.at < len(self.tokens) and _RANK.get(operator := self.tokens[self.at][1], -1) >= rank:
            self.at += 1
            value = self._apply(operator, value, self._level(_RANK[operator] + 1))
        return value

    def _apply(self, operator: str, left: Linear, right: Linear) -> Linear:
        if operator in "+-":
            return left.plus(right, 1 if operator == "+" else -1)
        if operator == "*" and not (left.registers and right.registers):
            return left.times(right.constant) if left.registers else right.times(left.constant)
        if left.registers or right.registers:
            raise ImageError(f"`{operator}` cannot be done with a register in `{self.text}`",
                             "only + - and * a constant")
        return Linear(_bounded(_arithmetic(operator, left.constant, right.constant)))

    def _unary(self) -> Linear:
        if self.at >= len(self.tokens):
            raise ImageError(f"`{self.text}` ends where a value was expected")
        kind, text = self.tokens[self.at]
        self.at += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ImageError(f"`{self.text[:40]}` is nested deeper than {MAX_DEPTH}")
        value = self._operator(text) if kind == "op" else self._atom(kind, text)
        self.depth -= 1
        return value

    def _operator(self, text: str) -> Linear:
        if text == "(":
            value = self._level(0)
            if self.at >= len(self.tokens) or self.tokens[self.at][1] != ")":
                raise ImageError(f"`)` is missing in `{self.text}`")
            self.at += 1
            return value
        if text not in "-+~":
            raise ImageError(f"`{text}` was not expected in `{self.text}`", "a value was expected")
        value = self._unary()
        if text == "~" and value.registers:
            raise ImageError(f"`~` cannot be done with a register in `{self.text}`")
        return Linear(~value.constant) if text == "~" else value.times(-1 if text == "-" else 1)

    def _atom(self, kind: str, text: str) -> Linear:
        if kind == "number":
            return Linear(number(text))
        if kind == "char":
            inner = text[1:-1]
            if inner.startswith("\\") and inner[1] not in ESCAPES:
                raise ImageError(f"{text} is no known escape", "known: \\n \\r \\t \\0 \\\\ \\' \\\"")
            return Linear(ESCAPES[inner[1]] if inner.startswith("\\") else ord(inner))
        if text.lower() in SIZES:
            return Linear(0, ((text.lower(), 1),))
        return Linear(self.lookup(text))


def _arithmetic(operator: str, left: int, right: int) -> int:
    if operator in ("/", "%") and right == 0:
        raise ImageError("division by zero")
    if operator in ("<<", ">>") and not 0 <= right <= 64:
        raise ImageError(f"a shift by {right} is out of range 0..64")
    match operator:
        case "|":
            return left | right
        case "^":
            return left ^ right
        case "&":
            return left & right
        case "<<":
            return left << right
        case ">>":
            return left >> right
        case "/":
            return left // right
        case _:
            return left % right


def _bounded(value: int) -> int:
    if not -LIMIT <= value < LIMIT:
        raise ImageError("a value does not fit 128 bits")
    return value
