"""A domain that a partition makes itself: the devices in it see what it maps for them, page by page, and nothing else.

A page has a device's address (iova) and stands for one of the partition's (gpa). It is there while the partition has
that page itself, with no more rights than the partition. The partition's pool pays for the tables and for each page's
record. TLFS "Device Domains".
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.memory.page_map import Mapping
from hv.hypervisor.memory.pages import Records
from hv.iommu.driver import IommuDriver
from hv.machine.faults import Access
from hv.spec.x86 import PAGE_SHIFT

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition

DOMAIN_SIZE, MAPPING_SIZE = 64, 16      # bytes of a pool


class DevicePage(NamedTuple):
    """What stands at a device's page."""

    gpa_page: int
    rights: int                         # bits of Access, as asked for


class ExplicitDomain:
    """Domain *number* of *partition*. INSUFFICIENT_MEMORY."""

    def __init__(self, driver: IommuDriver, partition: Partition, number: int) -> None:
        self._driver, self.partition, self.number = driver, partition, number
        self._pages: dict[int, DevicePage] = {}                                     # by iova page
        self._places: defaultdict[int, dict[int, None]] = defaultdict(dict)         # gpa page -> its iova pages
        self.devices: list[int] = []    # source ids
        self.blocked = False            # no access of its devices passes
        records = partition.pool.records("device domain", DOMAIN_SIZE)
        records.take()
        try:
            self._domain = driver.create_domain(partition.pool.allocate, partition.pool.free)
        except HypercallError:
            records.give_back()
            raise
        partition.space.listeners.append(self._follow)

    def end(self) -> None:
        """Its tables and records are the pool's again; it has no devices any more."""
        assert not self.devices, f"device domain {self.number} has devices"
        self.partition.space.listeners.remove(self._follow)
        self._driver.destroy_domain(self._domain)
        self._records.give_back(len(self._pages))
        self.partition.pool.records("device domain", DOMAIN_SIZE).give_back()

    @property
    def _records(self) -> Records:
        return self.partition.pool.records("device page", MAPPING_SIZE)

    # --- devices ---------------------------------------------------------------------------------------

    def attach(self, source_id: int) -> None:
        """The device sees this domain from now on, or nothing while it is blocked."""
        self.devices.append(source_id)
        self._place(source_id)

    def detach(self, source_id: int) -> None:
        """The device sees nothing from now on."""
        self.devices.remove(source_id)
        self._driver.detach(source_id)

    def block(self, blocked: bool) -> None:
        """Whether accesses of its devices pass at all; its pages stay."""
        self.blocked = blocked
        for source_id in self.devices:
            self._place(source_id)

    def _place(self, source_id: int) -> None:
        if self.blocked:
            self._driver.detach(source_id)
        else:
            self._driver.attach(self._domain, source_id)

    def flush(self) -> None:
        """The unit remembers nothing of it."""
        self._driver.forget_domain(self._domain)

    # --- pages -----------------------------------------------------------------------------------------

    def map(self, iova_page: int, gpa_page: int, rights: int) -> None:
        """The partition's page stands there, instead of what did. INSUFFICIENT_MEMORY, and nothing changed."""
        old, records = self._pages.get(iova_page), self._records
        if old is None:
            records.take()
        try:
            self._show(iova_page, DevicePage(gpa_page, rights), self.partition.space.mapping(gpa_page))
        except HypercallError:
            if old is None:
                records.give_back()
            raise
        if old is not None:
            self._forget(iova_page, old)
        self._pages[iova_page] = DevicePage(gpa_page, rights)
        self._places[gpa_page][iova_page] = None

    def page(self, iova_page: int) -> DevicePage | None:
        """What stands there."""
        return self._pages.get(iova_page)

    def pages_in(self, pages: range) -> list[int]:
        """Those of *pages* at which something stands."""
        if len(pages) < len(self._pages):
            return [page for page in pages if page in self._pages]
        return [page for page in self._pages if page in pages]

    def unmap(self, iova_page: int) -> None:
        """Nothing stands there any more."""
        old = self._pages.pop(iova_page, None)
        if old is not None:
            self._driver.unmap(self._domain, iova_page << PAGE_SHIFT)
            self._forget(iova_page, old)
            self._records.give_back()

    def _forget(self, iova_page: int, old: DevicePage) -> None:
        places = self._places[old.gpa_page]
        del places[iova_page]
        if not places:
            del self._places[old.gpa_page]

    def _follow(self, gpa_page: int, mapping: Mapping | None) -> None:
        """The partition's page is another, or gone. Its places have their tables: this needs no memory."""
        for iova_page in self._places.get(gpa_page, ()):
            self._show(iova_page, self._pages[iova_page], mapping)

    def _show(self, iova_page: int, page: DevicePage, mapping: Mapping | None) -> None:
        rights = 0 if mapping is None or mapping.spa >= self.partition.memory.size else page.rights & mapping.rights
        iova = iova_page << PAGE_SHIFT
        if mapping is None or not rights:
            self._driver.unmap(self._domain, iova)
        else:
            self._driver.map(self._domain, iova, mapping.spa, bool(rights & Access.WRITE), bool(rights & Access.READ))

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"devices": list(self.devices), "blocked": self.blocked,
                "pages": {page: list(stands) for page, stands in sorted(self._pages.items())}}
