"""What a boot loader and a Linux kernel for x86 say to each other.

"The Linux/x86 Boot Protocol": the setup header in the kernel's file, the page of boot parameters ("zero page") that the
loader fills, and the 64-bit entry.
"""

from __future__ import annotations

from typing import ClassVar

from hv.spec.layout import Layout, Register, bits, u8, u16, u32, u64

HEADER_OFFSET = 0x1F1           # of the setup header, in the file and in the boot parameters
BOOT_FLAG, HEADER_MAGIC = 0xAA55, int.from_bytes(b"HdrS", "little")
FIRST_64_BIT_VERSION = 0x020C   # of the protocol: xloadflags has meaning
SECTOR = 512
DEFAULT_SETUP_SECTORS = 4       # when the header says 0
ENTRY_64 = 0x200                # of the protected-mode code, behind where it is loaded
BOOT_CS, BOOT_DS = 0x10, 0x18   # selectors of the GDT that the kernel is entered with
UNDEFINED_LOADER = 0xFF         # type_of_loader of one that has no number

# Offsets in the page of boot parameters
ACPI_RSDP, E820_COUNT, E820_TABLE = 0x070, 0x1E8, 0x2D0
MOST_E820_ENTRIES = 128
PARAMETERS_SIZE = 4096


class LoadFlags(Register):
    """loadflags."""

    WIDTH: ClassVar[int] = 8
    loaded_high = bits(0)       # the protected-mode code goes to 1 MiB, not to 64 KiB
    kaslr = bits(1)
    quiet = bits(5)
    keep_segments = bits(6)
    can_use_heap = bits(7)


class XLoadFlags(Register):
    """xloadflags."""

    WIDTH: ClassVar[int] = 16
    kernel_64 = bits(0)         # there is the 64-bit entry
    above_4g = bits(1)
    efi_handover_32 = bits(2)
    efi_handover_64 = bits(3)
    efi_kexec = bits(4)
    five_level = bits(5)
    five_level_enabled = bits(6)


class SetupHeader(Layout):
    """The setup header, from HEADER_OFFSET on."""

    setup_sectors: u8
    root_flags: u16
    code_size: u32              # of the protected-mode code, in 16 bytes
    ram_size: u16
    video_mode: u16
    root_device: u16
    boot_flag: u16              # BOOT_FLAG
    jump: u16                   # its second byte is how far the header reaches behind 0x202
    magic: u32                  # HEADER_MAGIC
    version: u16                # of the protocol: 0x020F is 2.15
    realmode_switch: u32
    start_segment: u16
    kernel_version: u16         # offset of a string, less 0x200
    type_of_loader: u8
    load_flags: u8              # LoadFlags
    move_size: u16
    code32_start: u32
    ramdisk_image: u32
    ramdisk_size: u32
    boot_sector_kludge: u32
    heap_end: u16
    loader_version: u8
    loader_type: u8
    command_line: u32           # address, below 4 GiB
    initrd_address_max: u32     # of its last byte
    kernel_alignment: u32
    relocatable: u8
    minimum_alignment: u8       # power of two
    xload_flags: u16            # XLoadFlags
    command_line_size: u32      # without the zero byte at its end
    hardware_subarch: u32
    hardware_subarch_data: u64
    payload_offset: u32         # of the compressed kernel, in the protected-mode code
    payload_length: u32
    setup_data: u64
    preferred_address: u64
    init_size: u32              # memory that it needs from where it is loaded on, until it has found its own map
    handover_offset: u32
    kernel_info_offset: u32


class E820Entry(Layout):
    """One range of the memory map; "e820 map"."""

    address: u64
    size: u64
    type: u32                   # MemoryType


E820_RAM, E820_RESERVED, E820_ACPI, E820_NVS = 1, 2, 3, 4
