"""The I/O APIC: 24 pins, each with an entry that says which message it sends to the local APICs.

Intel "82093AA I/O Advanced Programmable Interrupt Controller"; the EOI register and version 20 are the ICH's. What a
pin sends is an `Msi`: the entry's upper 16 bits are bits 19..4 of the address, so that an entry in VT-d's remappable
form makes a remappable message, and whoever delivers it may look that up.

A level-triggered pin sends when it is asserted, unmasked, and its last interrupt was ended. It hears of the end by
`end_of_interrupt`, which every EOI of a local APIC broadcasts, or from software by the EOI register.
"""

# Simplified: polarity is kept and means nothing, since a line of the board is asserted or it is not; a message is sent
# at once, so delivery status reads 0; a processor that does not take a level-triggered message is asked again at the
# next write of the entry or change of the pin, not over and over.

from __future__ import annotations

from typing import Any

from hv.root.msi import Msi, SendMsi
from hv.spec.apic import DEFAULT_BASE
from hv.spec.io_apic import (
    VERSION,
    IoApicId,
    IoApicRegister,
    IoApicVersion,
    IoApicWindow,
    RedirectionEntry,
)
from hv.spec.pc import IO_APIC_ID, IO_APIC_PINS

_U32 = 0xFFFF_FFFF
_VECTOR, _MODE, _REMOTE_IRR, _LEVEL, _MASKED = 0xFF, 0x700, 1 << 14, 1 << 15, 1 << 16      # bits of an entry
_READ_ONLY = RedirectionEntry(delivery_status=1, remote_irr=1).raw
_WRITABLE_LOW = 0x1FFFF & ~_READ_ONLY
_ASSERT = 1 << 14                           # of a message's data
_SPECIAL = 0x600                            # of the delivery mode: SMI, NMI, INIT, ExtINT are edges always


class IoApic:
    """All entries are masked, as after reset; *send* delivers, and says if anybody took the message."""

    def __init__(self, send: SendMsi) -> None:
        self.send = send
        self.asserted = [False] * IO_APIC_PINS
        self.reset()

    def reset(self) -> None:
        """As after power-on; the wires are others'."""
        self.id = IoApicId(id=IO_APIC_ID).raw     # as the firmware numbers it
        self.select = 0
        self.entries = [_MASKED] * IO_APIC_PINS         # RedirectionEntry as integers

    # --- pins ------------------------------------------------------------------------------------------

    def set_pin(self, pin: int, asserted: bool) -> None:
        """The wire at *pin* has this level now. An edge at a masked entry is lost."""
        was, self.asserted[pin] = self.asserted[pin], asserted
        if not asserted:
            return
        entry = self.entries[pin]
        if _waits_for_eoi(entry):
            self._serve_level(pin)
        elif not was and not entry & _MASKED:
            self.send(_message(entry))

    def end_of_interrupt(self, vector: int) -> None:
        """A local APIC has ended *vector*: what is level-triggered and still asserted comes again."""
        for pin, entry in enumerate(self.entries):
            if entry & _REMOTE_IRR and entry & _VECTOR == vector:
                self.entries[pin] = entry & ~_REMOTE_IRR
                self._serve_level(pin)

    def _serve_level(self, pin: int) -> None:
        entry = self.entries[pin]
        if self.asserted[pin] and not entry & (_MASKED | _REMOTE_IRR) and self.send(_message(entry)):
            self.entries[pin] |= _REMOTE_IRR

    # --- registers -------------------------------------------------------------------------------------

    def read_memory(self, offset: int, size: int) -> int:
        """An aligned dword; what is not a register, or is wider or narrower than one, reads 0."""
        if size != 4:
            return 0
        if offset == IoApicWindow.SELECT:
            return self.select
        return self._read(self.select) if offset == IoApicWindow.WINDOW else 0

    def write_memory(self, offset: int, size: int, value: int) -> None:
        """An aligned dword; of the index, which has eight bits, any size."""
        if offset == IoApicWindow.SELECT:
            self.select = value & 0xFF
        elif size == 4 and offset == IoApicWindow.WINDOW:
            self._write(self.select, value & _U32)
        elif size == 4 and offset == IoApicWindow.EOI:
            self.end_of_interrupt(value & _VECTOR)

    def _read(self, index: int) -> int:
        pin, high = divmod(index - IoApicRegister.REDIRECTION, 2)
        if 0 <= pin < IO_APIC_PINS:
            return self.entries[pin] >> 32 * high & _U32
        if index in (IoApicRegister.ID, IoApicRegister.ARBITRATION):
            return self.id
        return IoApicVersion(version=VERSION, last_entry=IO_APIC_PINS - 1).raw if index == IoApicRegister.VERSION else 0

    def _write(self, index: int, value: int) -> None:
        pin, high = divmod(index - IoApicRegister.REDIRECTION, 2)
        if index == IoApicRegister.ID:
            self.id = value & ~IoApicId.RESERVED
        elif 0 <= pin < IO_APIC_PINS:
            (self._write_high if high else self._write_low)(pin, value)

    def _write_high(self, pin: int, value: int) -> None:
        self.entries[pin] = self.entries[pin] & _U32 | (value & 0xFFFF_0000) << 32

    def _write_low(self, pin: int, value: int) -> None:
        """Into edge mode, remote IRR is forgotten: software's way to end an interrupt whose vector it changed."""
        entry = self.entries[pin] & ~_WRITABLE_LOW | value & _WRITABLE_LOW
        if not entry & _LEVEL:
            entry &= ~_REMOTE_IRR
        self.entries[pin] = entry
        if _waits_for_eoi(entry):
            self._serve_level(pin)

    def inspect(self) -> dict[str, Any]:
        """Plain data: the pins that are asserted, and the entries that say more than after reset."""
        return {
            "id": IoApicId(self.id).id, "select": self.select,
            "asserted": [pin for pin, asserted in enumerate(self.asserted) if asserted],
            "entries": {pin: RedirectionEntry(entry).inspect()
                        for pin, entry in enumerate(self.entries) if entry != _MASKED},
        }


def _waits_for_eoi(entry: int) -> bool:
    return bool(entry & _LEVEL) and not entry & _SPECIAL


def _message(entry: int) -> Msi:
    """What *entry* sends; VT-d "I/OxAPIC Programming": of a remappable one, bit 11 is bit 15 of the handle."""
    trigger = entry & _LEVEL | _ASSERT if _waits_for_eoi(entry) else 0
    return Msi(DEFAULT_BASE | (entry >> 48) << 4 | (entry >> 11 & 1) << 2, entry & (_MODE | _VECTOR) | trigger)
