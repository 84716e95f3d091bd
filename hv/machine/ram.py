"""Physical RAM: one shared-memory object, mapped by every engine and by every process that needs it.

Addresses are system-physical (`spa`), from 0 to `size`. Whoever writes here from outside an engine (devices, the
hypervisor, another partition) must not leave stale translated code behind: pages an engine executes from are
announced with `watch_code`, and a write to one is reported to that watcher first (engine: "Traps that corrupt a
guest silently", 5).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import struct
from collections.abc import Callable, Iterator
from typing import Any

from hv.machine.faults import BusError
from hv.spec.x86 import PAGE_SIZE

_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")


class PhysicalMemory:
    """RAM of *size_bytes* (a multiple of 4096), all zero."""

    def __init__(self, size_bytes: int) -> None:
        if size_bytes <= 0 or size_bytes % PAGE_SIZE:
            raise ValueError(f"RAM is a positive multiple of {PAGE_SIZE} bytes, not {size_bytes:#x}")
        self.size = size_bytes
        self._map = mmap.mmap(-1, size_bytes)       # anonymous and shared
        self._pin = ctypes.c_char.from_buffer(self._map)
        self.host_address = ctypes.addressof(self._pin)
        self.view = memoryview(self._map)
        self.words = self.view.cast("Q")       # the same as 64-bit words: the cheapest way to look at one
        self._code: dict[int, list[Callable[[int, bytes], None]]] = {}     # page number -> watchers
        self.engines: list[Any] = []        # that run code of it: a page may be in the hands of several

    def close(self) -> None:
        """Give the memory back to the host; nothing may use it afterwards."""
        self.words.release()
        self.view.release()
        del self._pin
        with contextlib.suppress(BufferError):
            self._map.close()

    def read(self, spa: int, size: int) -> bytes:
        """*size* bytes at *spa*; BusError when any of them is outside RAM."""
        if spa < 0 or size < 0 or spa + size > self.size:
            raise BusError(spa, size, self.size)
        return self._map[spa : spa + size]

    def write(self, spa: int, data: bytes | bytearray | memoryview) -> None:
        """Store *data* at *spa*; BusError, and nothing stored, when any byte is outside RAM."""
        end = spa + len(data)
        if spa < 0 or end > self.size:
            raise BusError(spa, len(data), self.size)
        self._map[spa:end] = data
        if self._code and (spa >> 12 in self._code or spa >> 12 != end - 1 >> 12):
            self._tell_watchers(spa, bytes(data))

    def _tell_watchers(self, spa: int, data: bytes) -> None:
        """Hand each page's part of *data* to those who translated code from that page."""
        end = spa + len(data)
        for page in range(spa >> 12, (end + PAGE_SIZE - 1) >> 12):
            watchers = self._code.get(page)
            if watchers:
                first, last = max(spa, page << 12), min(end, page + 1 << 12)
                for watcher in watchers:
                    watcher(first, data[first - spa : last - spa])

    def read_u64(self, spa: int) -> int:
        """The little-endian 64-bit word at *spa*."""
        if spa < 0 or spa + 8 > self.size:
            raise BusError(spa, 8, self.size)
        return int(_U64.unpack_from(self._map, spa)[0])

    def write_u64(self, spa: int, value: int) -> None:
        """Store a 64-bit word at *spa*."""
        self.write(spa, _U64.pack(value))

    def read_u32(self, spa: int) -> int:
        """The little-endian 32-bit word at *spa*."""
        if spa < 0 or spa + 4 > self.size:
            raise BusError(spa, 4, self.size)
        return int(_U32.unpack_from(self._map, spa)[0])

    def write_u32(self, spa: int, value: int) -> None:
        """Store a 32-bit word at *spa*."""
        self.write(spa, _U32.pack(value))

    def watch_code(self, page: int, watcher: Callable[[int, bytes], None]) -> None:
        """From now on *watcher(spa, data)* hears of every write from outside that touches *page*."""
        watchers = self._code.setdefault(page, [])
        if watcher not in watchers:
            watchers.append(watcher)

    def watched_by_others(self, page: int, watcher: Callable[[int, bytes], None]) -> bool:
        """Somebody else than *watcher* has translated code of *page*."""
        return any(other != watcher for other in self._code.get(page, ()))

    def pages_watched_by_others(self, pages: range, watcher: Callable[[int, bytes], None]) -> set[int]:
        """Those of *pages* that somebody else than *watcher* has translated code of."""
        return {page for page in self._code.keys() & pages if self.watched_by_others(page, watcher)}

    def unwatch_code(self, watcher: Callable[[int, bytes], None], only: int | None = None) -> None:
        """Forget *watcher* on every page, or on page *only*."""
        pages = list(self._code) if only is None else [only]
        for page in [page for page in pages if watcher in self._code.get(page, ())]:
            self._code[page].remove(watcher)
            if not self._code[page]:
                del self._code[page]


def pages_of(address: int, size: int) -> Iterator[tuple[int, int]]:
    """(address, length) of the parts of *size* bytes at *address*, cut at page boundaries."""
    end = address + size
    while address < end:
        length = min(end - address, PAGE_SIZE - address % PAGE_SIZE)
        yield address, length
        address += length


def read_physical(memory: PhysicalMemory, spa: int, size: int) -> bytes:
    """What the bus answers: all ones where there is no RAM."""
    return memory.read(spa, size) if spa + size <= memory.size else b"\xff" * size


def write_physical(memory: PhysicalMemory, spa: int, data: bytes) -> None:
    """Store *data*; nothing happens where there is no RAM."""
    if spa + len(data) <= memory.size:
        memory.write(spa, data)
