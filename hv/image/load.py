"""A file to an `Image`: the kind is recognised from content first (ELF, bzImage, Multiboot), then from the suffix."""

from __future__ import annotations

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
from hv.image.multiboot import header_offset, is_multiboot2, load_multiboot
from hv.image.source import read_text

MAX_FILE_BYTES = 64 << 20
MOST_MEMORY_BYTES = 2 << 30     # of a VM
_BEGIN_BYTES = 32 << 10         # where a kernel says what it is
ASSEMBLY = (".asm", ".s", ".inc")
CODE_END = 2 << 20      # what assembly puts above is data: the start page tables map it no-execute, docs/guests.md


def load(path: str | Path, defines: Mapping[str, int] | None = None, *, bits: int | None = None,
         origin: int | None = None, unpack: bool = True, most_bytes: int = MOST_MEMORY_BYTES) -> Image:
    """The program in the file *path*; ImageError says what is wrong with it in one line.

    *bits* and *origin* are for flat binaries (and the defaults of assembly); *defines* are constants for assembly;
    without *unpack* a compressed kernel unpacks itself, else it becomes *most_bytes* at most.
    """
    place = Path(path)
    data = _read(place)
    if data.startswith(MAGIC):
        if header_offset(data) >= 0:
            return load_multiboot(data, place.name, most_bytes)
        _refuse_multiboot2(data, place.name)
        return load_elf(data, place.name)
    if is_bzimage(data):
        return load_bzimage(data, place.name, most_bytes, unpack)
    suffix = place.suffix.lower()
    if suffix in ASSEMBLY:
        return load_assembly(place, defines, bits=bits, origin=origin)
    if suffix == ".c":
        return load_c(place)
    if header_offset(data) >= 0:
        return load_multiboot(data, place.name, most_bytes)
    _refuse_multiboot2(data, place.name)
    if suffix == ".elf":
        raise ImageError(f"{place.name} does not begin as an ELF file does: {data[:4].hex(' ')}, not 7f 45 4c 46")
    if suffix in (".bin", ".img", ".com"):
        return load_flat(data, place.name, 16 if bits is None else bits, origin)
    raise ImageError(f"{place.name}: the kind of `{suffix or 'no suffix'}` is not known",
                     "name it .asm or .s (assembly), .c, .elf, or .bin (a flat binary)")


def kind_of(path: str | Path) -> str:
    """The kind of the file *path* if its content says that it is a kernel's: "linux", "multiboot"; else nothing."""
    try:
        with Path(path).open("rb") as file:
            begin = file.read(_BEGIN_BYTES)
    except (OSError, ValueError):
        return ""
    if is_bzimage(begin):
        return "linux"
    is_source = Path(path).suffix.lower() in (*ASSEMBLY, ".c")
    return "multiboot" if header_offset(begin) >= 0 and not is_source else ""


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


def _refuse_multiboot2(data: bytes, name: str) -> None:
    if is_multiboot2(data):
        raise ImageError(f"{name} is a Multiboot 2 kernel, and only Multiboot 1 is known here",
                         "build it with a Multiboot 1 header; a file may have both")
