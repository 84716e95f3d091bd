"""Which guest-physical addresses are RAM for a program of a PC, and which are somebody's: the map that firmware gives.

ACPI "System Address Map Interfaces"; the E820 types.
"""

from __future__ import annotations

from typing import NamedTuple

from hv.spec.linux_boot import E820_RAM, E820_RESERVED
from hv.spec.pc import EBDA_GPA, ECAM_BUSES, ECAM_GPA, LEGACY_HOLE

_BUS_BYTES = 1 << 20            # of PCI Express configuration space, for each bus


class Part(NamedTuple):
    """*size* bytes from *start* on are of *kind* (E820)."""

    start: int
    size: int
    kind: int


class MemoryMap:
    """The map of a VM with *memory_bytes*, which are one piece; `parts` are in order and do not overlap.

    The last bytes may be taken by firmware (`reserve_top`); what is below `low_end` and above 1 MiB is free.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = self.low_end = memory_bytes
        self._reserved: list[Part] = []

    def reserve_top(self, size: int, kind: int) -> int:
        """*size* more bytes (a multiple of a page) at the end are *kind*; where they begin."""
        self.low_end -= size
        self._reserved.insert(0, Part(self.low_end, size, kind))
        return self.low_end

    @property
    def parts(self) -> list[Part]:
        """All of them. Linux believes in PCI Express configuration space only where it is reserved."""
        high = LEGACY_HOLE.stop
        free = [Part(high, self.low_end - high, E820_RAM)] if self.low_end > high else []
        return [Part(0, EBDA_GPA, E820_RAM), Part(EBDA_GPA, high - EBDA_GPA, E820_RESERVED), *free, *self._reserved,
                Part(ECAM_GPA, ECAM_BUSES * _BUS_BYTES, E820_RESERVED)]
