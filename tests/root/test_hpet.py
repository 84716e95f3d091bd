"""The high precision event timers; "IA-PC HPET Specification" 1.0a. A clock that a test turns is the machine's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.root.lines import InterruptLines
from hv.root.vdev.hpet import PERIOD_FS, SHORTEST_TICKS, TICKS, Hpet
from tests.root.bench_clock import Clock

CONFIG, STATUS, COUNTER = 0x10, 0x20, 0xF0
LEVEL, ENABLED, PERIODIC, SET, NARROW = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 8
CAN = 0x00F0_0000_0000_0030             # pins 20..23; periodic, 64 bits
MS = 100_000                            # counts
U32, U64 = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


class Board:
    """A block of timers on its lines; `rises` is how often each rose."""

    def __init__(self):
        self.clock, self.lines = Clock(), InterruptLines()
        self.hpet, self.rises = Hpet(self.lines, self.clock), [0] * 24
        self.lines.listen(self._on_line)

    def _on_line(self, number, asserted):
        self.rises[number] += asserted

    def read(self, offset, size=8):
        return self.hpet.read_memory(offset, size)

    def write(self, offset, value, size=8):
        self.hpet.write_memory(offset, size, value)

    def timer(self, number, config, comparator, route=20):
        """Its configuration and comparator; Linux's order."""
        self.write(0x100 + 0x20 * number, config | route << 9)
        self.write(0x108 + 0x20 * number, comparator)

    def counts(self, count):
        self.clock.advance(count * TICKS)


@pytest.fixture
def board():
    return Board()


def test_it_says_what_it_is(board):
    """"General Capabilities and ID Register": 10 ns, three timers of 64 bits, legacy replacement."""
    assert board.read(0) == PERIOD_FS << 32 | 0x8086_A201
    assert board.read(4, 4) == PERIOD_FS
    assert [board.read(0x100 + 0x20 * number) for number in range(4)] == [CAN, CAN, CAN, 0]
    board.write(0, 0)
    assert board.read(0) == PERIOD_FS << 32 | 0x8086_A201


def test_the_counter_stands_until_it_is_enabled_and_when_it_is_not_any_more(board):
    board.counts(500)
    assert board.read(COUNTER) == 0
    board.write(CONFIG, 1)
    board.counts(500)
    assert (board.read(COUNTER), board.read(COUNTER, 4), board.read(COUNTER + 4, 4)) == (500, 500, 0)
    board.write(CONFIG, 0)
    board.counts(500)
    assert board.read(COUNTER) == 500
    board.write(COUNTER + 4, 7, 4)
    assert board.read(COUNTER) == 7 << 32 | 500
    board.write(COUNTER, U64)
    board.write(CONFIG, 1)
    board.counts(2)
    assert board.read(COUNTER) == 1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_one_shot_timer_interrupts_once_at_its_pin(board, number):
    board.write(CONFIG, 1)
    board.timer(number, ENABLED, 5 * MS, route=20 + number)
    board.counts(5 * MS - 1)
    assert sum(board.rises) == 0
    board.counts(1)
    assert (board.rises[20 + number], board.lines.asserted[20 + number]) == (1, False)
    board.counts(1000 * MS)
    assert sum(board.rises) == 1


def test_a_periodic_timer_adds_its_period_each_time(board):
    """"Periodic Mode": the comparator that is read is the next match."""
    board.write(CONFIG, 1)
    board.timer(0, ENABLED | PERIODIC | SET, 7 * MS)
    board.write(0x108, 2 * MS)
    assert board.read(0x100) == CAN | ENABLED | PERIODIC | 20 << 9     # the bit that let the first in reads 0
    board.counts(7 * MS)
    assert (board.rises[20], board.read(0x108)) == (1, 9 * MS)
    board.counts(20 * MS)
    assert (board.rises[20], board.read(0x108)) == (11, 29 * MS)


def test_a_narrow_timer_matches_again_when_32_bits_have_gone_round(board):
    """"Timer N Configuration", 32MODE."""
    board.write(COUNTER, 5 << 32)
    board.write(CONFIG, 1)
    board.timer(0, ENABLED | NARROW, 3 << 32 | 100)
    assert board.read(0x108) == 100
    board.counts(100)
    assert board.rises[20] == 1
    board.counts(1 << 32)
    assert board.rises[20] == 2


def test_a_comparator_may_be_written_in_halves(board):
    board.write(0x100, 20 << 9 | ENABLED)
    board.write(0x108, 0x1234, 4)
    board.write(0x10C, 0, 4)
    assert board.read(0x108) == 0x1234
    board.write(0x10C, 0xFFFF, 2)               # no such access
    assert board.read(0x108) == 0x1234


