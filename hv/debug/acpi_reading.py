"""ACPI tables out of memory or out of a file, as far as they are what they say.

What is read may be anybody's: a length that is not there, a pointer to nowhere and a sum that is wrong are facts to
show, and never a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from hv.spec.acpi import FIRST_RSDP_SIZE, RSDP_ALIGNMENT, RSDP_SIGNATURE, Facs, Fadt, Rsdp, SdtHeader
from hv.spec.pc import BIOS_GPA, LEGACY_HOLE

LARGEST_TABLE = 16 << 20        # bytes; a DSDT has some hundred thousand
_SMALLEST_TABLE = 8             # signature and length
NAMES = {"FADT": "FACP", "MADT": "APIC"}        # what people call a table whose signature is another
Read = Callable[[int, int], bytes]      # gpa, size -> that many bytes; ValueError when they are not there


class BadTable(Exception):
    """Here is no table; the text says why."""


class Found(NamedTuple):
    """One table: where it is, None for one out of a file, and its bytes."""

    signature: str
    gpa: int | None
    data: bytes

    @property
    def has_checksum(self) -> bool:
        """The FACS has none."""
        return self.signature != "FACS"

    @property
    def sum(self) -> int:
        """0 when the table is whole."""
        first = self.data[:FIRST_RSDP_SIZE] if self.signature == "RSDP" else b""
        return sum(self.data) & 0xFF | sum(first) & 0xFF


def parsed(data: bytes, gpa: int | None = None, offset: int = 0) -> Found:
    """The table at *offset* of *data*; BadTable."""
    if data[offset : offset + len(RSDP_SIGNATURE)] == RSDP_SIGNATURE:
        return Found("RSDP", gpa, _root_pointer(data, offset))
    if len(data) - offset < _SMALLEST_TABLE:
        raise BadTable(f"{len(data) - offset} bytes are no table; a table begins with its signature and its length")
    name, size = data[offset : offset + 4], int.from_bytes(data[offset + 4 : offset + 8], "little")
    if not name.isalnum() or not name.isascii() or not name.isupper():
        raise BadTable(f"no table begins with the bytes {name.hex(' ')}; expected a signature such as APIC")
    signature = name.decode("ascii")
    smallest = Facs.SIZE if signature == "FACS" else SdtHeader.SIZE
    if not smallest <= size <= len(data) - offset:
        raise BadTable(f"{signature} says that it has {size} bytes; expected {smallest} to the {len(data) - offset} "
                       "that are there")
    return Found(signature, gpa, data[offset : offset + size])


def _root_pointer(data: bytes, offset: int) -> bytes:
    size = FIRST_RSDP_SIZE
    if len(data) - offset > Rsdp.offset_of("revision") and data[offset + Rsdp.offset_of("revision")] >= 2:
        size = Rsdp.SIZE
    if len(data) - offset < size:
        raise BadTable(f"{len(data) - offset} bytes are no root pointer of this revision; it has {size}")
    return data[offset : offset + size]


def all_of(data: bytes) -> Iterator[Found]:
    """The tables of a file, one behind the other; zero bytes may be between them. BadTable."""
    at = 0
    while at < len(data):
        found = parsed(data, None, at)
        yield found
        at += len(found.data)
        while at < len(data) and not data[at]:
            at += 1


def in_memory(read: Read) -> list[Found]:
    """All tables that can be reached from the root pointer, which is first, in the order in which they are named.

    BadTable when there is no root pointer, or a pointer leads to no table.
    """
    root = _find_root(read)
    pointer = Rsdp.parse(root.data)
    listed, width = (pointer.xsdt_address, 8) if pointer.xsdt_address else (pointer.rsdt_address, 4)
    directory = _table(read, listed)
    found, seen = [root, directory], {listed}
    for gpa in _pointers(directory, width):
        for one in _with_its_own(read, gpa):
            if one.gpa not in seen:
                seen.add(one.gpa or 0)
                found.append(one)
    return found


def _find_root(read: Read) -> Found:
    area = read(BIOS_GPA, LEGACY_HOLE.stop - BIOS_GPA)
    for offset in range(0, len(area), RSDP_ALIGNMENT):
        if area.startswith(RSDP_SIGNATURE, offset):
            return parsed(area, BIOS_GPA + offset, offset)
    raise BadTable(f"no root pointer is in {BIOS_GPA:#x}..{LEGACY_HOLE.stop - 1:#x}")


def _table(read: Read, gpa: int) -> Found:
    try:
        size = int.from_bytes(read(gpa + 4, 4), "little")
        return parsed(read(gpa, min(size, LARGEST_TABLE)), gpa)
    except ValueError:
        raise BadTable(f"a pointer leads to {gpa:#x}, where no memory is") from None


def _pointers(directory: Found, width: int) -> list[int]:
    body = directory.data[SdtHeader.SIZE :]
    return [int.from_bytes(body[at : at + width], "little") for at in range(0, len(body) - width + 1, width)]


def _with_its_own(read: Read, gpa: int) -> Iterator[Found]:
    """The table at *gpa*, and for an FADT those that only it names."""
    table = _table(read, gpa)
    yield table
    if table.signature == "FACP":
        fadt = Fadt.parse(table.data.ljust(Fadt.SIZE, b"\0"))
        for own in (fadt.x_firmware_ctrl or fadt.firmware_ctrl, fadt.x_dsdt or fadt.dsdt):
            if own:
                yield _table(read, own)
