"""A file that is written whole or not at all, by way of a temporary one beside it."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

_LONGEST = 80           # characters of the name that the temporary one has too


def put(place: Path, data: bytes, replace: bool = True) -> None:
    """*data* in *place*, in one step. OSError; FileExistsError when something is there that is not to be replaced."""
    handle, new = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name[:_LONGEST]}.")
    try:
        with open(handle, "wb") as file:
            file.write(data)
        os.chmod(new, 0o644)
        if replace or not hasattr(os, "link"):
            os.replace(new, place)
            return
        os.link(new, place)         # fails when somebody made it meanwhile, which `replace` would not
        os.unlink(new)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
