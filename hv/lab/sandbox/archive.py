"""What was handed in as a zip or tar, unpacked without trust.

The whole archive is read and judged in memory before the first file is written: names that leave the folder, links,
devices, two files of one name, too many, too large, or far larger than the archive, and it is refused in one line.
Only stored and deflated members are read, for other methods take memory as the archive asks. What headers claim about
sizes is not believed.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hv.printable import printable

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_ARCHIVE_BYTES = 8 << 20
MOST_BYTES = 8 << 20                    # of all files together
MOST_FILES = 200
MOST_DEPTH = 8
MOST_RATIO = 100                        # unpacked to packed; source is text, and gets ten times smaller at most
_FREE_BYTES = 1 << 20                   # below this the ratio does not matter
_NAME_BYTES = 200
_CHUNK = 1 << 16
_LEFT_BEHIND = ("__MACOSX", ".DS_Store", "Thumbs.db", ".git")


class ArchiveError(Exception):
    """Why the archive is refused; one line for whoever handed it in."""


def is_archive(path: Path) -> bool:
    """Its name says so."""
    return path.name.lower().endswith(SUFFIXES)


def without_suffix(path: Path) -> str:
    """Its name alone: `ann` of `ann.tar.gz`."""
    return next((path.name[: -len(suffix)] for suffix in SUFFIXES if path.name.lower().endswith(suffix)), path.stem)


def unpack(path: Path, folder: Path) -> list[Path]:
    """Write the files of the archive *path* into the empty *folder*; ArchiveError, and nothing is written."""
    data = _read(path)
    try:
        files = _checked(_zipped(data) if path.name.lower().endswith(".zip") else _tarred(_inflated(path, data)))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError,
            ValueError, OSError) as error:
        raise ArchiveError(f"it is damaged: {printable(str(error)) or 'it ends too early'}") from None
    written = []
    for name, content in files:
        place = folder.joinpath(*name.parts)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with open(file, "wb") as out:
            out.write(content)
        written.append(place)
    return written


def find(written: list[Path], wanted: str) -> Path:
    """The one file called *wanted*, in whatever folder; ArchiveError."""
    found = [place for place in written if place.name == wanted]
    if not found:
        raise ArchiveError(f"there is no {wanted} in it")
    if len(found) > 1:
        raise ArchiveError(f"there are {len(found)} files called {wanted} in it; hand in one")
    return found[0]


def _read(path: Path) -> bytes:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError("it is no ordinary file")
        if status.st_size > MOST_ARCHIVE_BYTES:
            raise ArchiveError(f"it is larger than {MOST_ARCHIVE_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"it cannot be read: {error.strerror}") from None


def _room(packed: int) -> int:
    return min(MOST_BYTES, max(_FREE_BYTES, packed * MOST_RATIO))


def _zipped(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file."""
    left = _room(len(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        _check_count(len(entries))
        for entry in entries:
            shown = printable(entry.filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"{shown} is a link or a device")
            if entry.flag_bits & 1:
                raise ArchiveError(f"{shown} is encrypted")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ArchiveError(f"{shown} is packed in a way that is not read; use plain zip")
            if entry.is_dir():
                continue
            with archive.open(entry) as file:
                content = file.read(left + 1)
            left -= len(content)
            _check_size(left)
            yield entry.filename, content


def _inflated(path: Path, data: bytes) -> bytes:
    """The bytes of the tar itself."""
    if path.name.lower().endswith(".tar"):
        return data
    room = _room(len(data)) + MOST_FILES * 3 * tarfile.BLOCKSIZE
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    tar = inflater.decompress(data, room + 1)
    _check_size(room - len(tar))
    if not inflater.eof:
        raise EOFError
    return tar


def _tarred(data: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        left = MOST_BYTES
        for number, entry in enumerate(archive, 1):
            _check_count(number)
            if not (entry.isreg() or entry.isdir()) or entry.issparse():
                raise ArchiveError(f"{printable(entry.name)} is a link or a device")
            if entry.isdir():
                continue
            file = archive.extractfile(entry)
            assert file is not None, "a regular file of an archive has content"
            content = file.read(left + 1)
            if len(content) != entry.size:
                raise EOFError
            left -= len(content)
            _check_size(left)
            yield entry.name, content


def _check_count(number: int) -> None:
    if number > MOST_FILES:
        raise ArchiveError(f"it holds more than {MOST_FILES} files")


def _check_size(left: int) -> None:
    if left < 0:
        raise ArchiveError(f"its files are larger than {MOST_BYTES >> 20} MiB, or {MOST_RATIO} times as large as it is")


def _checked(files: Iterator[tuple[str, bytes]]) -> list[tuple[PurePosixPath, bytes]]:
    """All files, with names that stay below the folder and differ on every host."""
    found: dict[str, tuple[PurePosixPath, bytes]] = {}
    for name, content in files:
        place = _below(name)
        if any(part in _LEFT_BEHIND or part.startswith("._") for part in place.parts):
            continue
        same = unicodedata.normalize("NFC", str(place)).casefold()
        if same in found:
            raise ArchiveError(f"{printable(name)} is in it twice")
        found[same] = (place, content)
    for same in found:
        above = same.split("/")[:-1]
        if any("/".join(above[:depth]) in found for depth in range(1, len(above) + 1)):
            raise ArchiveError("a file in it is also a folder")
    return list(found.values())


def _below(name: str) -> PurePosixPath:
    shown = printable(name)
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or "\\" in name or ":" in name or not place.parts:
        raise ArchiveError(f"the name {shown} leaves the folder")
    if not name.isprintable() or len(name.encode(errors="replace")) > _NAME_BYTES or len(place.parts) > MOST_DEPTH:
        raise ArchiveError(f"the name {shown} is no plain file name")
    return place
