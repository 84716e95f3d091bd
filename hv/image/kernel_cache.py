"""Unpacked kernels kept on disk, for the formats that take a second: beside the assembled programs.

A file holds the SHA-256 of its kernel, then the kernel; its name is the SHA-256 of the packed one. A missing, damaged
or unwritable cache costs time and nothing else.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from hv.image import cache, payload
from hv.whole_file import put

MOST_FILES = 4                  # the oldest goes
_DIGEST = 32


def unpacked(packed: bytes, most_bytes: int) -> bytes:
    """`payload.unpack`, or what it gave before."""
    kind = payload.format_of(packed)
    if kind is None or not kind.slow or payload.length_of(packed) > most_bytes:
        return payload.unpack(packed, most_bytes)
    place = _place(packed)
    kernel = _read(place, payload.length_of(packed)) if place else None
    if kernel is None:
        kernel = payload.unpack(packed, most_bytes)
        if place:
            _write(place, kernel)
    return kernel


def _place(packed: bytes) -> Path | None:
    with suppress(OSError, RuntimeError):       # RuntimeError: there is no home to keep it in
        folder = cache.folder()
        return folder and folder / f"{hashlib.sha256(packed).hexdigest()}.vmlinux"
    return None


def _read(place: Path, length: int) -> bytes | None:
    """The kernel in *place*, if it is there and whole."""
    with suppress(OSError, ValueError), place.open("rb") as file:
        digest, kernel = file.read(_DIGEST), file.read(length + 1)
        if len(kernel) == length and hashlib.sha256(kernel).digest() == digest:
            return kernel
    return None


def _write(place: Path, kernel: bytes) -> None:
    with suppress(OSError, ValueError):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        put(place, hashlib.sha256(kernel).digest() + kernel)
        kept = sorted(place.parent.glob("*.vmlinux"), key=lambda each: each.stat().st_mtime_ns)
        for old in kept[:-MOST_FILES]:
            old.unlink(missing_ok=True)
