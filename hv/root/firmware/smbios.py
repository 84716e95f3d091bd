"""SMBIOS: what the machine is, for programs that show it, and for those that know machines by their name.

"SMBIOS Reference Specification", "Required Structures and Data".
# Simplified: caches, slots and ports are not described; the identifier of the system is not given (UUID of zeroes).
"""

from __future__ import annotations

from typing import NamedTuple

from hv.root.firmware.board import Board
from hv.root.firmware.checksum import checksum, with_checksum
from hv.spec.layout import Layout
from hv.spec.smbios import (
    ANCHOR_32,
    ANCHOR_64,
    ANCHOR_DMI,
    DMI_OFFSET,
    EntryPoint32,
    EntryPoint64,
    SmbiosBios,
    SmbiosBoot,
    SmbiosChassis,
    SmbiosHeader,
    SmbiosMappedAddress,
    SmbiosMemoryArray,
    SmbiosMemoryDevice,
    SmbiosProcessor,
    SmbiosSystem,
    SmbiosType,
)

MAKER, PRODUCT, VERSION, RELEASE_DATE = "hvlab", "hvlab PC", "1.0", "01/01/2026"
_MAJOR, _MINOR = 3, 0
_BIOS, _SYSTEM, _CHASSIS, _PROCESSOR, _ARRAY, _DEVICE, _MAPPED, _BOOT, _END = (
    0x0000, 0x0100, 0x0300, 0x0400, 0x1000, 0x1100, 0x1300, 0x2000, 0x7F00)     # handles
_NO_CACHE, _NO_ERROR_HANDLE = 0xFFFF, 0xFFFE
_MHZ = 2000                     # of the time-stamp counter
_MANY = 0xFF                    # a count of one byte that does not hold it
_NOT_SAID = 0xFF
_LARGEST_MIB, _LARGEST_KIB = 0x7FFF, 0x8000_0000    # that the fields of SMBIOS 2 hold


class _Strings:
    """The strings of one structure, by number."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def number(self, text: str) -> int:
        """The number of *text*, which is added when it is new."""
        if text not in self.found:
            self.found.append(text)
        return self.found.index(text) + 1

    def pack(self) -> bytes:
        """All of them, and the end."""
        return b"".join(text.encode("ascii") + b"\0" for text in self.found) + (b"\0" if self.found else b"\0\0")


def _structure(layout: type[SmbiosHeader], kind: SmbiosType, handle: int, **values: int | str | bytes) -> bytes:
    """One structure; a value that is a str becomes its number."""
    strings = _Strings()
    fields = {name: strings.number(value) if isinstance(value, str) else value for name, value in values.items()}
    return layout(type=kind, length=layout.SIZE, handle=handle, **fields).pack() + strings.pack()


def structures(board: Board, memory_bytes: int) -> list[bytes]:
    """All structures, in the order of their types."""
    return [
        _structure(SmbiosBios, SmbiosType.BIOS, _BIOS, vendor=MAKER, version=VERSION, release_date=RELEASE_DATE,
                   characteristics=1 << 3 | int(board.has_pci) << 7, extension=bytes([1, 1 << 4]), major=_NOT_SAID,
                   minor=_NOT_SAID, controller_major=_NOT_SAID, controller_minor=_NOT_SAID),
        _structure(SmbiosSystem, SmbiosType.SYSTEM, _SYSTEM, manufacturer=MAKER, product=PRODUCT, version=VERSION,
                   wake_up_type=6),
        _structure(SmbiosChassis, SmbiosType.CHASSIS, _CHASSIS, manufacturer=MAKER, chassis_type=1, boot_up_state=3,
                   power_supply_state=3, thermal_state=3, security_status=3),
        _processor(board), *_memory(memory_bytes),
        _structure(SmbiosBoot, SmbiosType.SYSTEM_BOOT, _BOOT), _structure(SmbiosHeader, SmbiosType.END, _END)]


def _processor(board: Board) -> bytes:
    """One package: every VP is a core of it, as CPUID says."""
    count = min(board.vp_count, _MANY)
    return _structure(
        SmbiosProcessor, SmbiosType.PROCESSOR, _PROCESSOR, socket="CPU 0", processor_type=3, family=1,
        manufacturer=MAKER, processor_id=board.cpu_signature | board.cpu_features << 32,
        maximum_speed=_MHZ, current_speed=_MHZ, status=1 << 6 | 1, upgrade=1, l1_cache=_NO_CACHE, l2_cache=_NO_CACHE,
        l3_cache=_NO_CACHE, core_count=count, core_enabled=count, thread_count=count, characteristics=1 << 2,
        family_2=1, core_count_2=board.vp_count, core_enabled_2=board.vp_count, thread_count_2=board.vp_count)


def _memory(memory_bytes: int) -> list[bytes]:
    """One piece of memory, at 0. What the older fields do not hold is in the extended ones."""
    kib, mib = memory_bytes >> 10, memory_bytes >> 20
    is_large = mib >= _LARGEST_MIB
    return [
        _structure(SmbiosMemoryArray, SmbiosType.MEMORY_ARRAY, _ARRAY, location=3, use=3, error_correction=3,
                   maximum_capacity=min(kib, _LARGEST_KIB), error_handle=_NO_ERROR_HANDLE, device_count=1,
                   extended_maximum_capacity=memory_bytes if kib >= _LARGEST_KIB else 0),
        _structure(SmbiosMemoryDevice, SmbiosType.MEMORY_DEVICE, _DEVICE, array_handle=_ARRAY,
                   error_handle=_NO_ERROR_HANDLE, total_width=64, data_width=64, size=_LARGEST_MIB if is_large else mib,
                   form_factor=9, device_locator="DIMM 0", memory_type=7, type_detail=1 << 1, manufacturer=MAKER,
                   extended_size=mib if is_large else 0),
        _structure(SmbiosMappedAddress, SmbiosType.MEMORY_ARRAY_MAPPED_ADDRESS, _MAPPED, ending_address=kib - 1,
                   array_handle=_ARRAY, partition_width=1)]


class Smbios(NamedTuple):
    """Both entry points, and the structures they point to."""

    entry_32: bytes
    entry_64: bytes
    table: bytes


def smbios(board: Board, memory_bytes: int, table_gpa: int) -> Smbios:
    """SMBIOS with its structures at *table_gpa*."""
    made = structures(board, memory_bytes)
    table = b"".join(made)
    largest = max(len(structure) for structure in made)
    return Smbios(_entry_32(table_gpa, len(table), len(made), largest), _entry_64(table_gpa, len(table)), table)


def _entry_32(gpa: int, size: int, count: int, largest: int) -> bytes:
    entry: Layout = EntryPoint32(
        anchor=ANCHOR_32, length=EntryPoint32.SIZE, major=_MAJOR, minor=_MINOR, largest_structure=largest,
        dmi_anchor=ANCHOR_DMI, table_length=size, table_address=gpa, structure_count=count, bcd_revision=_MAJOR << 4)
    packed = bytearray(entry.pack())
    packed[EntryPoint32.offset_of("dmi_checksum")] = checksum(packed[DMI_OFFSET:])
    return with_checksum(packed, EntryPoint32.offset_of("checksum"))


def _entry_64(gpa: int, size: int) -> bytes:
    entry = EntryPoint64(anchor=ANCHOR_64, length=EntryPoint64.SIZE, major=_MAJOR, minor=_MINOR, revision=1,
                         table_maximum_size=size, table_address=gpa)
    return with_checksum(entry.pack(), EntryPoint64.offset_of("checksum"))
