"""How a Linux kernel is started: the zero page, tables for 64-bit mode, and the registers at its entry.

"The Linux/x86 Boot Protocol", "64-bit Boot Protocol" and "32-bit Boot Protocol": identity-mapped pages over kernel,
zero page and command line, __BOOT_CS 0x10 and __BOOT_DS 0x18, RSI (or ESI) at the zero page, interrupts off. An
unpacked kernel (`hv/image/bzimage.py`) is entered the same way at `startup_64`, where its decompressor would enter it.
"""

from __future__ import annotations

from hv.image.errors import ImageError
from hv.image.model import BootOptions, Image
from hv.root.boot import Start
from hv.root.memory_map import MemoryMap
from hv.spec.hv_registers import HvRegisterName
from hv.spec.layout import Layout
from hv.spec.linux_boot import (
    BOOT_CS,
    BOOT_DS,
    DEFAULT_COMMAND_LINE,
    DEFAULT_INITRD_LIMIT,
    MOST_E820_ENTRIES,
    UNDEFINED_LOADER,
    E820Entry,
    LoadFlags,
    ProtocolVersion,
    SetupHeader,
    ZeroPage,
)
from hv.spec.pc import EBDA_GPA, LARGEST_LOW_MEMORY, LEGACY_HOLE
from hv.spec.synic import HvSegmentRegister, HvTableRegister
from hv.spec.x86 import LARGE_PAGE_SIZE, PAGE_SIZE, Cr0, Cr4, Efer

N = HvRegisterName
ZERO_PAGE, COMMAND_LINE, COMMAND_LINE_END = 0x10000, 0x11000, 0x20000
GDT, PML4, PDPT, DIRECTORIES = 0x70000, 0x71000, 0x72000, 0x73000
LOADER_END = DIRECTORIES + 4 * PAGE_SIZE        # the loader's own memory, below all kernels
_CODE_64, _CODE_32, _DATA = 0xA09B, 0xC09B, 0xC093
_PRESENT, _WRITE, _UNCACHED, _LARGE, _ACCESSED_DIRTY = 1, 2, 0x18, 0x80, 0x60
_GIB = 1 << 30


def start(image: Image, options: BootOptions, memory_map: MemoryMap, rsdp_gpa: int = 0) -> Start:
    """*image* on a PC with the memory of *memory_map*, whose ACPI tables begin at *rsdp_gpa* (0: none, or the kernel
    shall look for them); ImageError when it does not fit."""
    header = SetupHeader.parse(image.setup)
    line = _command_line(options.command_line, header)
    _check(image, memory_map.low_end)
    initrd_gpa = _initrd_gpa(image, options.initrd, header, memory_map.low_end)
    _answer(header, initrd_gpa, len(options.initrd))
    memory = {ZERO_PAGE: _zero_page(header, memory_map, rsdp_gpa), COMMAND_LINE: line, GDT: _gdt(image.bits)}
    if image.bits == 64:
        memory |= _page_tables()
    if options.initrd:
        memory[initrd_gpa] = options.initrd
    return Start(memory, _registers(image))


def _command_line(text: str, header: SetupHeader) -> bytes:
    line = text.encode("utf-8", "surrogateescape")
    most = header.cmdline_size if header.version >= ProtocolVersion.COMMAND_LINE_SIZE else DEFAULT_COMMAND_LINE
    most = min(most, COMMAND_LINE_END - COMMAND_LINE - 1)
    if len(line) > most:
        raise ImageError(f"the command line has {len(line)} bytes, the kernel takes {most}", "shorten it")
    if b"\0" in line:
        raise ImageError("the command line has a zero byte in it, which would end it", "leave it out")
    return line + b"\0"


def _check(image: Image, memory_end: int) -> None:
    """ImageError unless the kernel has its memory, and leaves the loader's alone."""
    first = min(segment.gpa for segment in image.segments)
    if first < LEGACY_HOLE.stop:
        raise ImageError(f"the kernel has a segment at {first:#x}, below the {LEGACY_HOLE.stop:#x} where they begin",
                         "the file is damaged")
    if image.end > memory_end:
        raise ImageError(f"the kernel needs memory up to {image.end:#x}, the VM has it up to {memory_end:#x}",
                         "give it more, for example --mem 256")


