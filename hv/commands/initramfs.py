"""Make the initial file system of a Linux kernel out of one program, busybox: it ends in a shell on the console.

BUSYBOX is the program, linked statically, as Debian's package busybox-static has it. `hv run vmlinuz --initrd OUT
--cmdline console=ttyS0 --interactive` starts a kernel with it; docs/pc.md says where to have both from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hv.commands.errors import TRUE, CommandError

LARGEST_BYTES = 64 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hv initramfs`."""
    parser.add_argument("busybox", metavar="BUSYBOX", type=Path, help="the program: /bin/busybox of busybox-static")
    parser.add_argument("out", metavar="OUT", type=Path, help="the archive that is written: initramfs.cpio")


def main(args: argparse.Namespace) -> int:
    """Write it; CommandError."""
    from hv.image import initramfs
    from hv.image.elf import check_static
    from hv.image.errors import ImageError
    from hv.whole_file import put

    program = _content(args.busybox)
    try:
        check_static(program, args.busybox.name)
    except ImageError as error:
        raise CommandError(error.message, "expected busybox, as the package busybox-static has it") from None
    content = initramfs.busybox(program)
    try:
        put(args.out, content, replace=False)
    except FileExistsError:
        raise CommandError(f"{args.out} is there already", "name a new file") from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{args.out} cannot be written: {getattr(error, 'strerror', None) or error}",
                           "name a file in a folder that exists and may be written to") from None
    print(f"{args.out}: {len(content)} bytes")
    return TRUE


def _content(place: Path) -> bytes:
    try:
        with place.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise CommandError(f"{place} cannot be read: {getattr(error, 'strerror', None) or error}",
                           "name the program; on Debian it is /bin/busybox of the package busybox-static") from None
    if len(content) > LARGEST_BYTES:
        raise CommandError(f"{place.name} is larger than {LARGEST_BYTES >> 20} MiB", "is it busybox?")
    return content
