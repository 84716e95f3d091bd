"""Invalidation: by registers (CCMD, IOTLB), and by a queue of descriptors in memory.

Software changes a table in memory, then invalidates what the unit may have cached of it. The queue is a ring: software
writes descriptors and moves the tail, the unit obeys and moves the head after it. VT-d "Register-based Invalidation
Interface", "Queued Invalidation Interface".
"""

# Simplified: everything is done by the time the register write returns, so a fence has nothing to wait for.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.iommu.faults import FaultLog
from hv.iommu.interrupts import InterruptRemapper
from hv.iommu.registers import EventMessage, RegisterFile
from hv.iommu.translate import Translator
from hv.machine.faults import BusError
from hv.machine.ram import PhysicalMemory
from hv.spec.vtd import (
    ENTRY_SIZE,
    MAXIMUM_ADDRESS_MASK,
    CompletionStatus,
    ContextCommand,
    ContextDescriptor,
    Descriptor,
    DescriptorType,
    DeviceTlbDescriptor,
    Granularity,
    InterruptDescriptor,
    IotlbAddress,
    IotlbCommand,
    IotlbDescriptor,
    QueueAddress,
    QueuePointer,
    VtdRegister,
    WaitDescriptor,
)
from hv.spec.x86 import PAGE_SIZE

DESCRIPTORS: dict[int, type[Descriptor]] = {
    DescriptorType.CONTEXT: ContextDescriptor,
    DescriptorType.IOTLB: IotlbDescriptor,
    DescriptorType.DEVICE_TLB: DeviceTlbDescriptor,
    DescriptorType.INTERRUPT: InterruptDescriptor,
    DescriptorType.WAIT: WaitDescriptor,
}


