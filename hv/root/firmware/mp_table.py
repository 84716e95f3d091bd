"""The MP table, for programs that know no ACPI. Intel "MultiProcessor Specification" 1.4.

# Simplified: it names the first 15 processors, as an id of the I/O APIC has 4 bits and is the 16th; who wants more
reads the MADT.
"""

from __future__ import annotations

from hv.root.firmware.board import Board
from hv.root.firmware.checksum import with_checksum
from hv.spec.acpi import MpsInti
from hv.spec.apic import VERSION as LOCAL_APIC_VERSION
from hv.spec.io_apic import VERSION as _IO_APIC_VERSION
from hv.spec.layout import Layout
from hv.spec.mp import (
    EVERY_LOCAL_APIC,
    POINTER_SIGNATURE,
    REVISION,
    TABLE_SIGNATURE,
    MpBus,
    MpEntry,
    MpFloatingPointer,
    MpInterrupt,
    MpInterruptType,
    MpIoApic,
    MpProcessor,
    MpTable,
)
from hv.spec.pc import IO_APIC_GPA, IO_APIC_ID, LOCAL_APIC_GPA, TIMER_PIN, Irq, pci_line

_USABLE, _BOOTSTRAP = 1, 2
_PCI, _ISA = 0, 1               # bus ids; PCI's has to be that of the bus
_LEVEL_HIGH, _LEVEL_LOW = MpsInti(trigger=3, polarity=1).raw, MpsInti(trigger=3, polarity=3).raw
_ISA_LINES, _DEVICES, _PINS = 16, 32, 4
_PARAGRAPH = 16


def pointer(table_gpa: int) -> bytes:
    """The floating pointer to the table. No IMCR: the 8259s are on LINT0 and pin 0 at once ("virtual wire")."""
    made = MpFloatingPointer(signature=POINTER_SIGNATURE, table=table_gpa, revision=REVISION,
                             length=MpFloatingPointer.SIZE // _PARAGRAPH)
    return with_checksum(made.pack(), MpFloatingPointer.offset_of("checksum"))


def table(board: Board) -> bytes:
    """The table. Entries stand in the order of their types."""
    made = _entries(board)
    body = b"".join(entry.pack() for entry in made)
    header = MpTable(signature=TABLE_SIGNATURE, length=MpTable.SIZE + len(body), revision=REVISION, oem_id=b"HVLAB   ",
                     product_id=b"HVLAB PC    ", entry_count=len(made), local_apic=LOCAL_APIC_GPA)
    return with_checksum(header.pack() + body, MpTable.offset_of("checksum"))


def _entries(board: Board) -> list[Layout]:
    processors: list[Layout] = [
        MpProcessor(type=MpEntry.PROCESSOR, apic_id=index, apic_version=LOCAL_APIC_VERSION & 0xFF,
                    flags=_USABLE | (_BOOTSTRAP if index == 0 else 0), signature=board.cpu_signature,
                    features=board.cpu_features) for index in range(min(board.vp_count, IO_APIC_ID))]
    buses = [MpBus(type=MpEntry.BUS, bus_id=_ISA, name=b"ISA   ")]
    if board.has_pci:
        buses.insert(0, MpBus(type=MpEntry.BUS, bus_id=_PCI, name=b"PCI   "))
    io_apic = MpIoApic(type=MpEntry.IO_APIC, apic_id=IO_APIC_ID, version=_IO_APIC_VERSION, flags=_USABLE,
                       address=IO_APIC_GPA)
    return [*processors, *buses, io_apic, *_isa_lines(), *(_pci_lines() if board.has_pci else []), *_local_lines()]


def _interrupt(bus: int, source: int, pin: int, flags: int = 0, kind: int = MpInterruptType.INT) -> Layout:
    return MpInterrupt(type=MpEntry.IO_INTERRUPT, interrupt_type=kind, flags=flags, bus_id=bus, source=source,
                       apic_id=IO_APIC_ID, pin=pin)


def _isa_lines() -> list[Layout]:
    """Line n is pin n, but for the timer's; the 8259s are on pin 0, and nothing else is on the cascade's."""
    lines = [_interrupt(_ISA, 0, 0, kind=MpInterruptType.EXT_INT), _interrupt(_ISA, Irq.TIMER, TIMER_PIN)]
    return lines + [_interrupt(_ISA, line, line, _LEVEL_HIGH if line == Irq.ACPI else 0) for line in range(_ISA_LINES)
                    if line not in (Irq.TIMER, Irq.CASCADE)]


def _pci_lines() -> list[Layout]:
    return [_interrupt(_PCI, device << 2 | pin, pci_line(device, pin), _LEVEL_LOW)
            for device in range(_DEVICES) for pin in range(_PINS)]


def _local_lines() -> list[Layout]:
    """LINT0 is the 8259s', LINT1 NMI, of every processor."""
    return [MpInterrupt(type=MpEntry.LOCAL_INTERRUPT, interrupt_type=kind, bus_id=_ISA, apic_id=EVERY_LOCAL_APIC,
                        pin=lint) for lint, kind in enumerate((MpInterruptType.EXT_INT, MpInterruptType.NMI))]
