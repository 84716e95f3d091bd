"""Finding functions and giving addresses to BARs, by configuration accesses alone."""

from __future__ import annotations

import pytest

from hv.machine.pci import Bar, PciFunction
from hv.machine.pci_bus import PciBus
from hv.pci import enumeration
from hv.spec.pci import BarKind, PciCommand, PciHeader

COMMAND = PciHeader.offset_of("command")
WINDOW = range(0x1000_0000, 0x1010_0000)


class Small(PciFunction):
    BARS = (Bar(0, 256), Bar(2, 8, BarKind.IO))

    def read_register(self, offset: int, size: int) -> int:
        return self.rid << 8 | offset


class Large(PciFunction):
    BARS = (Bar(0, 0x4000, BarKind.MEMORY_64),)


class Huge(PciFunction):
    BARS = (Bar(0, 1 << 36, BarKind.PREFETCHABLE_64),)


def a_bus(*devices: list[PciFunction]) -> PciBus:
    bus = PciBus(WINDOW)
    for functions in devices:
        bus.plug(*functions)
    return bus


def functions(kind: type[PciFunction], *rids: int) -> list[PciFunction]:
    return [kind(rid, None) for rid in rids]


def test_functions_are_found_where_the_first_of_a_device_says_there_are_more():
    """PCI "Multi-function Devices": header type, bit 7; a gap is none."""
    bus = a_bus(functions(Small, 0x10, 0x11, 0x13), functions(Large, 0x20))
    assert list(enumeration.functions(bus)) == [0x10, 0x11, 0x13, 0x20]
    bus.plug(*functions(Small, 0x21))
    assert list(enumeration.functions(bus)) == [0x10, 0x11, 0x13, 0x20], "00:04.0 says it is alone"


@pytest.mark.parametrize(("kind", "bars"), [
    (Small, [(0, 256, BarKind.MEMORY_32), (2, 8, BarKind.IO), (4, 4096, BarKind.MEMORY_32)]),
    (Large, [(0, 0x4000, BarKind.MEMORY_64), (4, 4096, BarKind.MEMORY_32)]),
    (Huge, [(0, 1 << 36, BarKind.PREFETCHABLE_64), (4, 4096, BarKind.MEMORY_32)])])
def test_sizing_finds_the_bars_and_leaves_the_function_as_it_was(kind, bars):
    bus = a_bus(functions(kind, 8))
    bus.config_write(8, COMMAND, 2, PciCommand(memory_enabled=1).raw)
    before = bytes(bus.functions[8].config.data)
    assert enumeration.bars(bus, 8) == bars
    assert bytes(bus.functions[8].config.data) == before


def test_each_bar_gets_pages_of_its_own_at_a_multiple_of_its_size():
    bus = a_bus(functions(Small, 8, 9), functions(Large, 16), functions(Huge, 24), functions(Small, 32))
    end = enumeration.place_bars(bus, WINDOW)
    places = [enumeration.bar_address(bus, rid, bar) for rid in enumeration.functions(bus)
              for bar in enumeration.bars(bus, rid) if not bar.is_io]
    assert places == [0x1000_0000, 0x1000_1000, 0x1000_2000, 0x1000_3000, 0x1000_4000, 0x1000_8000, 0, 0x1000_9000,
                      0x1000_A000, 0x1000_B000]
    assert end == 0x1000_C000


def test_the_bus_hands_an_access_to_the_function_that_answers_there():
    bus = a_bus(functions(Small, 8, 9))
    enumeration.place_bars(bus, WINDOW)
    assert bus.read(0x2010, 4) == 0xFFFFFFFF, "memory accesses are disabled"
    bus.config_write(9, COMMAND, 2, PciCommand(memory_enabled=1).raw)
    assert (bus.read(0x2010, 4), bus.read(0x0010, 4), bus.function_at(0x1000_2000)) == (
        0x0910, 0xFFFFFFFF, bus.functions[9])
    enumeration.set_bar(bus, 9, Bar(0, 256), 0x1004_0000)
    assert (bus.read(0x2010, 4), bus.read(0x40010, 4)) == (0xFFFFFFFF, 0x0910)
    assert bus.read(0x400FE, 4) == 0xFFFFFFFF, "an access across the end of a BAR"


def test_a_function_behind_a_missing_rid_reads_all_ones():
    bus = a_bus(functions(Small, 8))
    bus.config_write(9, COMMAND, 2, 7)
    assert (bus.config_read(9, 0, 4), bus.config_read(9, 0, 1)) == (0xFFFFFFFF, 0xFF)


def test_a_list_of_capabilities_that_bites_its_tail_ends():
    bus = a_bus(functions(Small, 8))
    config = bus.functions[8].config
    offsets = enumeration.capabilities(bus, 8)
    config.data[list(offsets.values())[-1] + 1] = next(iter(offsets.values()))
    assert enumeration.capabilities(bus, 8) == offsets
