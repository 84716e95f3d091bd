"""The walk of a DMA request: root entry, context entry, second-level tables; and the caches on the way.

The caches are the reason why software has to invalidate: an entry that was cached is used, whatever the tables say by
now. Only what a request succeeded with is cached: the context entry under the source-id, the translation of a page
under (domain id, page), and which table has the last-level entries of 2 MiB, so that a list of pages costs one walk
and then an entry each. VT-d "DMA Remapping", "Caching Translation Information", "Paging-Structure Caches".

A request has an address type (AT of a PCI Express packet): an ordinary one is untranslated; a device with a TLB of its
own may ask for a translation, and later send a translated request, which is believed only where the context entry says
so (TT). VT-d "Address Translation Services".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hv.iommu.memory import UnitMemory
from hv.machine.faults import BusError
from hv.machine.ram import pages_of
from hv.spec.apic import DEFAULT_BASE
from hv.spec.vtd import (
    ENTRY_SIZE,
    GUEST_ADDRESS_WIDTH,
    HOST_ADDRESS_WIDTH,
    IGNORED_FUNCTION_BITS,
    AddressType,
    ContextEntry,
    FaultReason,
    Granularity,
    RootEntry,
    SecondLevelEntry,
    TranslationType,
)
from hv.spec.x86 import PAGE_SHIFT, PAGE_SIZE

SUPPORTED_WIDTHS = {1: 39, 2: 48}       # AW -> bits of an address; AW + 2 levels
LARGE_PAGE_LEVELS = (2, 3)              # 2 MiB and 1 GiB
IOTLB_ENTRIES = 4096                    # the oldest leaves when one more is needed
TABLE_ENTRIES = 256                     # likewise
READ, WRITE = 1, 2                      # rights, as in a second-level entry
EITHER = READ | WRITE                   # what a zero-length read needs: one of them (CAP.ZLR)

_LARGE = SecondLevelEntry(large=1).raw
_ADDRESS = (1 << HOST_ADDRESS_WIDTH) - PAGE_SIZE
_WINDOW = DEFAULT_BASE >> 20            # interrupt requests go there
_PAGE = ~(PAGE_SIZE - 1)
_OFFSET = PAGE_SIZE - 1
_PAGE_BITS = GUEST_ADDRESS_WIDTH - PAGE_SHIFT
ALL_PAGES = range(1 << _PAGE_BITS)
_TABLE_BITS = 9                         # of a page number: which entry of the last table
_UNTRANSLATED = AddressType.UNTRANSLATED.value


class DmaFault(Exception):
    """The unit refuses a request. *recorded* is False when the context entry's FPD asks for silence."""

    def __init__(self, reason: FaultReason, source_id: int, iova: int, write: bool, recorded: bool = True,
                 address_type: int = _UNTRANSLATED) -> None:
        self.reason, self.source_id, self.iova, self.write, self.recorded = reason, source_id, iova, write, recorded
        self.address_type = address_type
        super().__init__(f"DMA {'write' if write else 'read'} at {iova:#x}: {reason.text}")


class Refusal(Exception):
    """Why the walk stopped; who called knows for whom."""

    def __init__(self, reason: FaultReason) -> None:
        self.reason = reason


class SoundContext(NamedTuple):
    """A context entry that passed the checks, as requests need it."""

    entry: ContextEntry
    domain_id: int
    type: int           # TranslationType
    width: int          # bits of an address
    walked_below: int   # the first address that is too large; 0 when its requests are not walked
    first_key: int      # in the IOTLB, of its domain
    table: int          # address of the topmost second-level table
    levels: int
    silent: bool        # FPD


class Leaf(NamedTuple):
    """Where a walk ended: *spa* of the 4 KiB page asked for, *rights* of all levels, *size* of the entry's page."""

    spa: int
    rights: int
    size: int


