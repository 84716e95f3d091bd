"""The engine's nested page tables: a cache of second-level translations, and nothing more.

The truth is the partition's EPT in physical RAM. The engine cannot read that format, so this mirror in its own format
plays the part of the silicon's TLB: empty at first, filled one page at a time when the engine asks, and
dropped at INVEPT. A translation that is in here stays visible until then, as on silicon (SDM "Caching Translation
Information").

A page is first entered by a second address of the same RAM (*alias*), from which the engine refuses to fetch; when the
guest does fetch from it and may, it is entered again by its own address. So the machine knows from which pages
translated code exists, and it keeps knowing when the translations are dropped: the engine only notices stores to code
that come by the page's own address. The format's own NX bit is never set: the engine dereferences a null pointer when a
guest uses such a page as a page table, so a guest could end the process with it.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

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
        self.executable: set[int] = set()           # system-physical pages that there is translated code of
        self._entered: dict[int, set[int]] = {}         # system-physical page -> guest-physical pages it is behind
        self._entered_large: dict[int, set[int]] = {}   # the same in units of 2 MiB
        self.clear()

    @property
    def root(self) -> int:
        """Engine address of the top table."""
        return self._base

    def clear(self) -> None:
        """Forget every translation (INVEPT), not what is `executable`. The caller flushes the engine's own TLB."""
        used = getattr(self, "_used", 0)
        self._bytes[: used * 4096] = bytes(used * 4096)
        self._used = 1
        self._entered.clear()
        self._entered_large.clear()

    def fill(self, gpa: int, spa: int, writable: bool, executable: bool) -> None:
        """Enter the page of *gpa*: by its own address when it is *executable*, else by the alias."""
        table = self._table_of(gpa)
        entry = (spa & _ADDRESS) + (0 if executable else self._alias)
        self._words[table * 512 + (gpa >> 12 & 511)] = entry | PRESENT | USER | (WRITABLE if writable else 0)
        self._entered.setdefault(spa >> 12, set()).add(gpa >> 12)

    def set_executable(self, page: int, executable: bool) -> None:
        """There is translated code of system-physical *page* from now on, or none any more.

        Every translation that leads to it is dropped, since it should now lead there by the other address. The caller
        flushes the engine's own TLB.
        """
        (self.executable.add if executable else self.executable.discard)(page)
        self.forget(page)

    def leads_to(self, page: int) -> bool:
        """A translation may lead to system-physical *page*."""
        return bool(self._entered.get(page) or self._entered_large.get(page // (LARGE >> 12)))

    def forget(self, page: int) -> bool:
        """Drop every translation that leads to system-physical *page*; False when there was none. The caller flushes
        the engine's own TLB."""
        found, offset = False, page % (LARGE >> 12)
        guest_pages = self._entered.pop(page, set())
        guest_pages |= {large * (LARGE >> 12) + offset for large in self._entered_large.get(page // (LARGE >> 12), ())}
        for guest_page in guest_pages:
            slot = self._slot(guest_page << 12)
            if slot is not None and self._words[slot] & _ADDRESS & ~self._alias == page << 12:
                self._words[slot], found = 0, True
        return found

    def fill_large(self, gpa: int, spa: int, writable: bool, but: Collection[int] = ()) -> None:
        """Enter all pages of the 2 MiB at *gpa* and *spa* (multiples of 2 MiB), but those of which there is code, and
        system-physical pages *but*."""
        table = self._table_of(gpa)
        first = spa + self._alias | PRESENT | USER | (WRITABLE if writable else 0)
        entries = struct.pack("<512Q", *range(first, first + LARGE, 4096))
        self._bytes[table * 4096 : (table + 1) * 4096] = entries
        self._entered_large.setdefault(spa // LARGE, set()).add(gpa // LARGE)
        for page in {*self.executable.intersection(range(spa >> 12, spa + LARGE >> 12)), *but}:
            self._words[table * 512 + (page & 511)] = 0

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
