"""Linux kernels: what is in a bzImage, how it is packed, and that nothing damaged gets through."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from pathlib import Path

import pytest

from hv.image import kernel_cache, payload
from hv.image.bzimage import load_bzimage, setup_header
from hv.image.errors import ImageError
from hv.image.load import load
from hv.spec.linux_boot import SetupHeader, ZeroPage
from tests.kernels import LOAD_GPA, bzimage, code, elf64, packed, vmlinux

MIB = 1 << 20
VMLINUX = elf64([(LOAD_GPA, b"\x90" * 64, 64, 5), (LOAD_GPA + 0x200000, b"data", 0x3000, 6)], LOAD_GPA + 16)


def xz(content: bytes) -> bytes:
    """As the kernel's build calls it: `xz --check=crc32 --x86 --lzma2`."""
    return lzma.compress(content, check=lzma.CHECK_CRC32,
                         filters=[{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])


def alone(content: bytes) -> bytes:
    return lzma.compress(content, lzma.FORMAT_ALONE)


def lz4_legacy(content: bytes) -> bytes:
    block = pytest.importorskip("lz4.block")
    made = payload.LZ4_MAGIC
    for at in range(0, len(content), payload.LZ4_BLOCK):
        part = block.compress(content[at : at + payload.LZ4_BLOCK], store_size=False)
        made += len(part).to_bytes(4, "little") + part
    return made


def zstd(content: bytes) -> bytes:
    compressed: bytes = pytest.importorskip("zstandard").ZstdCompressor().compress(content)
    return compressed


FORMATS = [gzip.compress, bz2.compress, xz, alone, lz4_legacy, zstd]


def test_the_layouts_have_their_sizes() -> None:
    assert (SetupHeader.SIZE, ZeroPage.SIZE) == (0x26C - 0x1F1, 4096)
    assert {name: ZeroPage.offset_of(name) for name in ("acpi_rsdp_addr", "ext_ramdisk_image", "e820_entries", "hdr",
                                                       "edd_mbr_sig_buffer", "e820_table", "eddbuf")} == {
        "acpi_rsdp_addr": 0x70, "ext_ramdisk_image": 0xC0, "e820_entries": 0x1E8, "hdr": 0x1F1,
        "edd_mbr_sig_buffer": 0x290, "e820_table": 0x2D0, "eddbuf": 0xD00}
    assert SETUP_OFFSETS == {"header": 0x202, "version": 0x206, "code32_start": 0x214, "cmd_line_ptr": 0x228,
                             "xloadflags": 0x236, "payload_offset": 0x248, "pref_address": 0x258, "init_size": 0x260}


SETUP_OFFSETS = {name: 0x1F1 + SetupHeader.offset_of(name) for name in (
    "header", "version", "code32_start", "cmd_line_ptr", "xloadflags", "payload_offset", "pref_address", "init_size")}


# --- unpacked ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("compress", FORMATS, ids=lambda each: each.__name__)
def test_the_kernel_is_unpacked_whatever_packed_it(compress) -> None:  # type: ignore[no-untyped-def]
    """What moves a kernel stands behind it, and is not for us."""
    image = load_bzimage(bzimage(packed(VMLINUX + b"relocations" * 99, compress)), "k", 64 * MIB)
    assert (image.kind, image.entry, image.bits, image.wants_pc) == ("linux", LOAD_GPA + 16, 64, True)
    assert [(each.gpa, each.data, each.writable, each.executable) for each in image.segments] == [
        (LOAD_GPA, b"\x90" * 64, False, True), (LOAD_GPA + 0x200000, b"data" + bytes(0x2FFC), True, False)]
    assert SetupHeader.parse(image.setup).payload_offset == 0x400


def test_lz4_has_as_many_blocks_as_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "LZ4_BLOCK", 1024)
    content = bytes(range(256)) * 11
    assert payload.unpack(packed(content, lz4_legacy), MIB) == content


@pytest.mark.parametrize("compress", FORMATS, ids=lambda each: each.__name__)
def test_a_damaged_payload_is_refused(compress) -> None:  # type: ignore[no-untyped-def]
    """Cut, changed, or not what its length says: one line, and no more work than the length allows."""
    whole = packed(bytes(range(256)) * 16, compress)
    for damaged in (whole[:40] + whole[-4:], whole[:-4] + b"\0\0\1\0", whole[:-4] + bytes(4),
                    whole[:9] + b"\xff" * 24 + whole[33:]):
        with pytest.raises(ImageError, match="damaged") as caught:
            payload.unpack(damaged, MIB)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compress", FORMATS, ids=lambda each: each.__name__)
