"""The keyboard controller and its keyboard, at their two ports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.root.vdev.i8042 import I8042, LONGEST_QUEUE
from hv.root.vdev.keyboard import strokes, translated
from tests.root.bench_clock import Wire

DATA, COMMAND = 0x60, 0x64
FULL, FROM_MOUSE = 0x01, 0x20
ACK = 0xFA


class Board:
    """A controller, its line, and how often it has reset the machine."""

    def __init__(self):
        self.wire, self.resets = Wire(), 0
        self.controller = I8042(self.wire, self.restart)

    def restart(self):
        self.resets += 1

    def command(self, *values):
        self.controller.write_port(COMMAND, 1, values[0])
        for value in values[1:]:
            self.controller.write_port(DATA, 1, value)
        return self.read()

    def keyboard(self, *values):
        for value in values:
            self.controller.write_port(DATA, 1, value)
        return self.read()

    def read(self):
        """All that waits."""
        found = []
        while self.status & FULL:
            found.append(self.controller.read_port(DATA, 1))
        return found

    @property
    def status(self):
        return self.controller.read_port(COMMAND, 1)


@pytest.mark.parametrize(("values", "answer"), [
    ((0xAA,), [0x55]), ((0xAB,), [0x00]), ((0xA9,), [0x01]), ((0xC0,), [0x80]), ((0xD0,), [0x03]), ((0x20,), [0x65]),
    ((0xD2, 0x77), [0x77]), ((0xD3, 0x77), [0x77]), ((0xD4, 0xFF), [0xFE]), ((0x60, 0x47), []), ((0xE0,), []),
    ((0xAE,), []), ((0xD1, 0x03), [])])
def test_the_controller_answers_its_commands(values, answer):
    assert Board().command(*values) == answer


def test_its_memory_keeps_what_was_written_and_byte_0_is_the_command_byte():
    board = Board()
    assert board.command(0x60, 0x03) == []
    assert board.command(0x20) == [0x03]
    board.command(0x7F, 0xAB)
    assert board.command(0x3F) == [0xAB]
    board.command(0xAD)
    assert board.command(0x20) == [0x13]
    board.command(0xAE)
    board.command(0xA7)
    assert board.command(0x20) == [0x23]
    board.command(0xA8)
    assert board.command(0x20) == [0x03]


def test_bytes_that_look_like_the_mouses_say_so_in_the_status():
    board = Board()
    board.controller.write_port(COMMAND, 1, 0xD3)
    board.controller.write_port(DATA, 1, 0x5A)
    assert board.status & (FULL | FROM_MOUSE) == FULL | FROM_MOUSE
    assert not board.wire.level                     # line 1 is the keyboard's
    assert board.read() == [0x5A]


@pytest.mark.parametrize("values", [(0xFE,), (0xF0,), (0xD1, 0x02)])
def test_bit_0_of_the_output_port_going_down_resets_the_machine(values):
    board = Board()
    board.command(*values)
    assert board.resets == 1


@pytest.mark.parametrize("values", [(0xFF,), (0xFD,), (0xD1, 0x01)])
def test_other_pulses_do_not(values):
    board = Board()
    board.command(*values)
    assert board.resets == 0


@pytest.mark.parametrize(("values", "answer"), [
    ((0xFF,), [ACK, 0xAA]), ((0xF2,), [ACK, 0xAB, 0x41]), ((0xEE,), [0xEE]), ((0xED, 5), [ACK, ACK]),
    ((0xF3, 0x20), [ACK, ACK]), ((0xF0, 0), [ACK, ACK, 0x41]), ((0xF0, 2), [ACK, ACK]), ((0xF0, 1), [ACK, 0xFE]),
    ((0xF4,), [ACK]), ((0xF5,), [ACK]), ((0x05,), [0xFE]), ((0xF2, 0xFE), [ACK, 0xAB, 0x41, ACK, 0xAB, 0x41])])
def test_the_keyboard_answers_its_commands_through_the_translation(values, answer):
    """IDENTIFY is AB 83, whose second byte the controller takes for a scan code, as on every PC."""
    assert Board().keyboard(*values) == answer


def test_untranslated_it_says_what_it_says():
    board = Board()
    board.command(0x60, 0x01)
    assert board.keyboard(0xF2) == [ACK, 0xAB, 0x83]


def test_keys_are_scan_codes_of_set_1_down_and_up():
    board = Board()
    board.controller.strike("aB\n")
    assert board.read() == [0x1E, 0x9E, 0x2A, 0x30, 0xB0, 0xAA, 0x1C, 0x9C]


def test_the_line_is_asserted_while_a_byte_waits_and_rises_for_each():
    board = Board()
    board.controller.strike("a")
    assert (board.wire.level, board.wire.rises) == (True, 1)
    board.controller.read_port(DATA, 1)
    assert (board.wire.level, board.wire.rises) == (True, 2)
    board.controller.read_port(DATA, 1)
    assert (board.wire.level, board.wire.rises) == (False, 2)


def test_the_line_stays_down_while_the_command_byte_says_so():
    board = Board()
    board.command(0x60, 0x40)
    board.controller.strike("a")
    assert not board.wire.level
    board.controller.write_port(COMMAND, 1, 0x60)
    board.controller.write_port(DATA, 1, 0x41)
    assert board.wire.level


@pytest.mark.parametrize("off", [0xAD, None])
def test_nobody_hears_a_key_while_the_keyboard_is_off(off):
    board = Board()
    if off is None:
        assert board.keyboard(0xF5) == [ACK]
    else:
        board.command(off)
    board.controller.strike("a")
    assert board.read() == []


def test_a_reset_is_power_on():
    board = Board()
    board.command(0x60, 0x00)
    board.keyboard(0xF5)
    board.controller.strike("a")
    board.controller.reset()
    assert board.command(0x20) == [0x65]
    board.controller.strike("z")
    assert board.read() == [0x2C, 0xAC]


def test_every_key_has_a_code_of_its_own_in_both_sets():
    keys = "`1234567890-=qwertyuiop[]\\asdfghjkl;'zxcvbnm,./ \n\t\b\x1b"
    assert len({codes[0] for codes in strokes(keys)}) == len(keys)
    assert len({translated(codes) for codes in strokes(keys)}) == len(keys)
    with pytest.raises(ValueError, match="'é' is on no key"):
        list(strokes("é"))


@given(st.lists(st.tuples(st.sampled_from([DATA, COMMAND]), st.integers(0, 255), st.booleans()), max_size=60))
def test_no_sequence_of_accesses_upsets_it(accesses):
    board = Board()
    for port, value, write in accesses:
        if write:
            board.controller.write_port(port, 1, value)
        else:
            assert 0 <= board.controller.read_port(port, 1) <= 255
    board.controller.strike("x" * LONGEST_QUEUE)
    assert len(board.read()) <= LONGEST_QUEUE
    board.controller.inspect()
