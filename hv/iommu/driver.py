"""What the hypervisor does with the unit: bring it up, give devices to domains, let interrupts through.

It knows the unit only as software does: by its registers and its invalidation queue. VT-d "Software Considerations".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hv.iommu.tables import Domain, InterruptTable, RootTable, TablePages
from hv.iommu.unit import Iommu
from hv.machine.ram import PhysicalMemory
from hv.spec.apic import DEFAULT_BASE, DeliveryMode, MsiAddress, MsiData
from hv.spec.vtd import (
    ENTRY_SIZE,
    FAULT_RECORDS,
    GCMD_ONE_SHOT,
    ContextDescriptor,
    Descriptor,
    DescriptorType,
    EventControl,
    FaultRecord,
    FaultStatus,
    GlobalCommand,
    Granularity,
    InterruptDescriptor,
    IotlbDescriptor,
    Irte,
    QueuePointer,
    RemappableAddress,
    SourceValidation,
    VtdRegister,
    WaitDescriptor,
)
from hv.spec.x86 import PAGE_SIZE

R = VtdRegister
QUEUE_LENGTH = 256                      # descriptors in one page
_DONE = 0x600D


@dataclass(frozen=True, slots=True)
class MsiRoute:
    """An interrupt a device may raise: what its driver writes into the device, and the entry behind it."""

    address: int
    data: int
    index: int


class IommuDriver:
    """Drives *iommu*. Tables come from *allocate_page() -> spa* and go to *free_page(spa)*."""

    def __init__(self, iommu: Iommu, memory: PhysicalMemory, allocate_page: Callable[[], int],
                 free_page: Callable[[int], None]) -> None:
        self.iommu, self.memory = iommu, memory
        self.pages = TablePages(memory, allocate_page, free_page)
        self.root = RootTable(self.pages)
        self.interrupts = InterruptTable(self.pages)
        self.domains: dict[int, Domain] = {}
        self._queue, self._status = self.pages.new(), self.pages.new()
        self._tail = 0

    def start(self) -> None:
        """Bring the unit up: queue, root table, interrupt table, then both kinds of remapping.

        From here on a device without a domain reaches nothing, and an interrupt without an entry neither.
        """
        self.iommu.write(R.IQT, 8, 0)
        self.iommu.write(R.IQA, 8, self._queue)
        self._command(GlobalCommand(queued_invalidation=1))
        self.iommu.write(R.RTADDR, 8, self.root.spa)
        self._command(GlobalCommand(set_root_table=1))
        self.iommu.write(R.IRTA, 8, self.interrupts.register.raw)
        self._command(GlobalCommand(set_interrupt_table=1))
        self._invalidate(
            ContextDescriptor(type=DescriptorType.CONTEXT, granularity=Granularity.GLOBAL),
            IotlbDescriptor(type=DescriptorType.IOTLB, granularity=Granularity.GLOBAL),
            InterruptDescriptor(type=DescriptorType.INTERRUPT))
        self._command(GlobalCommand(interrupt_remapping=1))
        self._command(GlobalCommand(translation=1))

    def _command(self, bit: GlobalCommand) -> None:
        """Set one bit of GCMD and wait for it in GSTS, as VT-d "Global Command Register" prescribes."""
        kept = self.iommu.read(R.GSTS, 4) & ~GCMD_ONE_SHOT
        self.iommu.write(R.GCMD, 4, kept | bit.raw)
        assert self.iommu.read(R.GSTS, 4) & bit.raw, f"the unit did not obey {bit!r}"

    def _invalidate(self, *descriptors: Descriptor) -> None:
        """Queue descriptors, and a wait behind them; back when the unit has obeyed."""
        self.memory.write_u32(self._status, 0)
        wait = WaitDescriptor(
            type=DescriptorType.WAIT, write_status=1, status_data=_DONE, status_dword=self._status // 4)
        for descriptor in (*descriptors, wait):
            self.memory.write(self._queue + self._tail * ENTRY_SIZE, descriptor.raw.to_bytes(ENTRY_SIZE, "little"))
            self._tail = (self._tail + 1) % QUEUE_LENGTH
        self.iommu.write(R.IQT, 8, QueuePointer(index=self._tail).raw)
        assert self.memory.read_u32(self._status) == _DONE, "the invalidation queue did not reach its wait descriptor"

    # Devices.

    def add_device(self, source_id: int) -> None:
        """The device may be put into domains from now on, and none of that needs a page of the driver's any more."""
        self.root.add(source_id)

    def remove_device(self, source_id: int) -> None:
        """Undo `add_device`: the device is in no domain, and stays in none."""
        self.detach(source_id)
        table = self.root.remove(source_id)
        if table is not None:
            self._invalidate(ContextDescriptor(type=DescriptorType.CONTEXT, granularity=Granularity.GLOBAL))
            self.pages.free_page(table)

    # Domains.

    def create_domain(self, allocate_page: Callable[[], int] | None = None,
                      free_page: Callable[[int], None] | None = None) -> Domain:
        """A new, empty domain under the lowest free id; its tables come from the driver's pages or from those given."""
        id = next(n for n in range(1, 1 << 16) if n not in self.domains)
        pages = TablePages(self.memory, allocate_page, free_page) if allocate_page and free_page else self.pages
        self.domains[id] = Domain(id, self.root, pages)
        return self.domains[id]

    def destroy_domain(self, domain: Domain) -> None:
        """Detach its devices and give its tables back."""
        for source_id in list(domain.devices):
            self.detach(source_id)
        self.forget_domain(domain)
        domain.destroy()
        del self.domains[domain.id]

    def domain_of(self, source_id: int) -> Domain | None:
        """The domain a device is in, or None."""
        return next((domain for domain in self.domains.values() if source_id in domain.devices), None)

    def attach(self, domain: Domain, source_id: int) -> None:
        """Put a device that was added into *domain*, out of the one it was in."""
        self.detach(source_id)
        domain.attach(source_id)

    def detach(self, source_id: int) -> None:
        """Take a device out of its domain, if it is in one: each of its requests faults from here on."""
        domain = self.domain_of(source_id)
        if domain is None:
            return
        domain.detach(source_id)
        self._invalidate(ContextDescriptor(
            type=DescriptorType.CONTEXT, granularity=Granularity.SELECTIVE, domain_id=domain.id, source_id=source_id))
        self.forget_domain(domain)

    def forget_domain(self, domain: Domain) -> None:
        """Nothing the unit has cached of *domain* is used any more."""
        self._invalidate(IotlbDescriptor(
            type=DescriptorType.IOTLB, granularity=Granularity.DOMAIN, domain_id=domain.id))

    def map(self, domain: Domain, iova: int, spa: int, write: bool = True, read: bool = True) -> None:
        """Let the devices of *domain* reach the page at *spa*; ValueError as `Domain.map`.

        A page that takes the place of another is invalidated; a new one need not be (CM = 0).
        """
        if domain.map(iova, spa, write, read):
            self._forget_page(domain, iova)

    def unmap(self, domain: Domain, iova: int) -> bool:
        """Take a page away; once this returns no device can reach it. False when none was there."""
        was_mapped = domain.unmap(iova)
        if was_mapped:
            self._forget_page(domain, iova)
        return was_mapped

    def _forget_page(self, domain: Domain, iova: int) -> None:
        self._invalidate(IotlbDescriptor(
            type=DescriptorType.IOTLB, granularity=Granularity.SELECTIVE, domain_id=domain.id, page=iova // PAGE_SIZE))

    # Interrupts.

    def map_interrupt(self, source_id: int, vector: int, destination_apic: int, logical: bool = False,
                      delivery_mode: int = DeliveryMode.FIXED) -> MsiRoute | None:
        """Let *source_id*, and nobody else, raise *vector*; None when the table is full."""
        index = self.interrupts.allocate(Irte(
            present=1, logical=int(logical), delivery_mode=delivery_mode, vector=vector, destination=destination_apic,
            source_id=source_id, validation=SourceValidation.REQUESTER))
        if index is None:
            return None
        self._forget_interrupt(index)
        address = RemappableAddress(
            window=DEFAULT_BASE >> 20, remappable=1, handle_low=index & 0x7FFF, handle_high=index >> 15)
        return MsiRoute(address.raw, 0, index)

    def unmap_interrupt(self, route: MsiRoute) -> None:
        """Take the interrupt back: from here on the device's message faults."""
        self.interrupts.free(route.index)
        self._forget_interrupt(route.index)

    def lets_through(self, route: MsiRoute) -> bool:
        """The entry of the interrupt is present."""
        return bool(self.interrupts.read(route.index).present)

    def let_through(self, route: MsiRoute, wanted: bool) -> None:
        """While its entry is not present, the device's message faults; the entry stays its own."""
        entry = self.interrupts.read(route.index)
        entry.present = int(wanted)
        self.interrupts.write(route.index, entry)
        self._forget_interrupt(route.index)

    def _forget_interrupt(self, index: int) -> None:
        self._invalidate(InterruptDescriptor(type=DescriptorType.INTERRUPT, selective=1, index=index))

    # Faults.

    def report_faults_to(self, vector: int, destination_apic: int) -> None:
        """Have the unit send *vector* when something is refused and nothing was waiting."""
        address = MsiAddress(window=DEFAULT_BASE >> 20, destination=destination_apic).raw
        self.iommu.write(R.FEDATA, 4, MsiData(vector=vector).raw)
        self.iommu.write(R.FEADDR, 4, address)
        self.iommu.write(R.FEUADDR, 4, 0)
        self.iommu.write(R.FECTL, 4, EventControl(masked=0).raw)

    def take_faults(self) -> list[FaultRecord]:
        """The faults since the last call, oldest first; their records are free again.

        Only as many as the unit has records are kept; what came after is lost (PFO).
        """
        status = FaultStatus(self.iommu.read(R.FSTS, 4))
        taken = []
        for step in range(FAULT_RECORDS):
            offset = R.FRCD + (status.record_index + step) % FAULT_RECORDS * ENTRY_SIZE
            record = FaultRecord(self.iommu.read(offset + 8, 8) << 64 | self.iommu.read(offset, 8))
            if record.fault:
                taken.append(record)
                self.iommu.write(offset + 12, 4, FaultRecord(fault=1).raw >> 96)
        self.iommu.write(R.FSTS, 4, FaultStatus(overflow=1).raw)
        return taken
