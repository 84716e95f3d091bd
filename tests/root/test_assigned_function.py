"""A function of the machine on a VM's bus: what its guest reads and writes, and what becomes of that.

The device is a real model of the machine; the hypervisor is a list of calls.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.clock import VirtualClock
from hv.machine.pci_bus import PciBus
from hv.machine.ring_nic import RingNic
from hv.machine.ring_wire import Wire
from hv.pci.enumeration import capabilities, place_bars
from hv.pci.msix import PENDING_OFFSET
from hv.root.assignable import AssignedDevice, PhysicalPci
from hv.root.device_of_vm import DeviceOfVm
from hv.root.motherboard import Motherboard
from hv.root.vdev.assigned_function import AssignedFunction
from hv.root.vdev.pci_host import PciHost
from hv.root.winhv import HvError, OutOfPages
from hv.spec.apic import ApicBase
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus
from hv.spec.pci import (
    CAPABILITY_MSI,
    CAPABILITY_MSIX,
    CAPABILITY_PCI_EXPRESS,
    CAPABILITY_POWER,
    ExpressDeviceControl,
    MsiCapability,
    MsiControl,
    MsixControl,
    PciCommand,
    PciExpressCapability,
    PciHeader,
    PciStatus,
    PowerCapability,
)

PARTITION, REAL, RID = 5, 0x18, 0x10
SPAS = range(0xD000_0000, 0xD010_0000)
COMMAND, STATUS, BAR0, BAR4 = (PciHeader.offset_of(name) for name in ("command", "status", "bar0", "bar4"))
ON = PciCommand(memory_enabled=1, bus_master=1).raw
REGISTERS, TABLE = 0xF000_0000, 0xF000_1000         # where firmware puts the BARs


class FakeWinHv:
    """Notes every call; messages are numbered."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.refuses: Exception | None = None
        self.routes: dict[tuple[int, int], tuple[int, int, bool]] = {}      # message -> vector, VPs, multicast
        self.made = 0
        self.x2apic = False

    def map_gpa_pages(self, partition: int, page: int, pages: range) -> None:
        if self.refuses:
            raise self.refuses
        self.calls.append(("map", page, list(pages)))

    def unmap_gpa_pages(self, partition: int, page: int, count: int) -> None:
        self.calls.append(("unmap", page, count))

    def map_device_interrupt(self, partition: int, source_id: int, vp: int, vector: int) -> tuple[int, int]:
        assert (partition, source_id) == (PARTITION, REAL)
        if self.refuses:
            raise self.refuses
        self.made += 1
        message = (0xFEE0_0010 | self.made << 5, 0)
        self.routes[message] = (vector, 1 << vp, False)
        return message

    def map_device_message(self, partition: int, source_id: int, address: int, data: int) -> tuple[int, int]:
        message = self.map_device_interrupt(partition, source_id, 0, 0)
        self.routes[message] = (address, data, False)
        return message

    def retarget_device_interrupt(self, partition: int, source_id: int, message: tuple[int, int], vector: int,
                                  vp_mask: int, multicast: bool) -> None:
        assert message in self.routes
        self.routes[message] = (vector, vp_mask, multicast)

    def unmap_device_interrupt(self, partition: int, source_id: int, message: tuple[int, int]) -> None:
        del self.routes[message]

    def get_vp_register(self, partition: int, vp: int, name: HvRegisterName) -> int:
        """Flat logical destinations: VP n is bit n."""
        if name == HvRegisterName.APIC_BASE:
            return ApicBase(enabled=1, extended=int(self.x2apic)).raw
        return 1 << vp if self.x2apic else 1 << 24 + vp


class FakePort:
    """The device's way out: which messages it sent."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, int]] = []

    def dma_read(self, source_id: int, iova: int, size: int) -> bytes | None:
        return None

    def dma_write(self, source_id: int, iova: int, data: bytes) -> bool:
        return False

    def message(self, source_id: int, address: int, data: int) -> None:
        self.messages.append((address, data))


class PhysicalMemory:
    """The machine's registers by system-physical address."""

    def __init__(self, bus: PciBus) -> None:
        self.bus = bus

    def read(self, spa: int, size: int) -> int:
        return self.bus.read(spa - SPAS.start, size)

    def write(self, spa: int, size: int, value: int) -> None:
        self.bus.write(spa - SPAS.start, size, value)


