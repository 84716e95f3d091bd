"""A remapping unit that a guest programs itself: the same `Iommu`, in front of the partition's memory.

It is the hypervisor's, like the local APICs: its registers are a page of the partition at VIRTUAL_IOMMU_GPA, and what
the guest does there is done without its parent. A device of the partition goes through a shadow (`shadow.py`) once the
guest has set GSTS.TES, and sees the partition's memory as it is before. What the physical unit refuses such a device is
told to the guest's unit, with the reason that the guest's tables give.

A message of a device is looked up in the guest's interrupt remapping table when it is sent: one of root's by
HvCallAssertDeviceInterrupt, one of an assigned device when the physical interrupt that stands for it arrives.
"""

# Simplified: it has no device TLBs (ECAP.DT = 0). Its own messages are fixed, lowest-priority or NMI; what else the
# guest asks for there is lost. So is an ExtINT of an assigned device, as nobody could ask the 8259s for its vector, and
# a write to FEExxxxx which such a device makes as DMA: the machine's unit refuses that, and cannot say what it was.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hv.hypervisor.devices.shadow import Shadow
from hv.iommu.interrupts import InterruptFault, InterruptMessage, Remapped
from hv.iommu.translate import ALL_PAGES, READ, WRITE, DmaFault, Refusal
from hv.iommu.unit import CAPABILITIES, EXTENDED_CAPABILITIES, Iommu
from hv.machine.faults import BusError, NestedFault
from hv.machine.interconnect import Message
from hv.spec.apic import DeliveryMode
from hv.spec.pc import VIRTUAL_IOMMU_GPA
from hv.spec.vtd import Cap, Ecap, FaultReason, FaultRecord, TranslationType
from hv.spec.x86 import PAGE_SHIFT, PAGE_SIZE
from hv.trace.events import GuestInterruptRefused, GuestInterruptRemapped, InterruptPosted

if TYPE_CHECKING:
    from hv.hypervisor.devices.domains import DeviceDomains
    from hv.hypervisor.partitions.partition import Partition

PAGE = VIRTUAL_IOMMU_GPA >> PAGE_SHIFT
GUEST_CAPABILITIES = Cap(CAPABILITIES.raw, caching_mode=1)
GUEST_EXTENDED = Ecap(EXTENDED_CAPABILITIES.raw, device_tlb=0)
MOST_RANGES = 8         # of pages that are looked at one by one; more of them together are all
_MODES = (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY, DeliveryMode.NMI)
DELIVERED = (*_MODES, DeliveryMode.INIT)


