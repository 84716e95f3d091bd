"""Makes the building, the reading and the writing of a layout as straight code: an assignment for each field, and one
`struct` call.

A loop over the fields costs three times as much, and every intercept handles half a dozen layouts. The code is made at
a layout's first use, from its declaration alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from hv.spec.layout import FieldType, Layout

Parse = Callable[..., Any]
Pack = Callable[[Any], bytes]
Init = Callable[..., None]


class _Code:
    """Lines of a function being written, and the objects they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"new": object.__new__, "error": struct.error}
        self._count = 0

    def name(self, thing: Any = None) -> str:
        """A fresh name, bound to *thing* when there is one."""
        self._count += 1
        made = f"n{self._count}"
        if thing is not None:
            self.names[made] = thing
        return made

    def function(self, head: str) -> Any:
        """The function of the lines under *head*."""
        exec("\n    ".join([f"def made{head}:", *self.lines]), self.names)
        return self.names["made"]


def make_init(layout: type[Layout]) -> Init:
    """`__init__(self, **values)` of *layout*; TypeError for a name that is no field."""
    code = _Code()

    def refuse(unknown: dict[str, Any]) -> NoReturn:
        raise TypeError(f"{layout.__name__} has no field {', '.join(unknown)}; it has {', '.join(layout.FIELDS)}")

    code.names["refuse"] = refuse
    given = []
    for name, (_, kind) in layout.FIELDS.items():
        if kind.layout is None:
            given.append(f"{name}={code.name(kind.default())}")
            code.lines.append(f"self.{name} = {name}")
        else:           # each structure gets its own
            given.append(f"{name}=None")
            code.lines.append(f"self.{name} = {code.name(kind.default)}() if {name} is None else {name}")
    code.lines.append("if unknown: refuse(unknown)")
    made: Init = code.function(f"(self, *, {', '.join(given)}, **unknown)" if given else "(self, **unknown)")
    return made


def make_parse(layout: type[Layout]) -> Parse:
    """`parse(data, offset=0)` of *layout*; ValueError when fewer than its bytes are there."""
    code, packed = _Code(), struct.Struct("<" + layout.FORMAT)

    def short(data: Any, offset: int) -> NoReturn:
        there = max(len(data) - offset, 0)
        raise ValueError(f"{layout.__name__} is {layout.SIZE} bytes; {there} are there") from None

    code.names |= {"unpack": packed.unpack_from, "short": short}
    values = [code.name() for _ in packed.unpack(bytes(packed.size))]
    code.lines += ["if offset < 0: short(data, offset)", f"try: ({' '.join(f'{value},' for value in values)}) = "
                   "unpack(data, offset)", "except error: short(data, offset)"]
    code.lines.append(f"return {_read(code, layout, iter(values))}")
    made: Parse = code.function("(data, offset=0)")
    return made


def _read(code: _Code, layout: type[Layout], values: Iterator[str]) -> str:
    """Lines that build one *layout* from the next values; the name it has."""
    made = code.name()
    code.lines.append(f"{made} = new({code.name(layout)})")
    for name, (_, kind) in layout.FIELDS.items():
        code.lines.append(f"{made}.{name} = {_read_field(code, kind, values)}")
    return made


def _read_field(code: _Code, kind: FieldType, values: Iterator[str]) -> str:
    parts = [_read(code, kind.layout, values) if kind.layout is not None else next(values) for _ in range(kind.count)]
    return parts[0] if kind.count == 1 else f"({', '.join(parts)})"


def make_pack(layout: type[Layout]) -> Pack:
    """`pack(structure)` of *layout*; struct.error or ValueError when a value does not fit its field."""
    code = _Code()

    def wrong(name: str, found: int, room: int) -> NoReturn:
        raise ValueError(f"{layout.__name__}.{name}: {found} do not fit a field of {room}")

    code.names |= {"pack": struct.Struct("<" + layout.FORMAT).pack, "wrong": wrong}
    values = _written(code, layout, "structure")
    code.lines.append(f"return pack({', '.join(values)})")
    made: Pack = code.function("(structure)")
    return made


def _written(code: _Code, layout: type[Layout], structure: str) -> list[str]:
    """The values of *structure* in the order of the format."""
    values: list[str] = []
    for name, (_, kind) in layout.FIELDS.items():
        at = f"{structure}.{name}"
        if kind.is_raw or kind.count > 1:
            room, least = (kind.size, 0) if kind.is_raw else (kind.count, kind.count)
            code.lines.append(f"if not {least} <= len({at}) <= {room}: wrong({name!r}, len({at}), {room})")
        if kind.layout is None:
            values.append(at if kind.count == 1 else f"*{at}")
            continue
        for place in (at,) if kind.count == 1 else tuple(f"{at}[{n}]" for n in range(kind.count)):
            inner = code.name()
            code.lines.append(f"{inner} = {place}")
            values += _written(code, kind.layout, inner)
    return values
