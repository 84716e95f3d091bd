"""Who has which page of physical memory: owners of pages, and the pool each partition lives from.

TLFS "Memory Management": the hypervisor allocates nothing for a partition but what its parent deposited for it. Every
EPT table, VMCS and overlay page comes from the partition's pool, and INSUFFICIENT_MEMORY says that the pool is empty.
What is smaller than a page shares one with others of its kind: `PagePool.records`.

Paid at boot, by the region the hypervisor keeps: `PageOwners`, one entry for each page of RAM. Paid by the EPT tables:
the record of a page's mapping, which says what its entry says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hv.hypervisor.errors import HypercallError
from hv.machine.ram import PhysicalMemory
from hv.spec.hv_status import HvStatus
from hv.spec.x86 import PAGE_SIZE

_ZEROES = bytes(PAGE_SIZE)
_SHARES = [1 << n for n in range(PAGE_SIZE.bit_length())]


class PageOwners:
    """For every page of RAM: root has it, the hypervisor took it, or root lent it to one child.

    Pages are page numbers (spa >> 12). A lent page stays readable for root, and may stand at several addresses of the
    same child, never in two children.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self.page_count = memory.size // PAGE_SIZE
        self._taken: set[int] = set()
        self.on_change: Callable[[int], None] = lambda page: None      # *page* is the hypervisor's now, or root's again
        self._lent: dict[int, tuple[int, int]] = {}     # page -> (child partition id, number of mappings)
        self.device_pages: set[int] = set()             # registers of assignable devices: lent like RAM, never taken

    @property
    def root_count(self) -> int:
        """Number of pages that are not the hypervisor's."""
        return self.page_count - len(self._taken)

    def is_root(self, page: int) -> bool:
        """*page* is RAM and not the hypervisor's."""
        return 0 <= page < self.page_count and page not in self._taken

    def all_root(self, pages: range) -> bool:
        """Each of *pages* is RAM and not the hypervisor's."""
        return pages.start >= 0 and pages.stop <= self.page_count and self._taken.isdisjoint(pages)

    def is_taken(self, page: int) -> bool:
        """*page* is the hypervisor's."""
        return page in self._taken

    def taken(self) -> list[int]:
        """The hypervisor's pages, in order."""
        return sorted(self._taken)

    def borrower(self, page: int) -> int | None:
        """Id of the child that *page* is lent to."""
        lent = self._lent.get(page)
        return lent[0] if lent else None

    def take(self, page: int) -> None:
        """*page* becomes the hypervisor's; OPERATION_DENIED unless it is root's and lent to nobody, and nothing changed
        when root's tables have no memory to say so."""
        if not self.is_root(page) or page in self._lent:
            raise HypercallError(HvStatus.OPERATION_DENIED, f"page {page:#x} is not root's to give")
        self._taken.add(page)
        try:
            self.on_change(page)
        except Exception:
            self._taken.remove(page)
            raise

    def give_back(self, page: int) -> None:
        """*page* is root's again; nothing changed when root's tables have no memory to say so."""
        self._taken.remove(page)
        try:
            self.on_change(page)
        except Exception:
            self._taken.add(page)
            raise

    def lend(self, page: int, partition_id: int) -> None:
        """One more mapping of *page* in child *partition_id*; OPERATION_DENIED when it is not root's, or another's."""
        holder, count = self._lent.get(page, (partition_id, 0))
        if not (self.is_root(page) or page in self.device_pages) or holder != partition_id:
            raise HypercallError(HvStatus.OPERATION_DENIED, f"page {page:#x} is not root's to lend")
        self._lent[page] = (partition_id, count + 1)

    def lend_all(self, pages: range, partition_id: int) -> None:
        """`lend` each of *pages*, or none of them."""
        lent = self._lent
        if self.all_root(pages) and lent.keys().isdisjoint(pages):
            lent.update(dict.fromkeys(pages, (partition_id, 1)))
            return
        refused = next((page for page in pages if not (self.is_root(page) or page in self.device_pages)
                        or lent.get(page, (partition_id,))[0] != partition_id), None)
        if refused is not None:
            raise HypercallError(HvStatus.OPERATION_DENIED, f"page {refused:#x} is not root's to lend")
        for page in pages:
            lent[page] = (partition_id, lent[page][1] + 1) if page in lent else (partition_id, 1)

    def end_loan(self, page: int) -> None:
        """One mapping less of *page*."""
        holder, count = self._lent.pop(page)
        if count > 1:
            self._lent[page] = (holder, count - 1)

    def inspect(self) -> dict[str, int]:
        """Plain data: counts of pages."""
        return {"pages": self.page_count, "hypervisor": len(self._taken), "lent": len(self._lent)}


