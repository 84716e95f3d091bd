"""Configuration space, the BAR and MSI of a PCI function."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.pci import CAPABILITY_OFFSET, PciFunction
from hv.spec.pci import CAPABILITY_MSI, MsiCapability, MsiControl, MsixCapability, MsixEntry, PciCommand, PciHeader, Rid

RID = Rid(bus=0, device=3, function=1).raw
COMMAND = PciHeader.offset_of("command")
BAR0 = PciHeader.offset_of("bar0")
ENABLED = PciCommand(memory_enabled=1, bus_master=1).raw


class FakePort:
    """Answers every request, and keeps what came."""

    def __init__(self) -> None:
        self.requests: list[tuple[object, ...]] = []

    def dma_read(self, source_id: int, iova: int, size: int) -> bytes | None:
        self.requests.append(("read", source_id, iova, size))
        return bytes(size)

    def dma_write(self, source_id: int, iova: int, data: bytes) -> bool:
        self.requests.append(("write", source_id, iova, data))
        return True

    def message(self, source_id: int, address: int, data: int) -> None:
        self.requests.append(("message", source_id, address, data))


class Echo(PciFunction):
    """Keeps what is written to its BAR."""

    BAR_SIZE = 256

    def __init__(self, rid: int, upstream: FakePort) -> None:
        super().__init__(rid, upstream)
        self.written: list[tuple[int, int, int]] = []

    def read_register(self, offset: int, size: int) -> int:
        return offset

    def write_register(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))


def a_function(command: int = ENABLED) -> tuple[Echo, FakePort]:
    port = FakePort()
    function = Echo(RID, port)
    function.config_write(COMMAND, 2, command)
    return function, port


@pytest.mark.parametrize(("layout", "size"), [
    (PciHeader, 64), (MsiCapability, 14), (MsixCapability, 12), (MsixEntry, 16)])
def test_the_layouts_have_the_sizes_of_the_specification(layout, size):
    assert len(layout().pack()) == size


def test_a_requester_id_is_bus_device_function():
    assert str(Rid(0x12FD)) == "12:1f.5"


def test_the_header_names_the_device():
    function, _ = a_function(0)
    assert function.config_read(0, 2) == 0x1414
    assert function.config_read(PciHeader.offset_of("base_class"), 1) == 0xFF
    assert function.config_read(PciHeader.offset_of("capabilities"), 1) == CAPABILITY_OFFSET
    assert function.config_read(CAPABILITY_OFFSET, 1) == CAPABILITY_MSI


def test_all_ones_in_the_bar_read_back_as_its_size():
    """PCI "Base Addresses": the bits that cannot be set are the size."""
    function, _ = a_function()
    function.config_write(BAR0, 4, 0xFFFFFFFF)
    assert -function.config_read(BAR0, 4) & 0xFFFFFFFF == 256
    function.config_write(BAR0, 4, 0xE0001234)
    assert function.bar == 0xE0001200


@pytest.mark.parametrize(("offset", "size"), [(1, 2), (2, 4), (0, 3), (0, 8), (256, 1), (255, 2), (-4, 4), (0, 0)])
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
    assert function.config_read(CAPABILITY_OFFSET, 1) == CAPABILITY_MSI
    assert MsiControl(function.msi.control).is_64_bit


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


def test_without_bus_mastering_nothing_leaves_the_function():
    """PCI "Device Control": MSIs are memory writes too."""
    function, port = a_function(PciCommand(memory_enabled=1).raw)
    function.config_write(CAPABILITY_OFFSET + 2, 2, MsiControl(enabled=1).raw)
    function.send_msi()
    assert function.dma_read(0, 4) is None
    assert not function.dma_write(0, b"x")
    assert port.requests == []


def test_the_msi_capability_sends_its_address_and_data():
    function, port = a_function()
    assert not function.send_msi()
    start = CAPABILITY_OFFSET
    function.config_write(start + MsiCapability.offset_of("address_low"), 4, 0xFEE01003)
    function.config_write(start + MsiCapability.offset_of("address_high"), 4, 1)
    function.config_write(start + MsiCapability.offset_of("data"), 2, 0x4041)
    function.config_write(start + MsiCapability.offset_of("control"), 2, MsiControl(enabled=1).raw)
    assert function.send_msi()
    assert port.requests == [("message", RID, 0x1FEE01000, 0x4041)]


ACCESSES = st.tuples(st.booleans(), st.integers(-8, 300), st.integers(-1, 9), st.integers(0, 2**64 - 1))


@settings(max_examples=200)
@given(st.lists(ACCESSES, max_size=20))
def test_no_access_breaks_a_function(accesses):
    function, _ = a_function()
    for config, offset, size, value in accesses:
        if config:
            function.config_write(offset, size, value)
            function.config_read(offset, size)
        else:
            function.write(offset, size, value)
            function.read(offset, size)
        function.send_msi()
        assert function.config_read(0, 4) == 0xFFFF1414
