"""ELF executables for x86: ELF32 is entered in flat protected mode, ELF64 in long mode.

A segment goes to its *physical* address (p_paddr), the entry is translated by the segment that holds it. Every offset
and size is checked against the file before it is used; sections matter for symbols only, and damaged ones are an error.
Left out: relocation (a position-independent executable is refused) and DWARF lines. System V ABI, "Object Files".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hv.image.errors import ImageError
from hv.image.model import Image, Segment
from hv.spec.layout import Layout, u8, u16, u32, u64
from hv.spec.multiboot import MultibootSections

MAGIC = b"\x7fELF"
MAX_LOADED_BYTES = 64 << 20     # what a start page table of the loader maps, docs/guests.md
MAX_SYMBOLS = 100_000
_MACHINES = {2: "SPARC", 3: "80386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S390", 40: "ARM", 62: "x86-64",
             183: "AArch64", 243: "RISC-V", 258: "LoongArch"}
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _SHT_SYMTAB, _SHT_STRTAB, _SHF_ALLOC = 1, 2, 3, 2, 3, 2

_ET_DYN = 3


class ElfIdent(Layout):
    """e_ident, the same in both classes. 16 bytes."""

    magic: u32          # 7F "ELF"
    file_class: u8      # 1 ELF32, 2 ELF64
    data: u8            # 1 little-endian
    version: u8
    os_abi: u8
    abi_version: u8
    padding_low: u32
    padding_middle: u16
    padding_high: u8


class Elf32Header(Layout):
    """Elf32_Ehdr, 52 bytes."""

    ident: ElfIdent
    type: u16           # 1 relocatable, 2 executable, 3 shared or position-independent, 4 core
    machine: u16
    version: u32
    entry: u32
    phoff: u32
    shoff: u32
    flags: u32
    ehsize: u16
    phentsize: u16
    phnum: u16
    shentsize: u16
    shnum: u16
    shstrndx: u16


class Elf64Header(Layout):
    """Elf64_Ehdr, 64 bytes."""

    ident: ElfIdent
    type: u16
    machine: u16
    version: u32
    entry: u64
    phoff: u64
    shoff: u64
    flags: u32
    ehsize: u16
    phentsize: u16
    phnum: u16
    shentsize: u16
    shnum: u16
    shstrndx: u16


class Elf32ProgramHeader(Layout):
    """Elf32_Phdr, 32 bytes."""

    type: u32
    offset: u32
    vaddr: u32
    paddr: u32
    filesz: u32
    memsz: u32
    flags: u32          # bit 0 execute, 1 write, 2 read
    align: u32


class Elf64ProgramHeader(Layout):
    """Elf64_Phdr, 56 bytes."""

    type: u32
    flags: u32
    offset: u64
    vaddr: u64
    paddr: u64
    filesz: u64
    memsz: u64
    align: u64


class Elf32SectionHeader(Layout):
    """Elf32_Shdr, 40 bytes."""

    name: u32
    type: u32
    flags: u32
    addr: u32
    offset: u32
    size: u32
    link: u32
    info: u32
    addralign: u32
    entsize: u32


class Elf64SectionHeader(Layout):
    """Elf64_Shdr, 64 bytes."""

    name: u32
    type: u32
    flags: u64
    addr: u64
    offset: u64
    size: u64
    link: u32
    info: u32
    addralign: u64
    entsize: u64


class Elf32Symbol(Layout):
    """Elf32_Sym, 16 bytes."""

    name: u32
    value: u32
    size: u32
    info: u8
    other: u8
    shndx: u16


class Elf64Symbol(Layout):
    """Elf64_Sym, 24 bytes."""

    name: u32
    info: u8            # bits 3:0: 0 none, 1 object, 2 function, 3 section, 4 file
    other: u8
    shndx: u16          # 0 = undefined
    value: u64
    size: u64


Header = Elf32Header | Elf64Header
ProgramHeader = Elf32ProgramHeader | Elf64ProgramHeader
SectionHeader = Elf32SectionHeader | Elf64SectionHeader


@dataclass(frozen=True, slots=True)
class _Class:
    bits: int
    machine: int
    header: type[Elf32Header] | type[Elf64Header]
    program: type[Elf32ProgramHeader] | type[Elf64ProgramHeader]
    section: type[Elf32SectionHeader] | type[Elf64SectionHeader]
    symbol: type[Elf32Symbol] | type[Elf64Symbol]


_CLASSES = {
    1: _Class(32, 3, Elf32Header, Elf32ProgramHeader, Elf32SectionHeader, Elf32Symbol),
    2: _Class(64, 62, Elf64Header, Elf64ProgramHeader, Elf64SectionHeader, Elf64Symbol),
}


def load_elf(data: bytes, name: str) -> Image:
    """The ELF executable *data* as an Image; ImageError for every way in which it is not one that can run here."""
    try:
        return _load(data)
    except ImageError as error:
        raise ImageError(f"{name}: {error.message}", error.hint) from None


def _load(data: bytes) -> Image:
    kind = _class_of(data)
    header = kind.header.parse(_slice(data, 0, kind.header.SIZE, "the ELF header"))
    _check_header(header, kind)
    programs = _programs(data, header, kind)
    loads = [program for program in programs if program.type == _PT_LOAD and program.memsz]
    if any(program.type in (_PT_INTERP, _PT_DYNAMIC) for program in programs):
        raise ImageError("it is dynamically linked, and a partition has no loader", "link with -static -no-pie")
    if not loads:
        raise ImageError("it has no segment to load", "link it: an executable has PT_LOAD segments")
    segments = _segments(data, loads, kind)
    return Image("elf", segments, _entry(header.entry, loads), kind.bits, _symbols(data, header, kind))


def load_kernel(data: bytes, most_bytes: int) -> tuple[list[Segment], int, int]:
    """Segments, entry and class (32 or 64) of the kernel *data*, whose entry may be a physical address already.

    ImageError when it is damaged or takes more than *most_bytes*. What stands behind the ELF, or is dynamic, is for
    whoever moves the kernel, and it is not moved here.
    """
    kind = _class_of(data)
    header = kind.header.parse(_slice(data, 0, kind.header.SIZE, "the ELF header"))
    _check_header(header, kind)
    loads = [each for each in _programs(data, header, kind) if each.type == _PT_LOAD and each.memsz]
    segments = _segments(data, loads, kind, most_bytes)
    if any(each.executable and each.gpa <= header.entry < each.gpa + len(each.data) for each in segments):
        return segments, header.entry, kind.bits
    return segments, _entry(header.entry, loads), kind.bits


def check_static(data: bytes, name: str) -> None:
    """ImageError unless *data* is a program of an operating system that needs no other file: no object, no interpreter.

    It may be position-independent, for it is not loaded here.
    """
    try:
        kind = _class_of(data)
        header = kind.header.parse(_slice(data, 0, kind.header.SIZE, "the ELF header"))
        if header.type != _ET_DYN:
            _check_header(header, kind)
        elif header.machine != kind.machine:
            raise ImageError("it is for another processor", "build it for x86")
        if any(program.type == _PT_INTERP for program in _programs(data, header, kind)):
            raise ImageError("it is dynamically linked, and its libraries are elsewhere", "link with -static")
    except ImageError as error:
        raise ImageError(f"{name}: {error.message}", error.hint) from None


def elf_sections(data: bytes) -> tuple[bytes, dict[str, int]]:
    """What a kernel is shown of its own sections, for `place_sections`, and its symbols; nothing when it has none.

    MultibootSections, the section headers, then the symbols and strings that no segment has: for these `addr` is the
    offset behind MultibootSections.
    """
    kind = _class_of(data)
    header = kind.header.parse(data)
    symbols = _symbols(data, header, kind)
    if not header.shoff or not header.shnum:
        return b"", symbols
    table = _slice(data, header.shoff, header.shnum * kind.section.SIZE, "the section header table")
    contents, shown = bytearray(), bytearray()
    for n in range(header.shnum):
        section = kind.section.parse(table, n * kind.section.SIZE)
        if _is_extra(section):
            content = _slice(data, section.offset, section.size, f"section {n}")
            if len(contents) + len(content) > MAX_LOADED_BYTES:
                raise ImageError(f"its symbols take more than {MAX_LOADED_BYTES:#x} bytes", "strip it")
            section.addr = len(table) + len(contents)
            contents += content + bytes(-len(content) % 16)
        shown += section.pack()
    kept = MultibootSections(count=header.shnum, entry_size=kind.section.SIZE, names=header.shstrndx,
                             table_size=len(table))
    return kept.pack() + bytes(shown + contents), symbols


def _is_extra(section: SectionHeader) -> bool:
    """Symbols or strings, which no segment has."""
    return section.type in (_SHT_SYMTAB, _SHT_STRTAB) and not section.flags & _SHF_ALLOC


def place_sections(whole: bytes, sections: MultibootSections, gpa: int) -> bytes:
    """The section headers and contents *whole*, as they are at *gpa*."""
    kind = _CLASSES[1 if sections.entry_size == Elf32SectionHeader.SIZE else 2].section
    placed = [kind.parse(whole, n * kind.SIZE) for n in range(sections.count)]
    for section in placed:
        if _is_extra(section):
            section.addr += gpa
    return b"".join(section.pack() for section in placed) + whole[sections.table_size :]


def _slice(data: bytes, offset: int, size: int, what: str) -> bytes:
    if offset + size > len(data):
        raise ImageError(f"{what} ends at byte {offset + size:#x}, the file at {len(data):#x}", "the file is truncated")
    return data[offset : offset + size]


def _class_of(data: bytes) -> _Class:
    ident = ElfIdent.parse(_slice(data, 0, ElfIdent.SIZE, "the identification"))
    if not data.startswith(MAGIC):
        raise ImageError(f"it does not begin as an ELF file does: {data[:4].hex(' ')}")
    if ident.file_class not in _CLASSES:
        raise ImageError(f"ELF class {ident.file_class} is neither 1 (32-bit) nor 2 (64-bit)", "the file is damaged")
    if ident.data != 1:
        raise ImageError("it is big-endian", "x86 is little-endian: build it for x86")
    return _CLASSES[ident.file_class]


def _check_header(header: Header, kind: _Class) -> None:
    if header.machine != kind.machine:
        found = _MACHINES.get(header.machine, f"machine {header.machine}")
        raise ImageError(f"it is an ELF{kind.bits} for {found}, and {_MACHINES[kind.machine]} was expected",
                         "build it for i386 (32 bits) or x86-64 (64 bits)")
    if header.type == 1:
        raise ImageError("it is an object file, not an executable", "link it, with -static -no-pie")
    if header.type == _ET_DYN:
        raise ImageError("it is position-independent or a shared object", "link with -static -no-pie")
    if header.type != 2:
        raise ImageError(f"ELF type {header.type} is no executable", "type 2 was expected")


def _programs(data: bytes, header: Header, kind: _Class) -> list[ProgramHeader]:
    if header.phnum and header.phentsize != kind.program.SIZE:
        raise ImageError(f"a program header has {header.phentsize} bytes, and {kind.program.SIZE} were expected")
    table = _slice(data, header.phoff, header.phnum * kind.program.SIZE, "the program header table")
    return [kind.program.parse(table, n * kind.program.SIZE) for n in range(header.phnum)]


def _segments(data: bytes, loads: list[ProgramHeader], kind: _Class,
              most_bytes: int | None = None) -> list[Segment]:
    total = sum(program.memsz for program in loads)
    most = MAX_LOADED_BYTES if most_bytes is None else most_bytes
    if total > most:
        raise ImageError(f"its segments take {total:#x} bytes, and {most:#x} is the most")
    segments = []
    for number, program in enumerate(loads):
        if program.filesz > program.memsz:
            raise ImageError(f"segment {number} has {program.filesz:#x} bytes in the file, {program.memsz:#x} loaded")
        if program.paddr + program.memsz > 1 << (32 if kind.bits == 32 else 52):
            raise ImageError(f"segment {number} at {program.paddr:#x} ends outside the guest-physical addresses")
        content = _slice(data, program.offset, program.filesz, f"segment {number}")
        whole = content + bytes(program.memsz - program.filesz)
        segments.append(Segment(program.paddr, whole, bool(program.flags & 2), bool(program.flags & 1)))
    segments.sort(key=lambda segment: segment.gpa)
    for one, next_one in pairwise(segments):
        if one.gpa + len(one.data) > next_one.gpa:
            raise ImageError(f"the segments at {one.gpa:#x} and {next_one.gpa:#x} overlap", "check the linker script")
    return segments


def _entry(entry: int, loads: list[ProgramHeader]) -> int:
    """The entry as a physical address: e_entry is a virtual one."""
    for program in loads:
        if program.vaddr <= entry < program.vaddr + program.memsz and program.flags & 1:
            return entry - program.vaddr + program.paddr
    raise ImageError(f"the entry {entry:#x} is in no executable segment", "name it to the linker: -e start")


def _symbols(data: bytes, header: Header, kind: _Class) -> dict[str, int]:
    if not header.shoff or not header.shnum:
        return {}
    if header.shentsize != kind.section.SIZE:
        raise ImageError(f"a section header has {header.shentsize} bytes, and {kind.section.SIZE} were expected")
    table = _slice(data, header.shoff, header.shnum * kind.section.SIZE, "the section header table")
    sections = [kind.section.parse(table, n * kind.section.SIZE) for n in range(header.shnum)]
    for section in sections:
        if section.type == _SHT_SYMTAB:
            if section.link >= len(sections):
                raise ImageError(f"the symbol table names string section {section.link} of {len(sections)}")
            strings = sections[section.link]
            names = _slice(data, strings.offset, strings.size, "the string table")
            return _named(_slice(data, section.offset, section.size, "the symbol table"), names, kind)
    return {}


def _named(table: bytes, names: bytes, kind: _Class) -> dict[str, int]:
    count = len(table) // kind.symbol.SIZE
    if count > MAX_SYMBOLS:
        raise ImageError(f"it has {count} symbols, and {MAX_SYMBOLS} is the most", "strip it")
    found: dict[str, int] = {}
    for n in range(count):
        symbol = kind.symbol.parse(table, n * kind.symbol.SIZE)
        if symbol.info & 0xF > 2 or not symbol.shndx or not symbol.name:
            continue
        end = names.find(b"\0", symbol.name, symbol.name + 1024)
        if end < 0:
            raise ImageError(f"the name of symbol {n} does not end inside the string table", "the file is damaged")
        found.setdefault(names[symbol.name : end].decode("utf-8", "replace"), symbol.value)
    return found
