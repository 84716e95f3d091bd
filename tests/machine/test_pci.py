"""A PCI function: configuration space, BARs, interrupts, and what leaves it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.pci import Bar, PciFunction
from hv.pci.enumeration import capabilities
from hv.pci.msix import PENDING_OFFSET
from hv.spec.pci import (
    CAPABILITY_MSI,
    CAPABILITY_MSIX,
    CAPABILITY_PCI_EXPRESS,
    CAPABILITY_POWER,
    BarKind,
    ExpressDeviceCapabilities,
    ExpressDeviceControl,
    MsiCapability,
    MsiControl,
    MsixCapability,
    MsixControl,
    MsixEntry,
    PciCommand,
    PciExpressCapability,
    PciHeader,
    PciStatus,
    PowerCapability,
    Rid,
)

RID = Rid(bus=0, device=3, function=1).raw
COMMAND, STATUS = PciHeader.offset_of("command"), PciHeader.offset_of("status")
BAR0 = PciHeader.offset_of("bar0")
ENABLED = PciCommand(memory_enabled=1, bus_master=1).raw


class FakePort:
    """Answers every request, and keeps what came."""

    def __init__(self) -> None:
        self.requests: list[tuple[object, ...]] = []
        self.refuses = False

    def dma_read(self, source_id: int, iova: int, size: int) -> bytes | None:
        self.requests.append(("read", source_id, iova, size))
        return None if self.refuses else bytes(size)

    def dma_write(self, source_id: int, iova: int, data: bytes) -> bool:
        self.requests.append(("write", source_id, iova, data))
        return not self.refuses

    def message(self, source_id: int, address: int, data: int) -> None:
        self.requests.append(("message", source_id, address, data))


class Echo(PciFunction):
    """Keeps what is written to its BAR; has four interrupts."""

    BARS = (Bar(0, 256),)
    MESSAGES = 4

    def __init__(self, rid: int, upstream: FakePort) -> None:
        super().__init__(rid, upstream)
        self.written: list[tuple[int, int, int]] = []
        self.resets = 0

    def reset_device(self) -> None:
        self.resets += 1

    def read_register(self, offset: int, size: int) -> int:
        return offset

    def write_register(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


def a_function(command: int = ENABLED) -> tuple[Echo, FakePort]:
    port = FakePort()
    function = Echo(RID, port)
    function.config_write(COMMAND, 2, command)
    return function, port


def offset_of(function: Echo, id: int) -> int:
    """Where a capability is."""
    return capabilities(OnlyOne(function), 0)[id]


class OnlyOne:
    """A bus with one function."""

    def __init__(self, function: Echo) -> None:
        self.function = function

    def config_read(self, rid: int, offset: int, size: int) -> int:
        return self.function.config_read(offset, size)

    def config_write(self, rid: int, offset: int, size: int, value: int) -> None:
        self.function.config_write(offset, size, value)


def a_function_with_msi(granted: int = 0) -> tuple[Echo, FakePort, int]:
    function, port = a_function()
    start = offset_of(function, CAPABILITY_MSI)
    function.config_write(start + MsiCapability.offset_of("address_low"), 4, 0xFEE01003)
    function.config_write(start + MsiCapability.offset_of("address_high"), 4, 1)
    function.config_write(start + MsiCapability.offset_of("data"), 2, 0x4041)
    function.config_write(start + MsiCapability.offset_of("control"), 2, MsiControl(enabled=1, granted=granted).raw)
    return function, port, start


def a_function_with_msix(control: int = MsixControl(enabled=1).raw) -> tuple[Echo, FakePort, int]:
    """Entry n is address 0xFEE00000 + n * 0x1000, data 0x40 + n, unmasked."""
    function, port = a_function()
    for number in range(4):
        entry = MsixEntry(address_low=0xFEE00000 + number * 0x1000, data=0x40 + number)
        for at in range(0, 16, 4):
            function.write(number * 16 + at, 4, int.from_bytes(entry.pack()[at : at + 4], "little"), function.MSIX_BAR)
    start = offset_of(function, CAPABILITY_MSIX)
    function.config_write(start + MsixCapability.offset_of("control"), 2, control)
    return function, port, start


@pytest.mark.parametrize(("layout", "size"), [
    (PciHeader, 64), (MsiCapability, 24), (PowerCapability, 8), (PciExpressCapability, 60), (MsixCapability, 12),
    (MsixEntry, 16)])
def test_the_layouts_have_the_sizes_of_the_specification(layout, size):
    assert len(layout().pack()) == size


def test_a_requester_id_is_bus_device_function():
    assert str(Rid(0x12FD)) == "12:1f.5"


def test_the_header_names_the_device():
    function, _ = a_function(0)
    assert function.config_read(0, 2) == 0x1414
    assert function.config_read(PciHeader.offset_of("base_class"), 1) == 0xFF
    assert list(capabilities(OnlyOne(function), 0)) == [
        CAPABILITY_POWER, CAPABILITY_MSI, CAPABILITY_MSIX, CAPABILITY_PCI_EXPRESS]
    assert function.config_read(0x100, 4) == 0, "PCI Express: no extended capability"


def test_all_ones_in_the_bar_read_back_as_its_size():
    """PCI "Base Addresses": the bits that cannot be set are the size."""
    function, _ = a_function()
    function.config_write(BAR0, 4, 0xFFFFFFFF)
    assert -function.config_read(BAR0, 4) & 0xFFFFFFFF == 256
    function.config_write(BAR0, 4, 0xE0001234)
    assert function.bar == 0xE0001200


@pytest.mark.parametrize(("offset", "size"), [(1, 2), (2, 4), (0, 3), (0, 8), (4096, 1), (4095, 2), (-4, 4), (0, 0)])
def test_a_configuration_access_of_another_size_or_place_does_nothing(offset, size):
    function, _ = a_function()
    before = [function.config_read(n, 1) for n in range(256)]
    function.config_write(offset, size, 0)
    assert function.config_read(offset, size) == (1 << 8 * size) - 1
    assert [function.config_read(n, 1) for n in range(256)] == before


def test_read_only_fields_stay():
    function, _ = a_function()
    for offset in range(0, 256, 4):
        function.config_write(offset, 4, 0)
    assert function.config_read(0, 4) == 0xFFFF1414
    assert function.config_read(function.msi.offset, 1) == CAPABILITY_MSI
    control = MsiControl(function.msi.state.control)
    assert (control.is_64_bit, control.per_vector_mask, control.capable) == (1, 1, 2)


def test_the_bar_answers_only_while_memory_is_enabled():
    function, _ = a_function(0)
    function.write(0, 4, 5)
    assert (function.read(8, 4), function.written, function.bar) == (0xFFFFFFFF, [], None)
    function.config_write(COMMAND, 2, ENABLED)
    function.write(0, 4, 0x1_0000_0005)
    assert (function.read(8, 4), function.written) == (8, [(0, 4, 5)])


@pytest.mark.parametrize(("offset", "size"), [(256, 1), (253, 4), (-1, 4), (0, 0), (0, -1)])
def test_an_access_outside_the_bar_reaches_no_register(offset, size):
    function, _ = a_function()
    function.write(offset, size, 1)
    assert function.read(offset, size) == (1 << 8 * max(size, 0)) - 1
    assert function.written == []


def test_every_request_carries_the_requester_id():
    function, port = a_function()
    assert function.dma_read(0x1000, 2) == b"\0\0"
    assert function.dma_write(0x2000, b"x")
    function.send_message(0xFEE00000, 0x41)
    assert port.requests == [
        ("read", RID, 0x1000, 2), ("write", RID, 0x2000, b"x"), ("message", RID, 0xFEE00000, 0x41)]


@pytest.mark.parametrize("command", [PciCommand(memory_enabled=1).raw, 0])
def test_without_bus_mastering_nothing_leaves_the_function(command):
    """PCI "Device Control": MSIs are memory writes too."""
    function, port, _ = a_function_with_msi()
    function.config_write(COMMAND, 2, command)
    function.interrupt()
    assert function.dma_read(0, 4) is None
    assert not function.dma_write(0, b"x")
    assert port.requests == []


def test_a_refused_request_is_noted_until_software_clears_it():
    """PCI "Device Status": Received Master Abort, cleared by writing 1."""
    function, port = a_function()
    function.dma_read(0, 4)
    assert not PciStatus(function.config_read(STATUS, 2)).master_abort
    port.refuses = True
    assert function.dma_read(0, 4) is None
    assert not function.dma_write(0, b"x")
    function.config_write(STATUS, 2, 0)
    assert PciStatus(function.config_read(STATUS, 2)).master_abort
    function.config_write(STATUS, 2, 0xFFFF)
    assert PciStatus(function.config_read(STATUS, 2)).raw == PciStatus(has_capabilities=1).raw


# --- MSI ----------------------------------------------------------------------------------------------------------


def test_the_msi_capability_sends_its_address_and_data():
    function, port = a_function()
    assert not function.interrupt()
    function, port, _ = a_function_with_msi()
    assert function.interrupt()
    assert port.requests == [("message", RID, 0x1FEE01000, 0x4041)]


@pytest.mark.parametrize(("granted", "data"), [
    (0, [0x4041] * 4), (1, [0x4040, 0x4041] * 2), (2, [0x4040, 0x4041, 0x4042, 0x4043]),
    (7, [0x4040, 0x4041, 0x4042, 0x4043])])
def test_as_many_messages_as_were_granted_differ_in_the_low_bits_of_the_data(granted, data):
    """PCI "Message Data for MSI"; a function with more interrupts than messages shares them."""
    function, port, _ = a_function_with_msi(granted)
    for number in range(4):
        function.interrupt(number)
    assert [request[3] for request in port.requests] == data


def test_a_masked_message_waits_and_is_sent_once_when_the_mask_goes():
    """PCI "Per-vector Masking"."""
    function, port, start = a_function_with_msi(granted=2)
    mask, pending = start + MsiCapability.offset_of("mask"), start + MsiCapability.offset_of("pending")
    function.config_write(mask, 4, 0b0110)
    for number in (1, 1, 2, 3):
        function.interrupt(number)
    assert ([request[3] for request in port.requests], function.config_read(pending, 4)) == ([0x4043], 0b0110)
    function.config_write(mask, 4, 0b0100)
    assert ([request[3] for request in port.requests], function.config_read(pending, 4)) == ([0x4043, 0x4041], 0b0100)
    function.config_write(pending, 4, 0)
    assert function.config_read(pending, 4) == 0b0100, "read-only"


# --- MSI-X --------------------------------------------------------------------------------------------------------


def test_each_msix_entry_has_an_address_of_its_own():
    function, port, _ = a_function_with_msix()
    for number in (2, 0):
        assert function.interrupt(number)
    assert port.requests == [("message", RID, 0xFEE02000, 0x42), ("message", RID, 0xFEE00000, 0x40)]


def test_a_masked_entry_sets_its_pending_bit_and_is_sent_when_unmasked():
    """PCI "MSI-X Capability and Table Structures", "Pending Bits"."""
    function, port, _ = a_function_with_msix()
    function.write(16 + 12, 4, 1, function.MSIX_BAR)
    function.interrupt(1)
    function.interrupt(1)
    assert (port.requests, function.read(PENDING_OFFSET, 8, function.MSIX_BAR)) == ([], 0b0010)
    function.write(PENDING_OFFSET, 4, 0, function.MSIX_BAR)
    function.write(16 + 12, 4, 0, function.MSIX_BAR)
    assert port.requests == [("message", RID, 0xFEE01000, 0x41)]
    assert function.read(PENDING_OFFSET, 4, function.MSIX_BAR) == 0


def test_the_function_mask_holds_all_of_them():
    function, port, start = a_function_with_msix(MsixControl(enabled=1, function_masked=1).raw)
    for number in (3, 0):
        function.interrupt(number)
    assert (port.requests, function.read(PENDING_OFFSET, 4, function.MSIX_BAR)) == ([], 0b1001)
    function.config_write(start + 2, 2, MsixControl(enabled=1).raw)
    assert [request[3] for request in port.requests] == [0x40, 0x43]


def test_after_a_reset_every_entry_is_masked():
    function, _ = a_function()
    assert [function.read(number * 16 + 12, 4, function.MSIX_BAR) for number in range(4)] == [1] * 4


def test_msix_goes_before_msi():
    function, port, start = a_function_with_msix()
    function.config_write(function.msi.offset + 2, 2, MsiControl(enabled=1).raw)
    function.interrupt(1)
    function.config_write(start + 2, 2, 0)
    function.interrupt(1)
    assert [request[3] for request in port.requests] == [0x41, 0]


@pytest.mark.parametrize(("offset", "size"), [(1, 4), (4, 8), (0, 2), (0, 1), (64, 4), (PENDING_OFFSET - 4, 4)])
def test_an_access_of_the_msix_bar_that_is_no_entry_changes_nothing(offset, size):
    function, _, _ = a_function_with_msix()
    before = [function.read(at, 4, function.MSIX_BAR) for at in range(0, 80, 4)]
    function.write(offset, size, 0x5555, function.MSIX_BAR)
    assert [function.read(at, 4, function.MSIX_BAR) for at in range(0, 80, 4)] == before


# --- power and reset ----------------------------------------------------------------------------------------------


def test_a_function_in_d3_answers_at_no_bar_and_sends_nothing():
    """PCI Power Management "D3 State"; no_soft_reset: what it knew is there again in D0."""
    function, port, _ = a_function_with_msix()
    power = offset_of(function, CAPABILITY_POWER) + PowerCapability.offset_of("control")
    function.config_write(power, 2, 3)
    function.interrupt(0)
    assert (function.bar, function.read(0, 4), function.dma_read(0, 4)) == (None, 0xFFFFFFFF, None)
    function.config_write(power, 2, 0)
    assert function.interrupt(1)
    assert port.requests == [("message", RID, 0xFEE01000, 0x41)]


def test_a_function_level_reset_forgets_everything():
    """PCI Express "Function Level Reset"."""
    function, port, _ = a_function_with_msix()
    function.config_write(BAR0, 4, 0xE0000000)
    express = offset_of(function, CAPABILITY_PCI_EXPRESS)
    able = ExpressDeviceCapabilities(
        function.config_read(express + PciExpressCapability.offset_of("device_capabilities"), 4))
    assert able.function_reset
    control = express + PciExpressCapability.offset_of("device_control")
    function.config_write(control, 2, ExpressDeviceControl(function_reset=1).raw)
    fresh = Echo(RID, port)
    assert bytes(function.config.data) == bytes(fresh.config.data)
    assert (function.resets, function.msix.inspect()) == (1, fresh.msix.inspect())


def test_a_wide_bar_and_one_of_ports():
    """PCI "Base Addresses": 64-bit ones take two registers."""
    class Wide(Echo):
        BARS = (Bar(0, 1 << 33, BarKind.PREFETCHABLE_64), Bar(2, 32, BarKind.IO))

    function = Wide(RID, FakePort())
    for offset in range(BAR0, BAR0 + 12, 4):
        function.config_write(offset, 4, 0xFFFFFFFF)
    assert [function.config_read(offset, 4) for offset in range(BAR0, BAR0 + 12, 4)] == [0xC, 0xFFFFFFFE, 0xFFFFFFE1]
    function.config_write(BAR0 + 8, 4, 0xC013)
    assert [function.decoded(bar) for bar in function.bars[:2]] == [None, None]
    function.config_write(COMMAND, 2, PciCommand(io_enabled=1, memory_enabled=1).raw)
    assert [function.decoded(bar) for bar in function.bars[:2]] == [0xFFFFFFFE << 32, 0xC000]


ACCESSES = st.tuples(
    st.sampled_from((None, 0, 1, 4)), st.integers(-8, 300) | st.integers(2040, 2060) | st.integers(4090, 4100),
    st.integers(-1, 9), st.integers(0, 2**64 - 1))


@settings(max_examples=200)
@given(st.lists(ACCESSES, max_size=20))
def test_no_access_breaks_a_function(accesses):
    function, _ = a_function()
    for bar, offset, size, value in accesses:
        if bar is None:
            function.config_write(offset, size, value)
            function.config_read(offset, size)
        else:
            function.write(offset, size, value, bar)
            function.read(offset, size, bar)
        function.interrupt(size % 4)
        assert function.config_read(0, 4) == 0xFFFF1414
