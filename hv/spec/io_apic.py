"""The I/O APIC as Intel's "82093AA I/O Advanced Programmable Interrupt Controller" and the ICH data sheets lay it out.

No behaviour: that is `hv/root/vdev/io_apic.py`.
"""

from __future__ import annotations

from typing import ClassVar

from hv.spec.layout import Register, bits
from hv.spec.numbering import Numbering

WINDOW_SIZE = 0x400                 # bytes that are decoded
VERSION = 0x20                      # has the EOI register


class IoApicWindow(Numbering):
    """Offsets in memory; ICH "APIC Direct Register Memory Map"."""

    SELECT = 0x00                   # IOREGSEL: index of the register that WINDOW is
    WINDOW = 0x10                   # IOWIN
    EOI = 0x40


class IoApicRegister(Numbering):
    """Indices; 82093AA "IOAPIC Registers"."""

    ID = 0x00
    VERSION = 0x01
    ARBITRATION = 0x02
    REDIRECTION = 0x10              # entry n: low half at 0x10 + 2n, high half behind it


class IoApicId(Register):
    """IOAPICID, and IOAPICARB."""

    WIDTH: ClassVar[int] = 32
    id = bits(27, 24)


class IoApicVersion(Register):
    """IOAPICVER."""

    WIDTH: ClassVar[int] = 32
    version = bits(7, 0)
    last_entry = bits(23, 16)


class RedirectionEntry(Register):
    """IOREDTBL[n]; 82093AA "I/O Redirection Table Registers"."""

    vector = bits(7, 0)
    delivery_mode = bits(10, 8)     # DeliveryMode
    logical = bits(11)              # destination mode; remappable: bit 15 of the handle
    delivery_status = bits(12)      # read-only, reads 0: a message is sent at once
    active_low = bits(13)
    remote_irr = bits(14)           # read-only: a level-triggered interrupt waits for its EOI
    level = bits(15)                # trigger mode
    masked = bits(16)
    extended_destination = bits(55, 49)     # bits 14..8 of the destination
    remappable = bits(48)           # VT-d: bits 63..49 are a handle
    destination = bits(63, 56)
