"""Flat binaries: the file is the memory. By default it starts like a boot sector, at 0x7C00 in real mode."""

from __future__ import annotations

from hv.image.errors import ImageError
from hv.image.model import Image, Segment

BOOT_SECTOR = 0x7C00


def load_flat(data: bytes, name: str, bits: int = 16, origin: int | None = None) -> Image:
    """*data* at *origin* (default: 0x7C00 in 16-bit mode, else 0x10000), entered at its first byte in that mode."""
    gpa = origin if origin is not None else BOOT_SECTOR if bits == 16 else 0x10000
    if bits not in (16, 32, 64):
        raise ImageError(f"bits is {bits}", "16, 32 or 64")
    if not 0 <= gpa < 1 << 52:
        raise ImageError(f"{name}: origin {gpa:#x} is out of range 0..{(1 << 52) - 1:#x}")
    if bits == 16 and gpa > 0xFFFF:
        raise ImageError(f"{name}: a 16-bit program starts below 64 KiB, not at {gpa:#x}",
                         "real mode starts with CS = 0")
    return Image("flat", [Segment(gpa, data, True, True)], gpa, bits)
