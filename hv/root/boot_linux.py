"""The state a Linux kernel starts in: "The Linux/x86 Boot Protocol", "64-bit" and "32-bit Boot Protocol". What a boot
loader does.

Long mode with the first 4 GiB mapped one to one, or protected mode without paging; flat segments, interrupts off, RSI
at the page of boot parameters: the kernel's setup header with what the loader filled in, and the memory map.
"""

from __future__ import annotations

from collections.abc import Mapping

from hv.image.errors import ImageError
from hv.image.model import BootOptions, Image
from hv.root.memory_map import MemoryMap
from hv.spec.hv_registers import HvRegisterName
from hv.spec.layout import Layout
from hv.spec.linux_boot import (
    ACPI_RSDP,
    BOOT_CS,
    BOOT_DS,
    E820_COUNT,
    E820_TABLE,
    HEADER_OFFSET,
    MOST_E820_ENTRIES,
    PARAMETERS_SIZE,
    UNDEFINED_LOADER,
    E820Entry,
    SetupHeader,
)
from hv.spec.synic import HvSegmentRegister, HvTableRegister
from hv.spec.x86 import LARGE_PAGE_SIZE, PAGE_SIZE, Cr0, Cr4, Efer

N = HvRegisterName
GDT, STACK = 0x1000, 0x8000
PML4, PDPT, DIRECTORIES = 0x9000, 0xA000, 0xB000        # four directories: 4 GiB
PARAMETERS, COMMAND_LINE = 0x10000, 0x11000
_CODE_64, _CODE_32, _DATA = 0xA09B, 0xC09B, 0xC093
_PRESENT_WRITABLE, _LARGE = 3, 0x83
_GIBIBYTES = 4


def check(image: Image, options: BootOptions, memory_bytes: int) -> None:
    """ImageError when kernel, initrd and command line have no room in *memory_bytes*, or the kernel takes none so long.
    """
    header = SetupHeader.parse(image.setup)
    needed = image.end + len(options.initrd) + PAGE_SIZE
    if needed > memory_bytes:
        raise ImageError(f"the kernel and its initrd need {needed >> 20} MiB; the VM has {memory_bytes >> 20}",
                         f"give it more, for example --mem {max(256, needed * 2 >> 20)}")
    if len(options.command_line.encode()) > header.command_line_size:
        raise ImageError(f"the command line has {len(options.command_line.encode())} bytes; this kernel takes "
                         f"{header.command_line_size}", "make it shorter")


def tables(image: Image, options: BootOptions, memory: MemoryMap, rsdp: int = 0) -> dict[int, bytes]:
    """What the loader writes besides the kernel: gpa -> bytes. *rsdp* is where the ACPI tables begin, 0 for none."""
    header = SetupHeader.parse(image.setup)
    initrd = _initrd_address(header, len(options.initrd), memory)
    header.type_of_loader, header.command_line = UNDEFINED_LOADER, COMMAND_LINE
    header.ramdisk_image, header.ramdisk_size = (initrd, len(options.initrd)) if options.initrd else (0, 0)
    made = {GDT: _gdt(image.bits), COMMAND_LINE: options.command_line.encode() + b"\0", **_page_tables(),
            PARAMETERS: _parameters(header, memory, rsdp)}
    return made | {initrd: options.initrd} if options.initrd else made


def _initrd_address(header: SetupHeader, size: int, memory: MemoryMap) -> int:
    """As high as there is RAM, and as the kernel allows."""
    end = min(memory.low_end, header.initrd_address_max + 1)
    return (end - size) & -PAGE_SIZE


def _parameters(header: SetupHeader, memory: MemoryMap, rsdp: int) -> bytes:
    page = bytearray(PARAMETERS_SIZE)
    packed = header.pack()
    page[HEADER_OFFSET : HEADER_OFFSET + len(packed)] = packed
    page[ACPI_RSDP : ACPI_RSDP + 8] = rsdp.to_bytes(8, "little")
    entries = [E820Entry(address=part.start, size=part.size, type=part.kind).pack() for part in memory.parts]
    assert len(entries) <= MOST_E820_ENTRIES, "the memory map has more parts than the page has room for"
    page[E820_COUNT] = len(entries)
    table = b"".join(entries)
    page[E820_TABLE : E820_TABLE + len(table)] = table
    return bytes(page)


def _gdt(bits: int) -> bytes:
    entries = (0, 0, 0x00AF9B000000FFFF if bits == 64 else 0x00CF9B000000FFFF, 0x00CF93000000FFFF)
    return b"".join(entry.to_bytes(8, "little") for entry in entries)


def _page_tables() -> dict[int, bytes]:
    """The first 4 GiB one to one, in pages of 2 MiB."""
    pdpt = [DIRECTORIES + n * PAGE_SIZE | _PRESENT_WRITABLE for n in range(_GIBIBYTES)]
    entries = [n * LARGE_PAGE_SIZE | _LARGE for n in range(512 * _GIBIBYTES)]
    return {PML4: _words([PDPT | _PRESENT_WRITABLE]), PDPT: _words(pdpt), DIRECTORIES: _words(entries)}


def _words(values: list[int]) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values).ljust(PAGE_SIZE, b"\0")


def _segment(selector: int, attributes: int) -> HvSegmentRegister:
    return HvSegmentRegister(base=0, limit=0xFFFF_FFFF, selector=selector, attributes=attributes)


def initial_registers(image: Image) -> Mapping[HvRegisterName, int | Layout]:
    """Register values of VP 0, by the hypervisor's names."""
    mode: dict[HvRegisterName, int | Layout] = {N.CR0: int(Cr0.ET | Cr0.PE), N.CS: _segment(BOOT_CS, _CODE_32)}
    if image.bits == 64:
        mode = {N.EFER: int(Efer.LMA | Efer.LME), N.CR4: int(Cr4.PAE), N.CR3: PML4,
                N.CR0: int(Cr0.PG | Cr0.ET | Cr0.PE), N.CS: _segment(BOOT_CS, _CODE_64)}
    return {**mode, **dict.fromkeys((N.DS, N.ES, N.SS, N.FS, N.GS), _segment(BOOT_DS, _DATA)),
            N.GDTR: HvTableRegister(limit=31, base=GDT), N.IDTR: HvTableRegister(limit=0, base=0), N.RSP: STACK,
            N.RFLAGS: 2, N.RSI: PARAMETERS, N.RIP: image.entry}
