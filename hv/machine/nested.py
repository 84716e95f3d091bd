"""The engine's nested page tables: a cache of second-level translations, and nothing more.

The truth is the partition's EPT in physical RAM. The engine cannot read that format, so this mirror in its own format
plays the part of the silicon's TLB: empty at first, filled one page at a time when the engine asks, and
dropped at INVEPT. A translation that is in here stays visible until then, as on silicon (SDM "Caching Translation
Information").

A page is first entered by a second address of the same RAM (*alias*), from which the engine refuses to fetch; when the
guest does fetch from it and may, it is entered again by its own address. So the machine knows from which
pages translated code exists. The format's own NX bit is never set: the engine dereferences a null pointer when a guest
uses such a page as a page table, so a guest could end the process with it.
"""

from __future__ import annotations

import struct

PRESENT, WRITABLE, USER = 1, 2, 4
_ADDRESS = 0x000F_FFFF_FFFF_F000
LARGE = 2 << 20


class NestedTables:
    """Four-level tables at engine address *base*, kept in *memory* (writable, a multiple of 4096 bytes)."""

    def __init__(self, memory: memoryview, base: int, alias: int) -> None:
        self._alias = alias
        self._words = memory.cast("Q")
        self._bytes = memory
        self._base = base
        self._pages = len(memory) // 4096
        self.executable: set[int] = set()           # system-physical pages that code may be fetched from
        self._aliased: dict[int, int] = {}          # system-physical page -> guest-physical page, where not executable
        self._aliased_large: dict[int, int] = {}    # the same in units of 2 MiB
        self.clear()

    @property
    def root(self) -> int:
        """Engine address of the top table."""
        return self._base

    def clear(self) -> None:
        """Forget every translation (INVEPT). The caller flushes the engine's own TLB."""
        used = getattr(self, "_used", 0)
        self._bytes[: used * 4096] = bytes(used * 4096)
        self._used = 1
        self.executable.clear()
        self._aliased.clear()
        self._aliased_large.clear()

    def fill(self, gpa: int, spa: int, writable: bool, executable: bool) -> None:
        """Enter the page of *gpa*."""
        table = self._table_of(gpa)
        entry = (spa & _ADDRESS) + (0 if executable else self._alias)
        self._words[table * 512 + (gpa >> 12 & 511)] = entry | PRESENT | USER | (WRITABLE if writable else 0)
        if executable:
            self.executable.add(spa >> 12)
        else:
            self._aliased[spa >> 12] = gpa >> 12
            self.executable.discard(spa >> 12)

    def fill_large(self, gpa: int, spa: int, writable: bool) -> None:
        """Enter all pages of the 2 MiB at *gpa* and *spa* (multiples of 2 MiB), none of them executable yet."""
        table = self._table_of(gpa)
        flags = PRESENT | USER | (WRITABLE if writable else 0)
        first = spa + self._alias | flags
        entries = struct.pack("<512Q", *range(first, first + LARGE, 4096))
        self._bytes[table * 4096 : (table + 1) * 4096] = entries
        self._aliased_large[spa // LARGE] = gpa // LARGE
        for page in self.executable.intersection(range(spa >> 12, spa + LARGE >> 12)):
            self._words[table * 512 + (page & 511)] = page << 12 | flags

    def aliased(self, spa: int) -> int | None:
        """The guest-physical address that *spa* was entered for without execute permission."""
        if spa >> 12 in self._aliased:
            return self._aliased[spa >> 12] << 12 | spa & 0xFFF
        large = self._aliased_large.get(spa // LARGE)
        return None if large is None else large * LARGE + spa % LARGE

    def _table_of(self, gpa: int) -> int:
        """Number of the last-level table of *gpa*, made if need be. A full mirror is dropped first: it is only a cache."""
        if self._used + 3 > self._pages:
            self.clear()
        table = 0
        for shift in (39, 30, 21):
            slot = table * 512 + (gpa >> shift & 511)
            entry = self._words[slot]
            if not entry:
                entry = self._base + self._used * 4096 | PRESENT | WRITABLE | USER
                self._used += 1
                self._words[slot] = entry
            table = ((entry & _ADDRESS) - self._base) >> 12
        return table

    def drop(self, gpa: int) -> bool:
        """Forget the page of *gpa*; False when it was not here. The caller flushes the engine's own TLB."""
        table = 0
        for shift in (39, 30, 21):
            entry = self._words[table * 512 + (gpa >> shift & 511)]
            if not entry:
                return False
            table = ((entry & _ADDRESS) - self._base) >> 12
        slot = table * 512 + (gpa >> 12 & 511)
        known = bool(self._words[slot])
        self._words[slot] = 0
        return known
