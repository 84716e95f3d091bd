"""The guests that come with hvlab: in guests/ of the source tree, or inside the installed package."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import hv


@cache
def guests_folder() -> Path | None:
    """The folder of the guests, or None when they are not there (an incomplete installation)."""
    package = Path(hv.__file__).parent
    for folder in (package.parent / "guests", package / "_guests"):
        if (folder / "lib").is_dir():
            return folder
    return None


def guest_names() -> list[str]:
    """The names of the guests, sorted, without suffix."""
    folder = guests_folder()
    return sorted(path.stem for path in folder.glob("*.asm")) if folder else []
