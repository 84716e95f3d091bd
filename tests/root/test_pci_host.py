"""The PCI bus of a VM: configuration space by ports and by memory, and which BAR answers where."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.pci.bars import Bar, declare_bars
from hv.pci.config import ConfigSpace
from hv.root.vdev.pci_host import PciHost
from hv.spec.pc import PCI_WINDOW
from hv.spec.pci import BarKind, ConfigAddress, EcamOffset, PciCommand, PciHeader

SELECT, DATA = 0xCF8, 0xCFC
COMMAND, BAR0, BAR1 = (PciHeader.offset_of(name) for name in ("command", "bar0", "bar1"))
ON = PciCommand(memory_enabled=1).raw
NOWHERE = None


class FakeFunction:
    """A function with two BARs; notes where they are put."""

    def __init__(self) -> None:
        self.bars = (Bar(0, 0x4000), Bar(2, 0x1000, BarKind.MEMORY_64))
        header, writable = PciHeader(vendor_id=0x1234, device_id=0x5678), PciHeader(command=7)
        declare_bars(header, writable, self.bars)
        self.config = ConfigSpace(header, writable)
        self.places: dict[int, range | None] = {}

    def config_read(self, offset: int, size: int) -> int:
        return self.config.read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.config.write(offset, size, value)

    def place(self, bar: Bar, gpas: range | None) -> None:
        self.places[bar.number] = gpas

    def reset(self) -> None:
        self.config.reset()

    def inspect(self) -> dict[str, object]:
        return {}


class Bench:
    """A bus with two functions, 00:02.0 and 00:03.0, whose BARs answer where firmware has put them."""

    def __init__(self) -> None:
        self.host = PciHost()
        self.a, self.b = FakeFunction(), FakeFunction()
        self.host.plug(0x10, self.a)
        self.host.plug(0x18, self.b)
        for rid in (0x10, 0x18):
            self.host.config_write(rid, COMMAND, 2, ON)

    def select(self, rid: int, register: int, enabled: int = 1) -> None:
        self.host.write_port(SELECT, 4, ConfigAddress(rid=rid, register=register, enabled=enabled).raw)


def test_the_ports_reach_the_register_that_was_selected():
    """PCI "Configuration Mechanism"; the port's low two bits are the register's."""
    bench = Bench()
    bench.select(0x18, 0)
    assert bench.host.read_port(SELECT, 4) == 0x80001800
    assert (bench.host.read_port(DATA, 4), bench.host.read_port(DATA + 2, 2)) == (0x56781234, 0x5678)
    bench.select(0x18, PciHeader.offset_of("interrupt_line"))
    bench.host.write_port(DATA, 1, 0x2A)
    assert bench.host.config_read(0x18, PciHeader.offset_of("interrupt_line"), 1) == 0x2A


def test_without_the_enable_bit_nobody_answers():
    bench = Bench()
    bench.select(0x18, 0, enabled=0)
    bench.host.write_port(DATA, 4, 0)
    assert bench.host.read_port(DATA, 4) == 0xFFFFFFFF


@pytest.mark.parametrize("size", [1, 2])
def test_only_a_dword_selects(size):
    """A byte at 0xCF9 is the reset control register's, and none of the bridge's business."""
    bench = Bench()
    bench.select(0x18, 0)
    bench.host.write_port(SELECT, size, 0)
    assert bench.host.read_port(SELECT, size) == (1 << 8 * size) - 1
    assert bench.host.read_port(DATA, 4) == 0x56781234


def test_the_bridge_is_the_first_function_and_where_none_is_reads_all_ones():
    bench = Bench()
    bench.select(0, 0)
    assert bench.host.read_port(DATA, 4) == 0x29C01414
    assert [bench.host.config_read(rid, 0, 4) for rid in (1, 0x20, 0x100)] == [0xFFFFFFFF] * 3


def test_memory_reaches_all_of_configuration_space():
    """PCI Express "Enhanced Configuration Access Mechanism": a megabyte for each bus."""
    host = Bench().host
    at = EcamOffset(rid=0x10, register=0).raw
    assert (host.read_memory(at, 8), host.read_memory(at + 0x100, 4)) == (ON << 32 | 0x56781234, 0)
    assert host.read_memory(EcamOffset(rid=0x110).raw, 4) == 0xFFFFFFFF
    host.write_memory(at + BAR0, 8, 0xF100_0000_F200_0000)
    assert host.config_read(0x10, BAR0, 4) == 0xF200_0000


def test_firmware_gives_every_bar_a_place_and_it_answers_there_once_memory_is_enabled():
    bench = Bench()
    places = [*bench.a.places.values(), *bench.b.places.values()]
    assert [place.start for place in places] == [0xF000_0000, 0xF000_4000, 0xF000_8000, 0xF000_C000]
    bench.host.config_write(0x10, COMMAND, 2, 0)
    assert bench.a.places == {0: NOWHERE, 2: NOWHERE}


@pytest.mark.parametrize("address", [0, 0x10_0000, 0xEFFF_C000, 0xFEC0_0000, 0xFEE0_0000, 0xFFFF_C000])
def test_a_bar_outside_the_window_answers_nowhere(address):
    """RAM, ECAM, interrupt controllers and the BIOS are not hidden by a BAR."""
    bench = Bench()
    bench.host.config_write(0x10, BAR0, 4, address)
    assert bench.a.places[0] is NOWHERE
    assert (bench.a.places[2].start, bench.b.places[0].start) == (0xF000_4000, 0xF000_8000)


def test_of_two_bars_at_one_place_the_first_answers_and_the_second_when_it_goes():
    bench = Bench()
    bench.host.config_write(0x18, BAR0, 4, 0xF000_0000)
    assert (bench.a.places[0].start, bench.b.places[0]) == (0xF000_0000, NOWHERE)
    bench.host.config_write(0x10, BAR0, 4, 0xF010_0000)
    assert (bench.a.places[0].start, bench.b.places[0].start) == (0xF010_0000, 0xF000_0000)


def test_a_reset_puts_everything_where_firmware_does():
    bench = Bench()
    before = dict(bench.a.places)
    bench.host.config_write(0x10, BAR0, 4, 0xF777_0000)
    bench.select(0x10, 0)
    bench.host.reset()
    assert (bench.a.places, bench.host.selected.raw) == ({0: NOWHERE, 2: NOWHERE}, 0)
    bench.host.config_write(0x10, COMMAND, 2, ON)
    assert bench.a.places == before


ACCESS = st.tuples(st.booleans(), st.sampled_from((SELECT, *range(DATA, DATA + 4))) | st.integers(0, 0x20_0000),
                   st.sampled_from((1, 2, 4, 8)), st.integers(0, 2**64 - 1) | st.sampled_from((
                       0x80001010, 0x80001810, 0x80001004, 0xF0000000, 0xFFFFFFFF, 7)))


@settings(max_examples=100, deadline=None)
@given(st.lists(ACCESS, max_size=25))
def test_whatever_is_written_the_places_are_in_the_window_and_do_not_overlap(acts):
    bench = Bench()
    for by_port, at, size, value in acts:
        if by_port:
            bench.host.write_port(DATA if at > 0xFFFF else at, min(size, 4), value & (1 << 8 * min(size, 4)) - 1)
            bench.host.read_port(DATA, 4)
        else:
            bench.host.write_memory(at & -size, size, value & (1 << 8 * size) - 1)
            bench.host.read_memory(at & -size, size)
    taken = sorted((gpas.start, gpas.stop) for one in (bench.a, bench.b) for gpas in one.places.values() if gpas)
    assert all(PCI_WINDOW.start <= start < stop <= PCI_WINDOW.stop for start, stop in taken)
    assert all(before[1] <= after[0] for before, after in pairwise(taken))
