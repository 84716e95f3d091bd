"""Reading memory for the prompt: as text, as far as it goes, and without a trace."""

import pytest

from hv.debug.errors import DebugError
from hv.debug.looking import dump, instructions, read_spa, readable, text_of


class FakePartition:
    """RAM of 4 KiB in which each byte is its address."""

    class memory:
        size = 0x1000

        @staticmethod
        def read(spa, size):
            return bytes((spa + n) & 0xFF for n in range(size))


def test_a_dump_has_sixteen_bytes_a_line_in_two_halves_and_their_text():
    assert dump(0xFF0, bytes(range(0x18, 0x28)) + b"A~\x7f\x80") == [
        "0000000000000ff0  18 19 1a 1b 1c 1d 1e 1f  20 21 22 23 24 25 26 27  ........ !\"#$%&'",
        "0000000000001000  41 7e 7f 80                                       A~.."]
    assert dump(0, b"") == []


def test_ram_is_read_up_to_its_last_byte():
    assert read_spa(FakePartition, 0xFFE, 2) == b"\xfe\xff"
    with pytest.raises(DebugError, match=r"system-physical 0xfff is no RAM \(0\.\.0x1000\)"):
        read_spa(FakePartition, 0xFFF, 2)


def test_what_can_be_read_is_read_up_to_the_first_page_that_cannot():
    """Only when the first page cannot be read is that an error."""
    asked = []

    def read(at, size):
        asked.append((at, size))
        return read_spa(FakePartition, at, size)

    assert readable(read, 0xFF0, 0x2010) == read_spa(FakePartition, 0xFF0, 16)
    assert asked == [(0xFF0, 16), (0x1000, 0x1000)]
    with pytest.raises(DebugError, match="is no RAM"):
        readable(read, 0x1000, 16)


@pytest.mark.parametrize(("code", "bits", "text", "length"), [
    ("b878563412", 64, "mov eax, 0x12345678", 5), ("b878563412", 32, "mov eax, 0x12345678", 5),
    ("b878563412", 16, "mov ax, 0x5678", 3), ("eb0e", 64, "jmp 0x1010", 2), ("f4", 64, "hlt", 1),
    ("0e", 64, ".byte 0x0e", 1), ("0f", 64, ".byte 0x0f", 1), ("f490", 64, "hlt", 1),
])
def test_the_first_instruction_is_told_with_its_length(code, bits, text, length):
    assert text_of(bytes.fromhex(code), bits, 0x1000) == (text, length)


def test_instructions_follow_one_another_to_the_end_of_memory(timer):
    partition = timer.vm.partition
    partition.memory.write(partition.space.translate(0xFFFFFB, 1), bytes.fromhex("89d80e90f4"))
    assert list(instructions(timer.vp, 0xFFFFFB, 9)) == [
        (0xFFFFFB, b"\x89\xd8", "mov eax, ebx"), (0xFFFFFD, b"\x0e", ".byte 0x0e"), (0xFFFFFE, b"\x90", "nop"),
        (0xFFFFFF, b"\xf4", "hlt")]
    assert [gva for gva, _, _ in instructions(timer.vp, 0xFFFFFB, 2)] == [0xFFFFFB, 0xFFFFFD]
