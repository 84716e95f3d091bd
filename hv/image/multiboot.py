"""Multiboot 1 kernels: an ELF file, or any file whose header says where it goes (the "a.out kludge").

The header is somewhere in the first 8 KiB. "Multiboot Specification", "OS image format". Multiboot 2 is refused.
"""

from __future__ import annotations

from hv.image.elf import MAGIC, elf_sections, load_kernel
from hv.image.errors import ImageError
from hv.image.model import Image, Segment
from hv.spec.multiboot import (
    HEADER_ALIGNMENT,
    HEADER_ALIGNMENT_2,
    HEADER_MAGIC,
    HEADER_MAGIC_2,
    HEADER_REACH,
    HEADER_REACH_2,
    HeaderFlags,
    MultibootHeader,
)

_KNOWN = int(HeaderFlags.PAGE_ALIGN | HeaderFlags.MEMORY_INFO | HeaderFlags.VIDEO_MODE)
_REQUIRED = 0xFFFF              # flags that a loader must know
_SHORT = 12                     # bytes of a header without addresses


def header_offset(data: bytes) -> int:
    """Where the Multiboot 1 header of the file *data* is; -1 when there is none."""
    return _offset(data, HEADER_MAGIC, _SHORT, HEADER_ALIGNMENT, HEADER_REACH)


def is_multiboot2(data: bytes) -> bool:
    """The file *data* has the header of a Multiboot 2 kernel."""
    return _offset(data, HEADER_MAGIC_2, 16, HEADER_ALIGNMENT_2, HEADER_REACH_2) >= 0


def _offset(data: bytes, magic: int, size: int, step: int, reach: int) -> int:
    """An aligned magic number with a header behind it whose words make 0."""
    pattern = magic.to_bytes(4, "little")
    at = data.find(pattern, 0, reach)
    while at >= 0:
        header = data[at : at + size]
        words = [int.from_bytes(header[n : n + 4], "little") for n in range(0, size, 4)]
        if at % step == 0 and len(header) == size and at + size <= reach and not sum(words) & 0xFFFFFFFF:
            return at
        at = data.find(pattern, at + 1, reach)
    return -1


def load_multiboot(data: bytes, name: str, most_bytes: int) -> Image:
    """The Multiboot kernel *data*, which may take *most_bytes*; ImageError says what is wrong with it."""
    try:
        return _load(data, most_bytes)
    except ImageError as error:
        raise ImageError(f"{name}: {error.message}", error.hint) from None


def _load(data: bytes, most_bytes: int) -> Image:
    at = header_offset(data)
    header = MultibootHeader.parse(data[at : at + MultibootHeader.SIZE].ljust(MultibootHeader.SIZE, b"\0"))
    unknown = header.flags & _REQUIRED & ~_KNOWN
    if unknown:
        raise ImageError(f"its Multiboot header requires {unknown:#x}, which no loader of version 0.6.96 knows",
                         "the file is damaged, or of another version")
    if header.flags & HeaderFlags.VIDEO_MODE:
        raise ImageError("its Multiboot header wants a video mode, and there is no screen",
                         "build it without flag 2, for the serial port")
    if header.flags & HeaderFlags.ADDRESSES:
        if at + MultibootHeader.SIZE > len(data):
            raise ImageError(f"its Multiboot header ends at byte {at + MultibootHeader.SIZE:#x}, the file at "
                             f"{len(data):#x}", "the file is truncated")
        return Image("multiboot", [_placed(data, header, at, most_bytes)], header.entry_addr, 32, setup=header.pack())
    if not data.startswith(MAGIC):
        raise ImageError("it is a Multiboot kernel, but neither an ELF file nor does its header say where it goes",
                         "set flag 16 and the addresses, or link it as ELF")
    segments, entry, _ = load_kernel(data, most_bytes)
    if entry >> 32:
        raise ImageError(f"its entry {entry:#x} is above 4 GiB, and it starts in 32-bit mode", "link it lower")
    sections, symbols = elf_sections(data)
    return Image("multiboot", segments, entry, 32, symbols, setup=header.pack() + sections)


def _placed(data: bytes, header: MultibootHeader, at: int, most_bytes: int) -> Segment:
    """What goes to the header's addresses: from load_addr on, with zeroes up to bss_end_addr."""
    first = at - (header.header_addr - header.load_addr)
    end = first + header.load_end_addr - header.load_addr if header.load_end_addr else len(data)
    if not (0 <= first <= at and first < end <= len(data)):
        raise ImageError(f"its Multiboot header loads bytes {first:#x}..{end:#x} of a file of {len(data):#x}",
                         "the file is damaged")
    stop = max(header.load_addr + end - first, header.bss_end_addr)
    if stop > 1 << 32 or stop - header.load_addr > most_bytes:
        raise ImageError(f"it takes {header.load_addr:#x}..{stop - 1:#x}; the VM has {most_bytes:#x} bytes of memory",
                         "give it more, or place it lower")
    if not header.load_addr <= header.entry_addr < stop:
        raise ImageError(f"its entry {header.entry_addr:#x} is outside of what is loaded", "the file is damaged")
    content = data[first:end]
    return Segment(header.load_addr, content + bytes(stop - header.load_addr - len(content)), True, True)
