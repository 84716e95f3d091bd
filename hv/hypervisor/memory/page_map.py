"""The record of a partition's own map: which page of RAM stands at which page, with which rights.

2 MiB that were mapped at once are one entry of the tables, and one record here. When one of their pages becomes another
than its neighbours the tables need a table more, which the partition pays for; only then there are 512 records.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hv.machine.faults import Access
from hv.spec.x86 import LARGE_PAGE_SIZE, LARGE_PAGES, PAGE_SHIFT, PAGE_SIZE

_FIRST = -LARGE_PAGES           # a mask: the first page of the 2 MiB around another
_MET_AT_MOST = 64               # a guest's pages that the hypervisor reads and writes are few


class Mapping(NamedTuple):
    """One page: the spa behind it and what the partition may do with it; no rights at all means inaccessible."""

    spa: int
    rights: Access


class PageMap:
    """The mappings by page number (gpa >> 12)."""

    def __init__(self) -> None:
        self._small: dict[int, Mapping] = {}
        self._large: dict[int, Mapping] = {}        # by its first page, which no page of `_small` is near
        self.met: dict[int, Mapping] = {}           # of both, what `get` gave lately, for whoever asks often

    def __len__(self) -> int:
        return len(self._small) + LARGE_PAGES * len(self._large)

    def get(self, page: int) -> Mapping | None:
        """What stands at *page*."""
        return self.met.get(page) or self._look(page)

    def _look(self, page: int) -> Mapping | None:
        found, whole = self._small.get(page), self._large.get(page & _FIRST)
        if whole is not None:
            found = Mapping(whole.spa + ((page & ~_FIRST) << PAGE_SHIFT), whole.rights)
        if found is not None:
            if len(self.met) >= _MET_AT_MOST:
                self.met.clear()
            self.met[page] = found
        return found

    @property
    def records(self) -> int:
        """How many there are: never more than entries of the tables."""
        return len(self._small) + len(self._large)

    def items(self) -> Iterator[tuple[int, Mapping]]:
        """(page, mapping) of every page, in order."""
        for first in sorted([*self._small, *self._large]):
            if first in self._small:
                yield first, self._small[first]
            else:
                yield from large_pages(first, self._large[first])

    def any_near(self, first: int) -> bool:
        """Something stands in the 2 MiB from *first* on."""
        return first in self._large or any(n in self._small for n in range(first, first + LARGE_PAGES))

    def put(self, page: int, mapping: Mapping | None) -> bool:
        """*mapping* stands at *page* instead, or nothing; True when 2 MiB were split for that."""
        whole = self._large.pop(page & _FIRST, None)
        if whole is not None:
            self._small.update(large_pages(page & _FIRST, whole))
        self._set(page, mapping)
        return whole is not None

    def take_back(self, page: int, before: Mapping | None, was_split: bool) -> None:
        """Undo `put`: *before* stood at *page*."""
        if not was_split:
            self._set(page, before)
            return
        assert before is not None, "2 MiB were split for one of their pages"
        self.clear_large(page & _FIRST)
        self._large[page & _FIRST] = Mapping(before.spa - ((page & ~_FIRST) << PAGE_SHIFT), before.rights)

    def put_large(self, first: int, mapping: Mapping) -> None:
        """*mapping* and the 511 pages behind it stand from *first* on, where nothing stood."""
        self._large[first] = mapping

    def clear_large(self, first: int) -> dict[int, int]:
        """Nothing stands in the 2 MiB from *first* on; the spa behind each page where something did."""
        whole, pages = self._large.pop(first, None), range(first, first + LARGE_PAGES)
        self.met.clear()
        if whole is None:
            return {page: self._small.pop(page).spa for page in pages if page in self._small}
        return dict(zip(pages, range(whole.spa, whole.spa + LARGE_PAGE_SIZE, PAGE_SIZE), strict=True))

    def clear(self) -> None:
        """Nothing stands anywhere."""
        for each in (self._small, self._large, self.met):
            each.clear()

    def _set(self, page: int, mapping: Mapping | None) -> None:
        self.met.pop(page, None)
        if mapping is None:
            self._small.pop(page, None)
        else:
            self._small[page] = mapping


def large_pages(first: int, whole: Mapping) -> Iterator[tuple[int, Mapping]]:
    """The 512 pages of *whole*, which stands from page *first* on."""
    return ((first + n, Mapping(whole.spa + (n << PAGE_SHIFT), whole.rights)) for n in range(LARGE_PAGES))
