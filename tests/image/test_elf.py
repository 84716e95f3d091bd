"""ELF executables: what is accepted, and that nothing damaged gets through as anything but an ImageError."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.image.elf import (
    Elf32Header,
    Elf32ProgramHeader,
    Elf32SectionHeader,
    Elf32Symbol,
    Elf64Header,
    Elf64ProgramHeader,
    Elf64SectionHeader,
    Elf64Symbol,
    ElfIdent,
    load_elf,
)
from hv.image.errors import ImageError

CODE = b"\x90\xf4" + bytes(14)
NAMES = b"\0start\0data\0"


def an_elf(bits: int = 64, header: dict[str, Any] | None = None, program: dict[str, Any] | None = None,
           second: dict[str, Any] | None = None) -> bytes:
    """A small executable: one code segment, one data segment with zeroes behind it, two symbols."""
    kinds = (Elf64Header, Elf64ProgramHeader, Elf64SectionHeader, Elf64Symbol)
    if bits == 32:
        kinds = (Elf32Header, Elf32ProgramHeader, Elf32SectionHeader, Elf32Symbol)  # type: ignore[assignment]
    head, segment, section, symbol = kinds
    code_at = head.SIZE + 2 * segment.SIZE
    symbols = (symbol() .pack() + symbol(name=1, value=0x100000, info=2, shndx=1).pack()
               + symbol(name=7, value=0x200000, info=1, shndx=1).pack())
    names_at = code_at + len(CODE) + len(symbols)
    sections_at = names_at + len(NAMES)
    ident = ElfIdent(magic=0x464C457F, file_class=bits // 32, data=1, version=1)
    top = head(**{"ident": ident, "type": 2, "machine": 62 if bits == 64 else 3, "version": 1, "entry": 0x80100001,
                  "phoff": head.SIZE, "shoff": sections_at, "ehsize": head.SIZE, "phentsize": segment.SIZE, "phnum": 2,
                  "shentsize": section.SIZE, "shnum": 3, **(header or {})})
    one = segment(**{"type": 1, "flags": 5, "offset": code_at, "vaddr": 0x80100000, "paddr": 0x100000,
                     "filesz": len(CODE), "memsz": len(CODE), **(program or {})})
    two = segment(**{"type": 1, "flags": 6, "offset": code_at, "vaddr": 0x200000, "paddr": 0x200000, "filesz": 4,
                     "memsz": 0x1000, **(second or {})})
    table = (section().pack() + section(type=2, offset=code_at + len(CODE), size=len(symbols), link=2).pack()
             + section(type=3, offset=names_at, size=len(NAMES)).pack())
    return top.pack() + one.pack() + two.pack() + CODE + symbols + NAMES + table


@pytest.mark.parametrize("bits", [32, 64])
def test_segments_go_to_physical_addresses_and_the_entry_follows(bits: int) -> None:
    image = load_elf(an_elf(bits), "a.elf")
    assert (image.kind, image.bits, image.entry) == ("elf", bits, 0x100001)
    code, data = image.segments
    assert (code.gpa, code.data, code.writable, code.executable) == (0x100000, CODE, False, True)
    assert (data.gpa, data.data, data.writable, data.executable) == (0x200000, CODE[:4] + bytes(0xFFC), True, False)
    assert image.symbols == {"start": 0x100000, "data": 0x200000}


@pytest.mark.parametrize(("changes", "message"), [
    ({"header": {"machine": 183}}, "for AArch64, and x86-64 was expected"),
    ({"header": {"machine": 3}}, "for 80386, and x86-64"),
    ({"header": {"machine": 9999}}, "machine 9999"),
    ({"header": {"type": 1}}, "object file"),
    ({"header": {"type": 3}}, "position-independent"),
    ({"header": {"type": 4}}, "type 4 is no executable"),
    ({"header": {"phnum": 0}}, "no segment to load"),
    ({"header": {"phnum": 0xFFFF}}, "program header table ends at"),
    ({"header": {"phentsize": 8}}, "a program header has 8 bytes"),
    ({"header": {"phoff": 1 << 63}}, "program header table ends at"),
    ({"header": {"shoff": 1 << 63}}, "section header table ends at"),
    ({"header": {"shentsize": 1}}, "a section header has 1 bytes"),
    ({"header": {"entry": 0x200000}}, "in no executable segment"),
    ({"program": {"type": 3}}, "dynamically linked"),
    ({"program": {"memsz": 1 << 60}}, "is the most"),
    ({"program": {"filesz": 1 << 20, "memsz": 1 << 20}}, "segment 0 ends at"),
    ({"program": {"offset": 1 << 62}}, "segment 0 ends at"),
    ({"program": {"filesz": 17, "memsz": 16}}, "0x11 bytes in the file"),
    ({"program": {"paddr": 1 << 63}}, "outside the guest-physical"),
    ({"second": {"paddr": 0x100008}}, "overlap"),
])
def test_a_wrong_elf_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_elf(an_elf(**changes), "a.elf")
    assert message in caught.value.message
    assert caught.value.message.startswith("a.elf: ")


@pytest.mark.parametrize(("offset", "value", "message"), [
    (4, 7, "ELF class 7"), (5, 2, "big-endian"), (0, 0, "begin as an ELF"),
])
def test_a_wrong_identification_says_what_is_wrong(offset: int, value: int, message: str) -> None:
    data = bytearray(an_elf())
    data[offset] = value
    with pytest.raises(ImageError, match=message):
        load_elf(bytes(data), "a.elf")


@pytest.mark.parametrize("bits", [32, 64])
def test_a_file_truncated_anywhere_is_an_image_error(bits: int) -> None:
    whole = an_elf(bits)
    for size in range(len(whole)):
        with pytest.raises(ImageError):
            load_elf(whole[:size], "cut.elf")


@given(st.sampled_from([32, 64]), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=8),
       st.integers(0, 600))
@settings(max_examples=400)
def test_a_damaged_file_is_an_image_or_an_image_error(bits: int, changes: list[tuple[int, int]], size: int) -> None:
    data = bytearray(an_elf(bits))
    for offset, value in changes:
        data[offset % len(data)] = value
    try:
        image = load_elf(bytes(data[: size or None]), "damaged.elf")
    except ImageError:
        return
    ends = [0] + [segment.gpa + len(segment.data) for segment in image.segments]
    assert all(segment.gpa >= end for segment, end in zip(image.segments, ends, strict=False))
    assert image.end <= 1 << 52
