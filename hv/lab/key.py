"""The course key: 32 random bytes in a file that only its owner reads. It draws variants and signs receipts."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from pathlib import Path

from hv.lab.errors import LabError

BYTES = 32
_LARGEST = 1000                 # bytes of a key's file


def make_key(place: Path) -> str:
    """A new key in *place*, which must not be there; its name (`key_name`)."""
    key = secrets.token_bytes(BYTES)
    try:
        handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise LabError(f"{place} is already there, and is left as it is",
                       "a new key would make other variants and refuse every receipt; name another file") from None
    except (OSError, ValueError) as error:
        raise LabError(f"{place} cannot be written: {_reason(error)}", "name another file") from None
    with open(handle, "w", encoding="ascii") as file:
        file.write(key.hex() + "\n")
    return key_name(key)


def read_key(place: Path) -> bytes:
    """The key in *place*; LabError when it is none, or when others may read it."""
    try:
        with place.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_LARGEST).decode("ascii", "replace").strip()
    except (OSError, ValueError) as error:
        raise LabError(f"{place} cannot be read: {_reason(error)}", "`hv grade keygen FILE` makes a key") from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise LabError(f"{place} can be read by others, so it is no secret", f"chmod 600 {place}")
    if not re.fullmatch(f"[0-9a-f]{{{2 * BYTES}}}", text):
        raise LabError(f"{place} is no course key; expected {2 * BYTES} hexadecimal digits",
                       "`hv grade keygen FILE` makes a key")
    return bytes.fromhex(text)


def key_name(key: bytes) -> str:
    """Eight bytes by which a key is known and not told."""
    return hashlib.sha256(b"hvlab course key\0" + key).hexdigest()[:16]


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
