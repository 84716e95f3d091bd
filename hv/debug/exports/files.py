"""A file that is written whole or not at all, and over nothing that was there unless that is asked for."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from hv.debug.errors import DebugError
from hv.printable import printable


def write_file(name: str, text: str, force: bool = False) -> str:
    """Write *text* to the file called *name* by way of a temporary one beside it; the name as it is shown. DebugError.

    What is there already is replaced when *force* says so, and if it is a file.
    """
    shown, place = printable(name), Path(name)
    try:
        if place.is_dir():
            raise DebugError(f"{shown} is a folder", "name a file in it")
        if place.exists() and not place.is_file():
            raise DebugError(f"{shown} is no ordinary file", "name another")
        if place.exists() and not force:
            raise DebugError(f"{shown} is there already", "name another, or add --force to replace it")
        _put(place, text.encode("utf-8", "backslashreplace"), force)
    except FileExistsError:
        raise DebugError(f"{shown} is there already", "name another, or add --force to replace it") from None
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        raise DebugError(f"{shown} cannot be written: {found}", "name a file in an existing folder") from None
    return shown


def _put(place: Path, data: bytes, force: bool) -> None:
    handle, new = tempfile.mkstemp(dir=place.parent, prefix=".export-")
    try:
        with open(handle, "wb") as file:
            file.write(data)
        os.chmod(new, 0o644)
        if force or not hasattr(os, "link"):
            os.replace(new, place)
            return
        os.link(new, place)         # fails when somebody made it meanwhile, which `replace` would not
        os.unlink(new)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
