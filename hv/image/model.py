"""What every kind of guest program becomes: segments at guest-physical addresses, an entry and a mode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

PC_KINDS = frozenset({"linux", "multiboot"})


class Module(NamedTuple):
    """A file that is put into memory for a kernel, and what it is told of it: usually the file's name, and words."""

    content: bytes
    text: str


class BootOptions(NamedTuple):
    """What a boot loader hands to a program beside its memory map: a command line, files in memory."""

    command_line: str = ""
    initrd: bytes = b""
    modules: tuple[Module, ...] = ()


NO_OPTIONS = BootOptions()


class Segment(NamedTuple):
    """*data* at guest-physical address *gpa*, with the rights its file asks for."""

    gpa: int
    data: bytes
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A program ready to be copied into a partition. Segments are sorted by address and never overlap."""

    kind: str                                                   # "assembly", "elf", "flat", "linux", "multiboot"
    segments: list[Segment]
    entry: int                                                  # guest-physical; below 64 KiB when bits is 16
    bits: int                                                   # 16 real mode, 32 flat protected mode, 64 long mode
    symbols: dict[str, int] = field(default_factory=dict)       # name -> address
    lines: dict[int, int] = field(default_factory=dict)         # address -> line of the source file
    places: dict[int, str] = field(default_factory=dict)        # address -> "file:line"
    setup: bytes = b""                                          # what a kernel's file says of its boot
    needs: int = 0                                              # memory up to there, beyond its segments

    @property
    def wants_pc(self) -> bool:
        """It is a program for a PC, and finds nothing that it knows on a board that is less."""
        return self.kind in PC_KINDS

    @property
    def end(self) -> int:
        """The first guest-physical address behind all that it needs."""
        return max(self.needs, *(segment.gpa + len(segment.data) for segment in self.segments), 0)
