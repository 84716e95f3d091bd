"""Where the firmware's things are: pointers and small tables in the BIOS area, those of ACPI at the end of memory.

ACPI "Finding the RSDP on IA-PC Systems", "System Address Map Interfaces"; SMBIOS "Accessing SMBIOS Information"; MPS
"MP Floating Pointer Structure"; coreboot's tables where its payloads look for them.
"""

from __future__ import annotations

from typing import NamedTuple

from hv.root.firmware import bios_data, coreboot, mp_table
from hv.root.firmware.acpi import tables as acpi
from hv.root.firmware.board import Board
from hv.root.firmware.smbios import smbios
from hv.root.memory_map import MemoryMap
from hv.spec.linux_boot import E820_NVS
from hv.spec.pc import BIOS_GPA, EBDA_GPA, LEGACY_HOLE
from hv.spec.x86 import PAGE_SIZE

RSDP_GPA = BIOS_GPA
SMBIOS_GPA, SMBIOS_64_GPA, MP_GPA = 0xF0000, 0xF0020, 0xF0040
SMBIOS_TABLE_GPA, MP_TABLE_GPA = 0xF0100, 0xF1000
COREBOOT_GPA = 0xF2010          # every payload finds it: some look at each 16th byte from F0000 on, GRUB at each 24th
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
    return Placed({RSDP_GPA: tables.rsdp, gpa: tables.rest, COREBOOT_GPA: coreboot.tables(memory),
                   **_for_old_programs(memory.memory_bytes, board)}, RSDP_GPA)


def _for_old_programs(memory_bytes: int, board: Board) -> dict[int, bytes]:
    """SMBIOS and the MP table, which are looked for in the last 64 KiB below 1 MiB, and what a BIOS keeps at 0x400."""
    tables = smbios(board, memory_bytes, SMBIOS_TABLE_GPA)
    return {bios_data.DATA_AREA_GPA: bios_data.data_area(), EBDA_GPA: bios_data.extension(),
            SMBIOS_GPA: tables.entry_32, SMBIOS_64_GPA: tables.entry_64, SMBIOS_TABLE_GPA: tables.table,
            MP_GPA: mp_table.pointer(MP_TABLE_GPA), MP_TABLE_GPA: mp_table.table(board)}
