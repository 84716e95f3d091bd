"""Where the firmware's things are: the root pointer in the BIOS area, the tables at the end of memory.

ACPI "Finding the RSDP on IA-PC Systems", "System Address Map Interfaces".
"""

from __future__ import annotations

from typing import NamedTuple

from hv.root.firmware.acpi import tables as acpi
from hv.root.firmware.board import Board
from hv.root.memory_map import MemoryMap
from hv.spec.linux_boot import E820_NVS
from hv.spec.pc import BIOS_GPA, LEGACY_HOLE
from hv.spec.x86 import PAGE_SIZE

RSDP_GPA = BIOS_GPA
SMALLEST_MEMORY = LEGACY_HOLE.stop + (1 << 20)      # bytes: with less, there is no room above the BIOS area


class Placed(NamedTuple):
    """What is to be written, by its address, and where the ACPI tables begin: 0 when there are none."""

    memory: dict[int, bytes]
    rsdp: int


NOTHING = Placed({}, 0)


def place(memory: MemoryMap, board: Board) -> Placed:
    """Everything for *board*; its room is taken from *memory*. A VM with less than SMALLEST_MEMORY gets nothing."""
    if memory.memory_bytes < SMALLEST_MEMORY:
        return NOTHING
    # The kind that nobody may use for something else once it has read the tables: the FACS is among them.
    gpa = memory.reserve_top(-(-acpi.size(board) // PAGE_SIZE) * PAGE_SIZE, E820_NVS)
    tables = acpi.tables(board, gpa)
    return Placed({RSDP_GPA: tables.rsdp, gpa: tables.rest}, RSDP_GPA)
