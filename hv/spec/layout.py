"""The declaration language for binary layouts and registers.

A `Layout` is a packed little-endian structure, declared once by annotated fields:

    class HvMessageHeader(Layout):
        message_type: u32
        payload_size: u8
        message_flags: u8
        reserved: u16
        sender: u64

A `Register` is one integer with named bits:

    class HvSynicSint(Register):
        vector = bits(7, 0)
        masked = bits(16)

Reading, writing, size, printing and the REPL's view all come from the one declaration: nobody else writes an
offset, a shift or a mask. Fields stand packed in the order written; padding is declared like any other field.
"""

from __future__ import annotations

import sys
from struct import Struct, calcsize
from typing import Any, ClassVar, NoReturn, Self, cast

from hv.spec.codec import make_init, make_pack, make_parse


class FieldType:
    """How one field is stored: its size in bytes, its `struct` format, and how many elements it has.

    A field is one integer, `count` integers, raw bytes, or one or more Layouts.
    """

    def __init__(self, size: int, code: str = "", count: int = 1, layout: type[Layout] | None = None) -> None:
        self.size = size * count
        self.count = count
        self.layout = layout
        self.is_raw = not code and layout is None
        self.format = layout.FORMAT * count if layout is not None else f"{size}s" if self.is_raw else code * count

    def default(self) -> Any:
        if self.layout is not None:
            items = tuple(self.layout() for _ in range(self.count))
            return items if self.count > 1 else items[0]
        if self.is_raw:
            return bytes(self.size)
        return (0,) * self.count if self.count > 1 else 0


# The field types of a Layout. To a type checker they are the Python type the field holds.
u8 = int
u16 = int
u32 = int
u64 = int
i64 = int
_TYPES: dict[str, FieldType] = {
    "u8": FieldType(1, "B"),
    "u16": FieldType(2, "H"),
    "u32": FieldType(4, "I"),
    "u64": FieldType(8, "Q"),
    "i64": FieldType(8, "q"),
}
_CODES = {"u8": (1, "B"), "u16": (2, "H"), "u32": (4, "I"), "u64": (8, "Q"), "i64": (8, "q")}


class raw(bytes):
    """`raw[n]`: n bytes kept as they are."""

    def __class_getitem__(cls, size: int) -> FieldType:
        return FieldType(size)


class array:
    """`array["u64", n]` (or a Layout instead of the name): n elements, read and written as a tuple."""

    def __class_getitem__(cls, item: tuple[str | type[Layout], int]) -> FieldType:
        kind, count = item
        if isinstance(kind, str):
            size, code = _CODES[kind]
            return FieldType(size, code, count)
        return FieldType(kind.SIZE, count=count, layout=kind)


def _resolve(owner: type, annotation: Any) -> FieldType:
    if isinstance(annotation, str):
        if annotation in _TYPES:
            return _TYPES[annotation]
        annotation = eval(annotation, vars(sys.modules[owner.__module__]))
    if isinstance(annotation, FieldType):
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, Layout):
        return FieldType(annotation.SIZE, layout=annotation)
    known = "u8..u64, i64, raw[n], array[...], a Layout"
    raise TypeError(f"{owner.__name__}: {annotation!r} is not a field type ({known})")


