"""Fault recording: a ring of records, a status register, and one event for as long as nobody has served it.

VT-d "Primary Fault Logging": a fault takes the next record; if that is still in use, the fault is lost and PFO says so.
PPF is not a bit of its own but the OR of all F bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.iommu.interrupts import InterruptFault
from hv.iommu.registers import EventMessage, RegisterFile
from hv.iommu.translate import DmaFault
from hv.spec.vtd import ENTRY_SIZE, FAULT_RECORDS, FaultReason, FaultRecord, FaultStatus, VtdRegister
from hv.spec.x86 import PAGE_SIZE

_CLEARABLE = FaultStatus(overflow=1, queue_error=1, completion_error=1, timeout_error=1).raw
QUEUE_ERROR = FaultStatus(queue_error=1).raw            # IQE: a descriptor cannot be obeyed
TIMEOUT_ERROR = FaultStatus(timeout_error=1).raw        # ITE: a device did not answer
_QWORD = (1 << 64) - 1


def describe(record: FaultRecord) -> str:
    """What a record says, in one line."""
    reason = FaultReason(record.reason)
    if reason >= FaultReason.REQUEST_RESERVED:
        return f"interrupt request {record.index:#x} of {record.source_id:#06x}: {reason.text}"
    what = "read" if record.is_read else "write"
    return f"{what} at {record.page * PAGE_SIZE:#x} by {record.source_id:#06x}: {reason.text}"


class FaultLog:
    """The fault registers. `on_queue_error_cleared` hears when software lets the invalidation queue go on."""

    def __init__(self, send: Callable[[int, int], None]) -> None:
        self.event = EventMessage(send)
        self.records = [FaultRecord() for _ in range(FAULT_RECORDS)]
        self.on_queue_error_cleared: Callable[[], None] = lambda: None
        self._next = 0
        self._status = FaultStatus()            # all but PPF

    @property
    def status(self) -> FaultStatus:
        """FSTS."""
        return FaultStatus(self._status.raw, pending=int(any(record.fault for record in self.records)))

    @property
    def stops_queue(self) -> bool:
        """The invalidation queue stands still until software has cleared an error."""
        return bool(self._status.raw & (QUEUE_ERROR | TIMEOUT_ERROR))

    def record_dma(self, fault: DmaFault) -> None:
        """Record a refused DMA request, unless its context entry asks for silence."""
        if fault.recorded:
            self._record(FaultRecord(
                page=(fault.iova & _QWORD) // PAGE_SIZE, source_id=fault.source_id, reason=fault.reason,
                address_type=fault.address_type, is_read=int(not fault.write), fault=1))

    def record_interrupt(self, fault: InterruptFault) -> None:
        """Record a refused interrupt request, unless its entry asks for silence."""
        if fault.recorded:
            self._record(FaultRecord(page=(fault.index & 0xFFFF) << 36, source_id=fault.source_id,
                                     reason=fault.reason, fault=1))

    def _record(self, record: FaultRecord) -> None:
        before = self.status
        if before.overflow:
            return
        if self.records[self._next].fault:
            self._status.overflow = 1
        else:
            if not before.pending:
                self._status.record_index = self._next
            self.records[self._next] = record
            self._next = (self._next + 1) % FAULT_RECORDS
        self._announce(before)

    def queue_stopped(self, error: int) -> None:
        """The invalidation queue met QUEUE_ERROR or TIMEOUT_ERROR."""
        before = self.status
        self._status.raw |= error
        self._announce(before)

    def _announce(self, before: FaultStatus) -> None:
        """An event, if nothing waited to be served already."""
        if not _has_cause(before):
            self.event.happen()

    def _set_status(self, value: int, mask: int) -> None:
        cleared = self._status.raw & value & _CLEARABLE
        self._status.raw &= ~cleared
        self._settle()
        if cleared & (QUEUE_ERROR | TIMEOUT_ERROR):
            self.on_queue_error_cleared()

    def _settle(self) -> None:
        if not _has_cause(self.status):
            self.event.withdraw()

    def add_to(self, file: RegisterFile) -> None:
        """Put FSTS, the event's registers and the records in their places."""
        file.add(VtdRegister.FSTS, 4, lambda: self.status.raw, self._set_status)
        self.event.add_to(file, VtdRegister.FECTL)
        for number in range(FAULT_RECORDS):
            self._add_record(file, number)

    def _add_record(self, file: RegisterFile, number: int) -> None:
        def acknowledge(value: int, mask: int) -> None:
            if FaultRecord(value << 64).fault:
                self.records[number].fault = 0
                self._settle()

        offset = VtdRegister.FRCD + number * ENTRY_SIZE
        file.add(offset, 8, lambda: self.records[number].raw & _QWORD)
        file.add(offset + 8, 8, lambda: self.records[number].raw >> 64, acknowledge)

    def inspect(self) -> dict[str, Any]:
        """Plain data: the status, and the records that wait."""
        return {"status": self.status.inspect(), "masked": bool(self.event.control.masked),
                "records": [describe(record) for record in self.records if record.fault]}


def _has_cause(status: FaultStatus) -> bool:
    return bool(status.raw & _CLEARABLE or status.pending)
