"""What a kernel is handed when it starts, as arguments and as keys of a machine's description: files become bytes here.

The arguments are those of `hv run`, `hv repl` and `hv step` alike; `of_arguments` gives the keys of `machine.toml` that
they are another way to write.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hv.commands.errors import CommandError
from hv.image.model import BootOptions, Module

KEYS: dict[str, type] = {"pc": bool, "viommu": bool, "unpack": bool, "cmdline": str, "initrd": str, "modules": list}
ARGUMENTS = ("pc", "viommu", "no_unpack", "cmdline", "initrd", "module")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what is handed to a kernel; `board.py` has those of the board under it."""
    parser.add_argument("--cmdline", metavar="TEXT", help='a kernel\'s command line: "console=ttyS0 quiet"')
    parser.add_argument("--initrd", metavar="FILE", help="a Linux kernel's initial file system: initramfs.cpio.gz")
    parser.add_argument("--module", metavar="FILE", action="append",
                        help='a file for a Multiboot kernel, with its text: "disk.img root"; repeatable')
    parser.add_argument("--no-unpack", action="store_true", help="let a Linux kernel unpack itself, which is slower")


def given(args: argparse.Namespace) -> str:
    """The first of these arguments that was given, as it is written; nothing when none was."""
    return next((f"--{name.replace('_', '-')}" for name in ARGUMENTS if getattr(args, name, None)), "")


def of_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The keys that the arguments stand for; those that were not given are left out."""
    keys = {"pc": getattr(args, "pc", False) or None, "viommu": getattr(args, "viommu", False) or None,
            "unpack": False if getattr(args, "no_unpack", False) else None,
            "cmdline": getattr(args, "cmdline", None), "initrd": getattr(args, "initrd", None),
            "modules": getattr(args, "module", None)}
    return {key: value for key, value in keys.items() if value is not None}


def read(keys: Mapping[str, Any], most_bytes: int, folder: Path = Path()) -> BootOptions:
    """The options of a description's *keys*, whose files are in *folder* unless they say where, and not larger than
    *most_bytes* each; CommandError."""
    initrd = keys.get("initrd")
    return BootOptions(keys.get("cmdline", ""), b"" if initrd is None else _content(folder, initrd, most_bytes),
                       tuple(_modules(keys.get("modules", ()), most_bytes, folder)))


def _modules(texts: Sequence[Any], most_bytes: int, folder: Path) -> list[Module]:
    """Each text is a file, and what else the kernel is told of it behind a space."""
    found = []
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise CommandError(f"a module is {text!r}; expected a file, and perhaps a text behind it",
                               'such as "disk.img root"')
        name = text if _is_file(folder, text) else text.split()[0]
        found.append(Module(_content(folder, name, most_bytes), text))
    return found


def _is_file(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except (OSError, ValueError):
        return False


def _content(folder: Path, name: str, most_bytes: int) -> bytes:
    try:
        with (folder / name).open("rb") as file:
            content = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CommandError(f"{name or 'a file without a name'} cannot be read: {reason}",
                           "check the path and its permissions") from None
    if not content:
        raise CommandError(f"{name} is empty", "leave it out, or name another file")
    if len(content) > most_bytes:
        raise CommandError(f"{name} is larger than the VM's memory, {most_bytes >> 20} MiB", "give it more")
    return content
