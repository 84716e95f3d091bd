"""The firmware configuration device: what a program that knows no boot protocol can ask of the machine around it.

QEMU "Firmware Configuration (fw_cfg) Device", the interface by ports: a 16-bit write to 0x510 selects an item, reads of
0x511 give its bytes one by one, zeroes behind its end. Items from FIRST_FILE on are files, which FILE_DIRECTORY names.
# Simplified: there is no DMA interface, and what is written to an item is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hv.spec.pc import FW_CFG

SIGNATURE, ID, RAM_SIZE, PROCESSORS, MOST_PROCESSORS, FILE_DIRECTORY = 0x00, 0x01, 0x03, 0x05, 0x0F, 0x19
INITRD_SIZE, INITRD_DATA, COMMAND_LINE_SIZE, COMMAND_LINE_DATA = 0x0B, 0x12, 0x14, 0x15
FIRST_FILE, LONGEST_NAME = 0x20, 55
TRADITIONAL = 1                         # of ID: the interface by ports


class FwCfg:
    """The device. `provide` says what is in it."""

    def __init__(self) -> None:
        self.items: dict[int, bytes] = {}
        self.files: dict[str, int] = {}         # name -> item
        self.reset()

    def reset(self) -> None:
        """The first item is selected."""
        self.selected = self.offset = 0

    def provide(self, items: Mapping[int, bytes], files: Mapping[str, bytes]) -> None:
        """From now on it has these items, those that every machine has, and *files*, in the order of their names."""
        self.files = {name: FIRST_FILE + number for number, name in enumerate(sorted(files))}
        directory = b"".join(_entry(name, len(files[name]), item) for name, item in self.files.items())
        self.items = {SIGNATURE: b"QEMU", ID: TRADITIONAL.to_bytes(4, "little"), **items,
                      FILE_DIRECTORY: len(files).to_bytes(4, "big") + directory,
                      **{item: files[name] for name, item in self.files.items()}}

    def read_port(self, port: int, size: int) -> int:
        """The next bytes of the item; the selector cannot be read."""
        if port == FW_CFG.start:
            return 0
        data = self.items.get(self.selected, b"")[self.offset : self.offset + size]
        self.offset += size
        return int.from_bytes(data, "little")

    def write_port(self, port: int, size: int, value: int) -> None:
        """Select an item, from its beginning."""
        if port == FW_CFG.start:
            self.selected, self.offset = value & 0x3FFF, 0      # bits 15:14: written to, and of the architecture

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"selected": self.selected, "offset": self.offset,
                "items": {f"{item:#x}": len(data) for item, data in sorted(self.items.items())}, "files": self.files}


def _entry(name: str, size: int, item: int) -> bytes:
    """One file of the directory; numbers are big-endian in it."""
    assert len(name) <= LONGEST_NAME, f"{name} is too long a name for a file"
    return size.to_bytes(4, "big") + item.to_bytes(2, "big") + bytes(2) + name.encode().ljust(LONGEST_NAME + 1, b"\0")
