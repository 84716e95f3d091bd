"""The tables of the unit as software builds them, in pages of physical memory.

`RootTable` has the context entries, a `Domain` the second-level tables that its devices share, `InterruptTable` the
interrupt remapping entries. Nothing here reaches the unit: who changes an entry that the unit may have cached has to
invalidate it (`driver.py` does).
"""

# Simplified: a second-level table stays until its domain is destroyed, also when its last page was unmapped; a domain
# maps 4 KiB pages only.

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hv.machine.ram import PhysicalMemory
from hv.spec.vtd import (
    ENTRY_SIZE,
    GUEST_ADDRESS_WIDTH,
    HOST_ADDRESS_WIDTH,
    ContextEntry,
    InterruptTableAddress,
    Irte,
    RootEntry,
    SecondLevelEntry,
    TranslationType,
)
from hv.spec.x86 import PAGE_SIZE

FOUR_LEVELS = 2                             # AW of a context entry
INTERRUPT_TABLE_SIZE = 7                    # S: 256 entries, one page


class TablePages(NamedTuple):
    """Where tables come from: *allocate_page()* gives the address of a free 4 KiB page, *free_page(spa)* takes it."""

    memory: PhysicalMemory
    allocate_page: Callable[[], int]
    free_page: Callable[[int], None]

    def new(self) -> int:
        """A page full of zeros."""
        spa = self.allocate_page()
        self.memory.write(spa, bytes(PAGE_SIZE))
        return spa

    def read(self, spa: int) -> int:
        """A 16-byte entry."""
        return int.from_bytes(self.memory.read(spa, ENTRY_SIZE), "little")

    def write(self, spa: int, value: int) -> None:
        """Store a 16-byte entry, the present bit last."""
        data = value.to_bytes(ENTRY_SIZE, "little")
        self.memory.write(spa + 8, data[8:])
        self.memory.write(spa, data[:8])