def test_a_bomb_does_not_go_off(compress) -> None:  # type: ignore[no-untyped-def]
    """It says that it is small; nothing is unpacked beyond that, and what says that it is large is not begun."""
    bomb = compress(bytes(4 * MIB))
    with pytest.raises(ImageError, match="it has more than the 0x1000 bytes"):
        payload.unpack((bomb[:-4] if compress is gzip.compress else bomb) + (0x1000).to_bytes(4, "little"), MIB)
    with pytest.raises(ImageError, match="unpacks to 0x400000 bytes, and the VM has 0x100000"):
        payload.unpack(packed(bytes(4 * MIB), compress), MIB)


@pytest.mark.parametrize(("content", "text"), [
    (b"\x89LZO" + bytes(40), "lzo, which is not unpacked here"), (b"MZ" + bytes(40), "begins with 4d 5a 00 00"),
    (b"\x1f\x8b", "no compression known"), (b"", "no compression known"),
])
def test_what_is_packed_otherwise_is_named(content: bytes, text: str) -> None:
    with pytest.raises(ImageError, match=text):
        payload.unpack(content, MIB)


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lz4.block", None)
    with pytest.raises(ImageError, match=r"lz4, whose library is not installed; .*: pip install lz4 zstandard"):
        payload.unpack(payload.LZ4_MAGIC + bytes(40), MIB)


@pytest.mark.parametrize(("content", "text"), [
    (b"no ELF" * 9, "begins with 6e 6f 20 45"),
    (elf64([(LOAD_GPA, b"\x90", 1, 5)], LOAD_GPA + 1), "entry 0x1000001 is in no executable segment"),
    (elf64([(LOAD_GPA, b"\x90", 1, 6)], LOAD_GPA), "entry 0x1000000 is in no executable segment"),
    (elf64([(LOAD_GPA, b"\x90", 65 * MIB, 5)], LOAD_GPA), "its segments take 0x4100000 bytes"),
    (elf64([(LOAD_GPA, b"\x90" * 9, 9, 5), (LOAD_GPA + 8, b"\x90", 9, 5)], LOAD_GPA), "overlap"),
    (elf64([((1 << 64) - 1, b"\x90" * 9, 9, 5)], LOAD_GPA), "ends outside the guest-physical addresses"),
    (elf64([], LOAD_GPA), "no executable segment"),
    (elf64([(LOAD_GPA, b"\x90", 1, 5)], LOAD_GPA, kind=3), "position-independent"),
])
def test_a_kernel_that_cannot_be_placed_says_why(content: bytes, text: str) -> None:
    with pytest.raises(ImageError, match=text):
        load_bzimage(bzimage(packed(content)), "k", 64 * MIB)


# --- as it stands in the file --------------------------------------------------------------------------------------

def test_a_kernel_may_unpack_itself(tmp_path: Path) -> None:
    """Its protected-mode code goes where it prefers to be, and is entered at 0x200."""
    (tmp_path / "vmlinuz").write_bytes(bzimage(packed(VMLINUX)))
    image = load(tmp_path / "vmlinuz", unpack=False)
    (segment,) = image.segments
    assert (image.kind, image.entry, image.bits, segment.gpa) == ("linux", LOAD_GPA + 0x200, 64, LOAD_GPA)
    assert segment.data.startswith(bytes(0x400) + packed(VMLINUX)[:8])
    assert SetupHeader.parse(image.setup).code32_start == LOAD_GPA


@pytest.mark.parametrize(("fields", "entry", "bits"), [
    pytest.param({"relocatable_kernel": 0}, 0x100200, 64, id="not-relocatable"),
    pytest.param({"relocatable_kernel": 0, "code32_start": 0}, 0x100200, 64, id="no-address-at-all"),
    pytest.param({"xloadflags": 0}, LOAD_GPA, 32, id="no-64-bit-entry"),
    pytest.param({"version": 0x20B}, LOAD_GPA, 32, id="before-the-64-bit-entry"),
    pytest.param({"version": 0x209}, 0x100000, 32, id="before-preferred-addresses"),
])
def test_what_has_nothing_packed_is_taken_as_it_is(fields: dict[str, int], entry: int, bits: int) -> None:
    image = load_bzimage(bzimage(**fields), "k", 64 * MIB)
    assert (image.entry, image.bits) == (entry, bits)


def test_a_header_that_ends_early_has_no_later_fields() -> None:
    """The jump over it says where it ends; what follows is code."""
    data = bzimage(jump=(0x230 - 0x202) << 8 | 0xEB)
    header = setup_header(data)
    assert (header.initrd_addr_max, header.kernel_alignment, header.pref_address) == (0x7FFFFFFF, 0, 0)