def test_a_level_stays_until_its_status_is_cleared(board):
    """"General Interrupt Status Register": a one written clears; of an edge there is no status."""
    board.write(CONFIG, 1)
    board.timer(0, ENABLED | LEVEL, MS)
    board.timer(1, ENABLED, MS, route=21)
    board.timer(2, LEVEL, MS, route=22)
    board.counts(MS)
    assert (board.read(STATUS), board.lines.asserted[20:23], board.rises[20:23]) == (5, [True, False, False], [1, 1, 0])
    board.write(STATUS, 4)
    assert (board.read(STATUS), board.lines.asserted[20]) == (1, True)
    board.write(STATUS, 1)
    assert (board.read(STATUS), board.lines.asserted[20]) == (0, False)


def test_two_timers_may_share_a_line(board):
    board.write(CONFIG, 1)
    for number in (0, 1):
        board.timer(number, ENABLED | LEVEL, (number + 1) * MS)
    board.counts(2 * MS)
    board.write(STATUS, 1)
    assert (board.lines.asserted[20], board.rises[20]) == (True, 1)
    board.write(STATUS, 2)
    assert board.lines.asserted[20] is False


def test_a_route_that_is_not_there_is_not_taken(board):
    """"Timer N Configuration", INT_ROUTE: what is read back says so."""
    board.write(0x100, 22 << 9)
    board.write(0x100, 5 << 9 | ENABLED)
    assert board.read(0x100) == CAN | 22 << 9 | ENABLED


def test_without_a_route_an_interrupt_goes_nowhere(board):
    board.write(CONFIG, 1)
    board.timer(0, ENABLED, MS, route=0)
    board.counts(2 * MS)
    assert sum(board.rises) == 0


def test_legacy_replacement_takes_the_lines_of_timer_and_clock_and_gives_them_back(board):
    """"LegacyReplacement Route": neither the interval timer nor the real-time clock interrupts meanwhile."""
    pit, rtc = board.hpet.legacy_line(0), board.hpet.legacy_line(8)
    pit(True)
    assert board.lines.asserted[0] is True
    board.write(CONFIG, 3)
    assert board.lines.asserted[0] is False
    rtc(True)
    assert board.lines.asserted[8] is False
    board.timer(0, ENABLED, MS)
    board.timer(1, ENABLED | LEVEL, MS)
    board.counts(MS)
    assert (board.rises[0], board.rises[8], board.rises[20]) == (2, 1, 0)
    pit(False)
    board.write(CONFIG, 1)
    assert (board.lines.asserted[0], board.lines.asserted[8]) == (False, True)
    rtc(False)
    assert board.lines.asserted[8] is False
    assert board.lines.asserted[20] is True     # the level of timer 1 has gone to its own pin


def test_a_period_of_one_count_is_no_storm(board):
    """Whatever a guest asks for, an alarm comes every 50 us at most, and the comparator is ahead of the counter."""
    board.write(CONFIG, 1)
    board.timer(0, ENABLED | PERIODIC | SET, 1)
    board.counts(10 * MS)
    assert board.clock.called == 10 * MS * TICKS // SHORTEST_TICKS
    assert board.read(0x108) == board.read(COUNTER) + 1


def test_a_timer_that_nobody_hears_of_sets_no_alarm(board):
    board.write(CONFIG, 1)
    board.timer(0, ENABLED | LEVEL, MS)
    assert board.clock.pending == 1
    board.counts(MS)
    assert board.clock.pending == 0             # the level is asserted
    board.timer(1, 0, 2 * MS)
    assert board.clock.pending == 0             # it is not enabled
    board.timer(2, ENABLED, board.read(COUNTER) - 1)
    assert board.clock.pending == 0             # in 5849 years


def test_a_reset_gives_everything_back(board):
    board.write(CONFIG, 3)
    board.timer(0, ENABLED | LEVEL, MS)
    board.counts(MS)
    assert board.lines.asserted[0] is True
    board.hpet.reset()
    assert (board.read(CONFIG), board.read(COUNTER), board.read(0x108), any(board.lines.asserted)) == (0, 0, U64, False)
    assert board.clock.pending == 0


@given(st.lists(st.tuples(st.sampled_from([CONFIG, STATUS, COUNTER, 0x100, 0x108, 0x120, 0x12C, 0x144, 0x148, 0x3F8]),
                          st.sampled_from([1, 2, 4, 8]), st.integers(0, U64), st.integers(0, 3 * MS)), max_size=30))
def test_whatever_is_written_the_lines_are_as_the_status_says(writes):
    board = Board()
    for offset, size, value, pause in writes:
        board.write(offset - offset % size, value, size)
        board.counts(pause)
        assert board.clock.pending <= 1
        enabled, legacy = board.read(CONFIG) & 1, board.read(CONFIG) & 2
        held = set()
        for number in range(3):
            config = board.read(0x100 + 0x20 * number)
            if enabled and config & ENABLED and board.read(STATUS) >> number & 1:
                held |= {(0, 8)[number]} if legacy and number < 2 else {config >> 9 & 31} - {0}
        assert {line for line, asserted in enumerate(board.lines.asserted) if asserted} == held
