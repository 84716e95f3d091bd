"""Interrupt remapping: a device names an entry of a table, and the entry says what is delivered.

So a device, and the partition that programs it, can raise only the interrupts its owner wrote entries for.
VT-d "Interrupt Remapping".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from hv.iommu.memory import UnitMemory
from hv.iommu.posting import DescriptorFault, Posting, post, posting_of
from hv.machine.faults import BusError
from hv.spec.apic import DeliveryMode, MsiAddress, MsiData
from hv.spec.vtd import (
    ENTRY_SIZE,
    IGNORED_FUNCTION_BITS,
    FaultReason,
    InterruptTableAddress,
    Irte,
    PostedIrte,
    RemappableAddress,
    RemappableData,
    SourceValidation,
    XapicIrteDestination,
)
from hv.spec.x86 import PAGE_SIZE

_REMAPPABLE, _POSTED = RemappableAddress(remappable=1).raw, PostedIrte(posted=1).raw
ALLOWED_MODES = frozenset(DeliveryMode) - {DeliveryMode.RESERVED, DeliveryMode.STARTUP}


class InterruptMessage(NamedTuple):
    """What reaches the local APICs. *destination* is an APIC id (or a logical one) of 8, with EIME of 32 bits."""

    vector: int
    destination: int
    logical: bool
    delivery_mode: int
    level: bool
    redirection_hint: bool


class CachedEntry(NamedTuple):
    """A sound entry of the table: what it delivers, or where it posts it, and for whom (*first* <= requester & *mask*
    <= *last*)."""

    message: InterruptMessage | Posting
    mask: int
    first: int
    last: int
    fault_disabled: int     # FPD
    irte: Irte


class Remapped(NamedTuple):
    """What became of a request."""

    message: InterruptMessage | None    # to deliver; None where no processor is to be notified of what was posted
    handle: int | None = None           # the index of the entry; None when none was asked
    posting: Posting | None = None


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


@lru_cache(maxsize=1024)
def requested_index(address: int, data: int) -> int:
    """The entry that a message in remappable format names."""
    to = RemappableAddress(address)
    handle = to.handle_high << 15 | to.handle_low
    return handle + (RemappableData(data & 0xFFFFFFFF).subhandle if to.subhandle_valid else 0)


class InterruptRemapper:
    """Remaps by the table that `table` describes; entries are cached until they are invalidated. With *posts*, CAP.PI,
    they may be in posted format."""

    def __init__(self, memory: UnitMemory, posts: bool = True) -> None:
        self.memory, self.posts = memory, posts
        self.table = InterruptTableAddress()
        self.enabled = False                    # GSTS.IRES
        self.compatibility = False              # GSTS.CFIS
        self._cache: dict[int, CachedEntry] = {}        # by index

    def remap(self, source_id: int, address: int, data: int) -> Remapped:
        """What is delivered; what is posted has been. InterruptFault when refused."""
        if not self.enabled:
            return Remapped(as_written(address, data))
        if not address & _REMAPPABLE:
            if self.compatibility and not self.table.extended:
                return Remapped(as_written(address, data))
            raise InterruptFault(FaultReason.COMPATIBILITY_BLOCKED, source_id, 0)
        index = requested_index(address, data)
        if data & RemappableData.RESERVED:
            raise InterruptFault(FaultReason.REQUEST_RESERVED, source_id, index)
        entry = self._cache.get(index)
        if entry is None:
            entry = self._parsed(self._load(source_id, index), source_id, index)
        if not entry.first <= source_id & entry.mask <= entry.last:
            raise InterruptFault(FaultReason.SOURCE_REFUSED, source_id, index, recorded=not entry.fault_disabled)
        self._cache[index] = entry
        if isinstance(entry.message, Posting):
            return self._posted(entry.message, source_id, index, entry)
        return Remapped(entry.message, index)

    def _posted(self, posting: Posting, source_id: int, index: int, entry: CachedEntry) -> Remapped:
        try:
            notify = post(self.memory, posting, bool(self.table.extended))
        except DescriptorFault as fault:
            raise InterruptFault(fault.reason, source_id, index, recorded=not entry.fault_disabled) from None
        message = None if notify is None else InterruptMessage(*notify, False, DeliveryMode.FIXED, False, False)
        return Remapped(message, index, posting)

    def _load(self, source_id: int, index: int) -> Irte:
        if index >= 2 << self.table.size:
            raise InterruptFault(FaultReason.INDEX_BEYOND_TABLE, source_id, index)
        try:
            raw = self.memory.read(self.table.page * PAGE_SIZE + index * ENTRY_SIZE, ENTRY_SIZE)
        except BusError:
            raise InterruptFault(FaultReason.IRTE_ACCESS, source_id, index) from None
        return Irte(int.from_bytes(raw, "little"))

    def _parsed(self, irte: Irte, source_id: int, index: int) -> CachedEntry:
        """*irte*, checked for all that does not depend on who asks."""
        if not irte.present:
            raise InterruptFault(FaultReason.IRTE_NOT_PRESENT, source_id, index, recorded=not irte.fault_disabled)
        if self.posts and irte.raw & _POSTED:
            return self._parsed_posted(PostedIrte(irte.raw), irte, source_id, index)
        if (irte.raw & Irte.RESERVED or irte.validation == SourceValidation.RESERVED
                or irte.delivery_mode not in ALLOWED_MODES
                or (not self.table.extended and irte.destination & XapicIrteDestination.RESERVED)):
            raise InterruptFault(FaultReason.IRTE_RESERVED, source_id, index, recorded=not irte.fault_disabled)
        destination = irte.destination if self.table.extended else XapicIrteDestination(irte.destination).id
        message = InterruptMessage(irte.vector, destination, bool(irte.logical), irte.delivery_mode, bool(irte.level),
                                   bool(irte.redirection_hint))
        return CachedEntry(message, *allowed_sources(irte), irte.fault_disabled, irte)

    @staticmethod
    def _parsed_posted(posted: PostedIrte, irte: Irte, source_id: int, index: int) -> CachedEntry:
        if posted.raw & PostedIrte.RESERVED or posted.validation == SourceValidation.RESERVED:
            raise InterruptFault(FaultReason.IRTE_RESERVED, source_id, index, recorded=not posted.fault_disabled)
        return CachedEntry(posting_of(posted), *allowed_sources(irte), posted.fault_disabled, irte)

    def invalidate(self, index: int | None = None, index_mask: int = 0) -> None:
        """Forget all entries, or the 2^*index_mask* aligned ones around *index*."""
        for cached in list(self._cache):
            if index is None or cached >> index_mask == index >> index_mask:
                del self._cache[cached]

    def inspect(self) -> dict[str, Any]:
        """Plain data: the table, and what is cached of it."""
        return {"enabled": self.enabled, "compatibility": self.compatibility, "table": self.table.inspect(),
                "cached": {index: (PostedIrte(entry.irte.raw) if isinstance(entry.message, Posting) else entry.irte)
                           .inspect() for index, entry in self._cache.items()}}


def allowed_sources(irte: Irte) -> tuple[int, int, int]:
    """Who may use the entry, as (mask, first, last) for the requester id; VT-d "Source-id Validation"."""
    match irte.validation:
        case SourceValidation.REQUESTER:
            mask = 0xFFFF & ~IGNORED_FUNCTION_BITS[irte.qualifier]
            return mask, irte.source_id & mask, irte.source_id & mask
        case SourceValidation.BUS_RANGE:
            return 0xFF00, irte.source_id & 0xFF00, (irte.source_id & 0xFF) << 8
    return 0, 0, 0
