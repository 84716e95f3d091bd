"""A file for the user, over nothing that was there unless that is asked for."""

from __future__ import annotations

from pathlib import Path

from hv.debug.errors import DebugError
from hv.printable import printable
from hv.whole_file import put


def write_file(name: str, content: str | bytes, force: bool = False) -> str:
    """Write *content* to the file called *name*, whole or not at all; the name as it is shown. DebugError.

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
        put(place, content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"), force)
    except FileExistsError:
        raise DebugError(f"{shown} is there already", "name another, or add --force to replace it") from None
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        raise DebugError(f"{shown} cannot be written: {found}", "name a file in an existing folder") from None
    return shown
