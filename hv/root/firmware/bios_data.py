"""The BIOS data area at 0x400, and the first byte of its extension. "IBM PC/AT Technical Reference", "BIOS Data Area".

# Simplified: no interrupt of a BIOS is there, so only what programs look up themselves: COM1, the size of conventional
memory, and where the extension is.
"""

from __future__ import annotations

from hv.spec.pc import COM1_PORTS, EBDA_GPA, LEGACY_HOLE

DATA_AREA_GPA, DATA_AREA_SIZE = 0x400, 0x100
_COM1, _EXTENSION, _EQUIPMENT, _MEMORY = 0x00, 0x0E, 0x10, 0x13     # words
_ONE_SERIAL_PORT = 1 << 9


def data_area() -> bytes:
    """The 256 bytes of the area."""
    area = bytearray(DATA_AREA_SIZE)
    words = {_COM1: COM1_PORTS.start, _EXTENSION: EBDA_GPA >> 4, _EQUIPMENT: _ONE_SERIAL_PORT, _MEMORY: EBDA_GPA >> 10}
    for offset, word in words.items():
        area[offset : offset + 2] = word.to_bytes(2, "little")
    return bytes(area)


def extension() -> bytes:
    """Its size in KiB."""
    return bytes([LEGACY_HOLE.start - EBDA_GPA >> 10])
