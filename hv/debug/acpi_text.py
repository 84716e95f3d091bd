"""ACPI tables as lines for people, and as plain data: what `hv explain acpi` says of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hv.debug.acpi_reading import NAMES, Found
from hv.debug.acpi_words import SENTENCES
from hv.debug.aml_tree import Term, tree
from hv.debug.declared import bits_of, comments
from hv.debug.entry_text import Line
from hv.spec.acpi import (
    MADT_STRUCTURES,
    BootArchitecture,
    DeviceScope,
    Dmar,
    DmarType,
    Drhd,
    Facs,
    Fadt,
    FixedFeatures,
    GenericAddress,
    HpetTable,
    Madt,
    MadtType,
    Mcfg,
    McfgAllocation,
    Rsdp,
    ScopeType,
    SdtHeader,
    Waet,
    WaetFlags,
)
from hv.spec.layout import Layout, Register

_MEANINGS = {
    "RSDP": "the root: where the others are", "RSDT": "where the others are, in 32 bits",
    "XSDT": "where the others are", "FACP": "FADT: the fixed registers, power, reset", "FACS": "wake and global lock",
    "APIC": "MADT: processors, I/O APICs, lines", "MCFG": "PCI configuration space in memory", "HPET": "an HPET",
    "WAET": "what emulated devices need not", "DMAR": "DMA and interrupt remapping units",
    "DSDT": "names: devices and what they use", "SSDT": "more names", "SRAT": "which memory is near which processor"}
_LAYOUTS: dict[str, type[Layout]] = {
    "RSDP": Rsdp, "FACP": Fadt, "FACS": Facs, "APIC": Madt, "MCFG": Mcfg, "HPET": HpetTable, "WAET": Waet, "DMAR": Dmar}
_REGISTERS: dict[tuple[str, str], type[Register]] = {
    ("FACP", "flags"): FixedFeatures, ("FACP", "iapc_boot_arch"): BootArchitecture, ("WAET", "flags"): WaetFlags}
_IN_AML = ("DSDT", "SSDT")
_COLUMN = 27


class Piece(NamedTuple):
    """A structure inside a table: its name, and its fields."""

    name: str
    fields: dict[str, Any]


# --- what a table says -----------------------------------------------------------------------------------------------


def layout_of(table: Found) -> type[Layout]:
    """How it begins: as the whole header where no more is known of it."""
    return _LAYOUTS.get(table.signature, SdtHeader)


def _fixed(table: Found) -> Layout:
    """The part of fixed size; what an older table does not have reads 0."""
    layout = layout_of(table)
    return layout.parse(table.data[: layout.SIZE].ljust(layout.SIZE, b"\0"))


def pieces(table: Found) -> list[Piece]:
    """The structures behind the fixed part."""
    rest = table.data[layout_of(table).SIZE :]
    match table.signature:
        case "APIC":
            return [_madt(data) for data in _cut(rest, 1, 1)]
        case "MCFG":
            size = McfgAllocation.SIZE
            return [_piece(McfgAllocation, rest[at:], "allocation") for at in range(0, len(rest) - size + 1, size)]
        case "DMAR":
            return [piece for data in _cut(rest, 2, 2) for piece in _dmar(data)]
        case "XSDT" | "RSDT":
            width = 8 if table.signature == "XSDT" else 4
            return [Piece("table", {"gpa": int.from_bytes(rest[at : at + width], "little")})
                    for at in range(0, len(rest) - width + 1, width)]
    return []


def _cut(data: bytes, offset: int, width: int) -> Iterator[bytes]:
    """Structures whose length is *offset* bytes behind their beginning; what is cut off comes as it is, last."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + offset : at + offset + width], "little")
        if size < offset + width or at + size > len(data):
            size = len(data) - at
        yield data[at : at + size]
        at += size


def _madt(data: bytes) -> Piece:
    layout = MADT_STRUCTURES.get(data[0])
    if layout is None or len(data) < layout.SIZE:
        return Piece(f"type {data[0]}", {"bytes": data.hex(" ")})
    return Piece(MadtType(data[0]).name.lower(), _own(layout.parse(data)))


def _dmar(data: bytes) -> Iterator[Piece]:
    number = int.from_bytes(data[:2], "little")
    if number != DmarType.DRHD or len(data) < Drhd.SIZE:
        name = DmarType(number).name.lower() if number in DmarType.__members__.values() else f"type {number}"
        yield Piece(name, {"bytes": data.hex(" ")})
        return
    yield _piece(Drhd, data, "drhd")
    for scope in _cut(data[Drhd.SIZE :], 1, 1):
        if len(scope) < DeviceScope.SIZE:
            yield Piece("scope", {"bytes": scope.hex(" ")})
        else:
            kind = ScopeType(scope[0]).name.lower() if scope[0] in ScopeType.__members__.values() else f"{scope[0]}"
            yield _piece(DeviceScope, scope, f"scope_{kind}")


