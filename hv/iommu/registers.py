"""A register file of 4- and 8-byte registers, and the event message two of its groups describe."""

from __future__ import annotations

from collections.abc import Callable

from hv.spec.vtd import EventControl, VtdRegister

DWORD = 0xFFFFFFFF
Getter = Callable[[], int]
Setter = Callable[[int, int], None]     # value, and the mask of the bits that were written


def _read_only(value: int, mask: int) -> None:
    """A write to a register that has no setter."""


class RegisterFile:
    """Registers by offset. An access is 4 or 8 bytes, aligned; any other reads 0 and writes nothing.

    A register of 8 bytes may be written by halves. Two of 4 bytes may be written together, the lower one first.
    """

    def __init__(self) -> None:
        self._dwords: dict[int, tuple[int, int, Getter, Setter]] = {}      # offset -> register's offset, size, ...

    def add(self, offset: int, size: int, getter: Getter, setter: Setter = _read_only) -> None:
        """Put a register of *size* bytes (4 or 8) at *offset*."""
        for dword in range(offset, offset + size, 4):
            assert dword not in self._dwords, f"two registers at {dword:#x}"
            self._dwords[dword] = (offset, size, getter, setter)

    def read(self, offset: int, size: int) -> int:
        """The *size* bytes at *offset*."""
        if size not in (4, 8) or offset % size:
            return 0
        return sum(self._read_dword(offset + at) << 8 * at for at in range(0, size, 4))

    def _read_dword(self, offset: int) -> int:
        if offset not in self._dwords:
            return 0
        start, _, getter, _ = self._dwords[offset]
        return getter() >> 8 * (offset - start) & DWORD

    def write(self, offset: int, size: int, value: int) -> None:
        """Store the low *size* bytes of *value* at *offset*."""
        if size not in (4, 8) or offset % size:
            return
        value &= (1 << 8 * size) - 1
        start, register_size, _, setter = self._dwords.get(offset, (offset, 4, None, _read_only))
        if size > register_size:
            self.write(offset, 4, value & DWORD)
            self.write(offset + 4, 4, value >> 32)
        else:
            shift = 8 * (offset - start)
            setter(value << shift, (1 << 8 * size) - 1 << shift)


class EventMessage:
    """The interrupt of the unit itself, for faults or for completed invalidations, and its four registers.

    *send(address, data)* delivers it. VT-d "Fault Event Control Register": an event while masked is kept in IP, and
    is sent when the mask goes.
    """

    def __init__(self, send: Callable[[int, int], None]) -> None:
        self.send = send
        self.control = EventControl(masked=1)
        self.data = self.address = self.upper_address = 0

    def add_to(self, file: RegisterFile, first: VtdRegister) -> None:
        """Put control, data, address and upper address at *first* and the three dwords behind it."""
        file.add(first, 4, lambda: self.control.raw, self._set_control)
        file.add(first + 4, 4, lambda: self.data, self._set_data)
        file.add(first + 8, 4, lambda: self.address, self._set_address)
        file.add(first + 12, 4, lambda: self.upper_address, self._set_upper_address)

    def happen(self) -> None:
        """The event: send it, or keep it while masked."""
        if self.control.masked:
            self.control.pending = 1
        else:
            self.send(self.upper_address << 32 | self.address, self.data)

    def withdraw(self) -> None:
        """What caused the event has been served."""
        self.control.pending = 0

    def _set_control(self, value: int, mask: int) -> None:
        self.control.masked = EventControl(value).masked
        if self.control.pending and not self.control.masked:
            self.withdraw()
            self.happen()

    def _set_data(self, value: int, mask: int) -> None:
        self.data = value

    def _set_address(self, value: int, mask: int) -> None:
        self.address = value & ~3

    def _set_upper_address(self, value: int, mask: int) -> None:
        self.upper_address = value
