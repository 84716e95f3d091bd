"""Physical RAM: its bounds, and who hears of writes to code."""

from __future__ import annotations

import pytest

from hv.machine.faults import BusError
from hv.machine.ram import PhysicalMemory

SIZE = 0x10000


@pytest.fixture
def ram() -> PhysicalMemory:
    return PhysicalMemory(SIZE)


@pytest.mark.parametrize("size", [0, -4096, 4095, 4097])
def test_ram_is_a_positive_number_of_pages(size):
    with pytest.raises(ValueError, match="positive multiple of 4096"):
        PhysicalMemory(size)


def test_ram_begins_as_zero(ram):
    assert ram.read(0, SIZE) == bytes(SIZE)


def test_what_is_written_is_read_in_every_width(ram):
    ram.write(0x123, bytes(range(8)))
    assert ram.read_u64(0x123) == 0x0706050403020100
    assert ram.read_u32(0x123) == 0x03020100
    ram.write_u64(0x200, 0x1122334455667788)
    ram.write_u32(0x208, 0x99AABBCC)
    assert ram.read(0x200, 12).hex() == "8877665544332211ccbbaa99"
    assert bytes(ram.view[0x200:0x202]) == b"\x88\x77"


@pytest.mark.parametrize(("spa", "size"), [(-1, 1), (SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (0, -1), (1 << 40, 1)])
def test_a_read_outside_is_a_bus_error(ram, spa, size):
    with pytest.raises(BusError):
        ram.read(spa, size)


@pytest.mark.parametrize("spa", [-1, SIZE, SIZE - 1])
def test_a_write_outside_stores_nothing(ram, spa):
    with pytest.raises(BusError):
        ram.write(spa, b"xy")
    assert ram.read(0, SIZE) == bytes(SIZE)


@pytest.mark.parametrize("method", ["read_u64", "read_u32"])
@pytest.mark.parametrize("spa", [-1, SIZE - 3, SIZE])
def test_a_word_outside_is_a_bus_error(ram, method, spa):
    with pytest.raises(BusError):
        getattr(ram, method)(spa)


def test_a_watcher_hears_of_its_pages_part_of_a_write(ram):
    heard = []
    ram.watch_code(2, lambda spa, data: heard.append((spa, data)))
    ram.write(0x1000, b"not here")
    ram.write(0x1FFE, b"abcd")
    ram.write(0x2FFF, b"ef")
    ram.write(0x0, bytes(0x4000))
    assert heard[:2] == [(0x2000, b"cd"), (0x2FFF, b"e")]
    assert (heard[2][0], len(heard[2][1])) == (0x2000, 0x1000)


def test_a_watcher_is_told_once_and_after_the_write(ram):
    heard = []

    def watcher(spa: int, data: bytes) -> None:
        heard.append(ram.read(spa, len(data)))

    for _ in range(3):
        ram.watch_code(1, watcher)
    ram.write(0x1000, b"new")
    assert heard == [b"new"]


def test_a_watcher_that_left_hears_nothing_and_others_do(ram):
    left, stayed = [], []

    def first(spa: int, data: bytes) -> None:
        left.append(spa)

    for page in (1, 2):
        ram.watch_code(page, first)
    ram.watch_code(1, lambda spa, data: stayed.append(spa))
    ram.unwatch_code(first)
    ram.write(0x1000, bytes(0x2000))
    assert (left, stayed) == ([], [0x1000])


def test_a_watcher_can_leave_one_page(ram):
    heard = []

    def watcher(spa: int, data: bytes) -> None:
        heard.append(spa)

    for page in (1, 2):
        ram.watch_code(page, watcher)
    ram.unwatch_code(watcher, 1)
    ram.unwatch_code(watcher, 3)
    ram.write(0x1000, bytes(0x2000))
    assert heard == [0x2000]


def test_memory_that_was_closed_can_be_closed_no_harm_done():
    PhysicalMemory(SIZE).close()
