"""The report of a whole class while it is made: a file that only grows, and survives a kill at any byte.

Each line is a result under the key of what was graded, with a hash of its own. Half a line at the end (the kill came in
the middle) is cut off; a line that does not fit its hash is set aside and said so, and its submission is graded again.
Nothing is lost, and what is in the file twice is taken once.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Self

import msgspec

from hv.lab.errors import LabError
from hv.lab.result import Result

_HEAD = b"hvlab journal 1\n"
_DIGEST = 16                            # hexadecimal digits of a line's hash


def key_of(*words: str) -> str:
    """The key of a grading: a hash of everything that its result depends on."""
    return hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()


class Journal:
    """The results that are in the file *path*; `add` writes one more. `notes` are lines about the file itself."""

    def __init__(self, path: Path) -> None:
        self.path, self.notes = path, list[str]()
        self.results: dict[str, Result] = {}
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise LabError(f"{path} cannot be written: {reason}", "name a file for --resume") from None
        try:
            self._lock()
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def add(self, key: str, result: Result) -> None:
        """Keep *result*; in one write, so that a reader sees all of it or a torn end."""
        self.results[key] = result
        body = msgspec.json.encode([key, result])
        line = _digest(body) + b" " + body + b"\n"
        view = memoryview(line)
        while view:                     # a full disk may take a part; what is torn is cut off by the next start
            view = view[os.write(self._file, view) :]

    def _lock(self) -> None:
        """Two graders that write one report would grade everything twice."""
        try:
            import fcntl
        except ImportError:             # no POSIX host
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LabError(f"{self.path} is in use by another grading", "wait for it, or name another file") from None

    def _read(self) -> None:
        data = self.path.read_bytes()
        if not data:
            os.write(self._file, _HEAD)
            return
        if not data.startswith(_HEAD):
            if _HEAD.startswith(data):  # the kill came before the first line was whole
                os.ftruncate(self._file, 0)
                os.write(self._file, _HEAD)
                return
            raise LabError(f"{self.path} is no report of `hv grade --resume`", "name another file")
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self.notes.append(f"{self.path.name}: the last line was torn; it is graded again")
            os.ftruncate(self._file, whole)
        for number, line in enumerate(data[len(_HEAD) : whole].splitlines(), 2):
            self._take(number, line)

    def _take(self, number: int, line: bytes) -> None:
        digest, _, body = line.partition(b" ")
        try:
            if digest != _digest(body):
                raise ValueError
            key, result = msgspec.json.decode(body, type=tuple[str, Result])
        except (ValueError, msgspec.MsgspecError):
            self.notes.append(f"{self.path.name}:{number} is damaged; it is graded again")
            return
        self.results[key] = result


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:_DIGEST].encode()
