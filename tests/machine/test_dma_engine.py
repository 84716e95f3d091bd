"""The teaching device: it copies and fills by itself, in virtual time, and says how it went."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.clock import VirtualClock
from hv.machine.dma_engine import (
    DEVICE_MAGIC,
    LONGEST,
    SETUP_TICKS,
    DmaCommand,
    DmaEngine,
    DmaEngineRegisters,
    DmaError,
    DmaStatus,
)
from hv.spec.pci import PciCommand, PciHeader

SOURCE, DESTINATION, RID = 0x10000, 0x40000, 0x0018
AT = DmaEngineRegisters.offset_of


class FakeMemory:
    """512 KiB behind a port that refuses the pages in *refused*."""

    def __init__(self) -> None:
        self.data = bytearray(range(256)) * 2048
        self.refused: set[int] = set()
        self.messages: list[tuple[int, int]] = []
        self.sizes: list[int] = []

    def dma_read(self, source_id: int, iova: int, size: int) -> bytes | None:
        assert iova // 4096 == (iova + size - 1) // 4096
        if iova // 4096 in self.refused or iova + size > len(self.data):
            return None
        return bytes(self.data[iova : iova + size])

    def dma_write(self, source_id: int, iova: int, data: bytes) -> bool:
        assert iova // 4096 == (iova + len(data) - 1) // 4096
        if iova // 4096 in self.refused or iova + len(data) > len(self.data):
            return False
        self.sizes.append(len(data))
        self.data[iova : iova + len(data)] = data
        return True

    def message(self, source_id: int, address: int, data: int) -> None:
        self.messages.append((address, data))


class Bench:
    """A DMA engine, its memory and its clock."""

    def __init__(self) -> None:
        self.memory, self.clock = FakeMemory(), VirtualClock()
        self.engine = DmaEngine(RID, self.memory, self.clock)
        self.engine.config_write(PciHeader.offset_of("command"), 2, PciCommand(memory_enabled=1, bus_master=1).raw)
        self.set(source=SOURCE, destination=DESTINATION, length=256)
        self.set(msi_address=0xFEE00000, msi_data=0x41, msi_enable=1)

    def set(self, **registers: int) -> None:
        for name, value in registers.items():
            offset, kind = DmaEngineRegisters.FIELDS[name]
            self.engine.write(offset, kind.size, value)

    @property
    def status(self) -> DmaStatus:
        return DmaStatus(self.engine.read(AT("status"), 4))

    def wait(self) -> DmaStatus:
        while self.clock.skip_to_next():
            self.clock.run_due()
        return self.status


def test_the_registers_are_64_bytes_and_begin_with_the_id():
    assert DmaEngineRegisters.SIZE == 64
    assert Bench().engine.read(0, 4) == DEVICE_MAGIC


def test_a_copy_takes_virtual_time_and_ends_with_an_interrupt():
    bench = Bench()
    bench.set(command=DmaCommand.COPY)
    bench.clock.advance(SETUP_TICKS + 255)
    bench.clock.run_due()
    assert (bench.status, bench.memory.messages) == (DmaStatus(busy=1), [])
    bench.clock.advance(1)
    bench.clock.run_due()
    assert bench.status == DmaStatus(done=1, interrupt=1)
    assert bench.memory.messages == [(0xFEE00000, 0x41)]
    assert bench.memory.data[DESTINATION : DESTINATION + 256] == bytes(range(256))


@pytest.mark.parametrize(("source", "destination", "length"), [
    (SOURCE, DESTINATION, 1), (SOURCE + 0xFFF, DESTINATION + 0x801, 0x2345), (SOURCE + 5, DESTINATION, LONGEST)])
def test_a_copy_across_pages_is_cut_at_them(source, destination, length):
    bench = Bench()
    expected = bytes(bench.memory.data[source : source + length])
    bench.set(source=source, destination=destination, length=length, command=DmaCommand.COPY)
    assert bench.wait().done
    assert bench.memory.data[destination : destination + length] == expected


@pytest.mark.parametrize(("destination", "length"), [
    (DESTINATION, 8), (DESTINATION + 0xFFE, 7), (DESTINATION, LONGEST)])
def test_a_fill_repeats_its_pattern(destination, length):
    bench = Bench()
    bench.set(destination=destination, length=length, pattern=0x44434241, command=DmaCommand.FILL)
    assert bench.wait().done
    assert bench.memory.data[destination : destination + length] == (b"ABCD" * LONGEST)[:length]


@pytest.mark.parametrize(("registers", "code"), [
    pytest.param({"length": 0, "command": 1}, DmaError.LENGTH, id="length-0"),
    pytest.param({"length": LONGEST + 1, "command": 1}, DmaError.LENGTH, id="length-too-long"),
    pytest.param({"length": 0xFFFFFFFF, "command": 2}, DmaError.LENGTH, id="length-absurd"),
    pytest.param({"command": 0}, DmaError.COMMAND, id="command-0"),
    pytest.param({"command": 4}, DmaError.COMMAND, id="command-unknown"),
])
def test_a_wrong_command_is_told_in_the_status_and_does_nothing(registers, code):
    bench = Bench()
    bench.set(**registers)
    assert bench.status == DmaStatus(error=1, code=code)
    assert bench.clock.next_deadline() is None


def test_a_command_while_busy_is_refused_and_the_running_one_goes_on():
    bench = Bench()
    bench.set(command=DmaCommand.COPY)
    bench.set(destination=0x50000, command=DmaCommand.COPY)
    assert bench.status == DmaStatus(busy=1, error=1, code=DmaError.BUSY)
    assert bench.wait() == DmaStatus(done=1, error=1, interrupt=1, code=DmaError.BUSY)
    assert bench.memory.data[DESTINATION : DESTINATION + 4] == b"\0\1\2\3"
    assert len(bench.memory.messages) == 1


@pytest.mark.parametrize(("refused", "code", "address"), [
    pytest.param(SOURCE + 0x1000, DmaError.READ_ABORTED, SOURCE + 0x1000, id="read"),
    pytest.param(DESTINATION + 0x1000, DmaError.WRITE_ABORTED, DESTINATION + 0x1000, id="write"),
])
def test_a_refused_page_ends_the_command_and_is_named(refused, code, address):
    """The pieces before it stay written; the end is announced all the same."""
    bench = Bench()
    bench.memory.refused.add(refused // 4096)
    bench.set(length=0x2000, command=DmaCommand.COPY)
    assert bench.wait() == DmaStatus(error=1, interrupt=1, code=code)
    assert bench.engine.read(AT("aborted"), 8) == address
    assert (bench.memory.sizes, len(bench.memory.messages)) == ([0x1000], 1)


def test_an_address_wraps_at_64_bits():
    bench = Bench()
    bench.set(source=2**64 - 16, length=32, command=DmaCommand.COPY)
    assert bench.wait().code == DmaError.READ_ABORTED
    assert bench.engine.read(AT("aborted"), 8) == 2**64 - 16


def test_acknowledging_clears_all_but_busy():
    bench = Bench()
    bench.set(command=DmaCommand.COPY)
    bench.wait()
    bench.set(interrupt_ack=1)
    assert bench.status == DmaStatus()
    bench.set(command=DmaCommand.COPY)
    bench.set(interrupt_ack=1)
    assert bench.status == DmaStatus(busy=1)


def test_without_msi_nothing_is_sent():
    bench = Bench()
    bench.set(msi_enable=0, command=DmaCommand.COPY)
    assert bench.wait().done
    assert bench.memory.messages == []


def test_without_bus_mastering_the_first_read_is_aborted():
    bench = Bench()
    bench.engine.config_write(PciHeader.offset_of("command"), 2, PciCommand(memory_enabled=1).raw)
    bench.set(command=DmaCommand.COPY)
    assert bench.wait().code == DmaError.READ_ABORTED
    assert bench.memory.messages == []


@pytest.mark.parametrize(("offset", "size"), [
    (8, 1), (8, 2), (0x1A, 4), (0xC, 8), (0x18, 8), (0x40, 4), (0x8, 16), (0x8, 3)])
def test_an_access_of_a_wrong_size_or_place_is_an_error(offset, size):
    bench = Bench()
    assert bench.engine.read(offset, size) == (1 << 8 * size) - 1
    assert not bench.status.error
    bench.engine.write(offset, size, 0)
    assert bench.status == DmaStatus(error=1, code=DmaError.ACCESS)


def test_halves_of_a_wide_register_come_one_by_one():
    bench = Bench()
    bench.engine.write(AT("source"), 4, 0x89ABCDEF)
    bench.engine.write(AT("source") + 4, 4, 0x01234567)
    assert bench.engine.read(AT("source"), 8) == 0x0123456789ABCDEF
    assert bench.engine.read(AT("source") + 4, 4) == 0x01234567


@pytest.mark.parametrize("name", ["id", "status", "aborted"])
def test_read_only_registers_stay(name):
    bench = Bench()
    before = bench.engine.read(AT(name), 4)
    bench.engine.write(AT(name), 4, 0xFFFFFFFF)
    assert bench.engine.read(AT(name), 4) == before


WRITES = st.tuples(
    st.sampled_from([offset for offset, _ in DmaEngineRegisters.FIELDS.values()]) | st.integers(-4, 5000),
    st.sampled_from([1, 2, 4, 8, 3, 0]), st.sampled_from([1, 2, 0x100, 0xFFFFFFFF, 2**64 - 1]) | st.integers(0, 2**17))


@settings(max_examples=100)
@given(st.lists(WRITES, max_size=30))
def test_no_sequence_of_writes_breaks_the_device(writes):
    bench = Bench()
    for offset, size, value in writes:
        bench.engine.write(offset, size, value)
        bench.engine.read(offset, size)
        assert not bench.status.raw & DmaStatus.RESERVED
    assert not bench.wait().busy
    assert bench.engine.inspect()["registers"]["id"] == DEVICE_MAGIC