class Translator:
    """Translates for every device by the tables in *memory*, from `root_table` (an address) on."""

    def __init__(self, memory: UnitMemory, device_tlbs: bool = False) -> None:
        self.memory = memory
        self._end = memory.size
        self.device_tlbs = device_tlbs                  # ECAP.DT
        self.root_table = 0
        self.on_forgotten: Callable[[int | None, range], None] = forget_nothing_else    # (domain or all, its pages)
        self._contexts: dict[int, SoundContext] = {}    # by source-id
        self._pages: dict[int, int] = {}                # domain and page -> address of a page | rights
        self._tables: dict[int, int] = {}               # domain and 2 MiB -> address of the last table | rights

    # --- requests --------------------------------------------------------------------------------------

    def dma(self, source_id: int, iova: int, size: int, write: bool,
            address_type: int = _UNTRANSLATED) -> list[tuple[int, int]]:
        """The (spa, size) pieces that *size* bytes at *iova* are; DmaFault when any of them is refused.

        A read of no bytes needs a page that may be read or written. VT-d "Zero-length Read".
        """
        needed = WRITE if write else READ if size else EITHER
        if 0 <= size <= PAGE_SIZE - (iova & _OFFSET):
            return [(self.translate(source_id, iova, needed, address_type), size)]
        return [(self.translate(source_id, at, needed, address_type), length) for at, length in pages_of(iova, size)]

    def quick(self, source_id: int, iova: int, size: int, needed: int) -> int | None:
        """Where *size* bytes at *iova* are, when that is a matter of the caches and one last-level entry.

        None: the request has to be looked at more closely. Nothing is decided here that `dma` decides otherwise.
        """
        context = self._contexts.get(source_id)
        offset = iova & _OFFSET
        if context is None or iova >= context.walked_below or offset + size > PAGE_SIZE:
            return None
        key = context.first_key + (iova >> PAGE_SHIFT)
        found = self._pages.get(key)
        if found is None:
            found = self._near(key, iova)
        return (found & _PAGE) + offset if found & needed else None

    def _near(self, key: int, iova: int) -> int:
        """The last-level entry of a page whose table is known; 0 when it is not, or not sound."""
        table = self._tables.get(key >> _TABLE_BITS)
        if table is None or iova >> 20 == _WINDOW:
            return 0
        entry = self.memory.read_u64((table & _PAGE) + (iova >> 9 & 0xFF8))
        found = entry & (table | _PAGE) & (_ADDRESS | EITHER)
        if entry & _LEAF_RESERVED or not found & EITHER or found >= self._end:
            return 0
        if len(self._pages) >= IOTLB_ENTRIES:
            del self._pages[next(iter(self._pages))]
        self._pages[key] = found
        return found

    def translate(self, source_id: int, iova: int, needed: int, address_type: int = _UNTRANSLATED) -> int:
        """The address behind one address of a device that wants the rights *needed*; DmaFault when it is refused."""
        return self._ask(source_id, iova, needed, address_type).spa | iova & _OFFSET

    def for_device_tlb(self, source_id: int, iova: int) -> Leaf:
        """The answer to a translation request, without rights where nothing is mapped; DmaFault when it is refused.

        VT-d "Translation Request": that a page has no rights is an answer, and no fault.
        """
        try:
            return self._ask(source_id, iova, EITHER, AddressType.TRANSLATION_REQUEST)
        except DmaFault as fault:
            if fault.reason in (FaultReason.READ_REFUSED, FaultReason.ADDRESS_BEYOND_WIDTH):
                return Leaf(0, 0, PAGE_SIZE)
            raise

    def _ask(self, source_id: int, iova: int, needed: int, address_type: int) -> Leaf:
        silent = False
        try:
            context = self._contexts.get(source_id)
            if context is None:
                entry = self.context_entry(source_id)
                silent = bool(entry.fault_disabled)
                context = self._contexts[source_id] = self.sound(entry)
            silent = context.silent
            return self._answer(context, iova, needed, address_type)
        except Refusal as refusal:
            raise DmaFault(refusal.reason, source_id, iova, needed == WRITE, not silent, address_type) from None

    def _answer(self, context: SoundContext, iova: int, needed: int, address_type: int) -> Leaf:
        if address_type != _UNTRANSLATED and context.type != TranslationType.DEVICE_TLB:
            raise Refusal(FaultReason.TYPE_BLOCKED)
        if iova >> context.width:
            raise Refusal(FaultReason.ADDRESS_BEYOND_WIDTH)
        if context.type == TranslationType.PASS_THROUGH or address_type == AddressType.TRANSLATED:
            return Leaf(iova & _PAGE, EITHER, PAGE_SIZE)
        key = context.first_key + (iova >> PAGE_SHIFT)
        found = self._pages.get(key)
        if found is None:
            leaf = self.walk(context, iova, needed)
            self._cache(key, leaf)
            return leaf
        _check_rights(found, needed)
        return Leaf(found & _PAGE, found & EITHER, PAGE_SIZE)

    # --- tables ----------------------------------------------------------------------------------------

    def context_entry(self, source_id: int) -> ContextEntry:
        """The context entry of a device as memory has it, by its root entry; Refusal."""
        root = RootEntry(self._load(self.root_table + (source_id >> 8) * ENTRY_SIZE, FaultReason.ROOT_ACCESS))
        if not root.present:
            raise Refusal(FaultReason.ROOT_NOT_PRESENT)
        if root.raw & RootEntry.RESERVED:
            raise Refusal(FaultReason.ROOT_RESERVED)
        table = root.context_table * PAGE_SIZE
        return ContextEntry(self._load(table + (source_id & 0xFF) * ENTRY_SIZE, FaultReason.CONTEXT_ACCESS))

    def sound(self, entry: ContextEntry) -> SoundContext:
        """*entry*, when it is present and asks for nothing the unit has not; Refusal."""
        if not entry.present:
            raise Refusal(FaultReason.CONTEXT_NOT_PRESENT)
        if entry.raw & ContextEntry.RESERVED:
            raise Refusal(FaultReason.CONTEXT_RESERVED)
        unknown = entry.type == TranslationType.RESERVED or (
            entry.type == TranslationType.DEVICE_TLB and not self.device_tlbs)
        if unknown or entry.address_width not in SUPPORTED_WIDTHS:
            raise Refusal(FaultReason.CONTEXT_INVALID)
        pass_through = entry.type == TranslationType.PASS_THROUGH
        width = GUEST_ADDRESS_WIDTH if pass_through else SUPPORTED_WIDTHS[entry.address_width]
        return SoundContext(entry, entry.domain_id, entry.type, width, 0 if pass_through else 1 << width,
                            entry.domain_id << _PAGE_BITS,
                            entry.second_level * PAGE_SIZE,
                            entry.address_width + 2, bool(entry.fault_disabled))

    def _load(self, spa: int, reason: FaultReason) -> int:
        try:
            return int.from_bytes(self.memory.read(spa, ENTRY_SIZE), "little")
        except BusError:
            raise Refusal(reason) from None

    def walk(self, context: SoundContext, iova: int, needed: int) -> Leaf:
        """The second-level tables as memory has them; Refusal. Rights are those that all levels together give."""
        table, rights, level = context.table, EITHER, context.levels
        read_u64 = self.memory.read_u64
        while True:
            shift = 3 + 9 * level
            try:
                entry = read_u64(table + (iova >> shift & 0x1FF) * 8)
            except BusError:
                raise Refusal(FaultReason.SECOND_LEVEL_ACCESS) from None
            above = rights
            rights &= entry
            if not rights & needed:
                _check_rights(rights, needed)           # before the reserved bits
            is_leaf = level == 1 or bool(entry & _LARGE)
            if entry & _RESERVED[level, is_leaf]:
                raise Refusal(FaultReason.SECOND_LEVEL_RESERVED)
            if is_leaf:
                if level == 1:
                    self._keep_table(context.first_key + (iova >> PAGE_SHIFT), table, above)
                return Leaf(entry & _ADDRESS | iova & (1 << shift) - PAGE_SIZE, rights, 1 << shift)
            table, level = entry & _ADDRESS, level - 1

    def look_up(self, context: SoundContext, iova: int, needed: int) -> None:
        """Refusal when an untranslated request of a device with this context entry would be refused by memory now."""
        if iova >> context.width:
            raise Refusal(FaultReason.ADDRESS_BEYOND_WIDTH)
        if context.type != TranslationType.PASS_THROUGH:
            self.walk(context, iova, needed)

    @staticmethod
    def is_sound(entry: int, level: int) -> bool:
        """No reserved bit is set in a second-level entry of *level*."""
        return not entry & _RESERVED[level, level == 1 or bool(entry & _LARGE)]

    # --- caches ----------------------------------------------------------------------------------------

    def _cache(self, key: int, leaf: Leaf) -> None:
        if leaf.spa >= self._end:
            return                      # no RAM answers there: each request is to find out
        if len(self._pages) >= IOTLB_ENTRIES:
            del self._pages[next(iter(self._pages))]
        self._pages[key] = leaf.spa | leaf.rights

    def _keep_table(self, key: int, table: int, rights: int) -> None:
        if len(self._tables) >= TABLE_ENTRIES:
            del self._tables[next(iter(self._tables))]
        self._tables[key >> _TABLE_BITS] = table | rights

    def invalidate_contexts(self, granularity: Granularity, domain_id: int, source_id: int, function_mask: int) -> None:
        """Forget context entries: all, those of a domain, or those of a device (and of its masked functions) in it."""
        compared = 0xFFFF & ~IGNORED_FUNCTION_BITS[function_mask]
        for cached, context in list(self._contexts.items()):
            in_domain = context.domain_id == domain_id
            of_device = in_domain and (cached ^ source_id) & compared == 0
            if (granularity is Granularity.GLOBAL or (granularity is Granularity.DOMAIN and in_domain)
                    or (granularity is Granularity.SELECTIVE and of_device)):
                del self._contexts[cached]
        self.on_forgotten(None, range(0))

    def invalidate_pages(self, granularity: Granularity, domain_id: int, page: int, address_mask: int,
                         leaves_only: bool = False) -> None:
        """Forget translations: all, those of a domain, or 2^*address_mask* aligned pages around *page* in it.

        *leaves_only* (IH) is software's word that it has changed last-level entries only.
        """
        match granularity:
            case Granularity.GLOBAL:
                self._pages.clear()
                self._tables.clear()
                self.on_forgotten(None, ALL_PAGES)
            case Granularity.DOMAIN:
                self._forget(domain_id, 0, 1 << _PAGE_BITS, leaves_only=False)
            case Granularity.SELECTIVE:
                first = page >> address_mask << address_mask
                self._forget(domain_id, first, min(first + (1 << address_mask), 1 << _PAGE_BITS), leaves_only)

    def _forget(self, domain_id: int, first: int, end: int, leaves_only: bool) -> None:
        base = domain_id << _PAGE_BITS
        _drop(self._pages, range(base + first, base + end))
        self.on_forgotten(domain_id, range(first, end))
        if not leaves_only and end > first:
            _drop(self._tables, range(base + first >> _TABLE_BITS, (base + end - 1 >> _TABLE_BITS) + 1))

    def cached_pages(self) -> Iterator[tuple[int, int, int, int]]:
        """(domain, iova, spa, rights) of what the IOTLB has, oldest first."""
        for key, found in self._pages.items():
            yield key >> _PAGE_BITS, (key & (1 << _PAGE_BITS) - 1) * PAGE_SIZE, found & _PAGE, found & EITHER

    def inspect(self) -> dict[str, Any]:
        """Plain data: what is cached now."""
        return {
            "root_table": self.root_table,
            "contexts": {f"{source_id:#06x}": context.entry.inspect()
                         for source_id, context in self._contexts.items()},
            "pages": [{"domain": domain, "iova": iova, "spa": spa, "rights": rights}
                      for domain, iova, spa, rights in self.cached_pages()],
        }


