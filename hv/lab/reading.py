"""Reading a file of a lab, whatever somebody put in its place: a pipe, a device, a link to nowhere, too much."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MOST_BYTES = 1 << 20


class Unreadable(Exception):
    """Why a file cannot be read, in a few words."""


def read(place: Path) -> str:
    """The text in *place*, an ordinary file of at most 1 MiB in UTF-8; Unreadable. It never waits for anybody."""
    data = read_bytes(place)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8 (byte {error.start})") from None


def read_bytes(place: Path) -> bytes:
    """The bytes in *place*; as `read`."""
    try:
        handle = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Unreadable("it is no ordinary file")
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from None
    if len(data) > MOST_BYTES:
        raise Unreadable(f"it is larger than {MOST_BYTES >> 20} MiB")
    return data
