"""The real-time clock and its memory; Motorola "MC146818A". Python's calendar is what ours is held against."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.root.timers import TSC_HZ
from hv.root.vdev import rtc_time
from hv.root.vdev.rtc import BEGINNING, TIME, UPDATE_TICKS, Rtc
from tests.root.bench_clock import Clock, Wire

EPOCH = datetime(1970, 1, 1)
A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
BINARY, BY_24 = 0x04, 0x02


class Board:
    """A clock at its ports, 64 MiB and two processors around it."""

    def __init__(self):
        self.clock, self.wire = Clock(), Wire()
        self.rtc = Rtc(self.wire, self.clock, 64 << 20, 2)

    def read(self, index):
        self.rtc.write_port(0x70, 1, index)
        return self.rtc.read_port(0x71, 1)

    def write(self, index, value):
        self.rtc.write_port(0x70, 1, index)
        self.rtc.write_port(0x71, 1, value)

    def time(self):
        return [self.read(index) for index in TIME]

    def seconds(self, count):
        self.clock.advance(int(count * TSC_HZ))


@given(st.integers(0, 252_000_000_000), st.sampled_from([0, BINARY, BY_24, BINARY | BY_24]))
def test_a_moment_is_the_date_of_the_calendar_in_every_format(moment, form):
    date = EPOCH + timedelta(seconds=moment)
    values = rtc_time.to_bytes(moment, form | BY_24)
    assert [rtc_time.decode(value, form) for value in values] == [
        date.second, date.minute, date.hour, date.isoweekday() % 7 + 1, date.day, date.month, date.year % 100,
        date.year // 100]
    assert rtc_time.from_bytes(rtc_time.to_bytes(moment, form), form) == moment


def test_time_begins_at_the_first_of_january_2024_and_goes_on():
    board = Board()
    assert EPOCH + timedelta(seconds=BEGINNING) == datetime(2024, 1, 1)
    assert board.time() == [0, 0, 0, 2, 1, 1, 0x24, 0x20]
    board.seconds(86_400 * 31 + 3600 * 13 + 59 * 60 + 58)
    assert board.time() == [0x58, 0x59, 0x13, 5, 1, 2, 0x24, 0x20]


@pytest.mark.parametrize(("form", "hour"), [(0, 0x81), (BY_24, 0x13), (BINARY, 0x81), (BINARY | BY_24, 13)])
def test_hours_are_by_24_or_by_12_with_a_bit_for_the_afternoon(form, hour):
    board = Board()
    board.write(B, form)
    board.seconds(13 * 3600)
    assert board.read(4) == hour


def test_the_time_is_set_while_it_stands_and_goes_on_from_there():
    """"Register B", SET."""
    board = Board()
    board.write(B, 0x80 | BY_24)
    for index, value in zip(TIME, (0x58, 0x59, 0x23, 1, 0x28, 2, 0x00, 0x20), strict=True):
        board.write(index, value)
    board.seconds(10)
    assert board.time()[:3] == [0x58, 0x59, 0x23]
    board.write(B, BY_24)
    board.seconds(2)
    assert board.time() == [0, 0, 0, 3, 0x29, 2, 0, 0x20]          # the year 2000 had a leap day, a Tuesday


def test_a_byte_of_the_time_can_be_written_as_it_goes():
    board = Board()
    board.write(4, 0x15)
    assert board.time()[:3] == [0, 0, 0x15]


def test_an_update_is_announced_before_it_comes():
    """"Update Cycle": UIP is set 244 us before, and for the 1984 us of it."""
    board = Board()
    board.clock.advance(TSC_HZ - UPDATE_TICKS - 1)
    assert board.read(A) == 0x26
    board.clock.advance(1)
    assert board.read(A) == 0xA6
    board.write(B, 0x80 | BY_24)
    assert board.read(A) == 0x26


def test_after_the_divider_was_held_the_first_update_comes_half_a_second_later():
    board = Board()
    board.write(A, 0x76)
    board.seconds(5)
    assert board.read(0) == 0
    board.write(A, 0x26)
    board.clock.advance(TSC_HZ // 2 - 1)
    assert board.read(0) == 0
    board.clock.advance(1)
    assert board.read(0) == 1


@pytest.mark.parametrize(("enabled", "flags", "seconds"), [
    pytest.param(0x10, 0x90, 1, id="update"),
    pytest.param(0x20, 0xB0, 65, id="alarm"),
    pytest.param(0x40, 0xC0, 1 / 1024, id="periodic"),
])
def test_an_interrupt_comes_in_time_and_is_taken_back_by_reading_register_c(enabled, flags, seconds):
    board = Board()
    for index, value in ((1, 0x05), (3, 0x01), (5, 0xC0)):
        board.write(index, value)
    board.write(B, BY_24 | enabled)
    board.clock.advance(int(seconds * TSC_HZ) - 1)
    assert not board.wire.level
    board.clock.advance(2)
    assert board.wire.level
    assert board.clock.pending == 0                 # who does not answer is told no more
    assert board.read(C) | 0x40 == flags | 0x40
    assert (board.wire.level, board.read(C), board.clock.pending) == (False, 0, 1)


def test_flags_come_without_interrupts_too():
    board = Board()
    board.write(1, 0xFF)
    board.write(3, 0xFF)
    board.write(5, 0x00)
    board.seconds(1)
    assert (board.read(C), board.wire.rises, board.clock.set) == (0x70, 0, 0)


@pytest.mark.parametrize(("alarm", "comes"), [
    ((0x30, 0x00, 0x00), 30), ((0xFF, 0x02, 0xC0), 120), ((0x00, 0x00, 0x00), 86_400), ((0x75, 0xFF, 0xFF), None),
    ((0xFF, 0xBF, 0xFF), None), ((0xFF, 0xFF, 0xFF), 1), ((0x59, 0x59, 0x23), 86_399), ((0, 0, 0x92), None)])
def test_an_alarm_comes_at_the_next_time_that_it_fits(alarm, comes):
    found = rtc_time.next_alarm(BEGINNING, alarm, BY_24)
    assert found == (None if comes is None else BEGINNING + comes)


@pytest.mark.parametrize(("rate", "hertz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2), (0, 0)])
def test_the_periodic_interrupt_has_the_rate_of_register_a(rate, hertz):
    board = Board()
    board.write(A, 0x20 | rate)
    board.write(B, BY_24 | 0x40)
    for _ in range(1000):
        board.clock.advance(TSC_HZ // 20_000)
        if board.wire.level:
            board.read(C)
    assert board.wire.rises == hertz // 20


def test_the_memory_says_how_large_the_machine_is():
    board = Board()
    words = [board.read(index) | board.read(index + 1) << 8 for index in (0x15, 0x17, 0x30, 0x34)]
    assert words == [640, 63 << 10, 63 << 10, 48 << 4]
    assert (board.read(0x5F), board.read(D)) == (1, 0x80)
    assert sum(board.read(index) for index in range(0x10, 0x2E)) == board.read(0x2E) << 8 | board.read(0x2F)


def test_a_reset_leaves_time_and_memory_and_takes_the_interrupts_off():
    board = Board()
    board.write(0x0F, 0x0A)
    board.write(B, BY_24 | 0x70)
    board.seconds(1)
    board.rtc.reset()
    assert (board.read(0x0F), board.read(B), board.wire.level, board.clock.pending) == (0x0A, BY_24, False, 0)
    assert board.read(0) == 1
    assert board.rtc.inspect()["time"] == "2024-01-01T00:00:01"


def test_a_word_at_the_index_is_index_and_data():
    board = Board()
    board.rtc.write_port(0x70, 2, 0x5A0F)
    assert (board.read(0x0F), board.rtc.read_port(0x70, 1)) == (0x5A, 0xFF)


STEP = st.tuples(st.integers(0, 0x7F) | st.integers(0, 13), st.integers(0, 0xFF), st.sampled_from("rwt"))


@given(st.lists(STEP, max_size=60))
def test_no_accesses_raise_or_set_more_than_one_alarm(steps):
    board = Board()
    for index, value, kind in steps:
        if kind == "t":
            board.clock.advance(value << 22)
        elif kind == "w":
            board.write(index, value)
        else:
            assert 0 <= board.read(index) <= 0xFF
        assert board.clock.pending <= 1
    board.rtc.inspect()
    board.rtc.reset()
    assert not board.wire.level
