"""The DMA domains of partitions: an assigned device sees exactly its partition's addresses, whatever root maps later.

A partition gets a domain with its first device; from then on the domain follows the GPA map page by page, with the
same rights. Overlay pages are the hypervisor's and no device reaches them. TLFS "Device Domains".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.page_map import Mapping
from hv.iommu.driver import IommuDriver, MsiRoute
from hv.iommu.tables import Domain
from hv.machine.faults import Access
from hv.spec.hv_status import HvStatus

if TYPE_CHECKING:
    from hv.hypervisor.partition import Partition

DESTINATION_APIC = 0                    # the processor that takes every device interrupt


class _Follower:
    """Keeps one domain equal to one partition's GPA map."""

    def __init__(self, driver: IommuDriver, partition: Partition) -> None:
        self.driver, self.partition = driver, partition
        self.domain: Domain = driver.create_domain()
        try:
            for page, mapping in partition.space.mappings():
                self.follow(page, mapping)
        except HypercallError:
            driver.destroy_domain(self.domain)
            raise
        partition.space.listeners.append(self.follow)

    def follow(self, page: int, mapping: Mapping | None) -> None:
        """*page* of the partition is now *mapping*."""
        if mapping is None or not mapping.rights or mapping.spa >= self.partition.memory.size:
            self.driver.unmap(self.domain, page << 12)
        else:
            self.driver.map(self.domain, page << 12, mapping.spa, write=bool(mapping.rights & Access.WRITE))

    def end(self) -> None:
        """The partition has no device any more."""
        self.partition.space.listeners.remove(self.follow)
        self.driver.destroy_domain(self.domain)


class DeviceDomains:
    """What the hypervisor's `iommu` is: devices by source id, domains by partition."""

    def __init__(self, driver: IommuDriver) -> None:
        self.driver = driver
        self._followers: dict[int, _Follower] = {}      # by partition id
        self._homes: dict[int, int] = {}                # source id -> partition id
        self._interrupts: dict[tuple[int, int], MsiRoute] = {}

    def attach(self, source_id: int, partition: Partition) -> None:
        """From now on the device translates through *partition*'s domain; INSUFFICIENT_MEMORY."""
        if partition.id not in self._followers:
            self._followers[partition.id] = _Follower(self.driver, partition)
        try:
            self.driver.attach(self._followers[partition.id].domain, source_id)
        except HypercallError:
            self._end_unused(partition.id)
            raise
        self._homes[source_id] = partition.id

    def detach(self, source_id: int) -> None:
        """From now on every access of the device faults."""
        home = self._homes.pop(source_id)
        self.driver.detach(source_id)
        self._end_unused(home)

    def _end_unused(self, partition_id: int) -> None:
        """The domain goes with the partition's last device."""
        if partition_id not in self._homes.values():
            self._followers.pop(partition_id).end()

    def map_interrupt(self, source_id: int, vector: int) -> tuple[int, int]:
        """Remap an interrupt of the device to physical *vector*: (address, data) it shall send; NO_RESOURCES."""
        route = self.driver.map_interrupt(source_id, vector, DESTINATION_APIC)
        if route is None:
            raise HypercallError(HvStatus.NO_RESOURCES, "the interrupt remapping table is full")
        self._interrupts[source_id, vector] = route
        return route.address, route.data

    def unmap_interrupt(self, source_id: int, vector: int) -> None:
        """Undo `map_interrupt`."""
        self.driver.unmap_interrupt(self._interrupts.pop((source_id, vector)))
