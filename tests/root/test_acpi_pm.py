"""ACPI's fixed hardware; ACPI "Fixed Hardware Features". And the two small devices that end and restart a machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.root.timers import TSC_HZ
from hv.root.vdev.acpi_pm import TOP_BIT_PERIOD, AcpiPm
from hv.root.vdev.diagnostics import DebugExit, PostDisplay
from hv.root.vdev.reset_control import ResetControl
from hv.root.vdev.system_control import SystemControlA
from hv.spec.pc import ACPI_TIMER_HZ
from tests.root.bench_clock import Clock, Wire

STATUS, ENABLE, CONTROL, TIMER = 0x600, 0x602, 0x604, 0x608
BUTTON = 0x100
TOP_CHANGES = -(-TOP_BIT_PERIOD * TSC_HZ // ACPI_TIMER_HZ)


class Board:
    """The registers, and how often it was switched off."""

    def __init__(self):
        self.clock, self.wire, self.offs = Clock(), Wire(), 0
        self.acpi = AcpiPm(self.wire, self.clock, self.off)

    def off(self):
        self.offs += 1

    def read(self, port, size=2):
        return self.acpi.read_port(port, size)

    def write(self, port, value, size=2):
        self.acpi.write_port(port, size, value)


@pytest.mark.parametrize(("value", "offs"), [(0x2000, 1), (0x2001, 1), (0x3C00, 0), (0x2400, 0), (0x1C00, 0)])
def test_the_sleep_type_of_s5_switches_off(value, offs):
    board = Board()
    board.write(CONTROL, value)
    assert board.offs == offs


def test_control_is_in_acpi_mode_and_keeps_the_sleep_type():
    board = Board()
    board.write(CONTROL, 0xDFFF)
    assert board.read(CONTROL) == 0x1C03


def test_the_power_button_interrupts_until_its_status_is_cleared():
    board = Board()
    board.acpi.press_power_button()
    assert (board.wire.level, board.read(STATUS)) == (False, BUTTON)
    board.write(ENABLE, BUTTON)
    assert board.wire.level
    board.write(STATUS, 0xFEFF)
    assert board.wire.level
    board.write(STATUS, BUTTON)
    assert (board.wire.level, board.read(STATUS), board.read(ENABLE)) == (False, 0, BUTTON)


def test_the_timer_has_32_bits_at_its_rate():
    board = Board()
    board.clock.advance(TSC_HZ)
    assert board.read(TIMER, 4) == ACPI_TIMER_HZ
    assert [board.read(TIMER + byte, 1) for byte in range(4)] == list(ACPI_TIMER_HZ.to_bytes(4, "little"))
    board.write(TIMER, 0, 4)
    board.clock.advance(TSC_HZ * 1200)
    assert board.read(TIMER, 4) == ACPI_TIMER_HZ * 1201 & 0xFFFF_FFFF


def test_the_change_of_the_highest_bit_is_told():
    board = Board()
    board.clock.advance(TOP_CHANGES)
    assert (board.read(STATUS), board.clock.set) == (1, 0)
    board.write(STATUS, 1)
    board.write(ENABLE, 1)
    board.clock.advance(TOP_CHANGES)
    assert (board.wire.level, board.read(STATUS), board.clock.pending) == (True, 1, 0)
    board.write(STATUS, 1)
    assert (board.wire.level, board.clock.pending) == (False, 1)
    board.acpi.reset()
    assert (board.read(ENABLE), board.clock.pending) == (0, 0)


@given(st.lists(st.tuples(st.integers(0x600, 0x60B), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFF_FFFF),
                          st.sampled_from("rwtb")), max_size=50))
def test_no_accesses_raise_or_set_more_than_one_alarm(steps):
    board = Board()
    for port, size, value, kind in steps:
        if kind == "t":
            board.clock.advance(value << 10)
        elif kind == "b":
            board.acpi.press_power_button()
        elif kind == "w":
            board.write(port, value & (1 << 8 * size) - 1, size)
        else:
            assert board.read(port, size) >= 0
        assert board.clock.pending <= 1
        assert board.wire.level is bool(board.acpi.status & board.acpi.enable)
    board.acpi.inspect()


@pytest.mark.parametrize(("values", "resets"), [
    pytest.param((2, 6), 1, id="hard"), pytest.param((0, 4), 1, id="soft"), pytest.param((6, 6), 1, id="once"),
    pytest.param((2, 2), 0, id="none"), pytest.param((6, 2, 6), 2, id="twice")])
def test_a_rising_bit_2_of_the_reset_control_register_restarts(values, resets):
    calls = []
    control = ResetControl(lambda: calls.append(1))
    for value in values:
        control.write_port(0xCF9, 1, value)
    assert len(calls) == resets
    assert control.read_port(0xCF9, 1) == values[-1]


def test_port_92_restarts_by_a_rising_bit_0_and_keeps_a20():
    calls = []
    control = SystemControlA(lambda: calls.append(1))
    assert control.read_port(0x92, 1) == 2
    for value in (2, 3, 3):
        control.write_port(0x92, 1, value)
    assert (len(calls), control.read_port(0x92, 1)) == (1, 3)


def test_the_post_display_remembers_the_last_codes():
    shown = []
    display = PostDisplay(shown.append)
    assert display.read_port(0x80, 1) == 0
    for code in (*range(100), 99, 99):
        display.write_port(0x80, 1, code)
    assert shown == list(range(100))
    assert display.inspect() == {"history": list(range(36, 100))}
    assert display.read_port(0x80, 2) == 0xFF63


def test_the_debug_exit_passes_the_value_on():
    left = []
    device = DebugExit(left.append)
    device.write_port(0xF4, 4, 0xDEAD_BEEF)
    assert (left, device.read_port(0xF4, 1)) == ([0xDEAD_BEEF], 0)
