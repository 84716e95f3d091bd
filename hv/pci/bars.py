"""Base address registers: how large each is, and where it answers. PCI "Base Addresses"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hv.pci.config import ConfigSpace
from hv.spec.pci import BarKind, PciCommand, PciHeader

FIRST_BAR = PciHeader.offset_of("bar0")
_WIDE = (BarKind.MEMORY_64, BarKind.PREFETCHABLE_64)
_HIGH = 0xFFFF_FFFF


class Bar(NamedTuple):
    """Base address register *number*, of *size* bytes: a power of two, at least 16, of I/O at least 4."""

    number: int
    size: int
    kind: BarKind = BarKind.MEMORY_32

    @property
    def offset(self) -> int:
        """Where the register is."""
        return FIRST_BAR + 4 * self.number

    @property
    def is_wide(self) -> bool:
        """It takes two registers."""
        return self.kind in _WIDE

    @property
    def is_io(self) -> bool:
        """It decodes ports."""
        return self.kind == BarKind.IO


def declare_bars(header: PciHeader, writable: PciHeader, bars: Sequence[Bar]) -> None:
    """Write *bars* into a header, and into the mask of what software may change of it: the bits above the size."""
    for bar in bars:
        assert bar.size & -bar.size == bar.size, f"a BAR of {bar.size} bytes is no power of two"
        setattr(header, f"bar{bar.number}", bar.kind.value)
        setattr(writable, f"bar{bar.number}", -bar.size & _HIGH)
        if bar.is_wide:
            setattr(writable, f"bar{bar.number + 1}", -bar.size >> 32 & _HIGH)


def address_of(config: ConfigSpace, bar: Bar) -> int:
    """Where software has put the BAR, whether or not it answers there."""
    low = config.read(bar.offset, 4) & -bar.size & _HIGH
    return low | config.read(bar.offset + 4, 4) << 32 if bar.is_wide else low


def decoded(config: ConfigSpace, bar: Bar) -> int | None:
    """Where the BAR answers; None while the command register disables its kind. PCI "Device Control"."""
    command = config.data[4]
    wanted = _IO_ENABLED if bar.is_io else _MEMORY_ENABLED
    return address_of(config, bar) if command & wanted else None


_IO_ENABLED, _MEMORY_ENABLED = PciCommand(io_enabled=1).raw, PciCommand(memory_enabled=1).raw
