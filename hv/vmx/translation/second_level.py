"""Guest-physical memory as a virtual processor sees it: through the EPT of its VMCS, and through what was cached of it.

Translations used once are kept (`cached.py`) until INVEPT, here for the accesses that the processor makes in software
(event delivery, page walks) and in the engine for those of guest code. So both see the same stale translation, as on
silicon; SDM "Invalidating Cached Translation Information". An access that a cached translation refuses goes by the
tables once more: what became more permissive needs no INVEPT.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from hv.machine.engine import Translation
from hv.machine.faults import Access, NestedFault
from hv.spec.x86 import LARGE_PAGE_SIZE, LARGE_PAGES, PAGE_SIZE
from hv.vmx.translation.cached import CachedMappings
from hv.vmx.translation.ept_walk import EptWalk, is_dirty, keeps_flags, mark_used, walk

_PAGE = 0xFFF
NO_PAGE = -1
_READ, _WRITE, _EXECUTE = Access.READ.value, Access.WRITE.value, Access.EXECUTE.value
_ALL = Access.READ | Access.WRITE | Access.EXECUTE
_U64 = struct.Struct("<Q")


class PageModificationLogFull(NestedFault):
    """A page is about to become dirty, and its address has no place in the log; SDM "Page-Modification Logging"."""


class SecondLevel:
    """An access path: `load` and `store` for software, `answer` for the engine.

    *eptp* is the EPT pointer, None without EPT; *vpid* is 0 without VPID. *log* takes the address of each page that
    becomes dirty, and False when it is full.
    """

    def __init__(self, cached: CachedMappings, eptp: int | None = None) -> None:
        self.cached, self.memory, self.mmio = cached, cached.memory, cached.mmio
        self._ram, self._last_page = self.memory.view, self.memory.size - _PAGE
        self.vpid = 0
        self.log: Callable[[int], bool] | None = None
        self.access_page = NO_PAGE          # number of the APIC-access page, to which nothing cached may lead
        self._accesses: dict[int, int] = {}     # gpa page that leads there -> rights
        self._accesses_of = 0                   # the generation in which they were found
        self.eptp = eptp
        self._use(eptp)

    def _use(self, eptp: int | None) -> None:
        self.eptp = eptp
        self.keeps_flags = eptp is not None and keeps_flags(eptp)
        self._cache, self._large = self.cached.of(eptp)

    def select(self, eptp: int | None, vpid: int, log: Callable[[int], bool] | None = None) -> None:
        """What the VMCS says now; in force at once, also in the middle of an exit."""
        self.log = log
        if eptp == self.eptp and vpid == self.vpid:
            return
        if vpid != self.vpid and self.cached.entered is self:
            self.cached.flush_linear()
        self.vpid = vpid
        self._use(eptp)
        self._changed()

    def use_access_page(self, page: int) -> None:
        """The APIC-access page is another, or none any more (NO_PAGE)."""
        if page != self.access_page:
            self.access_page = page
            self._changed()

    def _changed(self) -> None:
        """What was found out before may not be true any more."""
        if self.cached.entered is self:
            self.cached.enter(self)
        else:
            self.cached.generation += 1

    def access_rights(self, gpa: int) -> int | None:
        """What may be done at *gpa*, if it is known to lead to the APIC-access page: bits of `Access`."""
        if self._accesses_of != self.cached.generation:
            self._accesses.clear()
            return None
        return self._accesses.get(gpa >> 12)

    def walk(self, gpa: int) -> EptWalk:
        """What the tables say now, whatever is cached."""
        if self.eptp is None:
            return EptWalk(gpa, gpa, _ALL, (), "", PAGE_SIZE)
        return walk(self.memory, self.eptp, gpa, self.cached.capabilities)

    def translate(self, gpa: int, access: int) -> int:
        """The spa behind *gpa*; NestedFault when *access* (bits of `Access`) is refused."""
        found = self._cache.get(gpa >> 12)
        if found is None or access & ~found[1]:
            found = self._look(gpa, access)
        return found[0] | gpa & _PAGE

    def _look(self, gpa: int, access: int) -> tuple[int, int]:
        """Go by the tables, and keep what they say."""
        if self.access_rights(gpa) is not None:
            raise NestedFault(gpa, Access(access))
        found = self.walk(gpa)
        rights = int(found.rights)
        if found.spa is None or access & ~rights:
            raise NestedFault(gpa, Access(access))
        if found.spa >> 12 == self.access_page:
            self._accesses[gpa >> 12], self._accesses_of = rights, self.cached.generation
            raise NestedFault(gpa, Access(access))      # `intercepts/memory.py` tells the difference
        if self.keeps_flags and not self._mark(found, access):
            rights &= ~_WRITE               # the first write comes here again
        if found.page_size > PAGE_SIZE and found.spa // LARGE_PAGE_SIZE != self.access_page // LARGE_PAGES:
            self._large.add(gpa >> 12)
        else:
            self._large.discard(gpa >> 12)
        entry, before = (found.spa & ~_PAGE, rights), self._cache.get(gpa >> 12)
        if before is not None and before[0] != entry[0]:
            self.cached.generation += 1
        self._cache[gpa >> 12] = entry
        return entry

    def drop(self, gpa: int) -> None:
        """Forget what was cached of the page of *gpa*: an EPT violation does."""
        self.cached.drop(self.eptp, gpa)

    def _mark(self, found: EptWalk, access: int) -> bool:
        """Keep the accessed and dirty flags of what *found* used; True when the page is dirty now."""
        write, dirty = bool(access & _WRITE), is_dirty(found)
        if write and not dirty and self.log is not None and not self.log(found.gpa & ~_PAGE):
            raise PageModificationLogFull(found.gpa, Access(access))
        mark_used(self.memory, found, write)
        return write or dirty

    def answer(self, gpa: int, access: int) -> Translation | None:
        """For the engine: the spa of the page, whether it may be read, written and executed, and whether all of its
        2 MiB may be entered at once; None when *access* is refused."""
        try:
            spa = self.translate(gpa, access) & ~_PAGE
        except NestedFault:
            return None
        rights = self._cache[gpa >> 12][1]
        large = gpa >> 12 in self._large and spa | LARGE_PAGE_SIZE - 1 < self.memory.size
        return spa, bool(rights & _READ), bool(rights & _WRITE), bool(rights & _EXECUTE), large

    def load(self, gpa: int, size: int) -> int:
        """The little-endian integer of *size* bytes at *gpa*, which do not cross a page."""
        found = self._cache.get(gpa >> 12)
        if found is not None and found[1] & _READ and found[0] < self._last_page:       # the usual
            spa = found[0] | gpa & _PAGE
            if size == 8:
                entry: int = _U64.unpack_from(self._ram, spa)[0]
                return entry
            return int.from_bytes(self._ram[spa : spa + size], "little")
        return self._read(self.translate(gpa, _READ), size)

    def _read(self, spa: int, size: int) -> int:
        if spa + size <= self.memory.size:
            return int.from_bytes(self.memory.read(spa, size), "little")
        return self.mmio.read(spa, size)

    def load_entry(self, gpa: int, size: int) -> int:
        """`load` for a guest's paging-structure entry, which counts as a write when accessed and dirty flags are kept.

        SDM "Accessed and Dirty Flags for EPT".
        """
        if self.keeps_flags:
            found = self._cache.get(gpa >> 12)
            if found is None or not found[1] & _WRITE:
                self.translate(gpa, _READ | _WRITE)
        return self.load(gpa, size)

    def fetch(self, gpa: int, size: int) -> int:
        """`load` for code: an execute-only page may be fetched from."""
        return self._read(self.translate(gpa, _EXECUTE), size)

    def store(self, gpa: int, value: int, size: int) -> None:
        """Store *size* bytes at *gpa*, which do not cross a page."""
        self.store_bytes(gpa, value.to_bytes(size, "little"))

    def store_bytes(self, gpa: int, data: bytes) -> None:
        """The same with the bytes themselves."""
        found = self._cache.get(gpa >> 12)
        spa = found[0] | gpa & _PAGE if found is not None and found[1] & _WRITE else self.translate(gpa, _WRITE)
        if spa + len(data) <= self.memory.size:
            self.memory.write(spa, data)
        else:
            self.mmio.write(spa, len(data), int.from_bytes(data, "little"))