class PartitionMemory:
    """A partition's memory, as a unit sees memory: BusError where the partition has none."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.size = 1 << 46

    def read(self, spa: int, size: int) -> bytes:
        """*size* bytes at guest-physical *spa*."""
        try:
            return self.partition.space.read(spa, size)
        except NestedFault:
            raise BusError(spa, size, self.size) from None

    def read_u64(self, spa: int) -> int:
        """A 64-bit word."""
        return int.from_bytes(self.read(spa, 8), "little")

    def write(self, spa: int, data: bytes) -> None:
        """Store *data*."""
        try:
            self.partition.space.write(spa, data)
        except NestedFault:
            raise BusError(spa, len(data), self.size) from None

    def write_u32(self, spa: int, value: int) -> None:
        """Store a 32-bit word."""
        self.write(spa, value.to_bytes(4, "little"))


class VirtualIommu:
    """The unit of *partition*, which pays a page for it. INSUFFICIENT_MEMORY."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self._page = partition.pool.allocate()
        self.shadows: dict[int, Shadow] = {}            # by source-id
        self._domains: DeviceDomains | None = None
        self._forgotten: dict[int, list[range]] = {}    # by source-id, during an access
        self.reset()
        partition.mmio_pages[PAGE] = self
        partition.on_teardown.append(self._end)

    def reset(self) -> None:
        """As after power-on: nothing is translated."""
        self.unit = Iommu(PartitionMemory(self.partition), self._send_own, capabilities=GUEST_CAPABILITIES,
                          extended=GUEST_EXTENDED, name=f"iommu of partition {self.partition.id}")
        self.unit.translator.on_forgotten = self._on_forgotten
        self._translates = False
        for shadow in self.shadows.values():
            shadow.translator = self.unit.translator
        self._place_all()

    def _end(self, partition: Partition) -> None:
        del partition.mmio_pages[PAGE]
        partition.pool.free(self._page)

    # --- its registers ---------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """*size* bytes at *offset*."""
        return self.unit.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store them; what follows from it has happened when this returns."""
        self.unit.write(offset, size, value)
        translates = bool(self.unit.status.translation)
        if translates != self._translates:
            self._translates = translates
            self._place_all()
        while self._forgotten:
            self._follow(*self._forgotten.popitem())

    # --- devices ---------------------------------------------------------------------------------------

    def add(self, source_id: int, guest_id: int, domains: DeviceDomains) -> None:
        """The device is the partition's, and has the requester id *guest_id* there; INSUFFICIENT_MEMORY."""
        self._domains = domains
        self.shadows[source_id] = Shadow(
            source_id, guest_id, self.unit.translator, domains.new_shadow(self.partition, source_id))
        self._place(self.shadows[source_id])

    def remove(self, source_id: int) -> None:
        """It was; nothing of it translates any more."""
        shadow = self.shadows.pop(source_id, None)
        if shadow is not None:
            shadow.domain.end()

    def _on_forgotten(self, domain_id: int | None, pages: range) -> None:
        """The guest has invalidated: a context entry (no pages), or pages of a domain or of all.

        What a queue full of that costs is paid once, behind the access that started the queue.
        """
        for shadow in self.shadows.values():
            if not pages or (shadow.context and domain_id in (None, shadow.context.domain_id)):
                self._forgotten.setdefault(shadow.source_id, []).append(pages)

    def _follow(self, source_id: int, forgotten: list[range]) -> None:
        shadow = self.shadows[source_id]
        if any(not pages for pages in forgotten):
            self._place(shadow)
        ranges = [pages for pages in forgotten if pages]
        for pages in ranges if len(ranges) <= MOST_RANGES else [ALL_PAGES]:
            shadow.compose(pages)

    def _place_all(self) -> None:
        for shadow in self.shadows.values():
            self._place(shadow)

    def _place(self, shadow: Shadow) -> None:
        """Where the guest's context entry puts the device: through tables, through none, or nowhere."""
        assert self._domains is not None, "it has a device"
        if not self._translates:
            shadow.use(None)
            self._domains.show_all(shadow.source_id, self.partition)
            return
        translator = self.unit.translator
        try:
            context = translator.sound(translator.context_entry(shadow.guest_id))
        except Refusal:
            shadow.use(None)
            self._domains.show_nothing(shadow.source_id)
            return
        if context.type == TranslationType.PASS_THROUGH:
            shadow.use(None)
            self._domains.show_all(shadow.source_id, self.partition)
        else:
            shadow.use(context)
            self._domains.show(shadow.source_id, shadow.domain)

    # --- faults and interrupts -------------------------------------------------------------------------

    def tell(self, record: FaultRecord) -> None:
        """The physical unit has refused a device of the partition. That is the guest's affair while it translates."""
        shadow = self.shadows.get(record.source_id)
        if shadow is None or not self._translates or record.reason >= FaultReason.REQUEST_RESERVED:
            return
        if self.partition.still is not None:
            self.partition.still()
        iova, write = record.page * PAGE_SIZE, not record.is_read
        refusal = shadow.why_refused(iova, WRITE if write else READ)
        # No refusal: the tables allow it by now, and the guest has not invalidated.
        reason = refusal.reason if refusal else FaultReason.WRITE_REFUSED if write else FaultReason.READ_REFUSED
        self.unit.faults.record_dma(DmaFault(
            reason, shadow.guest_id, iova, write, recorded=not self._is_silent(shadow.guest_id)))

    def _is_silent(self, guest_id: int) -> bool:
        """FPD of the device's context entry, where there is one."""
        try:
            return bool(self.unit.translator.context_entry(guest_id).fault_disabled)
        except Refusal:
            return False

    def remap(self, guest_id: int, address: int, data: int) -> Remapped | None:
        """What a message of a device of the partition becomes by the guest's table; None, and a record, if refused."""
        if self.partition.still is not None:
            self.partition.still()
        trace, own = self.partition.trace, self.partition.id
        try:
            made = self.unit.remapper.remap(guest_id, address, data)
        except InterruptFault as fault:
            if trace.listening:
                trace.emit(GuestInterruptRefused(own, guest_id, fault.index, fault.reason, fault.reason.text))
            self.unit.faults.record_interrupt(fault)
            return None
        message, index, posting = made
        if trace.listening and posting is not None:
            trace.emit(InterruptPosted(own, guest_id, posting.vector, posting.descriptor, message is not None))
        elif trace.listening and index is not None and message is not None:
            trace.emit(GuestInterruptRemapped(own, guest_id, index, message.vector, message.destination))
        return made

    def pass_on(self, source_id: int, address: int, data: int) -> None:
        """The machine's device *source_id* has sent what stands for this message, which the guest wrote into it."""
        made = self.remap(self.shadows[source_id].guest_id, address, data)
        if made is not None and made.message is not None:
            self.deliver(made.message)

    def deliver(self, message: InterruptMessage) -> bool:
        """To the partition's own local APICs; False when the message means none of them."""
        vector, destination, logical, mode, level, hint = message
        targets = self.partition.interconnect.named(destination, logical)
        if mode in DELIVERED:
            kind = DeliveryMode.LOWEST_PRIORITY if hint and mode == DeliveryMode.FIXED else DeliveryMode(mode)
            self.partition.interconnect.hand_out(Message(vector, kind, level), targets)
        return bool(targets)

    def _send_own(self, message: InterruptMessage) -> None:
        """The unit's own interrupt, of a fault or an invalidation."""
        if message.delivery_mode in _MODES:
            self.deliver(message)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {**self.unit.inspect(), "shadows": [shadow.inspect() for shadow in self.shadows.values()]}