def _piece(layout: type[Layout], data: bytes, name: str) -> Piece:
    return Piece(name, _own(layout.parse(data)))


def _own(structure: Layout) -> dict[str, Any]:
    """The fields of *structure*, without those that only say what it is and how long."""
    return {name: getattr(structure, name) for name in structure.FIELDS
            if name not in ("type", "length") and not name.startswith("reserved")}


def as_data(table: Found) -> dict[str, Any]:
    """Plain data of one table, for JSON."""
    told: dict[str, Any] = {
        "signature": table.signature, "gpa": table.gpa, "size": len(table.data),
        "checksum_right": table.sum == 0 if table.has_checksum else None, "fields": _printable(_fixed(table).inspect())}
    if table.signature in _IN_AML:
        return told | {"terms": [term.inspect() for term in tree(table.data[SdtHeader.SIZE :])]}
    return told | {"structures": [{"name": piece.name, **piece.fields} for piece in pieces(table)]}


def _printable(fields: dict[str, Any]) -> dict[str, Any]:
    """Names that are stored as bytes, as names."""
    names = ("signature", "oem_id", "oem_table_id", "creator_id", "hypervisor_vendor_identity")
    return {name: bytes.fromhex(value).decode("latin-1") if name in names else value for name, value in fields.items()}


# --- lines -----------------------------------------------------------------------------------------------------------


def overview(tables: list[Found]) -> Iterator[Line]:
    """One line for each table."""
    for table in tables:
        where = "" if table.gpa is None else f"{table.gpa:#010x}  "
        yield [("", where), ("bold", table.signature), ("", f"  {len(table.data):6} bytes  "), _checksum(table),
               ("", f"  {_MEANINGS.get(table.signature, 'not known here')}")]


def _checksum(table: Found) -> tuple[str, str]:
    if not table.has_checksum:
        return "dim", "no checksum   "
    return ("good", "checksum right") if table.sum == 0 else ("bad", f"checksum off by {table.sum:#04x}")


def told(table: Found) -> Iterator[Line]:
    """Everything about one table."""
    yield from overview([table])
    yield []
    yield from _fields(table)
    if table.signature in _IN_AML:
        yield []
        yield from _branches(tree(table.data[SdtHeader.SIZE :]), "")
    elif found := pieces(table):
        yield []
        for piece in found:
            yield [("bold", f"{piece.name:<{_COLUMN}} "), ("", _sentence(piece))]


def _sentence(piece: Piece) -> str:
    """What it means; the fields alone, where that is all that is known."""
    if piece.name in SENTENCES and "bytes" not in piece.fields:     # else it is cut off
        return SENTENCES[piece.name](piece.fields)
    return "  ".join(f"{name} {value if isinstance(value, str) else _shown(value)}"
                     for name, value in piece.fields.items())


def _fields(table: Found) -> Iterator[Line]:
    fixed, layout = _fixed(table), layout_of(table)
    words = comments(layout)
    for name, (offset, _) in layout.FIELDS.items():
        if offset >= len(table.data):
            yield [("dim", f"from {name} on: not in a table of {len(table.data)} bytes")]
            return
        value = getattr(fixed, name)
        if name.startswith("reserved"):
            continue
        yield [("dim", f"{offset:5}  "), ("", f"{name:<{_COLUMN}} {_shown(value):<18}"),
               ("dim", f"  {words.get(name, '')}")]
        register = _REGISTERS.get((table.signature, name))
        if register is not None:
            yield from _bits(register, value)


def _bits(register: type[Register], value: int) -> Iterator[Line]:
    """The bits that are set."""
    for field in bits_of(register, value):
        if int(field.kind, 16):
            yield [("dim", " " * 9), ("", f"{field.name:<{_COLUMN}}"), ("dim", f"bit {field.place}: {field.words}")]


def _shown(value: Any) -> str:
    if isinstance(value, GenericAddress):
        spaces = {0: "memory", 1: "port"}
        where = spaces.get(value.space_id, f"space {value.space_id}")
        return f"{where} {value.address:#x}, {value.bit_width} bits" if value.bit_width or value.address else "none"
    if isinstance(value, bytes):
        text = value.rstrip(b"\0").decode("latin-1")
        return f'"{text}"' if text.isprintable() else value.hex(" ")
    return f"{value:#x}"


def _branches(terms: list[Term], indent: str) -> Iterator[Line]:
    for term in terms:
        is_container = bool(term.inside) and term.text.split(" ")[0] in ("Scope", "Device", "Processor", "ThermalZone")
        yield [("", indent), ("bold" if is_container else "", term.text)]
        yield from _branches(term.inside, indent + "  ")


def chosen(tables: list[Found], name: str) -> list[Found]:
    """The tables that go by *name*: a signature, or what people call it."""
    wanted = name.upper()
    return [table for table in tables if table.signature == NAMES.get(wanted, wanted)]
