"""Conditions over events, written as Python: `reason == MSR_WRITE and msr == 0x40000083`.

A small part of Python's expressions, read by its own parser and carried out here: comparisons, and, or, not, in,
arithmetic, conditional expressions, numbers, texts and lists. No call, no attribute, nothing that could change the
machine or take long. Lower-case names are fields of the event; a name of the manual is what the field beside it calls
so (`MSR_WRITE` beside `reason`); any other name is a symbol of the program.

An event that does not have a field which a comparison needs does not match, whatever is asked of it.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from hv.debug.errors import DebugError
from hv.debug.facts import ALIASES, ENUMERATIONS, EVENT_CLASSES, Fact, field_names

LONGEST = 2000                  # characters of a condition
_LARGEST = 1 << 128             # no number gets longer than this

Value = Callable[[Any], Any]
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.LShift: operator.lshift, ast.RShift: operator.rshift, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_, ast.BitXor: operator.xor,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}
_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda one, many: one in many, ast.NotIn: lambda one, many: one not in many,
}


class Missing(Exception):
    """The event has no such field."""


class Condition:
    """*source*, ready to be asked; DebugError when it is no condition, with the column. *symbols* are more names.

    `live` names are asked of *live* when the condition is: registers at a stop.
    """

    def __init__(self, source: str, symbols: Mapping[str, int] | None = None,
                 live: Mapping[str, Callable[[], Any]] | None = None) -> None:
        self.source = source.strip()
        self._symbols, self._live, self._fields = symbols or {}, live or {}, field_names()
        if len(self.source) > LONGEST:
            raise DebugError(f"a condition of {len(self.source)} characters; expected at most {LONGEST}")
        self._value = self._compiled(self._parsed())

    def __call__(self, fact: Fact) -> bool:
        """The event matches. What cannot be computed of it (a text plus a number, a division by 0) does not."""
        try:
            return bool(self._value(fact))
        except (Missing, TypeError, ArithmeticError, ValueError):
            return False

    def _parsed(self) -> ast.expr:
        if not self.source:
            raise DebugError("there is no condition", "write one such as reason == MSR_WRITE")
        try:
            return ast.parse(self.source, mode="eval").body
        except SyntaxError as error:
            column = min(error.offset or len(self.source) + 1, len(self.source) + 1)
            raise self._refusal(column, error.msg, _likely(self.source)) from None
        except (ValueError, MemoryError, RecursionError) as error:
            raise self._refusal(1, str(error) or "it is too deep") from None

    def _refusal(self, column: int, what: str, hint: str = "") -> DebugError:
        """The error at *column* (from 1), with the place of it in words."""
        near = self.source[column - 1 : column + 19]
        place = f"column {column}, `{near}`" if near else f"column {column}, the end"
        return DebugError(f"{place}: {what}", hint)

    # --- from a tree to what can be asked -----------------------------------------------------------------

    def _compiled(self, node: ast.expr, beside: str = "") -> Value:
        """*beside* is the field that the value is compared with."""
        try:
            return self._part(node, beside)
        except RecursionError:
            raise self._refusal(1, "it is too deep") from None

    def _part(self, node: ast.expr, beside: str) -> Value:
        match node:
            case ast.Constant(value=bool() | int() | str() | None as value):
                return lambda fact: value
            case ast.Name(id=name):
                return self._name(name, node, beside)
            case ast.Attribute() if (name := ast.unparse(node)) in self._symbols:   # a local label: start.wait
                address = self._symbols[name]
                return lambda fact: address
            case ast.BoolOp(op=op, values=values):
                parts = [self._part(value, "") for value in values]
                return _all(parts) if isinstance(op, ast.And) else _any(parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._part(operand, "")
                return lambda fact: not inner(fact)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                sign, inner = _UNARY[type(op)], self._part(operand, beside)
                return lambda fact: sign(inner(fact))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _computed(_BINARY[type(op)], self._part(left, beside), self._part(right, beside))
            case ast.Compare():
                return self._comparison(node)
            case ast.IfExp(test=test, body=body, orelse=other):
                asked, yes, no = self._part(test, ""), self._part(body, beside), self._part(other, beside)
                return lambda fact: yes(fact) if asked(fact) else no(fact)
            case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
                members = [self._part(element, beside) for element in elements]
                return lambda fact: tuple(member(fact) for member in members)
            case ast.Subscript(value=whole, slice=ast.Constant(value=int() as index)):
                items = self._part(whole, beside)
                return lambda fact: _item(items(fact), index)
        raise self._refusal(node.col_offset + 1, f"{_kind(node)} is not allowed here",
                            "write comparisons of fields with numbers, joined by and, or, not")

    def _comparison(self, node: ast.Compare) -> Value:
        operands = [node.left, *node.comparators]
        fields = [_field(operand, self._fields) for operand in operands]
        beside = next((field for field in fields if field), "")
        parts = [self._part(operand, "" if field else beside) for operand, field in zip(operands, fields, strict=True)]
        for op in node.ops:
            if type(op) not in _COMPARED:
                raise self._refusal(node.col_offset + 1, "`is` is not allowed here", "write ==")
        tests = [_COMPARED[type(op)] for op in node.ops]

        def compared(fact: Any) -> bool:
            values = [part(fact) for part in parts]
            return all(test(left, right) for test, left, right in zip(tests, values, values[1:], strict=False))
        return compared

    def _name(self, name: str, node: ast.expr, beside: str) -> Value:
        if name in self._live:
            value = self._live[name]
            return lambda fact: value()
        if name in self._fields:
            return lambda fact: _field_of(fact, name)
        found = self._constant(name, beside)
        if found is None:
            raise self._refusal(node.col_offset + 1, f"`{name}` is {_expected(beside)}", self._near(name, beside))
        return lambda fact: found

    def _constant(self, name: str, beside: str) -> Any:
        """What *name* stands for beside that field, or None."""
        if name in EVENT_CLASSES and beside in ("event", ""):
            return name
        return members(beside).get(name, self._symbols.get(name))

    def _near(self, name: str, beside: str) -> str:
        among = [*members(beside), *(EVENT_CLASSES if beside in ("event", "") else ()), *self._symbols]
        found = closest(name, [*among, *self._fields, *self._live] if not name.isupper() else among)
        return f"near: {', '.join(found)}" if found else "`fields` lists the fields"


def members(field: str) -> Mapping[str, Any]:
    """The names of the manual that may stand beside *field* (any field when it is ""), with their values."""
    found: dict[str, Any] = {}
    for name in (field,) if field else ENUMERATIONS:
        for enumeration in ENUMERATIONS.get(name, ()):
            for label, member in enumeration.__members__.items():
                found.setdefault(label, member.value)
                if name == "msr":
                    found.setdefault(label.removeprefix("HV_"), member.value)
        for label, number in ALIASES.get(name, {}).items():
            found.setdefault(label, int(number))
    return found


def closest(word: str, names: Iterable[str]) -> list[str]:
    """Up to four *names* that look like *word*, whatever their case."""
    by_case = {name.lower(): name for name in names}
    return [by_case[near] for near in difflib.get_close_matches(word.lower(), by_case, 4, 0.5)]


def _expected(beside: str) -> str:
    if beside in ENUMERATIONS:
        return f"no {' and no '.join(kind.__name__ for kind in ENUMERATIONS[beside])}"
    return "no kind of event" if beside == "event" else "no field of an event and no symbol"


def _field(node: ast.expr, fields: Mapping[str, Any]) -> str:
    """The field that *node* is about, or nothing: `msr`, and `vector & 0xF0` too."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in fields:
            return part.id
    return ""


