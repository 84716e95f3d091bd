"""Invalidation: by registers (CCMD, IOTLB), and by a queue of descriptors in memory.

Software changes a table in memory, then invalidates what the unit may have cached of it. The queue is a ring: software
writes descriptors and moves the tail, the unit obeys and moves the head after it. VT-d "Register-based Invalidation
Interface", "Queued Invalidation Interface".
"""

# Simplified: everything is done by the time the register write returns, so a fence has nothing to wait for.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.iommu.faults import QUEUE_ERROR, TIMEOUT_ERROR, FaultLog
from hv.iommu.interrupts import InterruptRemapper
from hv.iommu.memory import UnitMemory
from hv.iommu.registers import EventMessage, RegisterFile
from hv.iommu.translate import Translator
from hv.machine.faults import BusError
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


DeviceTlb = Callable[[int, int], None]      # forget 2^mask pages around a page: (page, mask)
_WHOLE_MASK = 52                            # of a page number: all of them


class Invalidation:
    """Both interfaces to the caches of *translator* and *remapper*, and the way to those of devices: `device_tlbs`."""

    def __init__(self, memory: UnitMemory, translator: Translator, remapper: InterruptRemapper, faults: FaultLog,
                 send: Callable[[int, int], None]) -> None:
        self.memory, self.translator, self.remapper, self.faults = memory, translator, remapper, faults
        self.device_tlbs: dict[int, DeviceTlb] = {}     # by source-id
        self._is_unanswered = False             # a device did not answer since the last wait descriptor
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
                granularity, command.domain_id, self._address.page, self._address.address_mask,
                bool(self._address.hint))
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
            self.enabled, self.head, self._is_unanswered = on, 0, False
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
        """Obey descriptors until the head meets the tail, or until there is an error: an event of the fault log."""
        if self._is_processing:
            return                              # an event's listener moved the tail; the loop below sees it
        self._is_processing = True
        error = self._process_all()
        self._is_processing = False
        if error:
            self.faults.queue_stopped(error)

    def _process_all(self) -> int:
        """The error that stopped the queue, a bit of FSTS, or 0."""
        while self.enabled and not self.faults.stops_queue and self.head != self.tail:
            error = self._obey() if self.tail < self.length else QUEUE_ERROR
            if error == QUEUE_ERROR:
                return error                    # the head stays at what cannot be obeyed
            self.head = (self.head + 1) % self.length
            if error:
                return error
        return 0

    def _obey(self) -> int:
        """Carry out the descriptor at the head; the error it is, or 0."""
        try:
            raw = self.memory.read(self.queue.page * PAGE_SIZE + self.head * ENTRY_SIZE, ENTRY_SIZE)
        except BusError:
            return QUEUE_ERROR
        value = int.from_bytes(raw, "little")
        kind = DESCRIPTORS.get(Descriptor(value).type)
        if kind is None or value & kind.RESERVED:
            return QUEUE_ERROR
        return self._carry_out(kind(value))

    def _carry_out(self, descriptor: Descriptor) -> int:
        match descriptor:
            case ContextDescriptor(granularity=granularity) if granularity:
                self.translator.invalidate_contexts(
                    Granularity(granularity), descriptor.domain_id, descriptor.source_id, descriptor.function_mask)
            case IotlbDescriptor(granularity=granularity) if granularity:
                return self._invalidate_pages(descriptor)
            case DeviceTlbDescriptor() if self.translator.device_tlbs:
                self._invalidate_device(descriptor)
            case InterruptDescriptor(selective=selective):
                self.remapper.invalidate(descriptor.index if selective else None, descriptor.index_mask)
            case WaitDescriptor():
                return self._complete(descriptor)
            case _:
                return QUEUE_ERROR      # granularity 0, and device TLBs when ECAP.DT says they are not there
        return 0

    def _invalidate_pages(self, descriptor: IotlbDescriptor) -> int:
        granularity = Granularity(descriptor.granularity)
        if granularity is Granularity.SELECTIVE and descriptor.address_mask > MAXIMUM_ADDRESS_MASK:
            return QUEUE_ERROR
        self.translator.invalidate_pages(
            granularity, descriptor.domain_id, descriptor.page, descriptor.address_mask, bool(descriptor.hint))
        return 0

    def _invalidate_device(self, descriptor: DeviceTlbDescriptor) -> None:
        """Send the request to the device. One without a TLB does not answer: the next wait descriptor finds out."""
        forget = self.device_tlbs.get(descriptor.source_id)
        if forget is None:
            self._is_unanswered = True
        else:
            forget(descriptor.page, _device_mask(descriptor))

    def _complete(self, descriptor: WaitDescriptor) -> int:
        """Everything before is done: say so in memory, by an event, or both.

        While a device has not answered, a wait descriptor is given up instead: VT-d "Invalidation Completion Errors",
        ITE.
        """
        if self._is_unanswered:
            self._is_unanswered = False
            return TIMEOUT_ERROR
        if descriptor.write_status:
            try:
                self.memory.write_u32(descriptor.status_dword * 4, descriptor.status_data)
            except BusError:
                return QUEUE_ERROR
        if descriptor.interrupt and not self.completion.wait_complete:
            self.completion.wait_complete = 1
            self.event.happen()
        return 0

    def inspect(self) -> dict[str, Any]:
        """Plain data: where the queue is and how far it got."""
        return {"enabled": self.enabled, "queue": self.queue.page * PAGE_SIZE, "length": self.length, "head": self.head,
                "tail": self.tail, "wait_complete": bool(self.completion.wait_complete)}


def _device_mask(descriptor: DeviceTlbDescriptor) -> int:
    """log2 of the pages meant: with S set, the lowest 0 of the page number says; PCI Express "Invalidate Request"."""
    if not descriptor.size:
        return 0
    ones = (descriptor.page ^ descriptor.page + 1).bit_length() - 1
    return min(ones + 1, _WHOLE_MASK)