class RootTable:
    """The root table at `spa`, and the context table of each bus that has a known device: 256 at most."""

    def __init__(self, pages: TablePages) -> None:
        self.pages = pages
        self.spa = pages.new()
        self._known: set[int] = set()           # source-ids
        self._tables: dict[int, int] = {}       # spa of the context table, by bus

    def add(self, source_id: int) -> None:
        """The device may have a context entry from now on; the table of its bus is made when it is missing."""
        bus = source_id >> 8
        if bus not in self._tables:
            table = self._tables[bus] = self.pages.new()
            self.pages.write(self._slot(bus), RootEntry(present=1, context_table=table // PAGE_SIZE).raw)
        self._known.add(source_id)

    def remove(self, source_id: int) -> int | None:
        """The device has no entry any more. With the last one of its bus the table goes: its page, which is to be freed
        when the unit has forgotten it."""
        bus = source_id >> 8
        self._known.remove(source_id)
        if any(known >> 8 == bus for known in self._known):
            return None
        self.pages.write(self._slot(bus), RootEntry().raw)
        return self._tables.pop(bus)

    def _slot(self, bus: int) -> int:
        return self.spa + bus * ENTRY_SIZE

    def write(self, source_id: int, entry: ContextEntry) -> None:
        """Store the context entry of a known device."""
        assert source_id in self._known, f"device {source_id:#06x} was not added"
        self.pages.write(self._tables[source_id >> 8] + (source_id & 0xFF) * ENTRY_SIZE, entry.raw)


class Domain:
    """Devices that see the same memory: domain *id* (1..65535), a four-level table over 48-bit addresses."""

    def __init__(self, id: int, root: RootTable, pages: TablePages) -> None:
        self.id, self.root, self.pages = id, root, pages
        self.devices: list[int] = []            # source-ids
        self._tables = [pages.new()]            # the first is the top one

    @property
    def top_table(self) -> int:
        """The address of the level-4 table."""
        return self._tables[0]

    def attach(self, source_id: int) -> None:
        """Let *source_id* translate through this domain."""
        assert source_id not in self.devices, f"device {source_id:#06x} is in domain {self.id} already"
        self.root.write(source_id, ContextEntry(
            present=1, type=TranslationType.SECOND_LEVEL, address_width=FOUR_LEVELS, domain_id=self.id,
            second_level=self.top_table // PAGE_SIZE))
        self.devices.append(source_id)

    def detach(self, source_id: int) -> None:
        """Leave *source_id* without a domain: each of its requests faults."""
        assert source_id in self.devices, f"device {source_id:#06x} is not in domain {self.id}"
        self.root.write(source_id, ContextEntry())
        self.devices.remove(source_id)

    def map(self, iova: int, spa: int, write: bool = True, read: bool = True) -> bool:
        """Let devices reach the page at *spa* under *iova* (both page-aligned); True when it replaced another.

        ValueError when an address is not aligned or too wide, or when neither right is given.
        """
        if not (_is_page(iova, GUEST_ADDRESS_WIDTH) and _is_page(spa, HOST_ADDRESS_WIDTH)):
            raise ValueError(f"cannot map iova {iova:#x} to spa {spa:#x}: page-aligned addresses of "
                             f"{GUEST_ADDRESS_WIDTH} and {HOST_ADDRESS_WIDTH} bits are needed")
        if not (read or write):
            raise ValueError(f"iova {iova:#x} needs a right: read, write or both")
        entry = SecondLevelEntry(readable=int(read), writable=int(write), page=spa // PAGE_SIZE)
        slot = self._make_slot(iova)
        replaced = bool(self.pages.memory.read_u64(slot))
        self.pages.memory.write_u64(slot, entry.raw)
        return replaced

    def unmap(self, iova: int) -> bool:
        """Take the page at *iova* away; False when none was there."""
        slot = self._slot(iova)
        if slot is None or not self.pages.memory.read_u64(slot):
            return False
        self.pages.memory.write_u64(slot, 0)
        return True

    def translate_for_inspection(self, iova: int) -> tuple[int, bool, bool] | None:
        """(spa, readable, writable) of an address by the tables as they are, caches aside; None when not mapped."""
        slot = self._slot(iova)
        entry = SecondLevelEntry(self.pages.memory.read_u64(slot) if slot is not None else 0)
        if not entry.raw:
            return None
        return entry.page * PAGE_SIZE + iova % PAGE_SIZE, bool(entry.readable), bool(entry.writable)

    def _slot(self, iova: int) -> int | None:
        """The address of the last-level entry for *iova*; None when there is no table for it."""
        slots = self._slots(iova) if 0 <= iova < 1 << GUEST_ADDRESS_WIDTH else []
        return slots[3] if len(slots) == 4 else None

    def _slots(self, iova: int) -> list[int]:
        """The address of the entry for *iova* at each level, from the top down to the last that exists."""
        slots: list[int] = []
        table = self.top_table
        for shift in (39, 30, 21, 12):
            slots.append(table + (iova >> shift & 0x1FF) * 8)
            entry = SecondLevelEntry(self.pages.memory.read_u64(slots[-1]))
            if not entry.raw:
                break
            table = entry.page * PAGE_SIZE
        return slots

    def _make_slot(self, iova: int) -> int:
        """The address of the last-level entry for *iova*; missing tables are made."""
        while len(slots := self._slots(iova)) < 4:
            table = self.pages.new()
            self._tables.append(table)
            entry = SecondLevelEntry(readable=1, writable=1, page=table // PAGE_SIZE)
            self.pages.memory.write_u64(slots[-1], entry.raw)
        return slots[3]

    def destroy(self) -> None:
        """Give the tables back; every device must have been detached, and what the unit cached invalidated."""
        assert not self.devices, f"domain {self.id} still has devices"
        for table in self._tables:
            self.pages.free_page(table)
        self._tables = []


def _is_page(address: int, width: int) -> bool:
    return address % PAGE_SIZE == 0 and 0 <= address < 1 << width


class InterruptTable:
    """The interrupt remapping table: 256 entries in one page."""

    def __init__(self, pages: TablePages) -> None:
        self.pages = pages
        self.spa = pages.new()
        self.entry_count = 2 << INTERRUPT_TABLE_SIZE
        self._used: set[int] = set()

    @property
    def register(self) -> InterruptTableAddress:
        """What IRTA has to say; 32-bit destinations (EIME)."""
        return InterruptTableAddress(page=self.spa // PAGE_SIZE, size=INTERRUPT_TABLE_SIZE, extended=1)

    def allocate(self, entry: Irte) -> int | None:
        """Store *entry* in the lowest free place and give its index; None when the table is full."""
        index = next((n for n in range(self.entry_count) if n not in self._used), None)
        if index is not None:
            self._used.add(index)
            self.write(index, entry)
        return index

    def write(self, index: int, entry: Irte) -> None:
        """Change an allocated entry."""
        assert index in self._used, f"interrupt remapping entry {index} is not allocated"
        self.pages.write(self.spa + index * ENTRY_SIZE, entry.raw)

    def read(self, index: int) -> Irte:
        """An allocated entry."""
        assert index in self._used, f"interrupt remapping entry {index} is not allocated"
        return Irte(self.pages.read(self.spa + index * ENTRY_SIZE))

    def free(self, index: int) -> None:
        """Clear an entry; its place may be used again."""
        self.write(index, Irte())
        self._used.remove(index)
