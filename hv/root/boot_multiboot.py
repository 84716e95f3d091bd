"""How a Multiboot 1 kernel is started: its boot information, its modules, and the registers at its entry.

"Multiboot Specification", "Machine state": 32-bit protected mode without paging, flat segments, EAX the magic number,
EBX at the information, interrupts off, no IDT. The GDT is the loader's, below 1 MiB like the information. Modules begin
on pages behind the kernel; the command line begins with the VM's name, as others begin it with the kernel's.
"""

from __future__ import annotations

from hv.image.elf import place_sections
from hv.image.errors import ImageError
from hv.image.model import BootOptions, Image, Module
from hv.root.boot import Start
from hv.root.memory_map import MemoryMap
from hv.spec.hv_registers import HvRegisterName
from hv.spec.layout import Layout
from hv.spec.multiboot import (
    BOOT_MAGIC,
    InfoFlags,
    MultibootHeader,
    MultibootInfo,
    MultibootModule,
    MultibootRange,
    MultibootSections,
)
from hv.spec.pc import EBDA_GPA, LEGACY_HOLE
from hv.spec.synic import HvSegmentRegister, HvTableRegister
from hv.spec.x86 import PAGE_SIZE, Cr0

N = HvRegisterName
INFORMATION, INFORMATION_END, GDT = 0x60000, 0x70000, 0x70000
LOADER_END = GDT + PAGE_SIZE
LOADER_NAME = b"hvlab"
_CODE, _DATA, _CODE_SELECTOR, _DATA_SELECTOR = 0xC09B, 0xC093, 0x08, 0x10


class _Area:
    """Memory that is given out from its beginning on, in words; ImageError when it is used up."""

    def __init__(self, gpa: int, end: int, what: str) -> None:
        self.gpa, self.end, self.what = gpa, end, what
        self.memory: dict[int, bytes] = {}

    def put(self, content: bytes, alignment: int = 4) -> int:
        """*content* in memory; where it begins."""
        gpa = (self.gpa + alignment - 1) & -alignment
        if gpa + len(content) > self.end:
            raise ImageError(f"{self.what} {len(content):#x} bytes at {gpa:#x}, and there is room up to {self.end:#x}",
                             "give the VM more memory, or the kernel less")
        self.memory[gpa], self.gpa = content, gpa + len(content)
        return gpa


def start(image: Image, options: BootOptions, memory_map: MemoryMap, name: str) -> Start:
    """*image* on a PC with the memory of *memory_map*; ImageError when it does not fit."""
    _check(image, memory_map.low_end)
    low = _Area(INFORMATION, INFORMATION_END, "the kernel is told")
    high = _Area(max(image.end, LEGACY_HOLE.stop), memory_map.low_end, "a module or the kernel's symbols take")
    info_gpa = low.put(bytes(MultibootInfo.SIZE))
    low.memory[info_gpa] = _information(image, options, memory_map, name, low, high).pack()
    return Start({**low.memory, **high.memory, GDT: _gdt()}, _registers(image, info_gpa))


def _check(image: Image, memory_end: int) -> None:
    """ImageError unless the kernel is in RAM, and leaves the loader's alone."""
    for segment in image.segments:
        end = segment.gpa + len(segment.data)
        if end > memory_end:
            raise ImageError(f"the kernel needs memory up to {end:#x}, the VM has it up to {memory_end:#x}",
                             "give it more, for example --mem 256")
        for first, stop in ((INFORMATION, LOADER_END), (EBDA_GPA, LEGACY_HOLE.stop)):
            if segment.gpa < stop and first < end:
                raise ImageError(f"the kernel has a segment at {segment.gpa:#x}, over {first:#x}..{stop - 1:#x}, which "
                                 "is not free", "link it to 1 MiB or above")


def _information(image: Image, options: BootOptions, memory_map: MemoryMap, name: str, low: _Area,
                 high: _Area) -> MultibootInfo:
    ranges = [MultibootRange(size=20, base_addr=part.start, length=part.size, type=part.kind).pack()
              for part in memory_map.parts]
    flags = InfoFlags.MEMORY | InfoFlags.COMMAND_LINE | InfoFlags.MODULES | InfoFlags.MEMORY_MAP | InfoFlags.LOADER_NAME
    info = MultibootInfo(
        flags=int(flags), mem_lower=EBDA_GPA >> 10, mem_upper=max(0, memory_map.low_end - LEGACY_HOLE.stop) >> 10,
        cmdline=low.put(_text(f"{name} {options.command_line}".rstrip())), mods_count=len(options.modules),
        mmap_length=sum(map(len, ranges)), mmap_addr=low.put(b"".join(ranges)),
        boot_loader_name=low.put(LOADER_NAME + b"\0"))
    _add_sections(info, image, high)
    info.mods_addr = low.put(b"".join(_module(module, low, high) for module in options.modules))
    return info


def _text(text: str) -> bytes:
    line = text.encode("utf-8", "surrogateescape")
    if b"\0" in line:
        raise ImageError("a text for the kernel has a zero byte in it, which would end it", "leave it out")
    return line + b"\0"


def _module(module: Module, low: _Area, high: _Area) -> bytes:
    first = high.put(module.content, PAGE_SIZE)
    return MultibootModule(mod_start=first, mod_end=high.gpa, string=low.put(_text(module.text))).pack()


def _add_sections(info: MultibootInfo, image: Image, high: _Area) -> None:
    """The section headers of an ELF kernel, and the symbols and strings that no segment has."""
    kept = image.setup[MultibootHeader.SIZE :]
    if not kept:
        return
    sections = MultibootSections.parse(kept)
    whole = kept[MultibootSections.SIZE :]
    gpa = high.put(whole, 16)
    high.memory[gpa] = place_sections(whole, sections, gpa)
    info.flags |= int(InfoFlags.ELF_SECTIONS)
    info.syms_num, info.syms_size = sections.count, sections.entry_size
    info.syms_addr, info.syms_shndx = gpa, sections.names


def _gdt() -> bytes:
    return b"".join(entry.to_bytes(8, "little") for entry in (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF))


def _segment(selector: int, attributes: int) -> HvSegmentRegister:
    return HvSegmentRegister(base=0, limit=0xFFFF_FFFF, selector=selector, attributes=attributes)


def _registers(image: Image, info_gpa: int) -> dict[HvRegisterName, int | Layout]:
    data = dict.fromkeys((N.DS, N.ES, N.SS, N.FS, N.GS), _segment(_DATA_SELECTOR, _DATA))
    return {N.RIP: image.entry, N.RAX: BOOT_MAGIC, N.RBX: info_gpa, N.RDX: 0, N.RSP: EBDA_GPA, N.RFLAGS: 2,
            N.CR0: int(Cr0.PE | Cr0.ET | Cr0.NE), N.CS: _segment(_CODE_SELECTOR, _CODE),
            N.GDTR: HvTableRegister(limit=0x17, base=GDT), N.IDTR: HvTableRegister(limit=0, base=0), **data}