def forget_nothing_else(domain_id: int | None, pages: range) -> None:
    """Nobody keeps what the tables say but the unit itself."""


def _drop(cache: dict[int, int], keys: range) -> None:
    """Forget *keys*, by whichever way is the shorter."""
    if len(keys) < len(cache):
        for key in keys:
            cache.pop(key, None)
    else:
        for key in [key for key in cache if key in keys]:
            del cache[key]


def _check_rights(rights: int, needed: int) -> None:
    if not rights & needed:
        raise Refusal(FaultReason.WRITE_REFUSED if needed == WRITE else FaultReason.READ_REFUSED)


def _reserved_bits(level: int, is_leaf: bool) -> int:
    """What must be 0 in an entry of *level*: PS where no large page may be, and the low address bits of a large one."""
    reserved = SecondLevelEntry.RESERVED
    if level > 1 and is_leaf:
        reserved |= (1 << 12 + 9 * (level - 1)) - (1 << 12)
        if level not in LARGE_PAGE_LEVELS:
            reserved |= SecondLevelEntry(large=1).raw
    return reserved


_RESERVED = {(level, is_leaf): _reserved_bits(level, is_leaf) for level in range(1, 5) for is_leaf in (False, True)}
_LEAF_RESERVED = _RESERVED[1, True]