class Layout:
    """A packed little-endian structure. Modules that declare one start with `from __future__ import annotations`."""

    SIZE: ClassVar[int] = 0                          # bytes
    FORMAT: ClassVar[str] = ""                       # of `struct`, without the byte order
    FIELDS: ClassVar[dict[str, tuple[int, FieldType]]] = {}   # name -> (offset, type)

    def __init_subclass__(cls) -> None:
        offset, fields = cls.SIZE, dict(cls.FIELDS)
        for name, annotation in cls.__dict__.get("__annotations__", {}).items():
            if "ClassVar" in str(annotation):
                continue
            kind = _resolve(cls, annotation)
            fields[name] = (offset, kind)
            offset += kind.size
        cls.FIELDS, cls.SIZE = fields, offset
        cls.FORMAT = "".join(kind.format for _, kind in fields.values())
        for name in ("__init__", "parse", "pack"):      # a layout that extends another has its own
            setattr(cls, name, vars(Layout)[name])

    def __init__(self, **values: Any) -> None:
        """Fields not given are zero."""
        made = make_init(type(self))
        setattr(type(self), "__init__", made)       # noqa: B010  from now on, straight code
        made(self, **values)

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview, offset: int = 0) -> Self:
        """Read one from *data* at *offset*; ValueError when fewer than SIZE bytes are there."""
        made = make_parse(cls)
        setattr(cls, "parse", made)     # noqa: B010  likewise
        parsed: Self = made(data, offset)
        return parsed

    def pack(self) -> bytes:
        """The structure as SIZE bytes; struct.error or ValueError when a value does not fit its field."""
        made = make_pack(type(self))
        setattr(type(self), "pack", made)       # noqa: B010
        return made(self)

    @classmethod
    def offset_of(cls, name: str) -> int:
        """Offset in bytes of the field *name*."""
        return cls.FIELDS[name][0]

    @classmethod
    def place_of(cls, path: str) -> tuple[int, str]:
        """Offset in bytes and `struct` format of a field, of one in a field too: "header.rip"."""
        name, _, rest = path.partition(".")
        offset, kind = cls.FIELDS[name]
        if not rest:
            return offset, kind.format
        assert kind.layout is not None, f"{cls.__name__}.{name} has no fields"
        inner, code = kind.layout.place_of(rest)
        return offset + inner, code

    @classmethod
    def picker(cls, *paths: str) -> Struct:
        """What takes the fields *paths*, in their order, and nothing else from the bytes of one."""
        code, at = "<", 0
        for offset, kind in map(cls.place_of, paths):
            code += f"{offset - at}x{kind}"
            at = offset + calcsize("<" + kind)
        return Struct(code)

    def inspect(self) -> dict[str, Any]:
        """Plain data, field by field, for the REPL and for JSON."""
        return {name: _plain(getattr(self, name)) for name in self.FIELDS}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.pack() == other.pack()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={_show(getattr(self, name))}' for name in self.FIELDS)})"


def _plain(value: Any) -> Any:
    if isinstance(value, (Layout, Register)):
        return value.inspect()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def _show(value: Any) -> str:
    return f"{value:#x}" if isinstance(value, int) else repr(value)


class bits:
    """Bits *high* to *low* of a Register, both included; one bit when *low* is left out."""

    def __init__(self, high: int, low: int | None = None) -> None:
        self.high, self.low = high, high if low is None else low
        if not 0 <= self.low <= self.high <= 127:
            raise TypeError(f"bits({high}, {low}) is no range of bits: the higher one comes first")
        self.mask = ((1 << (self.high - self.low + 1)) - 1) << self.low
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, register: Register | None, owner: type | None = None) -> int:
        if register is None:
            return cast(int, self)      # Register.field is the declaration itself: its mask, its low bit
        return (register.raw & self.mask) >> self.low

    def __set__(self, register: Register, value: int) -> None:
        place = value << self.low
        register.raw = register.raw & ~self.mask | place if not place & ~self.mask else self.refuse(register, value)

    def refuse(self, register: Register, value: int) -> NoReturn:
        """ValueError: these bits of *register* do not hold *value*."""
        name, limit = f"{type(register).__name__}.{self.name}", self.mask >> self.low
        raise ValueError(f"{name} holds 0..{limit:#x}, not {value:#x}")


class Register:
    """One integer with named bits. `RESERVED` is the mask of bits no field names; WIDTH is 64 unless declared."""

    WIDTH: ClassVar[int] = 64
    BITS: ClassVar[dict[str, bits]] = {}
    RESERVED: ClassVar[int] = (1 << 64) - 1
    raw: int

    def __init_subclass__(cls) -> None:
        fields = dict(cls.BITS)
        fields.update({name: value for name, value in vars(cls).items() if isinstance(value, bits)})
        cls.BITS = fields
        covered = 0
        for name, field in fields.items():
            if covered & field.mask or field.high >= cls.WIDTH:
                raise TypeError(f"{cls.__name__}.{name} overlaps another field or exceeds {cls.WIDTH} bits")
            covered |= field.mask
        cls.RESERVED = (1 << cls.WIDTH) - 1 & ~covered

    def __init__(self, raw: int = 0, **values: int) -> None:
        for name, value in values.items():
            field = self.BITS.get(name)
            if field is None:
                raise TypeError(f"{type(self).__name__} has no field {name}; it has {', '.join(self.BITS)}")
            place = value << field.low
            raw = raw & ~field.mask | place if not place & ~field.mask else field.refuse(self, value)
        self.raw = raw

    def inspect(self) -> dict[str, int]:
        """Plain data: the raw value, then every field."""
        return {"raw": self.raw, **{name: getattr(self, name) for name in self.BITS}}

    def __int__(self) -> int:
        return self.raw

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash((type(self), self.raw))

    def __repr__(self) -> str:
        fields = " ".join(f"{name}={getattr(self, name):#x}" for name in self.BITS)
        return f"{type(self).__name__}({self.raw:#x}: {fields})"
