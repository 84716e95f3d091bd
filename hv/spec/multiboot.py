"""What a boot loader and a Multiboot kernel say to each other.

"Multiboot Specification" 0.6.96: "OS image format" is what the kernel says, "Machine state" and "Boot information
format" what it finds.
"""

from __future__ import annotations

from enum import IntFlag

from hv.spec.layout import Layout, u32, u64

HEADER_MAGIC, BOOT_MAGIC = 0x1BADB002, 0x2BADB002   # in the file; in EAX
HEADER_REACH, HEADER_ALIGNMENT = 8192, 4            # bytes from the file's begin
HEADER_MAGIC_2, HEADER_REACH_2, HEADER_ALIGNMENT_2 = 0xE85250D6, 32768, 8


class HeaderFlags(IntFlag):
    """`MultibootHeader.flags`; a loader that does not know one of bits 0..15 must refuse."""

    PAGE_ALIGN = 1 << 0         # modules begin on pages
    MEMORY_INFO = 1 << 1        # memory sizes are wanted
    VIDEO_MODE = 1 << 2         # and so is a video mode
    ADDRESSES = 1 << 16         # the header says where everything goes: the "a.out kludge"


class InfoFlags(IntFlag):
    """`MultibootInfo.flags`: what of it is there."""

    MEMORY = 1 << 0
    COMMAND_LINE = 1 << 2
    MODULES = 1 << 3
    ELF_SECTIONS = 1 << 5
    MEMORY_MAP = 1 << 6
    LOADER_NAME = 1 << 9


class MultibootHeader(Layout):
    """The header in the file, without its video mode. 32 bytes, of which a file without ADDRESSES has 12."""

    magic: u32                  # HEADER_MAGIC
    flags: u32                  # HeaderFlags
    checksum: u32               # the three make 0
    header_addr: u32            # where the header itself goes
    load_addr: u32              # where loading begins
    load_end_addr: u32          # and ends; 0 = with the file
    bss_end_addr: u32           # zeroes up to there; 0 = none
    entry_addr: u32


class MultibootInfo(Layout):
    """What EBX points to. 88 bytes; the rest tells of a video mode, and there is none."""

    flags: u32                  # InfoFlags
    mem_lower: u32              # KiB from 0 on
    mem_upper: u32              # KiB from 1 MiB on
    boot_device: u32
    cmdline: u32
    mods_count: u32
    mods_addr: u32
    syms_num: u32               # section headers of the ELF file
    syms_size: u32              # bytes of each
    syms_addr: u32
    syms_shndx: u32
    mmap_length: u32
    mmap_addr: u32
    drives_length: u32
    drives_addr: u32
    config_table: u32
    boot_loader_name: u32
    apm_table: u32
    vbe_control_info: u32
    vbe_mode_info: u32
    vbe_mode: u32               # two words, and two more
    vbe_interface: u32


class MultibootModule(Layout):
    """An entry of the list of modules. 16 bytes."""

    mod_start: u32
    mod_end: u32                # behind its last byte
    string: u32
    reserved: u32


class MultibootRange(Layout):
    """An entry of the memory map. 24 bytes."""

    size: u32                   # of what follows: 20
    base_addr: u64
    length: u64
    type: u32                   # as E820 has it


class MultibootSections(Layout):
    """What the loader must know of an ELF kernel's sections; ours, in front of them in `Image.setup`."""

    count: u32
    entry_size: u32
    names: u32                  # index of the section with the names
    table_size: u32             # bytes; contents follow
