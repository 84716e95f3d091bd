"""A file to an `Image`: the kind is recognised from content first (ELF, bzImage, Multiboot), then from the suffix."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from hv.image.assembler import Program, assemble
from hv.image.bzimage import is_bzimage, load_bzimage
from hv.image.c_source import load_c
from hv.image.elf import MAGIC, load_elf
from hv.image.errors import ImageError
from hv.image.flat import load_flat
from hv.image.library import guests_folder
from hv.image.model import Image, Segment
from hv.image.source import read_text

MAX_FILE_BYTES = 64 << 20
MOST_MEMORY_BYTES = 2 << 30     # of a VM
_BEGIN_BYTES = 32 << 10         # where a kernel says what it is
ASSEMBLY = (".asm", ".s", ".inc")
CODE_END = 2 << 20      # what assembly puts above is data: the start page tables map it no-execute, docs/guests.md
_MULTIBOOT, _MULTIBOOT2 = 0x1BADB002, 0xE85250D6


def load(path: str | Path, defines: Mapping[str, int] | None = None, *, bits: int | None = None,
         origin: int | None = None, unpack: bool = True, most_bytes: int = MOST_MEMORY_BYTES) -> Image:
    """The program in the file *path*; ImageError says what is wrong with it in one line.

    *bits* and *origin* are for flat binaries (and the defaults of assembly); *defines* are constants for assembly;
    without *unpack* a compressed kernel unpacks itself, else it becomes *most_bytes* at most.
    """
    place = Path(path)
    data = _read(place)
    if data.startswith(MAGIC):
        _refuse_multiboot(data, place.name)
        return load_elf(data, place.name)
    if is_bzimage(data):
        return load_bzimage(data, place.name, most_bytes, unpack)
    suffix = place.suffix.lower()
    if suffix in ASSEMBLY:
        return load_assembly(place, defines, bits=bits, origin=origin)
    if suffix == ".c":
        return load_c(place)
    _refuse_multiboot(data, place.name)
    if suffix == ".elf":
        raise ImageError(f"{place.name} does not begin as an ELF file does: {data[:4].hex(' ')}, not 7f 45 4c 46")
    if suffix in (".bin", ".img", ".com"):
        return load_flat(data, place.name, 16 if bits is None else bits, origin)
    raise ImageError(f"{place.name}: the kind of `{suffix or 'no suffix'}` is not known",
                     "name it .asm or .s (assembly), .c, .elf, or .bin (a flat binary)")


def kind_of(path: str | Path) -> str:
    """The kind of the file *path* if its content says so and it is a kernel's: "linux"; else nothing."""
    try:
        with Path(path).open("rb") as file:
            begin = file.read(_BEGIN_BYTES)
    except (OSError, ValueError):
        return ""
    return "linux" if is_bzimage(begin) else ""


def load_assembly(path: Path, defines: Mapping[str, int] | None = None, *, bits: int | None = None,
                  origin: int | None = None) -> Image:
    """The assembly source in *path*, assembled; includes come from its own folder and from guests/."""
    folders = tuple(dict.fromkeys(folder for folder in (path.parent, guests_folder()) if folder is not None))
    program = assemble(read_text(path), path.name, defines, bits=64 if bits is None else bits, origin=origin,
                       folders=folders)
    return image_of(program)


def image_of(program: Program) -> Image:
    """An assembled program as an image: what lies below CODE_END may be executed."""
    segments = [Segment(gpa, data, True, gpa < CODE_END) for gpa, data in program.segments]
    return Image("assembly", segments, program.entry, program.bits, program.symbols, program.lines, program.places)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a directory", "name a file, such as guests/hello.asm")
        if not path.exists():
            raise ImageError(f"{path} does not exist", "check the path; guests/ holds examples")
        if not path.is_file():
            raise ImageError(f"{path} is no ordinary file", "name a file, such as guests/hello.asm")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{path} cannot be read: {reason}", "check the path and its permissions") from None
    if not data:
        raise ImageError(f"{path} is empty", "a program has at least one instruction")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB", "is this a guest program?")
    return data


def _refuse_multiboot(data: bytes, name: str) -> None:
    """Multiboot 1: magic + flags + checksum = 0, 4-aligned in 8 KiB; Multiboot 2: the same of four words in 32 KiB."""
    for magic, words, step, reach in ((_MULTIBOOT, 3, 4, 8192), (_MULTIBOOT2, 4, 8, 32768)):
        pattern, at = struct.pack("<I", magic), data.find(struct.pack("<I", magic), 0, reach)
        while at >= 0:
            header = data[at : at + 4 * words]
            whole = at % step == 0 and len(header) == 4 * words
            if whole and not sum(struct.unpack(f"<{words}I", header)) & 0xFFFFFFFF:
                raise ImageError(f"{name} is a Multiboot kernel, which is not supported yet",
                                 "give an ELF without a Multiboot header, or a .asm or .bin file")
            at = data.find(pattern, at + 1, reach)
