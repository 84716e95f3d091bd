"""What people type where a number is wanted: `0x1000`, `1000h`, `rsp+8`, `start`, `10ms` where time is meant."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from hv.debug.errors import DebugError

REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
             "r15", "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer")
_BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv, ast.Mod: operator.mod, ast.LShift: operator.lshift, ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor,
}
_UNARY: dict[type[ast.unaryop], Callable[[int], int]] = {
    ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Invert: operator.invert,
}


def number(text: str, names: Mapping[str, int]) -> int:
    """The value of *text*; *names* are registers and symbols. DebugError when it is no number of at most 64 bits."""
    source = re.sub(r"\b([0-9][0-9a-fA-F]*)[hH]\b", r"0x\1", text)
    try:
        value = _value(ast.parse(source, mode="eval").body, names)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise DebugError(f"`{text}` is no number", "write 0x1000, rsp+8, or a symbol") from None
    except ZeroDivisionError:
        raise DebugError(f"`{text}` divides by zero", "write another number") from None
    except OverflowError as error:
        raise DebugError(f"`{text}` shifts by {error}; expected 0..64", "write another number") from None
    if not -(1 << 63) <= value < 1 << 64:
        raise DebugError(f"`{text}` is {value:#x}; expected at most 64 bits", "write a smaller number")
    return value


def address(text: str, names: Mapping[str, int]) -> int:
    """The value of *text* as an address of any kind: 0..2^64-1. DebugError."""
    value = number(text, names)
    if value < 0:
        raise DebugError(f"`{text}` is {value:#x}; expected an address, 0..2^64-1", "write 0x1000, rsp+8, or a symbol")
    return value


def _value(node: ast.expr, names: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.Name() | ast.Attribute():      # a local label has a point in its name: start.wait
            name = ast.unparse(node)
            if name not in names:
                raise DebugError(f"`{name}` is no register and no symbol", "`regs` shows the registers")
            return names[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _binary(type(op), _value(left, names), _value(right, names))
        case ast.UnaryOp(op=sign, operand=inner) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(inner, names))
    raise ValueError(node)


def _binary(op: type[Any], left: int, right: int) -> int:
    if op in (ast.LShift, ast.RShift) and not 0 <= right <= 64:
        raise OverflowError(right)
    return _BINARY[op](left, right)


TICKS = {"s": 2_000_000_000, "ms": 2_000_000, "us": 2_000}      # of the 2 GHz counter


def ticks(text: str) -> int:
    """Virtual time as ticks of the 2 GHz counter: `10ms`, `2s`, `500us`, or a number of ticks. DebugError."""
    found = re.fullmatch(r"(\d{1,30})(\.\d{1,30})?(s|ms|us)?", text.replace("_", "").strip())
    if found is None or (found[2] and not found[3]):
        raise DebugError(f"`{text}` is no time; expected ticks or a time such as 10ms, 2s, 500us")
    value = int(found[1]) if found[3] is None else round(float(found[1] + (found[2] or "")) * TICKS[found[3]])
    if not 0 < value < 1 << 62:
        raise DebugError(f"`{text}` is out of range; expected more than 0 and less than 2 000 000 000 s")
    return value
