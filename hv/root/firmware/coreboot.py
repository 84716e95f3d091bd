"""The tables of coreboot, for payloads: GRUB, built for coreboot, takes its memory from them. "coreboot_tables.h"."""

from __future__ import annotations

from hv.root.memory_map import MemoryMap
from hv.spec.coreboot import (
    IO_PORTS,
    SIGNATURE,
    CorebootHeader,
    CorebootRange,
    CorebootRecord,
    CorebootSerial,
    CorebootTag,
)
from hv.spec.pc import COM1_PORTS

_BAUD, _INPUT_HZ = 115_200, 1_843_200


def tables(memory: MemoryMap) -> bytes:
    """Header and records: the map of *memory*, which has to be whole, and the serial port."""
    ranges = b"".join(CorebootRange(start=part.start, size=part.size, type=part.kind).pack() for part in memory.parts)
    serial = CorebootSerial(type=IO_PORTS, base=COM1_PORTS.start, baud=_BAUD, register_width=1, input_hz=_INPUT_HZ)
    records = [_record(CorebootTag.MEMORY, ranges), _record(CorebootTag.SERIAL, serial.pack())]
    body = b"".join(records)
    header = CorebootHeader(signature=SIGNATURE, header_bytes=CorebootHeader.SIZE, table_bytes=len(body),
                            table_checksum=checksum(body), table_entries=len(records))
    header.header_checksum = checksum(header.pack())
    return header.pack() + body


def _record(tag: CorebootTag, body: bytes) -> bytes:
    return CorebootRecord(tag=tag, size=CorebootRecord.SIZE + len(body)).pack() + body


def checksum(data: bytes) -> int:
    """The sum of IP: of 16-bit words with the carries added, and inverted. RFC 1071 "Introduction"."""
    total = sum(int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
