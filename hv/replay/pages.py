"""The past of physical memory: at each mark, the pages that changed since the one before.

A page that was never touched is not looked at, so a machine costs what it uses. The content of a page at a mark is the
one noted last, at that mark or before it; a page that nobody had noted until then was zero.
"""

from __future__ import annotations

import ctypes
import sys

from hv.machine.ram import PhysicalMemory
from hv.spec.x86 import PAGE_SIZE

_ZERO = bytes(PAGE_SIZE)


class PageHistory:
    """Marks of *memory*, numbered from 0."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._marks: dict[int, dict[int, bytes]] = {}   # by number: page -> its content, where it changed
        self._next = 0
        self._present: dict[int, bytes] = {}            # what RAM held when it was last marked or put back

    @property
    def bytes_kept(self) -> int:
        """What the marks hold together."""
        return sum(len(mark) for mark in self._marks.values()) * PAGE_SIZE

    def mark(self) -> int:
        """Note what changed since the last `mark` or `put_back`; the number of the mark."""
        changed = self._changed()
        self._present.update(changed)
        self._marks[self._next] = changed
        self._next += 1
        return self._next - 1

    def put_back(self, number: int) -> None:
        """Let RAM be what it was at mark *number*."""
        now, wanted = self._present | self._changed(), self._at(number)
        for page in now.keys() | wanted.keys():
            then = wanted.get(page, _ZERO)
            if now.get(page, _ZERO) is not then:
                self._memory.write(page * PAGE_SIZE, then)
        self._present = wanted

    def drop(self, number: int) -> None:
        """Mark *number* will not be put back any more: what it holds goes over to the next one."""
        later = [each for each in self._marks if each > number]
        gone = self._marks.pop(number)
        if later:
            self._marks[later[0]] = gone | self._marks[later[0]]

    def _at(self, number: int) -> dict[int, bytes]:
        pages: dict[int, bytes] = {}
        for each, mark in self._marks.items():
            if each <= number:
                pages.update(mark)
        return pages

    def _changed(self) -> dict[int, bytes]:
        read, present, changed = self._memory.read, self._present, {}
        for page in used_pages(self._memory):
            content = read(page * PAGE_SIZE, PAGE_SIZE)
            if content != present.get(page, _ZERO):
                changed[page] = content
        return changed


def used_pages(memory: PhysicalMemory) -> list[int]:
    """The pages that the host has given RAM for, which it does when one is touched: all others are zero."""
    pages = memory.size // PAGE_SIZE
    if not sys.platform.startswith("linux"):
        return list(range(pages))               # Simplified: elsewhere nobody is asked, and all are looked at
    answer = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(ctypes.c_void_p(memory.host_address), ctypes.c_size_t(memory.size), answer):
        raise OSError(ctypes.get_errno(), "mincore")
    return [page for page, used in enumerate(bytes(answer)) if used & 1]