@pytest.mark.parametrize(("data", "text"), [
    pytest.param(bzimage(loadflags=0), "it is a zImage", id="zimage"),
    pytest.param(bzimage()[:0x240], "its setup header ends at 0x240", id="cut-in-the-header"),
    pytest.param(bzimage()[:0x700], "its kernel ends at byte 0xa00, the file at 0x700", id="cut-in-the-kernel"),
    pytest.param(bzimage(syssize=0xFFFFFFFF), "its kernel ends at byte 0x10000005f0", id="size-beyond-the-file"),
    pytest.param(bzimage(syssize=0), "its kernel ends at byte 0x600", id="no-kernel"),
    pytest.param(bzimage(packed(VMLINUX), payload_length=0xFFFFFFFF), "its payload ends at 0x1000003ff", id="payload"),
    pytest.param(bzimage(packed(VMLINUX), payload_offset=0xFFFFFFF0), "its payload ends at", id="payload-offset"),
    pytest.param(bzimage(jump=0x9090), "its setup header ends at 0x0", id="no-jump"),
    pytest.param(bzimage(pref_address=1 << 40), "prefers to be at 0x10000000000", id="preferred-too-high"),
    pytest.param(bzimage(pref_address=0x1000), "prefers to be at 0x1000", id="preferred-too-low"),
    pytest.param(bzimage(kernel=bytes(0x200)), "its entry is behind 0x200", id="no-entry"),
])
def test_a_damaged_file_says_why(data: bytes, text: str) -> None:
    with pytest.raises(ImageError, match=text) as caught:
        load_bzimage(data, "vmlinuz", 64 * MIB)
    assert caught.value.message.startswith("vmlinuz: ")
    assert "\n" not in str(caught.value)


def test_no_mutation_gets_through_as_another_error() -> None:
    """Whatever a byte of header, ELF or payload is changed to: an image, or one line."""
    chance, good, said = random.Random(6), bzimage(packed(VMLINUX, bytes_stored)), list[str]()
    for _ in range(400):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            at = chance.choice((chance.randrange(0x1F1, 0x26C), chance.randrange(len(data))))
            data[at] = chance.choice((0, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        try:
            load_bzimage(bytes(data[: chance.choice((len(data), chance.randrange(len(data))))]), "k", MIB)
        except ImageError as error:
            said.append(str(error))
    assert 200 < len(said) < 400
    assert not [line for line in said if "\n" in line]


def bytes_stored(content: bytes) -> bytes:
    """gzip without compression, so that a change inside is seen by the ELF loader as often as by the checksum."""
    return gzip.compress(content, compresslevel=0)


# --- kept ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HVLAB_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_what_takes_long_is_unpacked_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = packed(VMLINUX, xz)
    assert kernel_cache.unpacked(made, MIB) == VMLINUX
    monkeypatch.setattr(payload, "unpack", None)
    assert kernel_cache.unpacked(made, MIB) == VMLINUX


def test_what_is_quick_is_not_kept(folder: Path) -> None:
    assert kernel_cache.unpacked(packed(VMLINUX), MIB) == VMLINUX
    assert not folder.exists()


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_of_the_cache_is_not_trusted(folder: Path, damage: bytes | None) -> None:
    made = packed(VMLINUX, xz)
    kernel_cache.unpacked(made, MIB)
    (place,) = folder.iterdir()
    place.write_bytes(place.read_bytes()[:-1] + b"!" if damage is None else damage)
    assert kernel_cache.unpacked(made, MIB) == VMLINUX
    assert place.read_bytes()[32:] == VMLINUX


def test_the_cache_keeps_the_last_ones(folder: Path) -> None:
    for n in range(kernel_cache.MOST_FILES + 2):
        kernel_cache.unpacked(packed(bytes([n]) * 64, xz), MIB)
    assert len(list(folder.iterdir())) == kernel_cache.MOST_FILES


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HVLAB_CACHE", str(tmp_path / "file"))
    assert kernel_cache.unpacked(packed(VMLINUX, xz), MIB) == VMLINUX


def test_the_memory_of_the_vm_limits_a_kept_kernel_too(folder: Path) -> None:
    made = packed(VMLINUX, xz)
    kernel_cache.unpacked(made, MIB)
    with pytest.raises(ImageError, match="unpacks to"):
        kernel_cache.unpacked(made, 100)


def test_the_greeter_of_the_tests_is_a_kernel() -> None:
    image = load_bzimage(bzimage(packed(vmlinux())), "k", 64 * MIB)
    assert image.segments[0].data == code()