class PagePool:
    """The pages one partition may use up inside the hypervisor. Addresses are spa."""

    def __init__(self, memory: PhysicalMemory, pages: Iterable[int] = ()) -> None:
        self._memory = memory
        self._available: list[int] = sorted(pages, reverse=True)
        self._in_use: set[int] = set()
        self._records: dict[str, Records] = {}
        self.keep: frozenset[int] = frozenset()     # pages that were never deposited and so cannot be withdrawn
        self.closed = False                         # its partition is finalized: it gives no page any more

    @property
    def available(self) -> int:
        """Number of pages that can be allocated."""
        return len(self._available)

    @property
    def in_use(self) -> int:
        """Number of pages that are allocated."""
        return len(self._in_use)

    def allocate(self) -> int:
        """The spa of a page, all zero; INSUFFICIENT_MEMORY when the pool is empty, INVALID_PARTITION_STATE."""
        self._check_open()
        if not self._available:
            raise HypercallError(HvStatus.INSUFFICIENT_MEMORY, "the partition's pool is empty: deposit pages")
        spa = self._available.pop()
        self._in_use.add(spa)
        self._memory.write(spa, _ZEROES)
        return spa

    def allocate_all(self, count: int) -> list[int]:
        """The spa of *count* pages, all zero; INSUFFICIENT_MEMORY, and none taken, when there are not so many.

        INVALID_PARTITION_STATE.
        """
        self._check_open()
        if count > len(self._available):
            text = f"the pool has {len(self._available)} pages, not {count}: deposit pages"
            raise HypercallError(HvStatus.INSUFFICIENT_MEMORY, text)
        return [self.allocate() for _ in range(count)]

    def _check_open(self) -> None:
        if self.closed:
            raise HypercallError(HvStatus.INVALID_PARTITION_STATE, "a finalized partition gets no page of its pool")

    def free(self, spa: int) -> None:
        """Take back a page that `allocate` gave."""
        assert spa in self._in_use, f"page {spa:#x} was not allocated from this pool"
        self._in_use.remove(spa)
        self._available.append(spa)

    def free_all(self, pages: Iterable[int]) -> None:
        """Take back pages that `allocate_all` gave."""
        for spa in pages:
            self.free(spa)

    def deposit(self, spa: int) -> None:
        """Add a page."""
        self._available.append(spa)

    def take_back(self, spa: int) -> None:
        """Undo `deposit`."""
        self._available.remove(spa)

    def withdraw(self) -> int:
        """Remove an unused page and wipe it; NO_RESOURCES when none is left."""
        spa = next((spa for spa in reversed(self._available) if spa not in self.keep), None)
        if spa is None:
            raise HypercallError(HvStatus.NO_RESOURCES, "no deposited page of the pool is unused")
        self._available.remove(spa)
        self._memory.write(spa, _ZEROES)
        return spa

    def records(self, kind: str, size: int) -> Records:
        """The records of *kind*, of *size* bytes each (a power of two, at most a page), in pages of this pool."""
        found = self._records.get(kind)
        if found is None:
            found = self._records[kind] = Records(self, size)
        assert found.size == size, f"a {kind} has {found.size} bytes, not {size}"
        return found

    def inspect(self) -> dict[str, Any]:
        """Plain data: the balance, and how many records of each kind are in the pages in use."""
        counts = {kind: each.count for kind, each in sorted(self._records.items()) if each.count}
        balance = {"available": self.available, "in_use": self.in_use}
        return {**balance, "records": counts} if counts else balance


class Records:
    """Records of one kind, several to a page of *pool*. A record has no address of its own: the hypervisor keeps them
    close together, so they always take as few pages as their number allows."""

    def __init__(self, pool: PagePool, size: int) -> None:
        assert size in _SHARES, f"{size} bytes do not share a page evenly"
        self.size, self.count = size, 0
        self._pool, self._per_page = pool, PAGE_SIZE // size
        self._pages: list[int] = []

    @property
    def pages(self) -> int:
        """Number of pages they take."""
        return len(self._pages)

    def take(self, count: int = 1) -> None:
        """*count* more records; INSUFFICIENT_MEMORY, and none taken, when the pool has no page for them."""
        more = -(-(self.count + count) // self._per_page) - len(self._pages)
        if more > 0:
            self._pages += self._pool.allocate_all(more)
        self.count += count

    def give_back(self, count: int = 1) -> None:
        """*count* records fewer; a page goes back to the pool with its last one."""
        assert count <= self.count, f"{count} of {self.count} records"
        self.count -= count
        while (len(self._pages) - 1) * self._per_page >= self.count and self._pages:
            self._pool.free(self._pages.pop())
