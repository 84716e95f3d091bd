"""The state a program starts in, for each mode: what `docs/guests.md` promises. No firmware runs.

`initial_registers` is what the worker sets by hypercall, `tables` what it writes into the VM's memory. What has a boot
protocol of its own starts by that: `starting.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hv.image.errors import ImageError
from hv.image.model import Image
from hv.spec.hv_registers import HvRegisterName
from hv.spec.layout import Layout
from hv.spec.synic import HvSegmentRegister, HvTableRegister
from hv.spec.x86 import LARGE_PAGE_SIZE, Cr0, Cr4, Efer, Tss64

N = HvRegisterName
INFORMATION = 0x500                     # the information block, and how much is reserved for it
INFORMATION_END = 0x600
GDT, TSS = 0x70000, 0x70100
PML4, PDPT, LOW_DIRECTORY, HIGH_DIRECTORY = 0x71000, 0x72000, 0x73000, 0x74000
TABLES_END = 0x80000
STACK_16, STACK, INTERRUPT_STACK = 0x7C00, 0x90000, 0x98000
IDENTITY_LARGE_PAGES = 32               # 64 MiB
BAR_GPA, APIC_GPA = 0xF0000000, 0xFEE00000
CODE_64, DATA, CODE_32, TASK = 0x08, 0x10, 0x18, 0x20
GDT_LIMIT = 0x2F

_CODE_64, _DATA, _CODE_32, _TSS_BUSY = 0xA09B, 0xC093, 0xC09B, 0x008B
_PRESENT, _WRITE, _UNCACHED, _LARGE, _NX = 1, 2, 0x18, 0x80, 1 << 63
_ACCESSED_DIRTY = 0x60


class Information(NamedTuple):
    """The block at 0x500: what a program cannot find out otherwise; six u64."""

    bar: int = 0
    msi_address: int = 0
    msi_data: int = 0
    partition_id: int = 0
    other_partition_id: int = 0
    source_id: int = 0

    def pack(self) -> bytes:
        """The block as bytes."""
        words = (self.bar, self.msi_address, self.msi_data, self.partition_id, self.other_partition_id, self.source_id)
        return b"".join(word.to_bytes(8, "little") for word in words)


class Start(NamedTuple):
    """What the loader leaves behind: memory by its address, and registers of VP 0."""

    memory: dict[int, bytes]
    registers: Mapping[HvRegisterName, int | Layout]


def start(image: Image, memory_bytes: int, information: Information) -> Start:
    """*image* as `docs/guests.md` has it start; ImageError when it does not fit."""
    check(image, memory_bytes)
    return Start(tables(image, information), initial_registers(image, 0, memory_bytes))


def check(image: Image, memory_bytes: int) -> None:
    """ImageError when the program does not fit *memory_bytes*, or stands where the loader's own things do."""
    if image.end > memory_bytes:
        raise ImageError(f"the program reaches up to {image.end:#x}, the VM has {memory_bytes:#x} bytes of memory",
                         "give it more, for example --mem 64")
    reserved = [(INFORMATION, INFORMATION_END)] + ([(GDT, TABLES_END)] if image.bits != 16 else [])
    for segment in image.segments:
        for first, end in reserved:
            if segment.gpa < end and first < segment.gpa + len(segment.data):
                raise ImageError(f"the program's segment at {segment.gpa:#x} lies over {first:#x}..{end - 1:#x}, "
                                 "which the loader uses", "see the memory map in docs/guests.md")


def tables(image: Image, information: Information) -> dict[int, bytes]:
    """What the loader writes besides the program: gpa -> bytes."""
    made = {INFORMATION: information.pack()}
    if image.bits != 16:
        made[GDT] = _gdt()
        made[TSS] = Tss64(rsp0=INTERRUPT_STACK, ist1=INTERRUPT_STACK, io_map_base=Tss64.SIZE).pack()
    if image.bits == 64:
        made |= _page_tables(image)
    return made


