"""Interrupt remapping: a device names an entry of a table, and the entry says what is delivered.

So a device, and the partition that programs it, can raise only the interrupts its owner wrote entries for.
VT-d "Interrupt Remapping".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hv.machine.faults import BusError
from hv.machine.ram import PhysicalMemory
from hv.spec.apic import DeliveryMode, MsiAddress, MsiData
from hv.spec.vtd import (
    ENTRY_SIZE,
    IGNORED_FUNCTION_BITS,
    FaultReason,
    InterruptTableAddress,
    Irte,
    RemappableAddress,
    RemappableData,
    SourceValidation,
    XapicIrteDestination,
)

ALLOWED_MODES = frozenset(DeliveryMode) - {DeliveryMode.RESERVED, DeliveryMode.STARTUP}


@dataclass(frozen=True, slots=True)
class InterruptMessage:
    """What reaches the local APICs. *destination* is an APIC id (or a logical one) of 8, with EIME of 32 bits."""

    vector: int
    destination: int
    logical: bool
    delivery_mode: int
    level: bool
    redirection_hint: bool


class InterruptFault(Exception):
    """The unit refuses an interrupt request. *index* is the entry asked for; *recorded* is False by the entry's FPD."""

    def __init__(self, reason: FaultReason, source_id: int, index: int, recorded: bool = True) -> None:
        self.reason, self.source_id, self.index, self.recorded = reason, source_id, index, recorded
        super().__init__(f"interrupt request {index:#x}: {reason.text}")


def as_written(address: int, data: int) -> InterruptMessage:
    """A message in compatibility format; SDM "Message Signalled Interrupts"."""
    to, what = MsiAddress(address), MsiData(data & 0xFFFFFFFF)
    return InterruptMessage(what.vector, to.destination, bool(to.logical), what.delivery_mode, bool(what.level),
                            bool(to.redirection_hint))


def requested_index(address: int, data: int) -> int:
    """The entry that a message in remappable format names."""
    to = RemappableAddress(address)
    handle = to.handle_high << 15 | to.handle_low
    return handle + (RemappableData(data & 0xFFFFFFFF).subhandle if to.subhandle_valid else 0)


class InterruptRemapper:
    """Remaps by the table that `table` describes; entries are cached until they are invalidated."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory
        self.table = InterruptTableAddress()
        self.enabled = False                    # GSTS.IRES
        self.compatibility = False              # GSTS.CFIS
        self._cache: dict[int, Irte] = {}       # by index

    def remap(self, source_id: int, address: int, data: int) -> tuple[InterruptMessage, int | None]:
        """What is delivered, and the index of the entry (None when none was asked); InterruptFault when refused."""
        if not self.enabled:
            return as_written(address, data), None
        if not RemappableAddress(address).remappable:
            if self.compatibility and not self.table.extended:
                return as_written(address, data), None
            raise InterruptFault(FaultReason.COMPATIBILITY_BLOCKED, source_id, 0)
        index = requested_index(address, data)
        if data & RemappableData.RESERVED:
            raise InterruptFault(FaultReason.REQUEST_RESERVED, source_id, index)
        irte = self._entry(source_id, index)
        return self._message(irte), index

    def _entry(self, source_id: int, index: int) -> Irte:
        irte = self._cache.get(index)
        if irte is None:
            irte = self._load(source_id, index)
        reason = self._refusal(irte, source_id)
        if reason is not None:
            raise InterruptFault(reason, source_id, index, recorded=not irte.fault_disabled)
        self._cache[index] = irte
        return irte

    def _load(self, source_id: int, index: int) -> Irte:
        if index >= 2 << self.table.size:
            raise InterruptFault(FaultReason.INDEX_BEYOND_TABLE, source_id, index)
        try:
            raw = self.memory.read(self.table.page * 4096 + index * ENTRY_SIZE, ENTRY_SIZE)
        except BusError:
            raise InterruptFault(FaultReason.IRTE_ACCESS, source_id, index) from None
        return Irte(int.from_bytes(raw, "little"))

    def _refusal(self, irte: Irte, source_id: int) -> FaultReason | None:
        if not irte.present:
            return FaultReason.IRTE_NOT_PRESENT
        if (irte.raw & Irte.RESERVED or irte.validation == SourceValidation.RESERVED
                or irte.delivery_mode not in ALLOWED_MODES
                or (not self.table.extended and irte.destination & XapicIrteDestination.RESERVED)):
            return FaultReason.IRTE_RESERVED
        return None if is_source_allowed(irte, source_id) else FaultReason.SOURCE_REFUSED

    def _message(self, irte: Irte) -> InterruptMessage:
        destination = irte.destination if self.table.extended else XapicIrteDestination(irte.destination).id
        return InterruptMessage(irte.vector, destination, bool(irte.logical), irte.delivery_mode, bool(irte.level),
                                bool(irte.redirection_hint))

    def invalidate(self, index: int | None = None, index_mask: int = 0) -> None:
        """Forget all entries, or the 2^*index_mask* aligned ones around *index*."""
        for cached in list(self._cache):
            if index is None or cached >> index_mask == index >> index_mask:
                del self._cache[cached]

    def inspect(self) -> dict[str, Any]:
        """Plain data: the table, and what is cached of it."""
        return {"enabled": self.enabled, "compatibility": self.compatibility, "table": self.table.inspect(),
                "cached": {index: irte.inspect() for index, irte in self._cache.items()}}


def is_source_allowed(irte: Irte, source_id: int) -> bool:
    """May *source_id* use the entry? VT-d "Source-id Validation"."""
    match irte.validation:
        case SourceValidation.REQUESTER:
            return (irte.source_id ^ source_id) & ~IGNORED_FUNCTION_BITS[irte.qualifier] == 0
        case SourceValidation.BUS_RANGE:
            return irte.source_id >> 8 <= source_id >> 8 <= irte.source_id & 0xFF
    return True
