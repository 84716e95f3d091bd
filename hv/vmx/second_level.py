"""Guest-physical memory as a processor sees it: through the EPT, and through what was cached of it.

Translations used once are kept until INVEPT, here for the accesses that the processor makes in software (event
delivery, page walks) and in the engine for those of guest code. So both see the same stale translation, as on silicon;
SDM "Invalidating Cached Translation Information".
"""

from __future__ import annotations

import struct
from typing import Protocol

from hv.machine.engine import Translation
from hv.machine.faults import Access, NestedFault
from hv.machine.ram import PhysicalMemory
from hv.vmx.ept import EptTables, EptWalk

_PAGE = 0xFFF
_READ, _WRITE, _EXECUTE = Access.READ.value, Access.WRITE.value, Access.EXECUTE.value
_U64 = struct.Struct("<Q")


class MmioPort(Protocol):
    """System-physical addresses that are not RAM."""

    def contains(self, spa: int) -> bool: ...
    def read(self, spa: int, size: int) -> int: ...
    def write(self, spa: int, size: int, value: int) -> None: ...


class SecondLevel:
    """*ept* as an access path: `load` and `store` for software, `answer` for the engine."""

    def __init__(self, ept: EptTables, memory: PhysicalMemory, mmio: MmioPort) -> None:
        self.ept, self.memory, self.mmio = ept, memory, mmio
        self._ram, self._last_page = memory.view, memory.size - _PAGE
        self._cache: dict[int, tuple[int, int]] = {}        # gpa page -> (spa of the page, rights)
        self.generation = 0                                 # of what is cached: counts the calls of `invept`
        self._large: set[int] = set()                       # gpa pages in the cache that belong to a 2 MiB page

    def invept(self) -> None:
        """Forget what was cached."""
        self.generation += 1
        self._cache.clear()
        self._large.clear()

    def walk(self, gpa: int) -> EptWalk:
        """What the tables say now, whatever is cached."""
        return self.ept.walk(gpa)

    def translate(self, gpa: int, access: int) -> int:
        """The spa behind *gpa*; NestedFault when *access* (bits of `Access`) is refused."""
        found = self._cache.get(gpa >> 12)
        if found is None:
            walk = self.ept.walk(gpa)
            if walk.spa is None:
                raise NestedFault(gpa, Access(access))
            found = self._cache[gpa >> 12] = (walk.spa & ~_PAGE, int(walk.rights))
            if walk.page_size > _PAGE + 1:
                self._large.add(gpa >> 12)
        if access & ~found[1]:
            raise NestedFault(gpa, Access(access))
        return found[0] | gpa & _PAGE

    def answer(self, gpa: int, access: int) -> Translation | None:
        """For the engine: the spa of the page, whether it may be written and executed, and whether all of its 2 MiB may
        be entered at once; None when *access* is refused."""
        try:
            spa = self.translate(gpa, access)
        except NestedFault:
            return None
        rights = self._cache[gpa >> 12][1]
        return spa & ~_PAGE, bool(rights & _WRITE), bool(rights & _EXECUTE), gpa >> 12 in self._large

    def load(self, gpa: int, size: int) -> int:
        """The little-endian integer of *size* bytes at *gpa*, which do not cross a page."""
        found = self._cache.get(gpa >> 12)
        if found is not None and found[1] & _READ and found[0] < self._last_page:       # the usual
            spa = found[0] | gpa & _PAGE
            if size == 8:
                entry: int = _U64.unpack_from(self._ram, spa)[0]
                return entry
            return int.from_bytes(self._ram[spa : spa + size], "little")
        spa = self.translate(gpa, _READ)
        if spa + size <= self.memory.size:
            return self.memory.read_u64(spa) if size == 8 else int.from_bytes(self.memory.read(spa, size), "little")
        return self.mmio.read(spa, size)

    def store(self, gpa: int, value: int, size: int) -> None:
        """Store *size* bytes at *gpa*, which do not cross a page."""
        found = self._cache.get(gpa >> 12)
        spa = found[0] | gpa & _PAGE if found is not None and found[1] & _WRITE else self.translate(gpa, _WRITE)
        if spa + size <= self.memory.size:
            self.memory.write(spa, value.to_bytes(size, "little"))
        else:
            self.mmio.write(spa, size, value)
