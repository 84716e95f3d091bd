"""A partition's guest-physical address space: which page of RAM stands at which address, with which rights.

TLFS "Guest Physical Address Spaces". Over the map lies a second one of *overlay* pages (hypercall page, message page,
event-flag page, assist page): an overlay hides the page beneath and ignores its rights, and uncovers it unchanged.

A child's space is written into EPT tables, which decide what its code reaches; `PageMap` is the
hypervisor's own record of the same. The tables pay for both, so an inaccessible page has its entry too. Root's
addresses are the machine's, except for the pages that the hypervisor has: they are not there. With tables they say just
that, in large pages where they can; a root whose program is Python, and so is refused by `translate`, needs none.
# Simplified: the type field of the map flags (zeroed, ones) is not offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.memory.page_map import Mapping, PageMap, large_pages
from hv.hypervisor.memory.pages import PageOwners
from hv.machine.faults import Access, NestedFault
from hv.machine.ram import PhysicalMemory, pages_of
from hv.spec.hv_status import HvStatus
from hv.spec.x86 import LARGE_PAGE_SIZE, LARGE_PAGES, PAGE_SIZE
from hv.vmx.translation.ept import GIGABYTE, EptTables

GPA_SPACE_BITS = 40             # bits of a guest-physical address, as CPUID leaf 0x80000008 says
GPA_SPACE_PAGES = 1 << GPA_SPACE_BITS - 12

_READ = Access.READ             # naming a member of an enumeration costs a call
READ_WRITE = Access.READ | Access.WRITE
READ_EXECUTE = Access.READ | Access.EXECUTE
ALL = Access.READ | Access.WRITE | Access.EXECUTE


class Overlay(NamedTuple):
    """A page of the hypervisor that lies over the partition's own; *name* is for the reader."""

    name: str
    spa: int
    rights: Access


