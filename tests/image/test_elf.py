"""ELF executables: what is accepted, and that nothing damaged gets through as anything but an ImageError."""

from __future__ import annotations

from pathlib import Path
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
from hv.image.load import load

CODE = b"\x90\xf4" + bytes(14)
NAMES = b"\0start\0data\0"


def an_elf(bits: int = 64, header: dict[str, Any] | None = None, program: dict[str, Any] | None = None,
           second: dict[str, Any] | None = None, symbol: dict[str, Any] | None = None,
           symtab: dict[str, Any] | None = None) -> bytes:
    """A small executable: one code segment, one data segment with zeroes behind it, two symbols.

    What is given replaces fields: of the header, of the two segments, of the second symbol, of its table's section.
    """
    kinds = (Elf64Header, Elf64ProgramHeader, Elf64SectionHeader, Elf64Symbol)
    if bits == 32:
        kinds = (Elf32Header, Elf32ProgramHeader, Elf32SectionHeader, Elf32Symbol)  # type: ignore[assignment]
    head, segment, section, entry = kinds
    code_at = head.SIZE + 2 * segment.SIZE
    symbols = (entry().pack() + entry(name=1, value=0x100000, info=2, shndx=1).pack()
               + entry(**{"name": 7, "value": 0x200000, "info": 1, "shndx": 1, **(symbol or {})}).pack())
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
    named = {"type": 2, "offset": code_at + len(CODE), "size": len(symbols), "link": 2, **(symtab or {})}
    table = (section().pack() + section(**named).pack() + section(type=3, offset=names_at, size=len(NAMES)).pack())
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
    ({"second": {"type": 2}}, "dynamically linked"),
    ({"program": {"paddr": (1 << 52) - 15}}, "segment 0 at 0xffffffffffff1 ends outside the guest-physical"),
    ({"bits": 32, "program": {"paddr": (1 << 32) - 15}}, "segment 0 at 0xfffffff1 ends outside the guest-physical"),
    ({"header": {"entry": 0x80100010}}, "the entry 0x80100010 is in no executable segment"),
    ({"header": {"entry": 0x800FFFFF}}, "in no executable segment"),
    ({"header": {"phnum": 0, "phentsize": 0}}, "no segment to load"),
    ({"symtab": {"link": 3}}, "the symbol table names string section 3 of 3"),
    ({"symbol": {"name": len(NAMES)}}, "the name of symbol 2 does not end inside the string table"),
    ({"second": {"paddr": 0x100008}}, "overlap"),
    ({"second": {"paddr": 0x10000F}}, "the segments at 0x100000 and 0x10000f overlap"),
])
def test_a_wrong_elf_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_elf(an_elf(**changes), "a.elf")
    assert message in caught.value.message
    assert caught.value.message.startswith("a.elf: ")


@pytest.mark.parametrize(("changes", "places"), [
    ({"second": {"paddr": 0x100010}}, [0x100000, 0x100010]),
    ({"second": {"paddr": 0x1000}}, [0x1000, 0x100000]),
    ({"second": {"memsz": 0, "filesz": 0}}, [0x100000]),
    ({"second": {"type": 4}}, [0x100000]),
    ({"program": {"paddr": (1 << 52) - 16}}, [0x200000, (1 << 52) - 16]),
    ({"bits": 32, "program": {"paddr": (1 << 32) - 16}}, [0x200000, (1 << 32) - 16]),
], ids=["touching", "sorted", "empty", "a note", "the last bytes of 52 bits", "the last bytes of 32 bits"])
def test_what_is_loaded_goes_where_the_program_headers_say(changes: dict[str, Any], places: list[int]) -> None:
    assert [segment.gpa for segment in load_elf(an_elf(**changes), "a.elf").segments] == places


def test_a_file_is_an_elf_by_its_first_bytes_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "kernel.asm").write_bytes(an_elf(32))
    image = load(tmp_path / "kernel.asm")
    assert (image.kind, image.bits, image.entry) == ("elf", 32, 0x100001)


@pytest.mark.parametrize("offset", [0, 1, 15])
def test_the_entry_may_be_any_byte_of_an_executable_segment(offset: int) -> None:
    assert load_elf(an_elf(header={"entry": 0x80100000 + offset}), "a.elf").entry == 0x100000 + offset


@pytest.mark.parametrize("changes", [
    {"header": {"shnum": 0}}, {"header": {"shoff": 0}}, {"header": {"shnum": 0, "shoff": 0, "shentsize": 0}},
    {"symtab": {"type": 3}},
], ids=["no sections", "no table", "stripped of both", "no symbol table"])
def test_a_file_without_symbols_has_none(changes: dict[str, Any]) -> None:
    assert load_elf(an_elf(**changes), "a.elf").symbols == {}


@pytest.mark.parametrize(("symbol", "named"), [
    ({"info": 0}, True), ({"info": 0x12}, True), ({"info": 3}, False), ({"info": 4}, False), ({"shndx": 0}, False),
    ({"name": 0}, False), ({"name": 1}, False),
], ids=["no type", "global function", "section", "file", "undefined", "no name", "a name that is taken"])
def test_a_symbol_is_a_name_for_code_or_data(symbol: dict[str, Any], named: bool) -> None:
    symbols = load_elf(an_elf(symbol=symbol), "a.elf").symbols
    assert symbols == {"start": 0x100000} | ({"data": 0x200000} if named else {})


@pytest.mark.parametrize(("limit", "most", "message"), [
    ("MAX_LOADED_BYTES", 0x1010, "its segments take 0x1010 bytes, and 0x100f is the most"),
    ("MAX_SYMBOLS", 3, "it has 3 symbols, and 2 is the most"),
])
def test_a_limit_is_the_most_that_is_loaded(monkeypatch: pytest.MonkeyPatch, limit: str, most: int,
                                            message: str) -> None:
    monkeypatch.setattr(f"hv.image.elf.{limit}", most)
    assert load_elf(an_elf(), "a.elf").symbols
    monkeypatch.setattr(f"hv.image.elf.{limit}", most - 1)
    with pytest.raises(ImageError, match=message):
        load_elf(an_elf(), "a.elf")


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