def _field_of(fact: Fact, name: str) -> Any:
    try:
        return fact.field(name)
    except KeyError:
        raise Missing(name) from None


def _item(whole: Any, index: int) -> Any:
    try:
        return whole[index]
    except (IndexError, KeyError):
        raise Missing(index) from None


def _all(parts: list[Value]) -> Value:
    return lambda fact: all(part(fact) for part in parts)


def _any(parts: list[Value]) -> Value:
    """One that cannot be asked of this event is not true; the others may be."""
    def true(part: Value, fact: Any) -> bool:
        try:
            return bool(part(fact))
        except (Missing, TypeError, ArithmeticError, ValueError):
            return False
    return lambda fact: any(true(part, fact) for part in parts)


def _computed(compute: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    """Numbers only, and of a bounded size: a text times a number could be anything."""
    def value(fact: Any) -> int:
        one, other = left(fact), right(fact)
        if not isinstance(one, int) or not isinstance(other, int):
            raise TypeError("no numbers")
        if compute is operator.lshift and other > 128:
            raise OverflowError(other)
        found: int = compute(one, other)
        if abs(found) > _LARGEST:
            raise OverflowError(found)
        return found
    return value


def _kind(node: ast.expr) -> str:
    return {"Call": "a call", "Attribute": "a part of something", "Lambda": "a function", "Constant": "such a constant",
            "NamedExpr": "an assignment", "JoinedStr": "a formatted text"}.get(type(node).__name__,
                                                                              f"a {type(node).__name__.lower()}")


def _likely(source: str) -> str:
    """What people who write other languages mean."""
    for wrong, right in (("&&", "and"), ("||", "or"), ("<>", "!=")):
        if wrong in source:
            return f"write {right}, not {wrong}"
    without = source.replace("==", "").replace("!=", "").replace("<=", "").replace(">=", "")
    return "write ==, not =" if "=" in without else ""


def split(text: str, word: str) -> tuple[str, str | None]:
    """*text* before and behind the first *word* that stands alone in it; None when there is none."""
    parts = text.split()
    if word not in parts:
        return text.strip(), None
    position = next(_places(text, word))
    return text[:position].strip(), text[position + len(word) :].strip()


def _places(text: str, word: str) -> Iterator[int]:
    at = -1
    while (at := text.find(word, at + 1)) >= 0:
        before, after = text[at - 1 : at] or " ", text[at + len(word) : at + len(word) + 1] or " "
        if before.isspace() and after.isspace():
            yield at