def _gdt() -> bytes:
    entries = [0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF]
    limit = Tss64.SIZE - 1
    task = limit | (TSS & 0xFFFFFF) << 16 | _TSS_BUSY << 40
    return b"".join(entry.to_bytes(8, "little") for entry in (*entries, task, 0))


def _page_tables(image: Image) -> dict[int, bytes]:
    """Identity, 2 MiB pages: code low, data no-execute, device registers uncached."""
    low = [n * LARGE_PAGE_SIZE | _PRESENT | _WRITE | _LARGE | _ACCESSED_DIRTY | (0 if _executable(image, n) else _NX)
           for n in range(IDENTITY_LARGE_PAGES)]
    high = [0] * 512
    for gpa in (BAR_GPA, APIC_GPA):
        page = gpa & -LARGE_PAGE_SIZE
        high[page >> 21 & 511] = page | _PRESENT | _WRITE | _LARGE | _UNCACHED | _ACCESSED_DIRTY | _NX
    pdpt = [LOW_DIRECTORY | 3, 0, 0, HIGH_DIRECTORY | 3]
    return {PML4: _entries([PDPT | 3]), PDPT: _entries(pdpt),
            LOW_DIRECTORY: _entries(low), HIGH_DIRECTORY: _entries(high)}


def _entries(values: list[int]) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values).ljust(4096, b"\0")


def _executable(image: Image, large_page: int) -> bool:
    if large_page == 0:
        return True
    first = large_page * LARGE_PAGE_SIZE
    return any(segment.executable and segment.gpa < first + LARGE_PAGE_SIZE and first < segment.gpa + len(segment.data)
               for segment in image.segments)


def _segment(selector: int, attributes: int, limit: int = 0xFFFF_FFFF, base: int = 0) -> HvSegmentRegister:
    return HvSegmentRegister(base=base, limit=limit, selector=selector, attributes=attributes)


def initial_registers(image: Image, vp_index: int, memory_bytes: int) -> Mapping[HvRegisterName, int | Layout]:
    """Register values of the VP that starts at the entry, by the hypervisor's names."""
    common: dict[HvRegisterName, int | Layout] = {
        N.RDI: vp_index, N.RSI: memory_bytes, N.RFLAGS: 2, N.RIP: image.entry, N.RDX: 0}
    return common | {16: _real_mode, 32: _protected_mode, 64: _long_mode}[image.bits]()


def _data_segments(segment: HvSegmentRegister) -> dict[HvRegisterName, int | Layout]:
    return dict.fromkeys((N.DS, N.ES, N.SS, N.FS, N.GS), segment)


def _real_mode() -> dict[HvRegisterName, int | Layout]:
    return {N.CR0: Cr0.ET.value, N.CS: _segment(0, 0x9B, 0xFFFF), **_data_segments(_segment(0, 0x93, 0xFFFF)),
            N.RSP: STACK_16, N.IDTR: HvTableRegister(limit=0x3FF, base=0)}


def _flat_tables() -> dict[HvRegisterName, int | Layout]:
    return {N.GDTR: HvTableRegister(limit=GDT_LIMIT, base=GDT), N.IDTR: HvTableRegister(limit=0, base=0), N.RSP: STACK,
            N.TR: _segment(TASK, _TSS_BUSY, Tss64.SIZE - 1, TSS), **_data_segments(_segment(DATA, _DATA))}


def _protected_mode() -> dict[HvRegisterName, int | Layout]:
    return {N.CR0: int(Cr0.PE | Cr0.ET | Cr0.NE), N.CS: _segment(CODE_32, _CODE_32), **_flat_tables()}


def _long_mode() -> dict[HvRegisterName, int | Layout]:
    return {N.EFER: int(Efer.NXE | Efer.LMA | Efer.LME), N.CR4: int(Cr4.PAE | Cr4.OSFXSR | Cr4.OSXMMEXCPT), N.CR3: PML4,
            N.CR0: int(Cr0.PG | Cr0.WP | Cr0.NE | Cr0.ET | Cr0.MP | Cr0.PE), N.CS: _segment(CODE_64, _CODE_64),
            **_flat_tables()}
