"""The board: which device answers at which port."""

import pytest

from hv.root.motherboard import Motherboard


class Note:
    """A device that notes what it is told and reads 0x1122334455."""

    def __init__(self):
        self.written = []

    def read_port(self, port, size):
        return 0x11_2233_4455

    def write_port(self, port, size, value):
        self.written.append((port, size, value))

    def inspect(self):
        return {"written": len(self.written)}


@pytest.fixture
def board():
    board = Motherboard()
    board.note = Note()
    board.add("note", range(0x60, 0x64), board.note)
    return board


@pytest.mark.parametrize(("size", "expected"), [(1, 0x55), (2, 0x4455), (4, 0x2233_4455)])
def test_a_device_answers_at_its_ports_cut_to_the_size(board, size, expected):
    assert board.read(0x60, size) == expected
    assert board.read(0x63, size) == expected


@pytest.mark.parametrize(("size", "expected"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFF_FFFF)])
def test_an_empty_port_reads_all_ones(board, size, expected):
    assert board.read(0x64, size) == expected
    assert board.read(0x5F, size) == expected


def test_writes_reach_the_device_or_nobody(board):
    board.write(0x61, 2, 0xABCD)
    board.write(0x70, 1, 0xFF)
    assert board.note.written == [(0x61, 2, 0xABCD)]


def test_a_port_has_one_device(board):
    with pytest.raises(AssertionError, match=r"^other: ports 0x63 are taken$"):
        board.add("other", range(0x63, 0x68), Note())
    assert board.read(0x64, 1) == 0xFF              # nothing of it was added


def test_a_name_has_one_device(board):
    with pytest.raises(AssertionError, match=r"^there is a device note already$"):
        board.add("note", range(0x70, 0x71), Note())


def test_inspect_shows_each_device_by_name(board):
    assert board.inspect() == {"note": {"written": 0}}
    assert board.ranges == [range(0x60, 0x64)]


class Registers:
    """A device in memory that notes what it is told, and reads its offset in every byte."""

    def __init__(self):
        self.written = []

    def read_memory(self, offset, size):
        return offset * 0x0101_0101_0101_0101

    def write_memory(self, offset, size, value):
        self.written.append((offset, size, value))

    def inspect(self):
        return {}


def test_a_device_in_memory_answers_by_offset():
    board, device = Motherboard(), Registers()
    board.add_memory("low", range(0x1000, 0x2000), Registers())
    board.add_memory("high", range(0x8000, 0x9000), device)
    assert board.read_memory(0x8004, 4) == 0x0404_0404
    board.write_memory(0x8010, 8, 5)
    assert device.written == [(0x10, 8, 5)]
    assert [gpa for gpa in (0xFFF, 0x1000, 0x1FFF, 0x2000, 0x9000) if board.answers_at(gpa)] == [0x1000, 0x1FFF]
    assert board.read_memory(0x3000, 2) == 0xFFFF


@pytest.mark.parametrize(("gpa", "size", "pieces"), [
    (0x8000, 8, [(0, 8)]), (0x8004, 8, [(4, 4), (8, 4)]), (0x8001, 4, [(1, 1), (2, 2), (4, 1)]),
    (0x8006, 16, [(6, 2), (8, 8), (16, 4), (20, 2)]), (0x8000, 3, [(0, 2), (2, 1)]),
    (0x8FFE, 4, [(0xFFE, 2)]), (0x7FFF, 2, [(0, 1)]),
], ids=lambda value: f"{value:#x}" if isinstance(value, int) else "")
def test_a_device_sees_aligned_accesses_only_and_what_is_beyond_its_end_is_nobodys(gpa, size, pieces):
    board, device = Motherboard(), Registers()
    board.add_memory("high", range(0x8000, 0x9000), device)
    board.write_memory(gpa, size, (1 << 8 * size) - 1)
    assert device.written == [(offset, count, (1 << 8 * count) - 1) for offset, count in pieces]
    read = b"".join((device.read_memory(offset, count) & (1 << 8 * count) - 1).to_bytes(count, "little")
                    for offset, count in pieces)
    nobodys = b"\xff" * (size - len(read))
    assert board.read_memory(gpa, size).to_bytes(size, "little") == (nobodys + read if gpa < 0x8000 else read + nobodys)


def test_memory_ranges_do_not_overlap_and_can_be_taken_back():
    board, device = Motherboard(), Registers()
    board.add_memory("bar", range(0x1000, 0x2000), device)
    with pytest.raises(AssertionError, match=r"^other: 0x1800 is taken$"):
        board.add_memory("other", range(0x1800, 0x2800), Registers())
    board.remove_memory(range(0x1000, 0x2000))
    board.add_memory("bar", range(0x1800, 0x2800), device)
    assert board.read_memory(0x1801, 1) == 1
