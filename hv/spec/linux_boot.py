"""What a Linux kernel and its boot loader tell each other: the setup header of a bzImage, and the zero page.

Linux "The Linux/x86 Boot Protocol" (Documentation/arch/x86/boot.rst) and "Zero Page" (zero-page.rst). A field holds
something from the protocol version on that its comment names; the header says which version it is of.
"""

# mypy: disable-error-code="valid-type, type-arg"

from __future__ import annotations

from enum import IntEnum, IntFlag

from hv.spec.layout import Layout, array, raw, u8, u16, u32, u64

SETUP_HEADER = 0x1F1            # its offset, in the file and in the zero page alike
SECTOR = 512
BOOT_FLAG = 0xAA55
HEADER_MAGIC = b"HdrS"
ENTRY_64 = 0x200                # of the protected-mode kernel: where 64-bit code is entered
DEFAULT_SETUP_SECTORS = 4       # what a count of 0 means
DEFAULT_LOAD_GPA = 0x100000     # of a kernel that is loaded high
DEFAULT_COMMAND_LINE = 255      # characters, before 2.06
DEFAULT_INITRD_LIMIT = 0x37FF_FFFF          # before 2.03
UNDEFINED_LOADER = 0xFF         # type_of_loader of one without a number of its own
BOOT_CS, BOOT_DS = 0x10, 0x18   # selectors the kernel is entered with
MOST_E820_ENTRIES = 128         # of the zero page
E820_RAM, E820_RESERVED, E820_ACPI, E820_NVS = 1, 2, 3, 4


class ProtocolVersion(IntEnum):
    """Versions that brought a field which is read here."""

    INITRD_LIMIT = 0x203
    RELOCATABLE = 0x205
    COMMAND_LINE_SIZE = 0x206
    PAYLOAD = 0x208
    PREFERRED_ADDRESS = 0x20A
    EXTENDED_FLAGS = 0x20C


class LoadFlags(IntFlag):
    """`loadflags`."""

    LOADED_HIGH = 1 << 0        # the protected-mode code goes to 1 MiB, not 64 KiB: a bzImage
    KASLR = 1 << 1              # the kernel was moved by its own decompressor, which says so to it
    QUIET = 1 << 5
    KEEP_SEGMENTS = 1 << 6
    CAN_USE_HEAP = 1 << 7


class ExtendedLoadFlags(IntFlag):
    """`xloadflags`."""

    KERNEL_64 = 1 << 0          # there is a 64-bit entry, at ENTRY_64
    ABOVE_4G = 1 << 1


class SetupHeader(Layout):
    """What the kernel says of itself, and where its loader answers; offsets of 0x1F1 on. 123 bytes."""

    setup_sects: u8             # sectors of real-mode code behind the first one
    root_flags: u16
    syssize: u32                # of the protected-mode code, in 16 bytes
    ram_size: u16
    vid_mode: u16
    root_dev: u16
    boot_flag: u16              # BOOT_FLAG
    jump: u16                   # EB nn: the header ends nn bytes behind it
    header: u32                 # HEADER_MAGIC
    version: u16                # 0x020F is 2.15
    realmode_swtch: u32
    start_sys_seg: u16
    kernel_version: u16
    type_of_loader: u8          # from here on the loader writes, where it says so
    loadflags: u8
    setup_move_size: u16
    code32_start: u32
    ramdisk_image: u32          # loader
    ramdisk_size: u32           # loader
    bootsect_kludge: u32
    heap_end_ptr: u16
    ext_loader_ver: u8
    ext_loader_type: u8
    cmd_line_ptr: u32           # loader
    initrd_addr_max: u32        # 2.03: the highest address of the initrd's last byte
    kernel_alignment: u32       # 2.05
    relocatable_kernel: u8      # 2.05
    min_alignment: u8           # 2.10, power of two
    xloadflags: u16             # 2.12
    cmdline_size: u32           # 2.06: characters, without the zero behind them
    hardware_subarch: u32       # 2.07
    hardware_subarch_data: u64
    payload_offset: u32         # 2.08: from the start of the protected-mode code
    payload_length: u32         # 2.08
    setup_data: u64             # 2.09: a list of the loader's, 0 is none
    pref_address: u64           # 2.10: where it likes to be loaded
    init_size: u32              # 2.10: bytes it needs from there on, before it can look at the memory map
    handover_offset: u32        # 2.11
    kernel_info_offset: u32     # 2.15


class E820Entry(Layout):
    """One range of the memory map; ACPI "Address Range Descriptor Structure". 20 bytes."""

    address: u64
    size: u64
    type: u32                   # E820_RAM ...


class ZeroPage(Layout):
    """`struct boot_params`: the page RSI points to. 4096 bytes."""

    screen_info: raw[0x40]      # all zero: there is no screen
    apm_bios_info: raw[0x14]
    padding_54: u32
    tboot_addr: u64
    ist_info: raw[0x10]
    acpi_rsdp_addr: u64         # 0: the kernel looks for it in the BIOS area
    padding_78: u64
    hd0_info: raw[0x10]
    hd1_info: raw[0x10]
    sys_desc_table: raw[0x10]
    olpc_ofw_header: raw[0x10]
    ext_ramdisk_image: u32      # bits 63:32
    ext_ramdisk_size: u32
    ext_cmd_line_ptr: u32
    padding_cc: raw[0x70]
    cc_blob_address: u32
    edid_info: raw[0x80]
    efi_info: raw[0x20]
    alt_mem_k: u32
    scratch: u32
    e820_entries: u8
    eddbuf_entries: u8
    edd_mbr_sig_buf_entries: u8
    kbd_status: u8
    secure_boot: u8
    padding_1ed: u16
    sentinel: u8                # not 0: a loader has left rubbish here
    padding_1f0: u8
    hdr: SetupHeader
    padding_26c: raw[0x24]
    edd_mbr_sig_buffer: raw[0x40]
    e820_table: array[E820Entry, MOST_E820_ENTRIES]
    padding_cd0: raw[0x30]
    eddbuf: raw[0x1EC]
    padding_eec: raw[0x114]
