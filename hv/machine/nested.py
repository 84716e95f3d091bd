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
        self._aliases: dict[int, set[int]] = {}         # system-physical page -> guest-physical pages entered by alias
        self._aliases_large: dict[int, set[int]] = {}   # the same in units of 2 MiB
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
        self._aliases.clear()
        self._aliases_large.clear()

    def fill(self, gpa: int, spa: int, writable: bool, executable: bool) -> None:
        """Enter the page of *gpa*. Once code may be fetched from a page, every guest-physical address of it is entered
        by its own address: the engine would not see a write by the alias as one to its code.

        # Simplified: but for a page that is mapped twice, once with and once without execute permission.
        """
        table = self._table_of(gpa)
        entry = (spa & _ADDRESS) + (0 if executable else self._alias)
        self._words[table * 512 + (gpa >> 12 & 511)] = entry | PRESENT | USER | (WRITABLE if writable else 0)
        if executable:
            self.executable.add(spa >> 12)
            self._enter_aliases_directly(spa)
        else:
            self._aliases.setdefault(spa >> 12, set()).add(gpa >> 12)

    def _enter_aliases_directly(self, spa: int) -> None:
        pages = self._aliases.pop(spa >> 12, set())
        offset = spa % LARGE >> 12
        pages |= {large * (LARGE >> 12) + offset for large in self._aliases_large.get(spa // LARGE, ())}
        for page in pages:
            slot = self._slot(page << 12)
            entry = self._words[slot] if slot is not None else 0
            if slot is not None and entry & PRESENT and entry & _ADDRESS == spa & _ADDRESS | self._alias:
                self._words[slot] = entry - self._alias

    def fill_large(self, gpa: int, spa: int, writable: bool) -> None:
        """Enter all pages of the 2 MiB at *gpa* and *spa* (multiples of 2 MiB), none of them executable yet."""
        table = self._table_of(gpa)
        flags = PRESENT | USER | (WRITABLE if writable else 0)
        first = spa + self._alias | flags
        entries = struct.pack("<512Q", *range(first, first + LARGE, 4096))
        self._bytes[table * 4096 : (table + 1) * 4096] = entries
        self._aliases_large.setdefault(spa // LARGE, set()).add(gpa // LARGE)
        for page in self.executable.intersection(range(spa >> 12, spa + LARGE >> 12)):
            self._words[table * 512 + (page & 511)] = page << 12 | flags

    def refuses_fetch(self, gpa: int) -> bool:
        """The page of *gpa* is in here, and not by an address that code may be fetched from."""
        slot = self._slot(gpa)
        return slot is not None and bool(self._words[slot] & self._alias)

    def _slot(self, gpa: int) -> int | None:
        """Index of the last-level entry of *gpa*; None when its table is not here."""
        table = 0
        for shift in (39, 30, 21):
            entry = self._words[table * 512 + (gpa >> shift & 511)]
            if not entry:
                return None
            table = ((entry & _ADDRESS) - self._base) >> 12
        return table * 512 + (gpa >> 12 & 511)

    def _table_of(self, gpa: int) -> int:
        """Number of the last-level table of *gpa*, made if need be. A full mirror is dropped first: it is a cache."""
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
        slot = self._slot(gpa)
        if slot is None or not self._words[slot]:
            return False
        self._words[slot] = 0
        return True
