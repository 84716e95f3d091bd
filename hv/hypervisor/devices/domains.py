"""The DMA domains of partitions: an assigned device sees exactly its partition's addresses, whatever root maps later.

A partition gets its default domain with its first device; from then on the domain follows the GPA map page by page,
with the same rights. A device may be put into one of the partition's own making instead (`explicit_domain.py`), or into
none. Overlay pages are the hypervisor's and no device reaches them. All of it is paid from the partition's pool, except
the context table of a bus, which is root's: `docs/decisions/0015-the-table-of-a-bus-is-roots.md`.
TLFS "Device Domains".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.devices.explicit_domain import ExplicitDomain
from hv.hypervisor.errors import HypercallError
from hv.hypervisor.memory.page_map import Mapping
from hv.iommu.driver import IommuDriver, MsiRoute
from hv.iommu.tables import Domain
from hv.machine.faults import Access
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.devices import DEFAULT_DOMAIN, NULL_DOMAIN

if TYPE_CHECKING:
    from hv.hypervisor.devices.virtual_iommu import VirtualIommu
    from hv.hypervisor.partitions.partition import Partition

MOST_DOMAINS = 1024                     # of all partitions' own making
IOMMU_FAULT_VECTOR = 0xF0               # the hypervisor's own, above those of devices
DESTINATION_APIC = 0                    # the processor that takes every device interrupt


class _Follower:
    """Keeps one domain equal to one partition's GPA map."""

    def __init__(self, driver: IommuDriver, partition: Partition) -> None:
        self.driver, self.partition = driver, partition
        self.domain: Domain = driver.create_domain(partition.pool.allocate, partition.pool.free)
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
        self._explicit: dict[tuple[int, int], ExplicitDomain] = {}      # by partition id and number
        self._places: dict[int, ExplicitDomain | None] = {}             # source id -> where, if not the default
        self._virtual: dict[int, VirtualIommu] = {}     # source id -> the guest's unit before it

    def attach(self, source_id: int, partition: Partition, guest_id: int | None = None) -> None:
        """From now on the device translates through *partition*'s domain; INSUFFICIENT_MEMORY.

        A virtual IOMMU of the partition knows it by the requester id *guest_id*, or by its own.

        INSUFFICIENT_ROOT_MEMORY when the table of its bus is to be made and root's pool is empty.
        """
        if partition.id not in self._followers:
            self._followers[partition.id] = _Follower(self.driver, partition)
        try:
            self.driver.add_device(source_id)
        except HypercallError as error:
            self._end_unused(partition.id)
            text = f"the table of bus {source_id >> 8:#x}: {error.text}"
            raise HypercallError(HvStatus.INSUFFICIENT_ROOT_MEMORY, text) from None
        self.driver.attach(self._followers[partition.id].domain, source_id)
        self._homes[source_id] = partition.id
        if partition.virtual_iommu is not None:
            self._go_through(partition.virtual_iommu, source_id, source_id if guest_id is None else guest_id)

    def detach(self, source_id: int) -> None:
        """From now on every access of the device faults."""
        home = self._homes.pop(source_id)
        place = self._places.pop(source_id, None)
        if place is not None:
            place.detach(source_id)
        virtual = self._virtual.pop(source_id, None)
        if virtual is not None:
            virtual.remove(source_id)
        self.driver.remove_device(source_id)
        self._end_unused(home)

    def _end_unused(self, partition_id: int) -> None:
        """The domain goes with the partition's last device."""
        if partition_id not in self._homes.values():
            self._followers.pop(partition_id).end()

    # --- domains of the partition's own making ---------------------------------------------------------

    def create(self, partition: Partition, number: int) -> None:
        """A new domain *number*; INVALID_PARAMETER when there is one, INSUFFICIENT_DEVICE_DOMAINS."""
        if (partition.id, number) in self._explicit:
            raise HypercallError(HvStatus.INVALID_PARAMETER, f"there is a device domain {number:#x} already")
        if len(self._explicit) >= MOST_DOMAINS:
            raise HypercallError(HvStatus.INSUFFICIENT_DEVICE_DOMAINS, f"{MOST_DOMAINS} device domains are there")
        self._explicit[partition.id, number] = ExplicitDomain(self.driver, partition, number)

    def find(self, partition: Partition, number: int) -> ExplicitDomain:
        """The domain *number* of *partition*; INVALID_PARAMETER."""
        found = self._explicit.get((partition.id, number))
        if found is None:
            raise HypercallError(HvStatus.INVALID_PARAMETER, f"partition {partition.id} has no domain {number:#x}")
        return found

    def delete(self, partition: Partition, number: int) -> None:
        """It is gone; OBJECT_IN_USE while a device is in it."""
        domain = self.find(partition, number)
        if domain.devices:
            raise HypercallError(HvStatus.OBJECT_IN_USE, f"device domain {number:#x} has devices")
        domain.end()
        del self._explicit[partition.id, number]

    def enter(self, source_id: int, partition: Partition, number: int) -> None:
        """A device of *partition* goes from the default domain into another, or into none (NULL_DOMAIN).

        DEVICE_ALREADY_IN_DOMAIN when it is there, INVALID_DEVICE_STATE when it is in a third.
        """
        self._require_own(source_id)
        target = self.find(partition, number) if number not in (DEFAULT_DOMAIN, NULL_DOMAIN) else None
        now = self._number_of(source_id)
        if now == number:
            raise HypercallError(HvStatus.DEVICE_ALREADY_IN_DOMAIN, f"device {source_id:#x} is in domain {number:#x}")
        if now != DEFAULT_DOMAIN:
            raise HypercallError(HvStatus.INVALID_DEVICE_STATE, f"device {source_id:#x} is in domain {now:#x}")
        self._places[source_id] = target
        if target is None:
            self.driver.detach(source_id)
        else:
            target.attach(source_id)

    def leave(self, source_id: int) -> None:
        """The device is in its partition's default domain again; INVALID_DEVICE_STATE when it is there."""
        self._require_own(source_id)
        if source_id not in self._places:
            raise HypercallError(HvStatus.INVALID_DEVICE_STATE, f"device {source_id:#x} is in the default domain")
        place = self._places.pop(source_id)
        if place is not None:
            place.detach(source_id)
        self.driver.attach(self._followers[self._homes[source_id]].domain, source_id)

    def _number_of(self, source_id: int) -> int:
        if source_id not in self._places:
            return DEFAULT_DOMAIN
        place = self._places[source_id]
        return NULL_DOMAIN if place is None else place.number

    def release(self, partition: Partition) -> None:
        """Take every domain from a partition that is finalized; its devices are detached."""
        for owner, number in sorted(self._explicit):
            if owner == partition.id:
                self.delete(partition, number)

    # --- devices behind a guest's own unit -------------------------------------------------------------

    def _go_through(self, virtual: VirtualIommu, source_id: int, guest_id: int) -> None:
        try:
            virtual.add(source_id, guest_id, self)
        except HypercallError:
            self.detach(source_id)
            raise
        self.take_faults()              # of whoever had the device before
        if not self._virtual:
            self.driver.report_faults_to(IOMMU_FAULT_VECTOR, DESTINATION_APIC)
        self._virtual[source_id] = virtual

    def _require_own(self, source_id: int) -> None:
        if source_id in self._virtual:
            raise HypercallError(HvStatus.INVALID_DEVICE_STATE, f"device {source_id:#x} is behind its guest's own unit")

    def new_shadow(self, partition: Partition, source_id: int) -> ExplicitDomain:
        """A domain for what a guest's unit lets the device reach; INSUFFICIENT_MEMORY."""
        return ExplicitDomain(self.driver, partition, source_id)

    def show(self, source_id: int, place: ExplicitDomain) -> None:
        """The device sees that domain."""
        if self._places.get(source_id) is not place:
            self._take_out(source_id)
            self._places[source_id] = place
            place.attach(source_id)

    def show_all(self, source_id: int, partition: Partition) -> None:
        """The device sees its partition's memory as it is."""
        if source_id in self._places:
            self._take_out(source_id)
            self.driver.attach(self._followers[partition.id].domain, source_id)

    def show_nothing(self, source_id: int) -> None:
        """Each access of the device faults."""
        self._take_out(source_id)
        self._places[source_id] = None
        self.driver.detach(source_id)

    def _take_out(self, source_id: int) -> None:
        place = self._places.pop(source_id, None)
        if place is not None:
            place.detach(source_id)

    def take_faults(self) -> None:
        """The unit's own interrupt: each fault is told to the guest whose unit the device is behind, if it has one."""
        for record in self.driver.take_faults():
            virtual = self._virtual.get(record.source_id)
            if virtual is not None:
                virtual.tell(record)

    # --- interrupts ------------------------------------------------------------------------------------

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

    def lets_through(self, source_id: int, vector: int) -> bool:
        """The device's interrupt gets through the IOMMU."""
        return self.driver.lets_through(self._interrupts[source_id, vector])

    def let_through(self, source_id: int, vector: int, wanted: bool) -> None:
        """Whether it does; while it does not, each one is a fault."""
        self.driver.let_through(self._interrupts[source_id, vector], wanted)
