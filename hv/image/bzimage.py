"""A Linux bzImage: real-mode setup code, then a protected-mode kernel that unpacks the real one.

Usually the real one is unpacked here, an ELF at physical addresses: the kernel's own decompressor takes seconds on an
emulated processor. Without that the image is the protected-mode kernel as it stands in the file. Either way its setup
header goes along, since the loader answers in a copy of it. "The Linux/x86 Boot Protocol".
"""

from __future__ import annotations

from hv.image.elf import MAGIC as ELF_MAGIC
from hv.image.elf import load_kernel
from hv.image.errors import ImageError
from hv.image.kernel_cache import unpacked
from hv.image.model import Image, Segment
from hv.spec.linux_boot import (
    DEFAULT_LOAD_GPA,
    DEFAULT_SETUP_SECTORS,
    ENTRY_64,
    HEADER_MAGIC,
    SECTOR,
    SETUP_HEADER,
    ExtendedLoadFlags,
    LoadFlags,
    ProtocolVersion,
    SetupHeader,
)

_JUMP_END = 0x202               # the jump over the header counts from here


def is_bzimage(data: bytes) -> bool:
    """The two signatures of a setup header are there."""
    return data[0x202:0x206] == HEADER_MAGIC and data[0x1FE:0x200] == b"\x55\xaa"


def setup_header(data: bytes) -> SetupHeader:
    """The header of the file *data*; what is no part of it, being of a later version, is zero."""
    end = _JUMP_END + data[0x201] if data[0x200:0x201] == b"\xeb" else 0
    size = min(end - SETUP_HEADER, SetupHeader.SIZE)
    if end < 0x22C or len(data) < SETUP_HEADER + size:
        raise ImageError(f"its setup header ends at {min(end, len(data)):#x}, before what a loader needs",
                         "the file is truncated, or older than protocol 2.02")
    return SetupHeader.parse(data[SETUP_HEADER : SETUP_HEADER + size].ljust(SetupHeader.SIZE, b"\0"))


def load_bzimage(data: bytes, name: str, most_bytes: int, unpack: bool = True) -> Image:
    """The bzImage *data* as an Image of kind "linux", at most *most_bytes* large; ImageError says what is wrong.

    Without *unpack*, or when the file has nothing packed in it, the kernel is the one in the file.
    """
    try:
        header = setup_header(data)
        kernel = _protected_mode_code(data, header)
        packed = _payload(kernel, header) if unpack else b""
        if packed:
            return _unpacked(packed, header, most_bytes)
        return _as_it_stands(kernel, header)
    except ImageError as error:
        raise ImageError(f"{name}: {error.message}", error.hint) from None


def _protected_mode_code(data: bytes, header: SetupHeader) -> bytes:
    if not header.loadflags & LoadFlags.LOADED_HIGH:
        raise ImageError("it is a zImage, which is loaded below 640 KiB by its real-mode code", "build a bzImage")
    first = SECTOR * (1 + (header.setup_sects or DEFAULT_SETUP_SECTORS))
    size = 16 * header.syssize
    if not size or first + size > len(data) + 15:       # the size is rounded up
        raise ImageError(f"its kernel ends at byte {first + size:#x}, the file at {len(data):#x}",
                         "the file is truncated")
    return data[first : first + size]


def _payload(kernel: bytes, header: SetupHeader) -> bytes:
    """The packed kernel; nothing when there is none, as in programs that only look like Linux."""
    first, size = header.payload_offset, header.payload_length
    if header.version < ProtocolVersion.PAYLOAD or not size:
        return b""
    if first + size > len(kernel):
        raise ImageError(f"its payload ends at {first + size:#x} of {len(kernel):#x} bytes", "the file is damaged")
    return kernel[first : first + size]


def _unpacked(packed: bytes, header: SetupHeader, most_bytes: int) -> Image:
    kernel = unpacked(packed, most_bytes)
    if not kernel.startswith(ELF_MAGIC):
        raise ImageError(f"what unpacks from it begins with {kernel[:4].hex(' ')}, not as an ELF file does",
                         "--no-unpack leaves it to the kernel")
    segments, entry, bits = load_kernel(kernel, most_bytes)
    if bits != 64:
        raise ImageError("it is a 32-bit kernel, which only its own decompressor can place", "run it with --no-unpack")
    return _image(segments, entry, bits, header)


def _as_it_stands(kernel: bytes, header: SetupHeader) -> Image:
    """In 64-bit mode if it has an entry for that, else in 32-bit mode."""
    gpa = _load_gpa(header)
    has_64 = header.version >= ProtocolVersion.EXTENDED_FLAGS and header.xloadflags & ExtendedLoadFlags.KERNEL_64
    header.code32_start = gpa
    segment = Segment(gpa, kernel, True, True)
    if has_64 and len(kernel) <= ENTRY_64:
        raise ImageError(f"it has {len(kernel):#x} bytes, and its entry is behind {ENTRY_64:#x}", "the file is damaged")
    return _image([segment], gpa + ENTRY_64 if has_64 else gpa, 64 if has_64 else 32, header)


def _image(segments: list[Segment], entry: int, bits: int, header: SetupHeader) -> Image:
    """What it needs is from its first byte on: until it has looked at the memory map, it takes that to be there."""
    first = min(segment.gpa for segment in segments)
    needs = first + header.init_size if header.version >= ProtocolVersion.PREFERRED_ADDRESS else 0
    return Image("linux", segments, entry, bits, setup=header.pack(), needs=needs)


def _load_gpa(header: SetupHeader) -> int:
    if header.version < ProtocolVersion.PREFERRED_ADDRESS or not header.relocatable_kernel:
        return header.code32_start or DEFAULT_LOAD_GPA
    if header.pref_address >> 32 or header.pref_address < DEFAULT_LOAD_GPA:
        raise ImageError(f"it prefers to be at {header.pref_address:#x}; expected {DEFAULT_LOAD_GPA:#x}..0xffffffff",
                         "the file is damaged")
    return header.pref_address
