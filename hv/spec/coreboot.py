"""What coreboot leaves for the program that it starts, its "payload": coreboot "coreboot_tables.h".

A header, and behind it records of which each says its own size. They are where older programs look for SMBIOS, too.
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, raw, u32, u64
from hv.spec.numbering import Numbering

SIGNATURE = b"LBIO"
IO_PORTS = 1                    # of CorebootSerial: its registers are ports


class CorebootTag(Numbering):
    """What a record is, LB_TAG_*."""

    MEMORY = 0x01
    SERIAL = 0x0F


class CorebootHeader(Layout):
    """lb_header. On 16 bytes in the first page or in the BIOS area."""

    signature: raw[4]
    header_bytes: u32
    header_checksum: u32        # over the header with 0 here
    table_bytes: u32            # of the records
    table_checksum: u32         # over the records
    table_entries: u32


class CorebootRecord(Layout):
    """lb_record: how every record begins."""

    tag: u32                    # CorebootTag
    size: u32                   # bytes, with these


class CorebootRange(Layout):
    """lb_memory_range: one part of the memory map."""

    start: u64
    size: u64
    type: u32                   # as of E820


class CorebootSerial(Layout):
    """lb_serial, without its beginning: the serial port for the console."""

    type: u32                   # IO_PORTS
    base: u32
    baud: u32
    register_width: u32         # bytes from one register to the next
    input_hz: u32               # what the divisor divides, 16 times too fast
    pci_address: u32            # 0: not on PCI
