"""Folders for a while, in the host's temporary directory: a killed process leaves them, and the next one clears them.

Whoever makes one holds a lock on it as long as it lives; the system lets go of it however the process ends. So what is
not locked is nobody's. Only our own user's folders are touched, links are not followed, and one that is younger than
a minute is left alone, for its maker may not have come to lock it yet.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:                     # no POSIX host: nothing is locked there, and nothing cleared
    fcntl = None                        # type: ignore[assignment]

_PREFIX = "hvlab."                      # the word of these folders alone
_YOUNG_SECONDS = 60
_held: dict[str, int] = {}              # what this process made: the descriptor with the lock
_swept = False


def make(kind: str) -> str:
    """A new, empty folder of ours alone, `hvlab.KIND-...`; OSError. The first one clears what dead processes left."""
    global _swept
    if not _swept:
        _swept = True
        sweep()
    place = tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-")
    if fcntl is not None:
        lock = os.open(place, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        _held[place] = lock
    return place


@contextmanager
def folder(kind: str) -> Iterator[Path]:
    """A folder as long as the block lasts."""
    place = make(kind)
    try:
        yield Path(place)
    finally:
        remove(place)


def remove(place: str) -> None:
    """Remove a folder that `make` made, with all that is in it."""
    shutil.rmtree(place, ignore_errors=True)
    lock = _held.pop(place, None)
    if lock is not None:
        os.close(lock)


def sweep(where: str | None = None) -> list[str]:
    """Remove our folders below *where* (the temporary directory) whose makers are gone; their names."""
    if fcntl is None:
        return []
    top = where or tempfile.gettempdir()
    try:
        names = sorted(name for name in os.listdir(top) if name.startswith(_PREFIX))
    except OSError:
        return []
    return [name for name in names if _clear(Path(top, name))]


def _clear(place: Path) -> bool:
    """Remove *place* if it is nobody's."""
    try:
        found = place.lstat()
        old = time.time() - found.st_mtime > _YOUNG_SECONDS
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or not old:
            return False
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)
        return True
    except OSError:                     # somebody works in it
        return False
    finally:
        os.close(lock)
