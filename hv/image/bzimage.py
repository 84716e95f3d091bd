"""A Linux kernel's bzImage: the kernel inside as segments at their physical addresses, or the file's own unpacker.

"The Linux/x86 Boot Protocol". Unpacked here, the kernel is entered at its ELF entry, which takes what the 64-bit boot
protocol says: the engine would take seconds for what a library does in a tenth of one, because the unpacker's pages may
be executed and written. It is then where it was linked to be: nobody has relocated it (no KASLR). A file without a
payload is no Linux, but starts as one does (memtest86+); one without the 64-bit entry starts by the 32-bit protocol.
"""

from __future__ import annotations

import struct

from hv.image.compressed import unpack
from hv.image.elf import MAGIC, Elf64Header, Elf64ProgramHeader
from hv.image.errors import ImageError
from hv.image.model import Image, Segment
from hv.spec.linux_boot import (
    BOOT_FLAG,
    DEFAULT_SETUP_SECTORS,
    ENTRY_64,
    FIRST_64_BIT_VERSION,
    HEADER_MAGIC,
    HEADER_OFFSET,
    SECTOR,
    SetupHeader,
    XLoadFlags,
)

_PT_LOAD, _EXECUTE, _WRITE = 1, 1, 2
LARGEST_KERNEL = 1 << 30            # bytes, unpacked


def is_bzimage(data: bytes) -> bool:
    """Does the file have the setup header of a Linux kernel?"""
    return data[0x202:0x206] == HEADER_MAGIC.to_bytes(4, "little") \
        and data[0x1FE:0x200] == BOOT_FLAG.to_bytes(2, "little")


def load_bzimage(data: bytes, name: str, unpacked: bool = True) -> Image:
    """The kernel in *data*; ImageError. With *unpacked* false, the code in the file, which unpacks the kernel."""
    header = _header(data, name)
    code = data[(header.setup_sectors + 1) * SECTOR :]
    is_64 = bool(XLoadFlags(header.xload_flags).kernel_64)
    if unpacked and is_64 and header.payload_length:
        segments, entry = _kernel(_payload(code, header, name), name)
    else:
        entry = header.preferred_address + (ENTRY_64 if is_64 else 0)
        segments = [Segment(header.preferred_address, code, True, True)]
    needed = header.preferred_address + header.init_size
    return Image("linux", segments, entry, 64 if is_64 else 32, setup=header.pack(), needs=needed)


def _header(data: bytes, name: str) -> SetupHeader:
    """The setup header, with zeroes for what its version does not have."""
    end = 0x202 + data[0x201]
    raw = data[HEADER_OFFSET : min(end, HEADER_OFFSET + SetupHeader.SIZE)].ljust(SetupHeader.SIZE, b"\0")
    header = SetupHeader.parse(raw)
    if header.version < FIRST_64_BIT_VERSION:
        raise ImageError(f"{name} speaks boot protocol {header.version >> 8}.{header.version & 0xFF:02}; expected 2.12 "
                         "or later", "take a kernel of 3.8 or later")
    header.setup_sectors = header.setup_sectors or DEFAULT_SETUP_SECTORS
    if (header.setup_sectors + 1) * SECTOR + ENTRY_64 > len(data):
        raise ImageError(f"{name} ends within its setup code", "is the file whole?")
    if header.preferred_address >= LARGEST_KERNEL or header.init_size > LARGEST_KERNEL:
        raise ImageError(f"{name} wants {header.init_size:#x} bytes at {header.preferred_address:#x}",
                         "no kernel does that: is the file whole?")
    return header


def _payload(code: bytes, header: SetupHeader, name: str) -> bytes:
    """The ELF file that is compressed in *code*. The last four bytes of the payload are the size that it has then."""
    payload = code[header.payload_offset : header.payload_offset + header.payload_length]
    if not payload or len(payload) != header.payload_length:
        raise ImageError(f"{name}: its payload is {header.payload_length} bytes at {header.payload_offset:#x} of "
                         f"{len(code)}", "is the file whole?")
    size = int.from_bytes(payload[-4:], "little")
    if size > LARGEST_KERNEL:
        raise ImageError(f"{name}: its payload says that it unpacks to {size} bytes", "is the file whole?")
    return unpack(payload, size)


def _kernel(elf: bytes, name: str) -> tuple[list[Segment], int]:
    """Segments and entry; behind the ELF file there may be relocations, which only KASLR needs."""
    try:
        header = Elf64Header.parse(elf)
        places = range(header.phoff, header.phoff + header.phnum * Elf64ProgramHeader.SIZE, Elf64ProgramHeader.SIZE)
        parts = [Elf64ProgramHeader.parse(elf, place) for place in places]
    except (struct.error, ValueError):
        raise ImageError(f"{name}: what it unpacks to ends within its ELF headers", "is the file whole?") from None
    if elf[:5] != MAGIC + b"\2":
        raise ImageError(f"{name}: it unpacks to no ELF64 file", "let it unpack itself (--no-unpack)")
    loads = sorted((part for part in parts if part.type == _PT_LOAD and part.filesz), key=lambda part: part.paddr)
    end = 0
    for part in loads:
        if part.offset + part.filesz > len(elf) or not end <= part.paddr <= LARGEST_KERNEL - part.filesz:
            raise ImageError(f"{name}: the segment at {part.paddr:#x} of the kernel inside lies outside the file, over "
                             "another one, or too high", "is the file whole?")
        end = part.paddr + part.filesz
    return [Segment(part.paddr, elf[part.offset : part.offset + part.filesz], bool(part.flags & _WRITE),
                    bool(part.flags & _EXECUTE)) for part in loads], header.entry
