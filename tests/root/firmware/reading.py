"""A reader of firmware tables of our own: offsets as the manuals print them, and nothing of `hv.spec`."""

import struct
from typing import NamedTuple

from hv.root.firmware.board import Board, RemappingUnit, Scope
from hv.root.firmware.place import Placed, place
from hv.root.memory_map import MemoryMap

MEMORY = 64 << 20
SMALL = Board(2)
UNIT = RemappingUnit(0xFED90000, 46, remaps_interrupts=True, includes_all=True, scopes=(Scope(3, 0xF0F8, 0xFF),))
FULL = Board(4, 0x306A9, 0x0F8BFBFF, has_pci=True, has_keyboard=True, hpet_block_id=0x8086A201, iommu=UNIT)


class Table(NamedTuple):
    """A table as it stands in memory."""

    gpa: int
    data: bytes

    def number(self, offset, size):
        return int.from_bytes(self.data[offset : offset + size], "little")

    @property
    def sum(self):
        return sum(self.data) & 0xFF


def memory_of(placed: Placed) -> bytearray:
    memory = bytearray(MEMORY)
    for gpa, data in placed.memory.items():
        memory[gpa : gpa + len(data)] = data
    return memory


def firmware(board, memory_bytes=MEMORY):
    """(memory map, memory) with the firmware of *board* in it."""
    memory_map = MemoryMap(memory_bytes)
    return memory_map, memory_of(place(memory_map, board))


def find(memory, magic, start, end, step=16):
    """Where *magic* is, as a program looks for it."""
    return next((gpa for gpa in range(start, end, step) if memory[gpa : gpa + len(magic)] == magic), None)


def table_at(memory, gpa):
    return Table(gpa, bytes(memory[gpa : gpa + struct.unpack_from("<I", memory, gpa + 4)[0]]))


def tables(memory):
    """{signature: table} of all that can be reached from the root pointer by the XSDT."""
    root = find(memory, b"RSD PTR ", 0xE0000, 0x100000)
    xsdt = table_at(memory, struct.unpack_from("<Q", memory, root + 24)[0])
    gpas = struct.unpack_from(f"<{(len(xsdt.data) - 36) // 8}Q", xsdt.data, 36)
    found = {"XSDT": xsdt} | {table_at(memory, gpa).data[:4].decode(): table_at(memory, gpa) for gpa in gpas}
    fadt = found["FACP"]
    return found | {"FACS": table_at(memory, fadt.number(36, 4)), "DSDT": table_at(memory, fadt.number(140, 8))}