class Invalidation:
    """Both interfaces to the caches of *translator* and *remapper*."""

    def __init__(self, memory: PhysicalMemory, translator: Translator, remapper: InterruptRemapper, faults: FaultLog,
                 send: Callable[[int, int], None]) -> None:
        self.memory, self.translator, self.remapper, self.faults = memory, translator, remapper, faults
        self.event = EventMessage(send)
        self.completion = CompletionStatus()
        self.queue = QueueAddress()
        self.head, self.tail = 0, 0             # descriptor numbers
        self.enabled = False                    # GSTS.QIES
        self._is_processing = False
        self._context, self._iotlb, self._address = ContextCommand(), IotlbCommand(), IotlbAddress()
        faults.on_queue_error_cleared = self.process

    def add_to(self, file: RegisterFile) -> None:
        """Put the registers of both interfaces in their places."""
        file.add(VtdRegister.CCMD, 8, lambda: self._context.raw, self._set_context)
        file.add(VtdRegister.IVA, 8, lambda: 0, self._set_address)
        file.add(VtdRegister.IOTLB, 8, lambda: self._iotlb.raw, self._set_iotlb)
        file.add(VtdRegister.IQH, 8, lambda: QueuePointer(index=self.head).raw)
        file.add(VtdRegister.IQT, 8, lambda: QueuePointer(index=self.tail).raw, self._set_tail)
        file.add(VtdRegister.IQA, 8, lambda: self.queue.raw, self._set_queue)
        file.add(VtdRegister.ICS, 4, lambda: self.completion.raw, self._set_completion)
        file.add(VtdRegister.IQERCD, 8, lambda: 0)
        self.event.add_to(file, VtdRegister.IECTL)

    # By registers.

    def _set_context(self, value: int, mask: int) -> None:
        """CCMD. With the queue enabled it must not be used: nothing is invalidated, and CAIG says so."""
        command = ContextCommand((self._context.raw & ~mask | value) & ~ContextCommand.RESERVED, actual=0)
        if command.invalidate and not self.enabled:
            granularity = Granularity(command.granularity)
            self.translator.invalidate_contexts(
                granularity, command.domain_id, command.source_id, command.function_mask)
            command.actual = granularity
        command.invalidate = 0
        self._context = command

    def _set_address(self, value: int, mask: int) -> None:
        self._address = IotlbAddress((self._address.raw & ~mask | value) & ~IotlbAddress.RESERVED)

    def _set_iotlb(self, value: int, mask: int) -> None:
        """IOTLB; as CCMD. A range beyond MAMV is not invalidated either."""
        command = IotlbCommand((self._iotlb.raw & ~mask | value) & ~IotlbCommand.RESERVED, actual=0)
        granularity = Granularity(command.granularity)
        too_large = granularity is Granularity.SELECTIVE and self._address.address_mask > MAXIMUM_ADDRESS_MASK
        if command.invalidate and not self.enabled and not too_large:
            self.translator.invalidate_pages(
                granularity, command.domain_id, self._address.page, self._address.address_mask)
            command.actual = granularity
        command.invalidate = 0
        self._iotlb = command

    # By the queue.

    @property
    def length(self) -> int:
        """Descriptors in the ring."""
        return 256 << self.queue.size

    def enable(self, on: bool) -> None:
        """QIE: the head starts from 0."""
        if on != self.enabled:
            self.enabled, self.head = on, 0
            self.process()

    def _set_queue(self, value: int, mask: int) -> None:
        """IQA; ignored while the queue is enabled. DW is reserved without scalable mode."""
        if not self.enabled:
            wide = QueueAddress(wide=1).raw
            self.queue = QueueAddress((self.queue.raw & ~mask | value) & ~(QueueAddress.RESERVED | wide))

    def _set_tail(self, value: int, mask: int) -> None:
        self.tail = QueuePointer(QueuePointer(index=self.tail).raw & ~mask | value).index
        self.process()

    def _set_completion(self, value: int, mask: int) -> None:
        if CompletionStatus(value).wait_complete:
            self.completion.wait_complete = 0
            self.event.withdraw()

    def process(self) -> None:
        """Obey descriptors until the head meets the tail, or until one cannot be obeyed."""
        if self._is_processing:
            return                              # an event's listener moved the tail; the loop below sees it
        self._is_processing = True
        is_stuck = not self._process_all()
        self._is_processing = False
        if is_stuck:
            self.faults.queue_error()

    def _process_all(self) -> bool:
        while self.enabled and not self.faults.has_queue_error and self.head != self.tail:
            if self.tail >= self.length or not self._obey():
                return False
            self.head = (self.head + 1) % self.length
        return True

    def _obey(self) -> bool:
        """Carry out the descriptor at the head; False when it is not one."""
        try:
            raw = self.memory.read(self.queue.page * PAGE_SIZE + self.head * ENTRY_SIZE, ENTRY_SIZE)
        except BusError:
            return False
        value = int.from_bytes(raw, "little")
        kind = DESCRIPTORS.get(Descriptor(value).type)
        if kind is None or value & kind.RESERVED:
            return False
        return self._carry_out(kind(value))

    def _carry_out(self, descriptor: Descriptor) -> bool:
        match descriptor:
            case ContextDescriptor(granularity=granularity) if granularity:
                self.translator.invalidate_contexts(
                    Granularity(granularity), descriptor.domain_id, descriptor.source_id, descriptor.function_mask)
            case IotlbDescriptor(granularity=granularity) if granularity:
                return self._invalidate_pages(descriptor)
            case InterruptDescriptor(selective=selective):
                self.remapper.invalidate(descriptor.index if selective else None, descriptor.index_mask)
            case WaitDescriptor():
                return self._complete(descriptor)
            case _:
                return False        # granularity 0, and device TLBs, which ECAP.DT says are not there
        return True

    def _invalidate_pages(self, descriptor: IotlbDescriptor) -> bool:
        granularity = Granularity(descriptor.granularity)
        if granularity is Granularity.SELECTIVE and descriptor.address_mask > MAXIMUM_ADDRESS_MASK:
            return False
        self.translator.invalidate_pages(
            granularity, descriptor.domain_id, descriptor.page, descriptor.address_mask)
        return True

    def _complete(self, descriptor: WaitDescriptor) -> bool:
        """Everything before is done: say so in memory, by an event, or both."""
        if descriptor.write_status:
            try:
                self.memory.write_u32(descriptor.status_dword * 4, descriptor.status_data)
            except BusError:
                return False
        if descriptor.interrupt and not self.completion.wait_complete:
            self.completion.wait_complete = 1
            self.event.happen()
        return True

    def inspect(self) -> dict[str, Any]:
        """Plain data: where the queue is and how far it got."""
        return {"enabled": self.enabled, "queue": self.queue.page * PAGE_SIZE, "length": self.length, "head": self.head,
                "tail": self.tail, "wait_complete": bool(self.completion.wait_complete)}
