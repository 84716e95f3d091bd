"""What a kernel's file has its payload compressed with, and the payload as it was.

Which kind it is says its beginning. Python knows gzip, bzip2, xz and LZMA; LZ4 and zstd need a library each, the extra
`linux` of this project.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from hv.image.errors import ImageError

_LZ4_BLOCK = 8 << 20            # of the legacy frame: each one but the last
_LZ4_MAGIC = b"\x02\x21\x4c\x18"
_INSTALL = "install it (pip install 'hvlab[linux]'), or let the kernel unpack itself (--no-unpack)"


class NeedsLibrary(ImageError):
    """The kind is known, but the library for it is not installed."""


def unpack(payload: bytes, size: int) -> bytes:
    """What *payload* holds, of which *size* bytes are expected; ImageError."""
    for magic, name, unpacker in _KINDS:
        if payload.startswith(magic):
            try:
                found = unpacker(payload, size)
            except ImageError:
                raise
            except Exception as error:      # each library has errors of its own
                raise ImageError(f"the kernel's {name} payload is damaged: {error}", "is the file whole?") from None
            if len(found) != size:
                raise ImageError(f"the kernel's {name} payload has {len(found)} bytes; expected {size}",
                                 "is the file whole?")
            return found
    raise ImageError(f"the kernel's payload begins with {payload[:4].hex(' ') or 'nothing'}; expected gzip, bzip2, xz, "
                     "lzma, lz4 or zstd", "let the kernel unpack itself (--no-unpack)")


def _gzip(payload: bytes, size: int) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(payload, size + 1)


def _bzip2(payload: bytes, size: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(payload, size + 1)


def _lzma(payload: bytes, size: int) -> bytes:
    return lzma.LZMADecompressor().decompress(payload, size + 1)


def _lz4(payload: bytes, size: int) -> bytes:
    """The legacy frame: blocks, each behind its length, until the output is complete."""
    block = _library("lz4.block", "LZ4")
    at, parts, done = len(_LZ4_MAGIC), [], 0
    while done < size:
        length = int.from_bytes(payload[at : at + 4], "little")
        if not length or at + 4 + length > len(payload):
            break
        part = block.decompress(payload[at + 4 : at + 4 + length], uncompressed_size=_LZ4_BLOCK)
        at, done = at + 4 + length, done + len(part)
        parts.append(part)
    return b"".join(parts)


def _zstd(payload: bytes, size: int) -> bytes:
    zstandard = _library("zstandard", "zstd")
    found: bytes = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj().decompress(payload)
    return found


def _library(module: str, kind: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise NeedsLibrary(f"the kernel is compressed with {kind}, and the library `{module.split('.')[0]}` is missing",
                           _INSTALL) from None


_KINDS: tuple[tuple[bytes, str, Callable[[bytes, int], bytes]], ...] = (
    (b"\x1f\x8b", "gzip", _gzip), (b"BZh", "bzip2", _bzip2), (b"\xfd7zXZ\0", "xz", _lzma), (b"\x5d\0\0", "LZMA", _lzma),
    (_LZ4_MAGIC, "LZ4", _lz4), (b"\x28\xb5\x2f\xfd", "zstd", _zstd))
