"""Finding the functions of a bus, and giving addresses to their BARs: what firmware and operating systems do.

Only by configuration accesses, so it works on any bus. PCI "Configuration Space", "Base Addresses".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from hv.pci.bars import FIRST_BAR, Bar
from hv.spec.pci import (
    BAR_COUNT,
    FIRST_CAPABILITY,
    MULTI_FUNCTION,
    NOBODY,
    BarKind,
    PciCommand,
    PciHeader,
    PciStatus,
)

_SIZING, _MOST_CAPABILITIES = 0xFFFF_FFFF, 48
_IO_MASK, _MEMORY_MASK = ~3, ~0xF
_COMMAND, _POINTER = PciHeader.offset_of("command"), PciHeader.offset_of("capabilities")
_DECODING = PciCommand(io_enabled=1, memory_enabled=1).raw


class ConfigAccess(Protocol):
    """The way to configuration space, by requester id."""

    def config_read(self, rid: int, offset: int, size: int) -> int:
        """*size* bytes, all ones where no function is."""
        raise NotImplementedError

    def config_write(self, rid: int, offset: int, size: int, value: int) -> None:
        """Nothing happens where no function is."""


def functions(bus: ConfigAccess, number: int = 0) -> Iterator[int]:
    """The requester ids of the functions on bus *number*, in order. Functions 1..7 are looked for where 0 says so."""
    for device in range(number << 8, (number << 8) + 256, 8):
        if bus.config_read(device, 0, 2) == NOBODY:
            continue
        yield device
        if bus.config_read(device, PciHeader.offset_of("header_type"), 1) & MULTI_FUNCTION:
            yield from (rid for rid in range(device + 1, device + 8) if bus.config_read(rid, 0, 2) != NOBODY)


def bars(bus: ConfigAccess, rid: int) -> list[Bar]:
    """The BARs of a function, sized with its decoding off; addresses and command are as before afterwards."""
    command = bus.config_read(rid, _COMMAND, 2)
    bus.config_write(rid, _COMMAND, 2, command & ~_DECODING)
    found: list[Bar] = []
    index = 0
    while index < BAR_COUNT:
        bar = _sized(bus, rid, index)
        if bar is not None:
            found.append(bar)
        index += 2 if bar is not None and bar.is_wide else 1
    bus.config_write(rid, _COMMAND, 2, command)
    return found


def _sized(bus: ConfigAccess, rid: int, index: int) -> Bar | None:
    """All ones written read back as the size; None when the register is none."""
    offset = FIRST_BAR + 4 * index
    kind = bus.config_read(rid, offset, 4) & 0xF
    if kind & BarKind.IO:
        mask = _size_bits(bus, rid, offset) & _IO_MASK
        return Bar(index, -mask & 0xFFFF, BarKind.IO) if mask else None
    mask = _size_bits(bus, rid, offset) & _MEMORY_MASK
    if kind & BarKind.MEMORY_64:
        mask |= _size_bits(bus, rid, offset + 4) << 32
        return Bar(index, -mask & (1 << 64) - 1, BarKind(kind)) if mask else None
    return Bar(index, -mask & 0xFFFF_FFFF) if mask else None


def _size_bits(bus: ConfigAccess, rid: int, offset: int) -> int:
    kept = bus.config_read(rid, offset, 4)
    bus.config_write(rid, offset, 4, _SIZING)
    found = bus.config_read(rid, offset, 4)
    bus.config_write(rid, offset, 4, kept)
    return found


def bar_address(bus: ConfigAccess, rid: int, bar: Bar) -> int:
    """Where the BAR is."""
    low = bus.config_read(rid, bar.offset, 4) & -bar.size & 0xFFFF_FFFF
    return low | bus.config_read(rid, bar.offset + 4, 4) << 32 if bar.is_wide else low


def place_bars(bus: ConfigAccess, memory: range, alignment: int = 4096) -> int:
    """Give every memory BAR of bus 0 a place in *memory*, in order; the first address that is still free.

    Each stands on a page of its own at least, so that it can be mapped alone. One for which there is no room gets none.
    """
    free = memory.start
    for rid in functions(bus):
        for bar in bars(bus, rid):
            unit = max(bar.size, alignment)
            place = -(-free // unit) * unit
            if bar.is_io or place + unit > memory.stop:
                continue
            set_bar(bus, rid, bar, place)
            free = place + unit
    return free


def set_bar(bus: ConfigAccess, rid: int, bar: Bar, address: int) -> None:
    """Put the BAR at *address*."""
    bus.config_write(rid, bar.offset, 4, address & 0xFFFF_FFFF)
    if bar.is_wide:
        bus.config_write(rid, bar.offset + 4, 4, address >> 32)


def capabilities(bus: ConfigAccess, rid: int) -> dict[int, int]:
    """The offset of each capability by its id, in the order of the list; one that does not end is cut off."""
    found: dict[int, int] = {}
    status = bus.config_read(rid, PciHeader.offset_of("status"), 2)
    at = bus.config_read(rid, _POINTER, 1) & ~3 if PciStatus(status).has_capabilities else 0
    while at >= FIRST_CAPABILITY and len(found) < _MOST_CAPABILITIES:
        id = bus.config_read(rid, at, 1)
        if id in found:
            break
        found[id] = at
        at = bus.config_read(rid, at + 1, 1) & ~3
    return found
