"""The 80 x 25 characters of a PC, as text."""

from __future__ import annotations

from contextlib import closing

from hv.platform import Machine
from hv.root.text_screen import COLUMNS, SCREEN_BYTES, text_of
from hv.spec.pc import VGA_TEXT_GPA
from tests.guest_runner import image_of


def screen(*lines: bytes) -> bytes:
    return b"".join(bytes(each for code in line.ljust(COLUMNS, b"\0") for each in (code, 7)) for line in lines)


def test_an_empty_screen_is_no_text():
    assert text_of(bytes(SCREEN_BYTES)) == text_of(b" \x07" * (SCREEN_BYTES // 2)) == ""


def test_lines_end_at_their_last_character_and_the_screen_at_its_last_line():
    assert text_of(screen(b"one", b"", b" two  ", b"").ljust(SCREEN_BYTES, b"\0")) == "one\n\n two"


def test_characters_are_those_of_code_page_437():
    assert text_of(screen(bytes([0x01, 0xC9, 0xCD, 0xBB, 0x7F, 0xB0, 0x1F, 0xE1]))) == "☺╔═╗⌂░▼ß"


def test_a_guest_writes_on_it_as_on_memory():
    code = f"mov edi, {VGA_TEXT_GPA + 2 * (COLUMNS + 3):#x}; mov dword ptr [rdi], 0x07690748; hlt"
    with closing(Machine(memory_mib=24)) as machine:
        vm = machine.create_vm("a", image_of(code), memory_mib=2, pc=True)
        machine.run(until_tsc=machine.clock.tsc + 1_000_000)
        assert vm.screen() == "\n   Hi"
