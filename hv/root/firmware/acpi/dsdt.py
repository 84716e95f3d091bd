"""The DSDT: the names by which an operating system finds what no bus tells it of, and how it turns the machine off.

ACPI "Differentiated System Description Table", "Device Identification Objects", "\\_Sx (System States)".
"""

from __future__ import annotations

from hv.root.firmware.acpi.aml import device, eisa_id, integer, name, package, scope, string
from hv.root.firmware.acpi.resources import bus_numbers, irq, memory, memory_window, port_window, ports, template
from hv.root.firmware.board import Board
from hv.spec.layout import Layout
from hv.spec.pc import (
    ACPI_EVENT,
    ACPI_S5,
    ACPI_TIMER,
    CMOS,
    COM1_PORTS,
    ECAM_BUSES,
    ECAM_GPA,
    HPET_GPA,
    KEYBOARD_COMMAND,
    KEYBOARD_DATA,
    PCI_ADDRESS,
    PCI_DATA,
    PCI_WINDOW,
    PIC_MASTER,
    PIC_SLAVE,
    PIC_TRIGGER,
    PIT,
    Irq,
    pci_line,
)

_DEVICES_OF_A_BUS, _PINS = 32, 4
_MEBIBYTE, _HPET_SIZE = 1 << 20, 0x400
_EVERY_FUNCTION = 0xFFFF
_PORTS_BELOW, _PORTS_ABOVE = range(PCI_ADDRESS.start), range(PCI_DATA.stop, 0x10000)


def body(board: Board) -> bytes:
    """All terms of the table, in the order of the tree, whose root is where they stand."""
    return name("_S5", package(*[integer(value) for value in (ACPI_S5, ACPI_S5, 0, 0)])) + \
        scope("_SB", *_processors(board), *([_pci()] if board.has_pci else []), *_isa(board))


def _processors(board: Board) -> list[bytes]:
    """One device for each; its _UID is the processor UID of the MADT. "Declaring Processors"."""
    return [device(f"C{index:03X}", name("_HID", string("ACPI0007")), name("_UID", integer(index)))
            for index in range(board.vp_count)]


def _pci() -> bytes:
    """The root bridge: what it hands on, and which pin of the I/O APIC is behind INTA..INTD of each device.

    PCI Firmware Specification "_CRS"; ACPI "_PRT (PCI Routing Table)".
    """
    handed_on = [bus_numbers(ECAM_BUSES), *ports(range(PCI_ADDRESS.start, PCI_DATA.stop)), port_window(_PORTS_BELOW),
                 port_window(_PORTS_ABOVE), memory_window(PCI_WINDOW)]
    routes = [package(integer(number << 16 | _EVERY_FUNCTION), integer(pin), integer(0), integer(pci_line(number, pin)))
              for number in range(_DEVICES_OF_A_BUS) for pin in range(_PINS)]
    return device("PCI0", name("_HID", eisa_id("PNP0A08")), name("_CID", eisa_id("PNP0A03")), name("_SEG", integer(0)),
                  name("_BBN", integer(0)), name("_UID", integer(0)), name("_CRS", template(*handed_on)),
                  name("_PRT", package(*routes)))


def _isa(board: Board) -> list[bytes]:
    """The devices with fixed ports and lines."""
    found = [_device("PIC", "PNP0000", *ports(PIC_MASTER, PIC_SLAVE, PIC_TRIGGER), irq(Irq.CASCADE)),
             _device("TIMR", "PNP0100", *ports(PIT), irq(Irq.TIMER)),
             _device("RTC", "PNP0B00", *ports(CMOS), irq(Irq.RTC)),
             _device("COM1", "PNP0501", *ports(COM1_PORTS), irq(Irq.COM1), uid=1)]
    if board.has_keyboard:
        data, command = (range(port, port + 1) for port in (KEYBOARD_DATA, KEYBOARD_COMMAND))
        found.append(_device("KBD", "PNP0303", *ports(data, command), irq(Irq.KEYBOARD)))
    if board.hpet_block_id is not None:
        found.append(_device("HPET", "PNP0103", memory(range(HPET_GPA, HPET_GPA + _HPET_SIZE))))
    return [*found, _device("MBRD", "PNP0C02", *_taken(board))]


def _taken(board: Board) -> list[Layout]:
    """What is no device's of its own: an operating system uses ECAM only when somebody has claimed its addresses."""
    taken = ports(range(ACPI_EVENT.start, ACPI_TIMER.stop))
    return [*taken, memory(range(ECAM_GPA, ECAM_GPA + ECAM_BUSES * _MEBIBYTE))] if board.has_pci else taken


def _device(path: str, hardware_id: str, *uses: Layout, uid: int = 0) -> bytes:
    return device(path, name("_HID", eisa_id(hardware_id)), name("_UID", integer(uid)), name("_CRS", template(*uses)))