class Bench:
    """A VM with four VPs and a function of a network card, answering and sending."""

    def __init__(self, is_remapped: bool = False) -> None:
        self.port, self.winhv, self.board, self.host = FakePort(), FakeWinHv(), Motherboard(), PciHost()
        self.bus = PciBus(SPAS)
        self.nic = RingNic(REAL, self.port, VirtualClock(), Wire())
        self.bus.plug(self.nic)
        place_bars(self.bus, SPAS)
        self.device = AssignedDevice(PhysicalPci(self.bus, PhysicalMemory(self.bus)), REAL)
        self.function = AssignedFunction(DeviceOfVm(
            self.winhv, PARTITION, 4, self.board, self.device, is_remapped))
        self.host.plug(RID, self.function)
        self.write(COMMAND, 2, ON)

    def read(self, offset: int, size: int) -> int:
        return self.host.config_read(RID, offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.host.config_write(RID, offset, size, value)

    def at(self, id: int) -> int:
        return capabilities(self.host, RID)[id]

    def entry(self, number: int, address: int = 0xFEE0_0000, data: int = 0x51, control: int = 0) -> None:
        for at, value in enumerate((address, 0, data, control)):
            self.board.write_memory(TABLE + number * 16 + 4 * at, 4, value)

    def enable_msix(self, **control: int) -> None:
        self.write(self.at(CAPABILITY_MSIX) + 2, 2, MsixControl(enabled=1, **control).raw)

    def sent(self, number: int) -> list[tuple[int, int, bool]]:
        """What the VM hears of the device's interrupt *number*: routes, and nothing that is not one."""
        self.port.messages.clear()
        self.nic.interrupt(number)
        return [self.winhv.routes[message] for message in self.port.messages]


def test_the_guest_sees_the_device_and_its_own_bars():
    bench = Bench()
    assert bench.read(0, 4) == 0x04171414
    assert list(capabilities(bench.host, RID)) == [CAPABILITY_POWER, CAPABILITY_MSI, CAPABILITY_MSIX,
                                                   CAPABILITY_PCI_EXPRESS]
    assert (bench.read(BAR0, 4), bench.read(BAR4, 4), bench.nic.bar) == (REGISTERS | 4, TABLE, SPAS.start)
    assert bench.read(PciHeader.offset_of("header_type"), 1) == 0
    assert [bench.read(at, 4) for at in range(0xA0, 0x1000, 4)] == [0] * ((0x1000 - 0xA0) // 4)


def test_moving_a_bar_moves_the_devices_pages_and_leaves_the_device_where_it_is():
    bench = Bench()
    assert bench.winhv.calls == [("map", REGISTERS >> 12, [SPAS.start >> 12])]
    bench.write(BAR0, 4, 0xF123_4000)
    assert bench.winhv.calls[1:] == [("unmap", REGISTERS >> 12, 1), ("map", 0xF1234, [SPAS.start >> 12])]
    bench.write(COMMAND, 2, 0)
    assert bench.winhv.calls[3:] == [("unmap", 0xF1234, 1)]
    assert bench.nic.bar == SPAS.start


def test_the_msix_table_is_roots_wherever_its_bar_is():
    bench = Bench()
    bench.entry(1, data=0x61)
    bench.write(BAR4, 4, 0xF222_0000)
    assert [bench.board.answers_at(gpa) for gpa in (TABLE, 0xF222_0000)] == [False, True]
    assert bench.board.read_memory(0xF222_0018, 4) == 0x61
    assert not [call for call in bench.winhv.calls if call[0] == "map" and call[2] != [SPAS.start >> 12]]


def test_a_bar_for_which_there_is_no_memory_answers_nowhere():
    bench = Bench()
    bench.winhv.refuses = OutOfPages("1 page is wanted")
    bench.write(BAR0, 4, 0xF123_4000)
    bench.winhv.refuses = None
    bench.write(BAR0, 4, 0xF555_0000)
    assert [call[:2] for call in bench.winhv.calls] == [("map", 0xF0000), ("unmap", 0xF0000), ("map", 0xF5550)]


def test_bus_mastering_is_the_guests():
    bench = Bench()
    assert bench.nic.is_bus_master
    bench.write(COMMAND, 2, PciCommand(memory_enabled=1).raw)
    assert not bench.nic.is_bus_master
    bench.write(COMMAND, 2, PciCommand(bus_master=1).raw)
    assert (bench.nic.is_bus_master, bench.nic.bar) == (True, SPAS.start), "root reaches it whatever the guest says"


def test_the_devices_master_abort_is_seen_and_cleared():
    bench = Bench()
    bench.nic.dma_read(0, 4)
    assert PciStatus(bench.read(STATUS, 2)).master_abort
    assert PciStatus(bench.read(COMMAND, 4) >> 16).master_abort
    bench.write(COMMAND, 4, PciStatus(master_abort=1).raw << 16 | ON)
    assert not PciStatus(bench.read(STATUS, 2)).master_abort


# --- interrupts ---------------------------------------------------------------------------------------------------


def test_an_entry_of_the_guests_becomes_a_route_of_the_devices():
    bench = Bench()
    bench.entry(1, 0xFEE0_2000, 0x77)
    assert bench.winhv.routes == {}, "MSI-X is not enabled"
    bench.enable_msix()
    assert bench.sent(1) == [(0x77, 1 << 2, False)]
    bench.entry(1, 0xFEE0_3000, 0x78)
    assert bench.sent(1) == [(0x78, 1 << 3, False)]
    assert len(bench.winhv.routes) == 1, "the route was changed, not made anew"
    bench.write(bench.at(CAPABILITY_MSIX) + 2, 2, 0)
    assert bench.winhv.routes == {}


@pytest.mark.parametrize(("address", "data"), [
    (0, 0x51), (0xFED0_0000, 0x51), (0xFEF0_0000, 0x51), (0xFEE0_0010, 0x51), (0xFEE0_4000, 0x51), (0xFEE0_0000, 0x0F),
    (0xFEE0_0000, 0), (0xFEE0_0000, 0x251), (0xFEE0_0000, 0x451), (0xFEE0_0000, 0x551), (0xFEE0_0000, 0x651),
    (0xFEE0_0000, 0x751), (0xFEE1_0004, 0x51), (0xFEE0_0004, 0x51), (0xFEE0_0020, 0x51)])
def test_what_is_no_vector_of_the_vms_processors_is_none(address, data):
    """Memory, remappable format, an APIC id of nobody, vectors below 16, SMI, NMI, INIT, SIPI, ExtINT."""
    bench = Bench()
    bench.entry(0, address, data)
    bench.enable_msix()
    assert (bench.sent(0), bench.winhv.routes, bench.port.messages) == ([], {}, [])


@pytest.mark.parametrize(("address", "data", "target"), [
    (0xFEE0_1000, 0x51, (0x51, 0b0010, False)), (0xFEEF_F000, 0x51, (0x51, 0b1111, True)),
    (0xFEE0_6004, 0x51, (0x51, 0b0110, True)), (0xFEE0_6004, 0x151, (0x51, 0b0110, False)),
    (0xFEE0_600C, 0x51, (0x51, 0b0110, False)), (0xFEE0_8004, 0xC051, (0x51, 0b1000, False))])
@pytest.mark.parametrize("x2apic", [False, True])
def test_destinations(address, data, target, x2apic):
    """SDM "Message Address Register Format": physical, broadcast, logical; lowest priority and the redirection hint."""
    bench = Bench()
    bench.winhv.x2apic = x2apic
    bench.entry(0, address, data)
    bench.enable_msix()
    assert bench.sent(0) == [target]


@pytest.mark.parametrize("address", [0xFEE0_0000, 0xFEE0_0010, 0xFEE5_0030])
def test_behind_a_unit_of_the_guests_own_a_route_is_the_guests_message(address):
    """Whether that is an interrupt, and whose, is in the guest's table."""
    bench = Bench(is_remapped=True)
    bench.entry(1, address, 3)
    bench.enable_msix()
    assert bench.sent(1) == [(address, 3, False)]
    bench.entry(1, address, 4)
    assert bench.sent(1) == [(address, 4, False)]
    assert len(bench.winhv.routes) == 1
    bench.entry(1, 0x1000, 4)
    assert (bench.sent(1), bench.winhv.routes) == ([], {})


def test_masks_are_the_devices_and_pending_bits_are_seen():
    bench = Bench()
    bench.entry(0, control=1)
    bench.enable_msix()
    assert bench.sent(0) == []
    assert bench.board.read_memory(TABLE + PENDING_OFFSET, 8) == 1
    bench.entry(0)
    assert [bench.winhv.routes[message] for message in bench.port.messages] == [(0x51, 1, False)]
    bench.enable_msix(function_masked=1)
    assert bench.sent(0) == []
    bench.enable_msix()
    assert len(bench.port.messages) == 1


def test_a_route_that_the_hypervisor_refuses_is_none():
    bench = Bench()
    for refusal in (HvError(HvStatus.NO_RESOURCES, "MAP_DEVICE_INTERRUPT"), OutOfPages("none")):
        bench.winhv.refuses = refusal
        bench.entry(0)
        bench.enable_msix()
        assert (bench.sent(0), bench.port.messages) == ([], [])
    bench.winhv.refuses = None
    bench.entry(0)
    assert [bench.winhv.routes[message] for message in bench.port.messages] == [(0x51, 1, False)], "what waited"


def test_msi_is_one_message():
    bench = Bench()
    at = bench.at(CAPABILITY_MSI)
    assert MsiControl(bench.read(at + 2, 2)).capable == 0
    bench.write(at + MsiCapability.offset_of("address_low"), 4, 0xFEE0_1000)
    bench.write(at + MsiCapability.offset_of("data"), 2, 0x99)
    bench.write(at + 2, 2, MsiControl(enabled=1).raw)
    assert [bench.sent(number) for number in (0, 2)] == [[(0x99, 0b10, False)]] * 2
    bench.write(at + MsiCapability.offset_of("mask"), 4, 1)
    assert (bench.sent(0), bench.read(at + MsiCapability.offset_of("pending"), 4)) == ([], 1)
    bench.write(at + MsiCapability.offset_of("mask"), 4, 0)
    assert len(bench.port.messages) == 1
    bench.entry(0, data=0x52)
    bench.enable_msix()
    assert bench.sent(0) == [(0x52, 1, False)], "MSI-X goes before MSI"
    assert len(bench.winhv.routes) == 1


# --- power and reset ----------------------------------------------------------------------------------------------


def test_the_power_state_is_the_devices():
    bench = Bench()
    at = bench.at(CAPABILITY_POWER) + PowerCapability.offset_of("control")
    bench.write(at, 2, 3)
    assert (bench.nic.bar, bench.nic.is_bus_master) == (None, False)
    bench.entry(0)
    bench.enable_msix()
    bench.write(at, 2, 0)
    assert bench.nic.bar == SPAS.start
    assert bench.sent(0) == [(0x51, 1, False)], "written while the device slept"


def test_a_function_level_reset_is_of_both():
    bench = Bench()
    bench.entry(0)
    bench.enable_msix()
    bench.nic.write(0x14, 4, 99)
    at = bench.at(CAPABILITY_PCI_EXPRESS) + PciExpressCapability.offset_of("device_control")
    bench.write(at, 2, ExpressDeviceControl(function_reset=1).raw)
    assert (bench.read(COMMAND, 2), bench.read(BAR0, 4), bench.winhv.routes) == (0, 4, {})
    assert bench.winhv.calls[-1] == ("unmap", REGISTERS >> 12, 1)
    assert not bench.board.answers_at(TABLE)
    assert (bench.nic.bar, bench.nic.is_bus_master, bench.nic.read(0x14, 4)) == (SPAS.start, False, 0)


CONFIG = st.tuples(st.just("config"), st.integers(0, 0xB0).map(lambda at: at & ~3) | st.sampled_from((4, 0x10, 0x20)),
                   st.sampled_from((1, 2, 4)), st.integers(0, 2**32 - 1) | st.sampled_from((6, 0xF0000000, 0x80000000)))
MEMORY = st.tuples(st.just("table"), st.integers(0, 0x90) | st.integers(0x7F8, 0x810), st.sampled_from((1, 2, 4, 8)),
                   st.integers(0, 2**32 - 1) | st.sampled_from((0xFEE00000, 0xFEE01004, 0x51, 0x451, 0)))


@settings(max_examples=100, deadline=None)
@given(st.lists(CONFIG | MEMORY, max_size=40))
def test_whatever_the_guest_writes_the_device_sends_routes_or_nothing(acts):
    """And nothing but its registers' page is ever mapped: `sent` fails on a message that is no route."""
    bench = Bench()
    bench.enable_msix()
    for kind, at, size, value in acts:
        if kind == "config":
            bench.write(at, size, value & (1 << 8 * size) - 1)
        else:
            bench.function.write_memory(at & -size, size, value)
            bench.function.read_memory(at & -size, size)
        for number in range(4):
            for vector, vps, _ in bench.sent(number):
                assert 16 <= vector <= 255
                assert 0 < vps < 16
    assert {tuple(call[2]) for call in bench.winhv.calls if call[0] == "map"} <= {(SPAS.start >> 12,)}
    assert bench.nic.bar in (SPAS.start, None)
