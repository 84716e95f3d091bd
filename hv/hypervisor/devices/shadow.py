"""What one device of a partition with a virtual IOMMU may reach: its guest's tables and its partition's map, composed.

The physical unit knows one translation, from a device's address (IOVA) to the machine's (SPA). The guest's tables say
IOVA -> GPA, the partition's map says GPA -> SPA; a shadow is a domain of the physical unit with both in one. It is
filled when the guest invalidates, which it must do after every change (CAP.CM = 1), and stays as it is until then: that
is the guest's IOTLB, with its stale entries. What root changes of the partition's map shows at once.
VT-d "Caching Mode"; `docs/decisions/0020-a-guests-iommu-is-a-shadow.md`.
"""

# Simplified: a shadow has at most MOST_PAGES pages of 4 KiB, made from at most MOST_TABLES of the guest's tables, and
# no more than the partition's pool pays for; what is beyond is refused to the device, and counted in `left_out`.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hv.hypervisor.devices.explicit_domain import DevicePage, ExplicitDomain
from hv.hypervisor.errors import HypercallError
from hv.iommu.translate import ALL_PAGES, EITHER, Refusal, SoundContext, Translator
from hv.machine.faults import BusError
from hv.spec.vtd import HOST_ADDRESS_WIDTH, SecondLevelEntry
from hv.spec.x86 import PAGE_SHIFT, PAGE_SIZE

MOST_PAGES = 1 << 16
MOST_TABLES = 1 << 12
_LARGE = SecondLevelEntry(large=1).raw
_ADDRESS = (1 << HOST_ADDRESS_WIDTH) - PAGE_SIZE


class _Table(NamedTuple):
    """A table of the guest: where, at which level, and the first IOVA page that it translates."""

    gpa: int
    level: int
    first: int
    rights: int


class Shadow:
    """The pages of *domain*, as *translator* (the guest's unit) finds them for the machine's device *source_id*, which
    the guest knows by the requester id *guest_id*."""

    def __init__(self, source_id: int, guest_id: int, translator: Translator, domain: ExplicitDomain) -> None:
        self.source_id, self.guest_id, self.translator, self.domain = source_id, guest_id, translator, domain
        self.context: SoundContext | None = None        # whose tables are composed
        self.left_out = 0                               # pages and tables, by the last composition

    def use(self, context: SoundContext | None) -> None:
        """The guest's context entry is now this; with other tables than before the whole domain is another."""
        before, self.context = self.context, context
        if context is None:
            self._replace(ALL_PAGES, {})
        elif before is None or before[1:] != context[1:]:
            self.compose(ALL_PAGES)

    def compose(self, pages: range) -> None:
        """Make *pages* what the guest's tables say now."""
        if self.context is not None:
            self._replace(pages, self._wanted(pages))

    def _wanted(self, pages: range) -> dict[int, DevicePage]:
        context, found = self.context, dict[int, DevicePage]()
        assert context is not None
        self.left_out = 0
        todo, visited = [_Table(context.table, context.levels, 0, EITHER)], 0
        while todo:
            table = todo.pop()
            visited += 1
            if visited > MOST_TABLES or len(found) > MOST_PAGES:
                self.left_out += 1 + len(todo)
                break
            for below in self._entries(context, table, pages):
                if isinstance(below, _Table):
                    todo.append(below)
                else:
                    self._take(found, *below)
        return found

    def _take(self, found: dict[int, DevicePage], pages: range, gpa_page: int, rights: int) -> None:
        room = MOST_PAGES - len(found)
        self.left_out += max(0, len(pages) - room)
        for number, page in enumerate(pages[:room]):
            found[page] = DevicePage(gpa_page + number, rights)

    def _entries(self, context: SoundContext, table: _Table,
                 pages: range) -> Iterator[_Table | tuple[range, int, int]]:
        """What the entries of *table* within *pages* lead to: tables, or (pages, first GPA page, rights)."""
        span = 1 << 9 * (table.level - 1)               # pages behind one entry
        first = max(pages.start - table.first, 0) // span
        end = min(-(-(pages.stop - table.first) // span), 512)
        try:
            raw = self.translator.memory.read(table.gpa, PAGE_SIZE)
        except BusError:
            return
        for slot in range(first, end):
            entry = int.from_bytes(raw[8 * slot : 8 * slot + 8], "little")
            rights = entry & table.rights
            if not rights:
                continue
            iova_page = table.first + slot * span
            if table.level > 1 and not entry & _LARGE:
                if self.translator.is_sound(entry, table.level):
                    yield _Table(entry & _ADDRESS, table.level - 1, iova_page, rights)
            elif self.translator.is_sound(entry, table.level):
                inside = range(max(iova_page, pages.start), min(iova_page + span, pages.stop))
                yield inside, ((entry & _ADDRESS) >> PAGE_SHIFT) + inside.start - iova_page, rights

    def _replace(self, pages: range, wanted: dict[int, DevicePage]) -> None:
        domain = self.domain
        for page in [page for page in domain.pages_in(pages) if page not in wanted]:
            domain.unmap(page)
        for page, stands in wanted.items():
            if domain.page(page) != stands and not self._map(page, stands):
                return

    def _map(self, page: int, stands: DevicePage) -> bool:
        """False when the partition's pool is empty: the rest is left out."""
        try:
            self.domain.map(page, *stands)
        except HypercallError:
            self.domain.unmap(page)
            self.left_out += 1
            return False
        return True

    def why_refused(self, iova: int, needed: int) -> Refusal | None:
        """Why the guest's own tables refuse an access, as they are now; None when they do not."""
        try:
            context = self.translator.sound(self.translator.context_entry(self.guest_id))
            self.translator.look_up(context, iova, needed)
        except Refusal as refusal:
            return refusal
        return None

    def inspect(self) -> dict[str, Any]:
        """Plain data."""
        return {"source_id": self.source_id, "guest_id": self.guest_id, "left_out": self.left_out,
                "domain": self.domain.inspect()}
