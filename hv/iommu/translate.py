"""The walk of a DMA request: root entry, context entry, second-level tables; and the two caches on the way.

The caches are the reason why software has to invalidate: an entry that was cached is used, whatever the tables say by
now. Only what a request succeeded with is cached (CM = 0): the context entry under the source-id, the translation of
a page under (domain id, page). VT-d "DMA Remapping", "Caching Translation Information".
"""

from __future__ import annotations

from typing import Any

from hv.machine.faults import BusError
from hv.machine.ram import PhysicalMemory, pages_of
from hv.spec.vtd import (
    ENTRY_SIZE,
    GUEST_ADDRESS_WIDTH,
    IGNORED_FUNCTION_BITS,
    ContextEntry,
    FaultReason,
    Granularity,
    RootEntry,
    SecondLevelEntry,
    TranslationType,
)
from hv.spec.x86 import PAGE_SIZE

SUPPORTED_WIDTHS = {1: 39, 2: 48}       # AW -> bits of an address; AW + 2 levels
LARGE_PAGE_LEVELS = (2, 3)              # 2 MiB and 1 GiB
IOTLB_ENTRIES = 4096                    # the oldest leaves when one more is needed


class DmaFault(Exception):
    """The unit refuses a request. *recorded* is False when the context entry's FPD asks for silence."""

    def __init__(self, reason: FaultReason, source_id: int, iova: int, write: bool, recorded: bool = True) -> None:
        self.reason, self.source_id, self.iova, self.write, self.recorded = reason, source_id, iova, write, recorded
        super().__init__(f"DMA {'write' if write else 'read'} at {iova:#x}: {reason.text}")


class _Refusal(Exception):
    """Why the walk stopped; `translate` knows for whom."""

    def __init__(self, reason: FaultReason) -> None:
        self.reason = reason


