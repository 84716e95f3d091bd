"""The compressed kernel in a bzImage, unpacked: no more than it says it becomes, and no more than is allowed.

Its last four bytes are the length of what it becomes: gzip's own trailer has it there, and the kernel's build appends
it to every other format (Linux arch/x86/boot/compressed, `mkpiggy` and "size_append").
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from hv.image.errors import ImageError

LENGTH_BYTES = 4
LEAST_BYTES = 16                # nothing shorter is compressed data with its length
LZMA_MEMORY = 256 << 20         # of the decoder: the largest dictionary a kernel's build asks for, twice
LZ4_BLOCK = 8 << 20             # what a block of the legacy frame becomes at most
LZ4_MAGIC = b"\x02\x21\x4c\x18"
INSTALL = "install it: pip install lz4 zstandard; or let the kernel unpack itself: --no-unpack"


class Format(NamedTuple):
    """How a payload may be compressed. *unpack* takes it without its length, and how much is wanted at most."""

    name: str
    magic: bytes
    unpack: Callable[[bytes, int], bytes]
    slow: bool = False          # a second or more for a kernel: worth keeping


def length_of(payload: bytes) -> int:
    """Bytes that *payload* says it becomes."""
    return int.from_bytes(payload[-LENGTH_BYTES:], "little")


def format_of(payload: bytes) -> Format | None:
    """How *payload* is compressed; None when that is not known."""
    return next((each for each in FORMATS if payload.startswith(each.magic)), None)


def unpack(payload: bytes, most_bytes: int) -> bytes:
    """What *payload* becomes; ImageError when that is damaged, or more than *most_bytes*."""
    kind, wanted = format_of(payload), length_of(payload)
    if kind is None or len(payload) < LEAST_BYTES:
        raise ImageError(f"the kernel in it begins with {payload[:4].hex(' ')}, which is no compression known here",
                         f"known are {', '.join(each.name for each in FORMATS)}; --no-unpack leaves it to the kernel")
    if wanted > most_bytes:
        raise ImageError(f"the kernel in it unpacks to {wanted:#x} bytes, and the VM has {most_bytes:#x}",
                         "give it more memory, for example --mem 512")
    try:
        made = kind.unpack(payload if kind.name == "gzip" else payload[:-LENGTH_BYTES], wanted + 1)
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(kind, " ".join(str(error).split()) or type(error).__name__) from None
    if len(made) != wanted:
        than = "more" if len(made) > wanted else "less"
        raise _damaged(kind, f"it has {than} than the {wanted:#x} bytes it should unpack to")
    return made


def _damaged(kind: Format, how: str) -> ImageError:
    return ImageError(f"the kernel in it is damaged: {kind.name}: {how}", "get the file again")


def _gzip(data: bytes, most: int) -> bytes:
    return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data, most)


def _bzip2(data: bytes, most: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, most)


def _lzma(data: bytes, most: int) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=LZMA_MEMORY).decompress(data, most)


def _lz4(data: bytes, most: int) -> bytes:
    """The legacy frame: a magic number, then blocks, each behind its length."""
    block = _library("lz4.block", "lz4")
    made, at, total = [], len(LZ4_MAGIC), 0
    while at < len(data) and total < most:
        length = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if not length or at + length > len(data):
            raise ValueError(f"the block at {at:#x} has {length:#x} bytes, {len(data) - at:#x} are left")
        part: bytes = _decoded(block, data[at : at + length])
        made.append(part)
        at, total = at + length, total + len(part)
    return b"".join(made)


def _decoded(block: Any, data: bytes) -> bytes:
    try:
        part: bytes = block.decompress(data, uncompressed_size=LZ4_BLOCK)
        return part
    except block.LZ4BlockError as error:
        raise ValueError(error) from None


def _zstd(data: bytes, most: int) -> bytes:
    zstandard = _library("zstandard", "zstandard")
    try:
        made: bytes = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data).read(most)
        return made
    except zstandard.ZstdError as error:
        raise ValueError(error) from None


def _library(module: str, package: str) -> Any:
    """A library that is there only where somebody wanted it."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise ImageError(f"the kernel in it is packed by {package}, whose library is not installed", INSTALL) from None


def _nobody(data: bytes, most: int) -> bytes:
    raise ImageError("the kernel in it is packed by lzo, which is not unpacked here",
                     "let the kernel unpack itself: --no-unpack")


FORMATS = (
    Format("gzip", b"\x1f\x8b", _gzip),
    Format("bzip2", b"BZh", _bzip2, slow=True),
    Format("lzma", b"\x5d\0\0", _lzma, slow=True),
    Format("xz", b"\xfd7zXZ\0", _lzma, slow=True),
    Format("lzo", b"\x89LZO", _nobody),
    Format("lz4", LZ4_MAGIC, _lz4),
    Format("zstd", b"\x28\xb5\x2f\xfd", _zstd),
)
