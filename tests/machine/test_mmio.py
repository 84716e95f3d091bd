"""Windows of devices in physical memory."""

from __future__ import annotations

import pytest

from hv.machine.mmio import MmioBus


class Register:
    """A device that remembers."""

    def __init__(self) -> None:
        self.value, self.seen = 0x11, []

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size))
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))


class FakeEngine:
    def __init__(self) -> None:
        self.windows: list[tuple[int, int]] = []

    def map_mmio(self, spa, size, read, write) -> None:
        self.windows.append((spa, size))


def a_bus() -> tuple[MmioBus, Register]:
    bus, device = MmioBus(), Register()
    bus.add(0xF0000000, 0x1000, device)
    return bus, device


def test_a_device_sees_offsets_in_its_window():
    bus, device = a_bus()
    assert bus.read(0xF0000FFC, 4) == 0x11
    bus.write(0xF0000008, 2, 0x99)
    assert device.seen == [(0xFFC, 4), (8, 2, 0x99)]


@pytest.mark.parametrize("spa", [0xEFFFFFFF, 0xF0001000])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_where_nobody_answers_all_ones_are_read_and_writes_are_lost(spa, size):
    bus, device = a_bus()
    assert not bus.contains(spa)
    assert bus.read(spa, size) == (1 << 8 * size) - 1
    bus.write(spa, size, 1)
    assert device.seen == []


@pytest.mark.parametrize(("spa", "size"), [(0xF0000000, 0x1000), (0xEFFFF000, 0x2000), (0xF0000000, 0x4000)])
def test_windows_that_overlap_are_a_mistake_of_ours(spa, size):
    bus, _ = a_bus()
    with pytest.raises(AssertionError, match="overlap"):
        bus.add(spa, size, Register())


def test_every_engine_gets_every_window_whichever_came_first():
    bus, _ = a_bus()
    first, second, gone = FakeEngine(), FakeEngine(), FakeEngine()
    bus.attach(first)
    bus.attach(gone)
    bus.detach(gone)
    bus.add(0xF0001000, 0x1000, Register())
    bus.attach(second)
    assert first.windows == second.windows == [(0xF0000000, 0x1000), (0xF0001000, 0x1000)]
    assert gone.windows == [(0xF0000000, 0x1000)]


def test_the_bus_shows_its_windows():
    assert a_bus()[0].inspect() == [{"spa": 0xF0000000, "size": 0x1000, "device": "Register"}]
