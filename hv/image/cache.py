"""Assembled programs kept on disk, so that a second run does not start the assembler.

The key is the SHA-256 of every statement (included files too), the options and the version; the file holds JSON and
its own digest. A missing, damaged or unwritable cache costs time and nothing else. HVLAB_CACHE names another folder;
set to nothing it turns the cache off.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

from hv import __version__
from hv.image.source import Statement

FORMAT = 1                  # raised when the assembler's output changes
MAX_FILE_BYTES = 64 << 20
T = TypeVar("T")


def key(statements: list[Statement], name: str, defines: dict[str, int], bits: int, origin: int | None) -> str:
    """The name under which a program is kept, 64 hexadecimal digits."""
    lines = [(s.file, s.line, s.text, s.labels) for s in statements]
    text = json.dumps([FORMAT, __version__, _sources(), name, sorted(defines.items()), bits, origin, lines])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _sources() -> list[int]:
    """When the assembler's own files changed last, so that an edit of them is never answered from the cache."""
    return sorted(path.stat().st_mtime_ns for path in Path(__file__).parent.glob("*.py"))


def folder() -> Path | None:
    """Where programs are kept; None when the cache is off."""
    named = os.environ.get("HVLAB_CACHE")
    if named is not None:
        return Path(named) if named else None
    from platformdirs import user_cache_path

    return user_cache_path("hvlab", appauthor=False) / "programs"


def load(name: str, kind: type[T]) -> T | None:
    """What was kept under *name*, or None when there is nothing sound."""
    try:
        place = folder()
        if place is None:
            return None
        with (place / f"{name}.json").open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
        digest, _, body = data.partition(b"\n")
        if digest != hashlib.sha256(body).hexdigest().encode():
            return None
        return msgspec.json.decode(body, type=kind, strict=False)
    except (OSError, ValueError, RuntimeError, msgspec.MsgspecError):
        return None


def store(name: str, value: object) -> None:
    """Keep *value* under *name*, or do nothing when that is not possible."""
    try:
        place = folder()
        if place is None:
            return
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        body = msgspec.json.encode(value)
        handle, temporary = tempfile.mkstemp(dir=place, prefix="new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            os.replace(temporary, place / f"{name}.json")
        except OSError:
            os.unlink(temporary)
    except (OSError, ValueError, RuntimeError):
        return
