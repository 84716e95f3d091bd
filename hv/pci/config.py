"""Configuration space of one function: its bytes, what software may change of them, and the list of capabilities.

PCI "Configuration Space", "Capabilities List".
"""

from __future__ import annotations

from hv.spec.layout import Layout
from hv.spec.pci import EXTENDED_CONFIG_SIZE, FIRST_CAPABILITY, PciHeader, PciStatus

_STATUS, _CAPABILITIES = PciHeader.offset_of("status"), PciHeader.offset_of("capabilities")
_ALWAYS_WRITABLE = PciHeader(cache_line_size=0xFF, interrupt_line=0xFF)     # notes that software makes for itself
_LINK = 1                                                       # a capability's second byte: where the next one is


def all_ones(size: int) -> int:
    """What a read of *size* bytes gives when nobody answers."""
    return (1 << 8 * max(size, 0)) - 1


class ConfigSpace:
    """4096 bytes, *header* first. Software may change the bits that *writable* and the capabilities give it."""

    def __init__(self, header: PciHeader, writable: PciHeader) -> None:
        self.data = bytearray(EXTENDED_CONFIG_SIZE)
        self._writable = bytearray(EXTENDED_CONFIG_SIZE)        # mask of the bits software may change
        self._cleared_by_ones = bytearray(EXTENDED_CONFIG_SIZE)
        self._initial = bytearray(EXTENDED_CONFIG_SIZE)
        self._link, self._free = _CAPABILITIES, FIRST_CAPABILITY
        self.declare(0, header, writable)
        self.allow(0, _ALWAYS_WRITABLE)
        self._cleared_by_ones[_STATUS + 1] = PciStatus(master_abort=1).raw >> 8

    def declare(self, offset: int, content: Layout, writable: Layout) -> None:
        """After a reset *content* is at *offset*, of which software may change what is 1 in *writable*."""
        end = offset + content.SIZE
        self.data[offset:end] = self._initial[offset:end] = content.pack()
        self._writable[offset:end] = writable.pack()

    def declare_byte(self, offset: int, value: int) -> None:
        """Likewise of one byte, read-only."""
        self.data[offset] = self._initial[offset] = value

    def allow(self, offset: int, bits: Layout) -> None:
        """Software may change these bits too."""
        for at, mask in enumerate(bits.pack(), offset):
            self._writable[at] |= mask

    def add_capability(self, content: Layout, writable: Layout) -> int:
        """Put a capability at the end of the list; where it is. Its first two bytes are id and link."""
        offset = self._free
        self.declare(offset, content, writable)
        self.declare_byte(self._link, offset)
        self._link, self._free = offset + _LINK, offset + (content.SIZE + 7 & ~7)
        self.declare_byte(_STATUS, self.data[_STATUS] | PciStatus(has_capabilities=1).raw)
        return offset

    def read(self, offset: int, size: int) -> int:
        """*size* bytes (1, 2, 4, aligned); all ones for any other access."""
        if not is_config_access(offset, size):
            return all_ones(size)
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> bool:
        """Change what software may change there; False for an access of another size or place, which does nothing."""
        if not is_config_access(offset, size):
            return False
        for at in range(offset, offset + size):
            new, mask, ones = value & 0xFF, self._writable[at], self._cleared_by_ones[at]
            self.data[at] = (self.data[at] & ~mask | new & mask) & ~(new & ones)
            value >>= 8
        return True

    def reset(self) -> None:
        """As after power on."""
        self.data[:] = self._initial

    def field(self, layout: type[Layout], name: str, at: int = 0) -> int:
        """A field of the *layout* at *at*, of one, two or four bytes."""
        offset, kind = layout.FIELDS[name]
        return int.from_bytes(self.data[at + offset : at + offset + kind.size], "little")

    def set_field(self, layout: type[Layout], name: str, value: int, at: int = 0) -> None:
        """Change a field as the function itself does, whatever software may change of it."""
        offset, kind = layout.FIELDS[name]
        self.data[at + offset : at + offset + kind.size] = value.to_bytes(kind.size, "little")

    @property
    def header(self) -> PciHeader:
        """The header as it stands."""
        return PciHeader.parse(self.data)


def is_config_access(offset: int, size: int) -> bool:
    """Is it one that a function understands?"""
    return size in (1, 2, 4) and offset % size == 0 and 0 <= offset <= EXTENDED_CONFIG_SIZE - size


def reaches(offset: int, size: int, start: int, count: int) -> bool:
    """Does an access of *size* bytes at *offset* reach one of the *count* at *start*?"""
    return offset < start + count and start < offset + size
