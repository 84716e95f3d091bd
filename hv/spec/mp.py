"""Processors and interrupts for programs that know no ACPI: Intel "MultiProcessor Specification" 1.4."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, raw, u8, u16, u32
from hv.spec.numbering import Numbering

POINTER_SIGNATURE, TABLE_SIGNATURE = b"_MP_", b"PCMP"
REVISION = 4
EVERY_LOCAL_APIC = 0xFF
LARGEST_APIC_ID = 0xFE          # what an entry can say


class MpEntry(Numbering):
    """"Base MP Configuration Table Entry Types"."""

    PROCESSOR = 0
    BUS = 1
    IO_APIC = 2
    IO_INTERRUPT = 3
    LOCAL_INTERRUPT = 4


class MpInterruptType(Numbering):
    """"Interrupt Type Values"."""

    INT = 0
    NMI = 1
    SMI = 2
    EXT_INT = 3


class MpFloatingPointer(Layout):
    """"MP Floating Pointer Structure". On 16 bytes in the EBDA or the BIOS area."""

    signature: raw[4]
    table: u32
    length: u8                  # in 16 bytes
    revision: u8
    checksum: u8                # all bytes add up to 0
    features: raw[5]            # the first: 0, there is a table; bit 7 of the second: IMCR is there


class MpTable(Layout):
    """"MP Configuration Table Header"."""

    signature: raw[4]
    length: u16                 # bytes of header and entries
    revision: u8
    checksum: u8                # all of these add up to 0
    oem_id: raw[8]
    product_id: raw[12]
    oem_table: u32
    oem_table_size: u16
    entry_count: u16
    local_apic: u32
    extended_length: u16
    extended_checksum: u8
    reserved: u8


class MpProcessor(Layout):
    """"Processor Entries"."""

    type: u8
    apic_id: u8
    apic_version: u8
    flags: u8                   # bit 0 usable, bit 1 the bootstrap processor
    signature: u32              # EAX of CPUID leaf 1
    features: u32               # EDX of it
    reserved: raw[8]


class MpBus(Layout):
    """"Bus Entries"."""

    type: u8
    bus_id: u8
    name: raw[6]                # filled up with blanks


class MpIoApic(Layout):
    """"I/O APIC Entries"."""

    type: u8
    apic_id: u8
    version: u8
    flags: u8                   # bit 0: usable
    address: u32


class MpInterrupt(Layout):
    """"I/O Interrupt Assignment Entries", "Local Interrupt Assignment Entries"."""

    type: u8
    interrupt_type: u8          # MpInterruptType
    flags: u16                  # polarity and trigger, as in ACPI's MpsInti
    bus_id: u8
    source: u8                  # line; of PCI, pin and 4 * device
    apic_id: u8
    pin: u8
