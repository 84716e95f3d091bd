"""An initramfs with one program in it: a cpio archive "newc", as "initramfs buffer format" of Linux says."""

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
    """One file of the archive."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def busybox(program):
    """The archive that ends in a shell on the console; *program* is busybox."""
    folders = [Entry(name, DIRECTORY) for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp")]
    return archive([*folders, Entry("dev/console", CHARACTER_DEVICE, device=CONSOLE),
                    Entry("bin/busybox", FILE, program), Entry("init", FILE, INIT)])


def archive(entries):
    """The archive as bytes."""
    packed = [_packed(number, entry) for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], 1)]
    return b"".join(packed)


def _packed(number, entry):
    name = entry.name.encode() + b"\0"
    fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _aligned(header + name) + _aligned(entry.data)


def _aligned(data):
    return data + bytes(-len(data) % 4)
