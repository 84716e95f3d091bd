"""Files of every kind, and those that are none."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from hv.image.errors import ImageError
from hv.image.load import load
from hv.image.model import Image, Segment
from hv.image.source import read_text

MULTIBOOT = struct.pack("<III", 0x1BADB002, 3, -(0x1BADB002 + 3) & 0xFFFFFFFF)
MULTIBOOT2 = struct.pack("<IIII", 0xE85250D6, 0, 16, -(0xE85250D6 + 16) & 0xFFFFFFFF)


def test_a_flat_binary_starts_like_a_boot_sector(tmp_path: Path) -> None:
    path = tmp_path / "boot.bin"
    path.write_bytes(b"\xf4")
    image = load(path)
    assert (image.kind, image.entry, image.bits, image.segments[0].gpa) == ("flat", 0x7C00, 16, 0x7C00)
    assert image.segments == [Segment(0x7C00, b"\xf4", writable=True, executable=True)]
    image = load(path, bits=64, origin=0x20000)
    assert (image.entry, image.bits) == (0x20000, 64)


@pytest.mark.parametrize(("bits", "origin", "entry"), [
    (32, None, 0x10000), (64, None, 0x10000), (16, 0xFFFF, 0xFFFF), (16, 0, 0), (64, (1 << 52) - 1, (1 << 52) - 1),
])
def test_a_flat_binary_is_entered_at_its_first_byte(tmp_path: Path, bits: int, origin: int | None, entry: int) -> None:
    (tmp_path / "a.img").write_bytes(b"\x90\xf4")
    image = load(tmp_path / "a.img", bits=bits, origin=origin)
    assert (image.entry, image.bits, image.segments[0].gpa, image.end) == (entry, bits, entry, entry + 2)


def test_an_image_of_nothing_ends_at_0() -> None:
    assert Image("flat", [], 0, 16).end == 0


def test_assembly_above_2_mib_is_data(tmp_path: Path) -> None:
    path = tmp_path / "a.S"
    path.write_text("hlt\n.org 0x200000\n.byte 1\n")
    assert [segment.executable for segment in load(path).segments] == [True, False]
    assert all(segment.writable for segment in load(path).segments)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("empty.asm", b"", "is empty"),
    ("a.xyz", b"abc", "the kind of `.xyz` is not known"),
    ("noname", b"abc", "no suffix"),
    ("a.elf", b"MZ\x90\x00", "does not begin as an ELF file does: 4d 5a 90 00"),
    ("short.elf", b"\x7fELF", "the identification ends at"),
    ("a.asm", b"\xff\xfe\xfd", "is not UTF-8"),
    ("linux.bin", bytes(0x1FE) + b"\x55\xaa\xeb\x66HdrS", "its setup header ends at 0x206"),
    ("mb.bin", bytes(8) + MULTIBOOT, "neither an ELF file nor"),
    ("mb0.bin", MULTIBOOT, "neither an ELF file nor"),
    ("mb2.bin", bytes(16) + MULTIBOOT2, "is a Multiboot 2 kernel, and only Multiboot 1"),
    ("twice.bin", MULTIBOOT[:8] + MULTIBOOT, "Multiboot"),
    ("next.bin", MULTIBOOT[:4] * 2 + MULTIBOOT[4:], "Multiboot"),
    ("last.bin", bytes(8180) + MULTIBOOT, "Multiboot"),
    ("last2.bin", bytes(32752) + MULTIBOOT2, "is a Multiboot 2 kernel, and only Multiboot 1"),
    ("kernel.elf", b"\x7fELF" + bytes(60) + MULTIBOOT, "ELF class 0"),
])
def test_a_file_that_cannot_be_loaded_says_why(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load(tmp_path / name)
    assert message in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [
    struct.pack("<III", 0x1BADB002, 3, 5), bytes(2) + MULTIBOOT, bytes(4) + MULTIBOOT2, MULTIBOOT[:8], MULTIBOOT2[:12],
    bytes(8192) + MULTIBOOT, bytes(32768) + MULTIBOOT2, bytes(0x202) + b"HdrS",
    bytes(0x1FE) + b"\x55\xaa\xeb\x66Hdr", bytes(0x1FE) + b"\x55\xaa",
], ids=["no checksum", "unaligned", "unaligned 2", "cut", "cut 2", "too late", "too late 2", "no boot sector",
        "no HdrS", "boot sector"])
def test_a_magic_without_the_rest_is_only_data(tmp_path: Path, content: bytes) -> None:
    """Multiboot: aligned, whole, within its first 8 KiB (32 KiB), and with a checksum; bzImage: two signatures."""
    (tmp_path / "a.bin").write_bytes(content)
    assert load(tmp_path / "a.bin").segments[0].data == content


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


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file of Linux whose first byte cannot be read")
@pytest.mark.parametrize("read", [load, read_text])
def test_a_file_that_breaks_off_says_so(read: Callable[[Path], object]) -> None:
    with pytest.raises(ImageError, match=r"/proc/self/mem cannot be read: .*Input/output error"):
        read(Path("/proc/self/mem"))


@pytest.mark.parametrize(("name", "limit", "read"), [
    ("a.bin", "load.MAX_FILE_BYTES", load), ("a.asm", "source.MAX_SOURCE_BYTES", read_text),
])
def test_a_file_may_be_as_large_as_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: str,
                                             read: Callable[[Path], object]) -> None:
    (tmp_path / name).write_bytes(b"\n" * 64)
    monkeypatch.setattr(f"hv.image.{limit}", 64)
    assert read(tmp_path / name)
    monkeypatch.setattr(f"hv.image.{limit}", 63)
    with pytest.raises(ImageError, match="is larger than"):
        read(tmp_path / name)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(ImageError, match="larger than 64 MiB"):
        load(tmp_path / "huge.bin")


@pytest.mark.parametrize(("bits", "origin", "message"), [
    (16, 0x10000, "below 64 KiB"), (8, None, "bits is 8"), (64, -1, "range"), (64, 1 << 52, "out of range"),
])
def test_a_flat_binary_refuses_a_wrong_place(tmp_path: Path, bits: int, origin: int | None, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(b"\xf4")
    with pytest.raises(ImageError, match=message):
        load(tmp_path / "a.bin", bits=bits, origin=origin)
