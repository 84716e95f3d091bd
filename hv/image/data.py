"""The data directives: numbers, strings, alignment and gaps, little-endian."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hv.image.errors import ImageError
from hv.image.expression import ESCAPES, Lookup, constant

NUMBERS = {".byte": 1, ".word": 2, ".long": 4, ".quad": 8}     # directive -> bytes of each operand


def check_count(name: str, operands: list[str]) -> None:
    """ImageError unless *name* may have that many operands."""
    limits = {".org": (1, 1), ".align": (1, 2), ".skip": (1, 2)}
    low, high = limits.get(name, (1, 4096))
    if not low <= len(operands) <= high:
        raise ImageError(f"{name} takes {low}..{high} operands, not {len(operands)}" if low != high else
                         f"{name} takes {low} operand, not {len(operands)}")


def data_bytes(name: str, operands: Sequence[str], lookup: Lookup, location: int, room: int) -> bytes:
    """What the data directive *name* at *location* holds; *room* is how many bytes are left for the program."""
    if name in NUMBERS:
        return b"".join(_number_bytes(operand, NUMBERS[name], lookup) for operand in operands)
    if name in (".ascii", ".asciz"):
        return b"".join(_string(operand) + (b"\0" if name == ".asciz" else b"") for operand in operands)
    value = constant(operands[0], lookup)
    fill = _number_bytes(operands[1], 1, lookup) if len(operands) == 2 else b"\x90" if name == ".align" else b"\0"
    if name == ".align":
        if value <= 0 or value & (value - 1) or value > 1 << 21:
            raise ImageError(f"alignment {value:#x} is no power of two up to 2 MiB", "write .align 16")
        value = -location % value
    if not 0 <= value <= room:
        raise ImageError(f".skip {value:#x} is out of range 0..{room:#x}", "use .org to leave a gap")
    return fill * value


def _number_bytes(text: str, size: int, lookup: Lookup) -> bytes:
    if text.startswith('"'):
        raise ImageError(f"{text} is a string", 'write .ascii "..." or .asciz "..."')
    value = constant(text, lookup)
    if not -(1 << (8 * size - 1)) <= value < 1 << (8 * size):
        raise ImageError(f"{value:#x} does not fit {size} byte{'s' if size > 1 else ''}")
    return (value % (1 << (8 * size))).to_bytes(size, "little")


def _string(text: str) -> bytes:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        raise ImageError(f"`{text}` is no string", 'write it in double quotes: "text\\n"')
    out, inner, n = bytearray(), text[1:-1], 0
    while n < len(inner):
        if inner[n] != "\\":
            out += inner[n].encode("utf-8", "replace")
            n += 1
        elif inner[n + 1 : n + 2] == "x" and re.fullmatch(r"[0-9A-Fa-f]{2}", inner[n + 2 : n + 4]):
            out.append(int(inner[n + 2 : n + 4], 16))
            n += 4
        elif inner[n + 1 : n + 2] in ESCAPES:
            out.append(ESCAPES[inner[n + 1]])
            n += 2
        else:
            raise ImageError(f"`\\{inner[n + 1 : n + 2]}` is no known escape", "known: \\n \\r \\t \\0 \\xHH \\\\ \\\"")
    return bytes(out)
