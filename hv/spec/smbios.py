"""What a PC is made of, as its firmware tells: "System Management BIOS (SMBIOS) Reference Specification" 3.x.

Each structure is followed by its strings, zero-ended, and one more zero byte; a field that is a string holds its
number, from 1 on.
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, raw, u8, u16, u32, u64
from hv.spec.numbering import Numbering

ANCHOR_32, ANCHOR_DMI, ANCHOR_64 = b"_SM_", b"_DMI_", b"_SM3_"
DMI_OFFSET = 0x10               # of ANCHOR_DMI in the 32-bit entry point: from there on the second sum is


class SmbiosType(Numbering):
    """"Structure Definitions"."""

    BIOS = 0
    SYSTEM = 1
    CHASSIS = 3
    PROCESSOR = 4
    MEMORY_ARRAY = 16
    MEMORY_DEVICE = 17
    MEMORY_ARRAY_MAPPED_ADDRESS = 19
    SYSTEM_BOOT = 32
    END = 127


class EntryPoint32(Layout):
    """"SMBIOS 2.1 (32-bit) Entry Point". On 16 bytes in 0xF0000..0xFFFFF."""

    anchor: raw[4]              # ANCHOR_32
    checksum: u8                # all bytes add up to 0
    length: u8
    major: u8
    minor: u8
    largest_structure: u16      # bytes, its strings included
    revision: u8
    formatted_area: raw[5]
    dmi_anchor: raw[5]          # ANCHOR_DMI
    dmi_checksum: u8            # the bytes from dmi_anchor on add up to 0
    table_length: u16
    table_address: u32
    structure_count: u16
    bcd_revision: u8


class EntryPoint64(Layout):
    """"SMBIOS 3.0 (64-bit) Entry Point". On 16 bytes in 0xF0000..0xFFFFF."""

    anchor: raw[5]              # ANCHOR_64
    checksum: u8
    length: u8
    major: u8
    minor: u8
    docrev: u8
    revision: u8                # 1
    reserved: u8
    table_maximum_size: u32
    table_address: u64


class SmbiosHeader(Layout):
    """"Structure Header Format"."""

    type: u8                    # SmbiosType
    length: u8                  # bytes of the formatted part, this header included
    handle: u16


class SmbiosBios(SmbiosHeader):
    """"BIOS Information (Type 0)"."""

    vendor: u8
    version: u8
    starting_segment: u16       # 0: there is none
    release_date: u8
    rom_size: u8                # 64 KiB each, less one
    characteristics: u64        # bit 3: not supported; bit 7 PCI
    extension: raw[2]           # bit 0 of the first: ACPI; bit 4 of the second: a virtual machine
    major: u8                   # 0xFF: not said
    minor: u8
    controller_major: u8
    controller_minor: u8


class SmbiosSystem(SmbiosHeader):
    """"System Information (Type 1)"."""

    manufacturer: u8
    product: u8
    version: u8
    serial_number: u8
    uuid: raw[16]               # all zero: there is none
    wake_up_type: u8            # 6: power switch
    sku_number: u8
    family: u8


class SmbiosChassis(SmbiosHeader):
    """"System Enclosure or Chassis (Type 3)"."""

    manufacturer: u8
    chassis_type: u8            # 1 other, 3 desktop
    version: u8
    serial_number: u8
    asset_tag: u8
    boot_up_state: u8           # 3: safe
    power_supply_state: u8
    thermal_state: u8
    security_status: u8         # 3: none
    oem: u32
    height: u8
    power_cords: u8
    element_count: u8
    element_size: u8
    sku_number: u8


class SmbiosProcessor(SmbiosHeader):
    """"Processor Information (Type 4)"."""

    socket: u8
    processor_type: u8          # 3: central processor
    family: u8                  # 1: other
    manufacturer: u8
    processor_id: u64           # EAX and EDX of CPUID leaf 1
    version: u8
    voltage: u8
    external_clock: u16         # MHz; 0 unknown
    maximum_speed: u16          # MHz
    current_speed: u16
    status: u8                  # bit 6 populated, bits 0-2: 1 enabled
    upgrade: u8                 # 1: other
    l1_cache: u16               # handle; 0xFFFF: not said
    l2_cache: u16
    l3_cache: u16
    serial_number: u8
    asset_tag: u8
    part_number: u8
    core_count: u8              # 0xFF: core_count_2
    core_enabled: u8
    thread_count: u8
    characteristics: u16        # bit 2: 64 bits
    family_2: u16
    core_count_2: u16
    core_enabled_2: u16
    thread_count_2: u16


class SmbiosMemoryArray(SmbiosHeader):
    """"Physical Memory Array (Type 16)"."""

    location: u8                # 3: system board
    use: u8                     # 3: system memory
    error_correction: u8        # 3: none
    maximum_capacity: u32       # KiB
    error_handle: u16           # 0xFFFE: not provided
    device_count: u16
    extended_maximum_capacity: u64


class SmbiosMemoryDevice(SmbiosHeader):
    """"Memory Device (Type 17)"."""

    array_handle: u16
    error_handle: u16
    total_width: u16            # bits
    data_width: u16
    size: u16                   # MiB
    form_factor: u8             # 9: DIMM
    device_set: u8
    device_locator: u8
    bank_locator: u8
    memory_type: u8             # 7: RAM
    type_detail: u16            # bit 1: other
    speed: u16
    manufacturer: u8
    serial_number: u8
    asset_tag: u8
    part_number: u8
    attributes: u8
    extended_size: u32
    configured_speed: u16
    minimum_voltage: u16
    maximum_voltage: u16
    configured_voltage: u16


class SmbiosMappedAddress(SmbiosHeader):
    """"Memory Array Mapped Address (Type 19)"."""

    starting_address: u32       # KiB
    ending_address: u32         # KiB, of the last one
    array_handle: u16
    partition_width: u8         # devices side by side
    extended_starting_address: u64
    extended_ending_address: u64


class SmbiosBoot(SmbiosHeader):
    """"System Boot Information (Type 32)"."""

    reserved: raw[6]
    status: u8                  # 0: no errors
