"""Where guests and labs are: beside the package in a checkout, inside it when it was installed from a wheel."""

from __future__ import annotations

from pathlib import Path

import hv
from hv.commands.errors import CommandError
from hv.image.library import guest_names, guests_folder


def labs_folder() -> Path | None:
    """The folder of the labs, or None when they are not there."""
    package = Path(hv.__file__).parent
    return next((folder for folder in (package.parent / "labs", package / "_labs") if folder.is_dir()), None)


def find_guest(name: str) -> Path:
    """The file *name* means: a path, or one of our guests by name (`hello`) or place (`guests/hello.asm`).

    A description of ours goes by its place (`guests/synic.toml`), for a guest may have the same name.

    CommandError when there is nothing of that name.
    """
    if not name.strip() or "\0" in name:
        raise CommandError(f"`{name}` is no file name; expected a file or one of our guests".replace("\0", "?"))
    place = Path(name)
    try:
        if place.exists():
            return place
    except OSError as error:        # a name of 300 letters, or a folder that may not be looked into
        found = f"{name[:60]} cannot be read: {error.strerror}"
        raise CommandError(found, "check the path and its permissions") from None
    folder = guests_folder()
    ours = place.parent in (Path(), Path("guests")) and place.suffix in ("", ".asm", ".toml")
    suffix = place.suffix or ".asm"
    if folder is not None and ours and (folder / f"{place.stem}{suffix}").is_file():
        return folder / f"{place.stem}{suffix}"
    raise CommandError(f"{name} does not exist; expected a file or one of our guests",
                       f"guests: {', '.join(guest_names()) or 'none installed'}")
