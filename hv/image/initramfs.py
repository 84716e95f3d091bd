"""An initramfs with one program in it, for a Linux kernel: a cpio archive "newc".

Linux documentation, "initramfs buffer format". The program is busybox, which is every command of a small system; `INIT`
is the first process, and ends in a shell on the console.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

DIRECTORY, FILE, CHARACTER_DEVICE = 0o40755, 0o100755, 0o20600
CONSOLE = 5, 1                  # major and minor
INIT = b"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin PS1='hvlab# '
exec setsid cttyhack sh
"""


class Entry(NamedTuple):
    """One file of the archive; *mode* is its kind and rights, as stat(2) has them."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def busybox(program: bytes) -> bytes:
    """The archive that ends in a shell on the console; *program* is busybox."""
    folders = [Entry(name, DIRECTORY) for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp")]
    return archive([*folders, Entry("dev/console", CHARACTER_DEVICE, device=CONSOLE),
                    Entry("bin/busybox", FILE, program), Entry("init", FILE, INIT)])


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive as bytes."""
    packed = [_packed(number, entry) for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], 1)]
    return b"".join(packed)


def _packed(number: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _aligned(header + name) + _aligned(entry.data)


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
