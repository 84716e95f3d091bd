"""The fields of a Layout or a Register with the words that stand beside them where they are declared.

A declaration carries units and ranges as a comment at the end of its line; whoever explains the field shows the same
words, so nobody writes them twice.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any, NamedTuple

from hv.spec.layout import FieldType, Layout, Register

_FIELD = re.compile(r"    (\w+)(?:: .*?| = bits\(.*?\))(?:  # noqa\S*)?  +# (.*)")
_SIZES = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}


class Field(NamedTuple):
    """One field: its byte offset or bits, its name, its type or value, and the words of its declaration."""

    place: str
    name: str
    kind: str
    words: str


def comments(declaration: type) -> dict[str, str]:
    """The words beside each field of *declaration*, those of the classes it extends included."""
    found: dict[str, str] = {}
    for owner in reversed(declaration.__mro__):
        if owner in (object, Layout, Register):
            continue
        found |= _written(owner)
    return found


@cache
def _written(owner: Any) -> dict[str, str]:
    """The words beside the fields that *owner* itself declares."""
    matches = map(_FIELD.fullmatch, inspect.getsource(owner).splitlines())
    return {match[1]: match[2] for match in matches if match is not None}


def summary(subject: object) -> str:
    """The first paragraph of a docstring as one line, without its full stop."""
    return " ".join((inspect.getdoc(subject) or "").partition("\n\n")[0].split()).rstrip(".")


def fields_of(layout: type[Layout], base: int = 0, prefix: str = "") -> list[Field]:
    """Every field of *layout* in order, the fields of a layout inside it in their place."""
    found: list[Field] = []
    for name, (offset, kind) in layout.FIELDS.items():
        if kind.layout is not None and kind.count == 1:
            found += fields_of(kind.layout, base + offset, f"{prefix}{name}.")
        else:
            found.append(Field(str(base + offset), prefix + name, _type(kind), comments(layout).get(name, "")))
    return found


def _type(kind: FieldType) -> str:
    if kind.layout is not None:
        return f"{kind.count} x {kind.layout.__name__}"
    if kind.is_raw:
        return f"{kind.size} bytes"
    one = _SIZES[kind.size // kind.count]
    return one if kind.count == 1 else f"{kind.count} x {one}"


def bits_of(register: type[Register], value: int | None = None) -> list[Field]:
    """Every field of *register*, the lowest first, with what it is in *value* if there is one."""
    shown = None if value is None else register(value & (1 << register.WIDTH) - 1)
    return [Field(str(part.low) if part.low == part.high else f"{part.high}:{part.low}", name,
                  "" if shown is None else f"{getattr(shown, name):#x}", comments(register).get(name, ""))
            for name, part in sorted(register.BITS.items(), key=lambda each: each[1].low)]
