"""Files of every kind, and those that are none."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from hv.image.errors import ImageError
from hv.image.load import load


def test_a_flat_binary_starts_like_a_boot_sector(tmp_path: Path) -> None:
    path = tmp_path / "boot.bin"
    path.write_bytes(b"\xf4")
    image = load(path)
    assert (image.kind, image.entry, image.bits, image.segments[0].gpa) == ("flat", 0x7C00, 16, 0x7C00)
    image = load(path, bits=64, origin=0x20000)
    assert (image.entry, image.bits) == (0x20000, 64)


def test_assembly_above_2_mib_is_data(tmp_path: Path) -> None:
    path = tmp_path / "a.S"
    path.write_text("hlt\n.org 0x200000\n.byte 1\n")
    assert [segment.executable for segment in load(path).segments] == [True, False]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("empty.asm", b"", "is empty"),
    ("a.xyz", b"abc", "the kind of `.xyz` is not known"),
    ("noname", b"abc", "no suffix"),
    ("a.elf", b"MZ\x90\x00", "does not begin as an ELF file does: 4d 5a 90 00"),
    ("short.elf", b"\x7fELF", "the identification ends at"),
    ("a.asm", b"\xff\xfe\xfd", "is not UTF-8"),
    ("linux.bin", bytes(0x1FE) + b"\x55\xaa\xeb\x66HdrS", "bzImage, which is not supported yet"),
    ("mb.bin", bytes(8) + struct.pack("<III", 0x1BADB002, 3, -(0x1BADB002 + 3) & 0xFFFFFFFF), "Multiboot kernel"),
    ("mb2.bin", bytes(16) + struct.pack("<IIII", 0xE85250D6, 0, 16, -(0xE85250D6 + 16) & 0xFFFFFFFF), "Multiboot"),
])
def test_a_file_that_cannot_be_loaded_says_why(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load(tmp_path / name)
    assert message in caught.value.message
    assert "\n" not in str(caught.value)


def test_a_multiboot_magic_without_its_checksum_is_only_data(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(struct.pack("<III", 0x1BADB002, 3, 5))
    assert load(tmp_path / "a.bin").kind == "flat"


def test_what_is_no_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        load(tmp_path / "nosuch.asm")
    with pytest.raises(ImageError, match="is a directory"):
        load(tmp_path)
    with pytest.raises(ImageError):
        load("a\0b.asm")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.asm")
        with pytest.raises(ImageError, match="no ordinary file"):
            load(tmp_path / "pipe.asm")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.asm").write_text("hlt")
    (tmp_path / "a.asm").chmod(0)
    with pytest.raises(ImageError, match="cannot be read: Permission denied"):
        load(tmp_path / "a.asm")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(ImageError, match="larger than 64 MiB"):
        load(tmp_path / "huge.bin")


@pytest.mark.parametrize(("bits", "origin", "message"), [
    (16, 0x10000, "below 64 KiB"), (8, None, "bits is 8"), (64, -1, "range"),
])
def test_a_flat_binary_refuses_a_wrong_place(tmp_path: Path, bits: int, origin: int | None, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(b"\xf4")
    with pytest.raises(ImageError, match=message):
        load(tmp_path / "a.bin", bits=bits, origin=origin)