def _initrd_gpa(image: Image, initrd: bytes, header: SetupHeader, memory_end: int) -> int:
    """As high as the kernel allows and memory reaches, on a page; 0 without an initrd."""
    if not initrd:
        return 0
    limit = header.initrd_addr_max if header.version >= ProtocolVersion.INITRD_LIMIT else DEFAULT_INITRD_LIMIT
    end = min(memory_end, limit + 1)
    gpa = (end - len(initrd)) & -PAGE_SIZE
    if gpa < image.end:
        raise ImageError(f"the initrd has {len(initrd):#x} bytes; between the kernel's end at {image.end:#x} and "
                         f"{end:#x} there are {max(0, end - image.end):#x}", "give the VM more memory")
    return gpa


def _answer(header: SetupHeader, initrd_gpa: int, initrd_size: int) -> None:
    """Write what a loader writes into the header; lists of its own there are none."""
    header.type_of_loader, header.ext_loader_ver, header.ext_loader_type = UNDEFINED_LOADER, 0, 0
    header.loadflags &= ~int(LoadFlags.KASLR | LoadFlags.CAN_USE_HEAP)
    header.vid_mode, header.setup_data = 0xFFFF, 0
    header.ramdisk_image, header.ramdisk_size = initrd_gpa, initrd_size
    header.cmd_line_ptr = COMMAND_LINE


def _zero_page(header: SetupHeader, memory_map: MemoryMap, rsdp_gpa: int) -> bytes:
    entries = [E820Entry(address=part.start, size=part.size, type=part.kind) for part in memory_map.parts]
    table = (*entries, *(E820Entry() for _ in range(MOST_E820_ENTRIES - len(entries))))
    return ZeroPage(acpi_rsdp_addr=rsdp_gpa, e820_entries=len(entries), hdr=header, e820_table=table).pack()


def _gdt(bits: int) -> bytes:
    """__BOOT_CS and __BOOT_DS, flat."""
    code = 0x00AF9B000000FFFF if bits == 64 else 0x00CF9B000000FFFF
    return b"".join(entry.to_bytes(8, "little") for entry in (0, 0, code, 0x00CF93000000FFFF))


def _page_tables() -> dict[int, bytes]:
    """Identity, the first 4 GiB in pages of 2 MiB; where no RAM can be, uncached."""
    rights = _PRESENT | _WRITE | _LARGE | _ACCESSED_DIRTY
    pages = [gpa | rights | (_UNCACHED if gpa >= LARGEST_LOW_MEMORY else 0)
             for gpa in range(0, 4 * _GIB, LARGE_PAGE_SIZE)]
    directories = [DIRECTORIES + n * PAGE_SIZE | _PRESENT | _WRITE for n in range(4)]
    return {PML4: _entries([PDPT | _PRESENT | _WRITE]), PDPT: _entries(directories), DIRECTORIES: _entries(pages)}


def _entries(values: list[int]) -> bytes:
    table = b"".join(value.to_bytes(8, "little") for value in values)
    return table.ljust(-(-len(table) // PAGE_SIZE) * PAGE_SIZE, b"\0")


def _segment(selector: int, attributes: int) -> HvSegmentRegister:
    return HvSegmentRegister(base=0, limit=0xFFFF_FFFF, selector=selector, attributes=attributes)


def _registers(image: Image) -> dict[HvRegisterName, int | Layout]:
    """At the entry. The stack is not the protocol's; a pointer into RAM does no harm."""
    data = dict.fromkeys((N.DS, N.ES, N.SS, N.FS, N.GS), _segment(BOOT_DS, _DATA))
    common: dict[HvRegisterName, int | Layout] = {
        N.RIP: image.entry, N.RSI: ZERO_PAGE, N.RDI: 0, N.RBX: 0, N.RBP: 0, N.RDX: 0, N.RSP: EBDA_GPA, N.RFLAGS: 2,
        N.GDTR: HvTableRegister(limit=0x1F, base=GDT), N.IDTR: HvTableRegister(limit=0, base=0), **data}
    if image.bits == 32:
        return common | {N.CR0: int(Cr0.PE | Cr0.ET | Cr0.NE), N.CS: _segment(BOOT_CS, _CODE_32)}
    return common | {N.EFER: int(Efer.LMA | Efer.LME), N.CR4: int(Cr4.PAE), N.CR3: PML4,
                     N.CR0: int(Cr0.PG | Cr0.WP | Cr0.NE | Cr0.ET | Cr0.PE), N.CS: _segment(BOOT_CS, _CODE_64)}
