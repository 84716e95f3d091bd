"""Message signalled interrupts by the MSI-X capability: a table of messages in a BAR, and the pending bits behind it.

PCI "MSI-X Capability and Table Structures". A masked message sets its pending bit and is sent when the mask goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.pci.config import ConfigSpace, all_ones
from hv.pci.msi import Message
from hv.spec.pci import CAPABILITY_MSIX, MsixCapability, MsixControl, MsixEntry

PENDING_OFFSET = 0x800                  # of the pending bits in the BAR; the table is at 0
MSIX_BAR_SIZE = 4096                    # a page of its own, so that it can be kept from who may not write it
_ENTRY, _MASKED = MsixEntry.SIZE, 1


class MsixTable:
    """*count* entries, masked after a reset, and what they say. Software's side: `read`, `write`."""

    def __init__(self, count: int) -> None:
        self.entries = [MsixEntry(vector_control=_MASKED) for _ in range(count)]

    def read(self, offset: int, size: int) -> int:
        """A dword or a qword, aligned; all ones for any other access, 0 behind the table."""
        if size not in (4, 8) or offset % size:
            return all_ones(size)
        low = self._dword(offset)
        return low if size == 4 else low | self._dword(offset + 4) << 32

    def _dword(self, offset: int) -> int:
        number, within = divmod(offset, _ENTRY)
        if number >= len(self.entries):
            return 0
        return int.from_bytes(self.entries[number].pack()[within : within + 4], "little")

    def write(self, offset: int, size: int, value: int) -> int | None:
        """Change an entry, and say which; None for an access that changes nothing."""
        number = offset // _ENTRY
        if size not in (4, 8) or offset % size or number >= len(self.entries):
            return None
        content = bytearray(self.entries[number].pack())
        content[offset % _ENTRY : offset % _ENTRY + size] = (value & all_ones(size)).to_bytes(size, "little")
        entry = MsixEntry.parse(content)
        entry.address_low &= ~3
        entry.vector_control &= _MASKED
        self.entries[number] = entry
        return number

    def is_masked(self, number: int) -> bool:
        """By the entry's own bit."""
        return bool(self.entries[number].vector_control & _MASKED)

    def message(self, number: int) -> Message:
        """What entry *number* sends."""
        entry = self.entries[number]
        return Message(entry.address_high << 32 | entry.address_low, entry.data)

    def reset(self) -> None:
        """Every entry is empty and masked."""
        self.entries[:] = [MsixEntry(vector_control=_MASKED) for _ in self.entries]


class Msix:
    """The capability in *config*, with *count* entries in BAR *bar*; the device's side is `fire` and `released`.

    The *pending_bits* of a virtual function are those of the device behind it.
    """

    def __init__(self, config: ConfigSpace, count: int, bar: int,
                 pending_bits: Callable[[], int] | None = None) -> None:
        self.config, self.bar, self.table = config, bar, MsixTable(count)
        self.pending = 0
        self._pending_bits = pending_bits
        self.offset = config.add_capability(
            MsixCapability(capability_id=CAPABILITY_MSIX, control=MsixControl(last_entry=count - 1).raw, table=bar,
                           pending=PENDING_OFFSET | bar),
            MsixCapability(control=MsixControl(function_masked=1, enabled=1).raw))

    @property
    def control(self) -> MsixControl:
        """The message control register as it stands."""
        return MsixControl(self.config.field(MsixCapability, "control", self.offset))

    @property
    def enabled(self) -> bool:
        """Interrupts go this way."""
        return bool(self.control.enabled)

    def is_masked(self, number: int) -> bool:
        """By its entry or with all others."""
        return bool(self.control.function_masked) or self.table.is_masked(number)

    def read(self, offset: int, size: int) -> int:
        """The BAR: the table, the pending bits, and zeroes."""
        if offset < PENDING_OFFSET:
            return self.table.read(offset, size)
        if size not in (4, 8) or offset % size:
            return all_ones(size)
        pending = self._pending_bits() if self._pending_bits else self.pending
        return pending >> 8 * (offset - PENDING_OFFSET) & all_ones(size)

    def write(self, offset: int, size: int, value: int) -> int | None:
        """The BAR: which entry was changed; the pending bits are read-only."""
        return self.table.write(offset, size, value) if offset < PENDING_OFFSET else None

    def fire(self, number: int) -> Message | None:
        """What is sent for interrupt *number*; a masked one waits, one without an entry is none."""
        if number >= len(self.table.entries):
            return None
        if self.is_masked(number):
            self.pending |= 1 << number
            return None
        return self.table.message(number)

    def released(self) -> list[Message]:
        """The messages that waited and do no more, in order; they are sent now."""
        if not self.pending or not self.enabled or self.control.function_masked:
            return []
        free = [number for number in range(len(self.table.entries))
                if self.pending >> number & 1 and not self.table.is_masked(number)]
        for number in free:
            self.pending &= ~(1 << number)
        return [self.table.message(number) for number in free]

    def reset(self) -> None:
        """As after power on; configuration space is reset by its owner."""
        self.table.reset()
        self.pending = 0

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"control": self.control.inspect(), "pending": self.pending,
                "entries": [entry.inspect() for entry in self.table.entries]}