class Translator:
    """Translates for every device by the tables in *memory*, from `root_table` (an address) on."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory
        self.root_table = 0
        self._contexts: dict[int, ContextEntry] = {}                       # by source-id
        self._pages: dict[tuple[int, int], tuple[int, int]] = {}           # (domain, page) -> page, R and W bits

    def dma(self, source_id: int, iova: int, size: int, write: bool) -> list[tuple[int, int]]:
        """The (spa, size) pieces that *size* bytes at *iova* are; DmaFault when any of them is refused."""
        return [(self.translate(source_id, at, write), length) for at, length in pages_of(iova, size)]

    def translate(self, source_id: int, iova: int, write: bool) -> int:
        """The system-physical address for one address of a device; DmaFault when it is refused."""
        silent = False
        try:
            context = self._context(source_id)
            silent = bool(context.fault_disabled)
            self._check_context(context)
            self._contexts[source_id] = context
            return self._address(context, iova, write)
        except _Refusal as refusal:
            raise DmaFault(refusal.reason, source_id, iova, write, recorded=not silent) from None

    def _context(self, source_id: int) -> ContextEntry:
        cached = self._contexts.get(source_id)
        if cached is not None:
            return cached
        root = RootEntry(self._load(self.root_table + (source_id >> 8) * ENTRY_SIZE, FaultReason.ROOT_ACCESS))
        if not root.present:
            raise _Refusal(FaultReason.ROOT_NOT_PRESENT)
        if root.raw & RootEntry.RESERVED:
            raise _Refusal(FaultReason.ROOT_RESERVED)
        table = root.context_table * PAGE_SIZE
        return ContextEntry(self._load(table + (source_id & 0xFF) * ENTRY_SIZE, FaultReason.CONTEXT_ACCESS))

    @staticmethod
    def _check_context(context: ContextEntry) -> None:
        if not context.present:
            raise _Refusal(FaultReason.CONTEXT_NOT_PRESENT)
        if context.raw & ContextEntry.RESERVED:
            raise _Refusal(FaultReason.CONTEXT_RESERVED)
        if (context.type not in (TranslationType.SECOND_LEVEL, TranslationType.PASS_THROUGH)
                or context.address_width not in SUPPORTED_WIDTHS):
            raise _Refusal(FaultReason.CONTEXT_INVALID)

    def _address(self, context: ContextEntry, iova: int, write: bool) -> int:
        pass_through = context.type == TranslationType.PASS_THROUGH
        width = GUEST_ADDRESS_WIDTH if pass_through else SUPPORTED_WIDTHS[context.address_width]
        if iova >> min(width, GUEST_ADDRESS_WIDTH):
            raise _Refusal(FaultReason.ADDRESS_BEYOND_WIDTH)
        if pass_through:
            return iova
        key = context.domain_id, iova // PAGE_SIZE
        found = self._pages.get(key)
        if found is None:
            found = self._walk(context, iova, write)
            self._cache(key, found)
        page, rights = found
        _check_rights(rights, write)
        return page * PAGE_SIZE + iova % PAGE_SIZE

    def _walk(self, context: ContextEntry, iova: int, write: bool) -> tuple[int, int]:
        """The page and the rights (bit 0 read, bit 1 write) that all levels together give."""
        table, rights, level = context.second_level * PAGE_SIZE, 3, context.address_width + 2
        while True:
            shift = 12 + 9 * (level - 1)
            entry = SecondLevelEntry(self._load(
                table + (iova >> shift & 0x1FF) * 8, FaultReason.SECOND_LEVEL_ACCESS, size=8))
            rights &= entry.readable | entry.writable << 1
            _check_rights(rights, write)            # before the reserved bits
            is_leaf = level == 1 or bool(entry.large)
            if entry.raw & _reserved_bits(level, is_leaf):
                raise _Refusal(FaultReason.SECOND_LEVEL_RESERVED)
            if is_leaf:
                return entry.page + (iova >> 12 & (1 << shift - 12) - 1), rights
            table, level = entry.page * PAGE_SIZE, level - 1

    def _load(self, spa: int, reason: FaultReason, size: int = ENTRY_SIZE) -> int:
        try:
            return int.from_bytes(self.memory.read(spa, size), "little")
        except BusError:
            raise _Refusal(reason) from None

    def _cache(self, key: tuple[int, int], found: tuple[int, int]) -> None:
        if len(self._pages) >= IOTLB_ENTRIES:
            del self._pages[next(iter(self._pages))]
        self._pages[key] = found

    def invalidate_contexts(self, granularity: Granularity, domain_id: int, source_id: int, function_mask: int) -> None:
        """Forget context entries: all, those of a domain, or those of a device (and of its masked functions) in it."""
        compared = 0xFFFF & ~IGNORED_FUNCTION_BITS[function_mask]
        for cached, context in list(self._contexts.items()):
            in_domain = context.domain_id == domain_id
            of_device = in_domain and (cached ^ source_id) & compared == 0
            if (granularity is Granularity.GLOBAL or (granularity is Granularity.DOMAIN and in_domain)
                    or (granularity is Granularity.SELECTIVE and of_device)):
                del self._contexts[cached]

    def invalidate_pages(self, granularity: Granularity, domain_id: int, page: int, address_mask: int) -> None:
        """Forget translations: all, those of a domain, or 2^*address_mask* aligned pages around *page* in it."""
        if granularity is Granularity.SELECTIVE and address_mask == 0:
            self._pages.pop((domain_id, page), None)
            return
        for domain, cached in list(self._pages):
            in_range = domain == domain_id and cached >> address_mask == page >> address_mask
            if (granularity is Granularity.GLOBAL or (granularity is Granularity.DOMAIN and domain == domain_id)
                    or (granularity is Granularity.SELECTIVE and in_range)):
                del self._pages[domain, cached]

    def inspect(self) -> dict[str, Any]:
        """Plain data: what is cached now."""
        return {
            "root_table": self.root_table,
            "contexts": {f"{source_id:#06x}": entry.inspect() for source_id, entry in self._contexts.items()},
            "pages": [{"domain": domain, "iova": page * PAGE_SIZE, "spa": found[0] * PAGE_SIZE, "rights": found[1]}
                      for (domain, page), found in self._pages.items()],
        }


def _check_rights(rights: int, write: bool) -> None:
    if not rights & (2 if write else 1):
        raise _Refusal(FaultReason.WRITE_REFUSED if write else FaultReason.READ_REFUSED)


def _reserved_bits(level: int, is_leaf: bool) -> int:
    """What must be 0 in an entry of *level*: PS where no large page may be, and the low address bits of a large one."""
    reserved = SecondLevelEntry.RESERVED
    if level > 1 and is_leaf:
        reserved |= (1 << 12 + 9 * (level - 1)) - (1 << 12)
        if level not in LARGE_PAGE_LEVELS:
            reserved |= SecondLevelEntry(large=1).raw
    return reserved