class GpaSpace:
    """The guest-physical addresses of one partition. Pages are page numbers (gpa >> 12)."""

    def __init__(self, memory: PhysicalMemory, owners: PageOwners, partition_id: int,
                 tables: EptTables | None = None, identity: bool = False) -> None:
        self.memory, self.owners, self.partition_id, self.tables = memory, owners, partition_id, tables
        self.identity = identity or tables is None      # this is root's space: gpa = spa
        self.page_limit = owners.page_count if self.identity else GPA_SPACE_PAGES   # pages from here on are outside
        self._mapped = PageMap()
        self._met = self._mapped.met
        self._overlays: dict[int, list[Overlay]] = {}
        # Called with (gpa page, mapping or None) when the partition's own map changes; overlays are not for devices.
        self.listeners: list[Callable[[int, Mapping | None], None]] = []
        if identity:
            self._show_machine()

    @property
    def mapped_count(self) -> int:
        """Number of pages of the partition's own map; root has all but the hypervisor's."""
        return self.owners.root_count if self.identity else len(self._mapped)

    def map(self, page: int, spa_page: int, rights: Access) -> None:
        """Let root's page *spa_page* stand at *page*, replacing what was there.

        OPERATION_DENIED when the page is not root's or is lent to another child; INSUFFICIENT_MEMORY when the tables
        cannot grow. Visible after `invept`.
        """
        assert self.tables is not None, "root's space is the machine's own"
        old, mapping = self._mapped.get(page), Mapping(spa_page << 12, rights)
        self.owners.lend(spa_page, self.partition_id)
        split = self._mapped.put(page, mapping)
        shown = False
        try:
            self._show(page)
            shown = True
            self._tell({page: mapping})
        except Exception:
            self._mapped.take_back(page, old, split)
            if shown:                   # its tables are there: this needs no memory
                self._show(page)
                for listener in self.listeners:
                    listener(page, old)
            self.owners.end_loan(spa_page)
            raise
        if old is not None:
            self.owners.end_loan(old.spa >> 12)

    def map_large(self, page: int, spa_page: int, rights: Access) -> bool:
        """Let root's 2 MiB from *spa_page* on stand at *page* on; both are multiples of 512. Errors as of `map`.

        All of them, or none. Where something already stands in the 2 MiB, they are mapped page by page. True when that
        was so, or listeners were told of each page.
        """
        assert self.tables is not None, "root's space is the machine's own"
        whole = Mapping(spa_page << 12, rights)
        covered = not self._overlays.keys().isdisjoint(range(page, page + LARGE_PAGES))
        if not rights or covered or self._mapped.any_near(page):
            self._map_each(dict(large_pages(page, whole)))
            return True
        spa_pages = range(spa_page, spa_page + LARGE_PAGES)
        self.owners.lend_all(spa_pages, self.partition_id)
        told = dict(large_pages(page, whole)) if self.listeners else {}
        try:
            self._tell(told)
            self.tables.map(page << 12, whole.spa, rights, LARGE_PAGE_SIZE)
        except Exception:
            self._tell(dict.fromkeys(told))
            for lent in spa_pages:
                self.owners.end_loan(lent)
            raise
        self._mapped.put_large(page, whole)
        return bool(told)

    def _map_each(self, new: dict[int, Mapping]) -> None:
        replaced: dict[int, Mapping | None] = {}
        try:
            for page, mapping in new.items():
                old = self._mapped.get(page)
                self.map(page, mapping.spa >> 12, mapping.rights)
                replaced[page] = old
        except Exception:
            for page, old in replaced.items():      # its tables are there, or free again: this needs no memory
                if old is None:
                    self.unmap(page)
                else:
                    self.map(page, old.spa >> 12, old.rights)
            raise

    def unmap(self, page: int) -> bool:
        """Nothing stands at *page* any more; False when nothing did. Visible after `invept`.

        INSUFFICIENT_MEMORY, and nothing changed, when a 2 MiB page cannot be split.
        """
        old = self._mapped.get(page)
        if old is None:
            return False
        split = self._mapped.put(page, None)
        try:
            self._show(page)
        except Exception:
            self._mapped.take_back(page, old, split)
            raise
        self.owners.end_loan(old.spa >> 12)
        self._tell({page: None})
        return True

    def unmap_large(self, page: int) -> bool:
        """`unmap` for the 512 pages from *page*, a multiple of 512, on: all of them, or none.

        True when they were unmapped page by page, or listeners were told of each.
        """
        assert self.tables is not None, "root's space is the machine's own"
        pages = range(page, page + LARGE_PAGES)
        if not self._mapped.any_near(page):
            return False
        if any(n in self._overlays for n in pages):     # then they are pages of 4 KiB: no table has to be split
            for n in pages:
                self.unmap(n)
            return True
        self.tables.unmap(page << 12, LARGE_PAGE_SIZE)
        stood = self._mapped.clear_large(page)
        for spa in stood.values():
            self.owners.end_loan(spa >> 12)
        self._tell(dict.fromkeys(stood))
        return bool(stood and self.listeners)

    def mapping(self, page: int) -> Mapping | None:
        """What the partition's own map says of *page*, overlays aside."""
        if self.identity:
            return Mapping(page << 12, ALL) if self.owners.is_root(page) or page in self.owners.device_pages else None
        return self._mapped.get(page)

    def mappings(self) -> Iterator[tuple[int, Mapping]]:
        """(page, mapping) of every page of the partition's own map, in order."""
        return self._mapped.items()

    def visible(self, page: int) -> Mapping | None:
        """What an access to *page* meets: the topmost overlay, else the partition's own page."""
        over = self._overlays.get(page)
        return Mapping(over[-1].spa, over[-1].rights) if over else self.mapping(page)

    def overlay_at(self, page: int) -> Overlay | None:
        """The overlay that covers *page*."""
        over = self._overlays.get(page)
        return over[-1] if over else None

    def cover(self, page: int, overlay: Overlay) -> None:
        """Lay *overlay* over *page*; the latest one wins. INSUFFICIENT_MEMORY when the tables cannot grow."""
        self._overlays.setdefault(page, []).append(overlay)
        try:
            self._show(page)
        except Exception:
            self._remove_overlay(page, overlay)
            raise
        self.invept()

    def uncover(self, page: int, overlay: Overlay) -> None:
        """Take *overlay* away; what lay beneath is there again, unchanged."""
        self._remove_overlay(page, overlay)
        self._show(page)
        self.invept()

    def invept(self) -> None:
        """Make changes visible to the processors."""
        if self.tables is not None:
            self.tables.invept()

    def translate(self, gpa: int, access: Access) -> int:
        """The spa behind *gpa*, or NestedFault when the partition itself could not do *access* there."""
        page = gpa >> 12
        if self.identity and page not in self._overlays and self.owners.is_root(page):
            return gpa                          # `visible`, for what is usual
        mapping = self._met.get(page)           # likewise
        if mapping is None or page in self._overlays:
            mapping = self.visible(page)
        if mapping is None or int(access) & ~int(mapping.rights) or mapping.spa >= self.memory.size:
            raise NestedFault(gpa, access)      # a device's registers are no memory to the hypervisor
        return mapping.spa | gpa & PAGE_SIZE - 1

    def read(self, gpa: int, size: int) -> bytes:
        """*size* bytes with the partition's own rights; NestedFault when they forbid any of them."""
        if (gpa & PAGE_SIZE - 1) + size <= PAGE_SIZE:
            return self.memory.read(self.translate(gpa, _READ), size)
        return b"".join(self.memory.read(spa, length) for spa, length in self._spans(gpa, size, Access.READ))

    def write(self, gpa: int, data: bytes) -> None:
        """Store *data* with the partition's own rights; NestedFault, and nothing stored, when they forbid it."""
        if (gpa & PAGE_SIZE - 1) + len(data) <= PAGE_SIZE:
            self.memory.write(self.translate(gpa, Access.WRITE), data)
            return
        done = 0
        for spa, length in self._spans(gpa, len(data), Access.WRITE):
            self.memory.write(spa, data[done : done + length])
            done += length

    def _spans(self, gpa: int, size: int, access: Access) -> list[tuple[int, int]]:
        """(spa, length) of the parts of an access, all of them allowed; NestedFault."""
        pages = range(gpa >> 12, gpa + size + PAGE_SIZE - 1 >> 12)
        if self.identity and self._overlays.keys().isdisjoint(pages) and self.owners.all_root(pages):
            return [(gpa, size)]
        return [(self.translate(at, access), length) for at, length in pages_of(gpa, size)]

    def close(self) -> None:
        """Unmap everything and free the tables."""
        standing = dict(self._mapped.items())
        for mapping in standing.values():
            self.owners.end_loan(mapping.spa >> 12)
        self._tell(dict.fromkeys(standing))
        self._mapped.clear()
        if self.tables is not None:
            self.tables.free()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        pages = [{"gpa": page << 12, "spa": mapping.spa, "rights": int(mapping.rights)}
                 for page, mapping in self.mappings()]
        overlays = [{"gpa": page << 12, "name": overlay.name, "spa": overlay.spa}
                    for page, over in sorted(self._overlays.items()) for overlay in over]
        return {"identity": self.identity, "pages": pages, "records": self._mapped.records, "overlays": overlays}

    def _show(self, page: int) -> None:
        """Write what is now visible at *page* into the tables."""
        if self.tables is None:
            return
        mapping = self._backing(page) if self.identity else self.visible(page)
        if self.identity and mapping == Mapping(page << 12, ALL) and self._is_whole(page):
            first = page // LARGE_PAGES * LARGE_PAGE_SIZE
            self.tables.map(first, first, ALL, LARGE_PAGE_SIZE)
        elif mapping is None:
            self.tables.unmap(page << 12)
        else:
            self.tables.map(page << 12, mapping.spa, mapping.rights)

    # Root's space in tables. TLFS "Memory Accesses": an access of root's to where no memory is goes to the bus.

    def _show_machine(self) -> None:
        """All that a physical address can name, but for the hypervisor's pages; follows them from now on."""
        assert self.tables is not None, "there is nothing to show it in"
        for gpa in range(0, GPA_SPACE_PAGES << 12, GIGABYTE):
            self.tables.map(gpa, gpa, ALL, GIGABYTE)
        for gpa in range(0, self.memory.size, GIGABYTE):
            self.tables.map(gpa, gpa, ALL, LARGE_PAGE_SIZE)         # its other pages are made with it
        for page in self.owners.taken():
            self._show(page)
        self.owners.on_change = self._follow_owner

    def _follow_owner(self, page: int) -> None:
        """*page* came or went. INSUFFICIENT_ROOT_MEMORY: whoever gets a page, it is root's tables that must say so."""
        try:
            self._show(page)
        except HypercallError as error:
            raise HypercallError(HvStatus.INSUFFICIENT_ROOT_MEMORY, "root's tables cannot grow") from error

    def _backing(self, page: int) -> Mapping | None:
        """What root's tables say of *page*."""
        if page not in self._overlays and self.owners.is_taken(page):
            return None
        return self.visible(page) or Mapping(page << 12, ALL)

    def _is_whole(self, page: int) -> bool:
        """Nothing in the 2 MiB around *page* is the hypervisor's."""
        first = page & -LARGE_PAGES
        pages = range(first, first + LARGE_PAGES)
        return self.owners.all_root(pages) and self._overlays.keys().isdisjoint(pages)

    def _tell(self, changes: dict[int, Mapping] | dict[int, None]) -> None:
        for listener in self.listeners:
            for page, mapping in changes.items():
                listener(page, mapping)

    def _remove_overlay(self, page: int, overlay: Overlay) -> None:
        self._overlays[page].remove(overlay)
        if not self._overlays[page]:
            del self._overlays[page]
