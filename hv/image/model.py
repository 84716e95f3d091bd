"""What every kind of guest program becomes: segments at guest-physical addresses, an entry and a mode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Segment(NamedTuple):
    """*data* at guest-physical address *gpa*, with the rights its file asks for."""

    gpa: int
    data: bytes
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Image:
    """A program ready to be copied into a partition. Segments are sorted by address and never overlap."""

    kind: str                                                   # "assembly", "elf" or "flat"
    segments: list[Segment]
    entry: int                                                  # guest-physical; below 64 KiB when bits is 16
    bits: int                                                   # 16 real mode, 32 flat protected mode, 64 long mode
    symbols: dict[str, int] = field(default_factory=dict)       # name -> address
    lines: dict[int, int] = field(default_factory=dict)         # address -> line of the source file
    places: dict[int, str] = field(default_factory=dict)        # address -> "file:line"

    @property
    def end(self) -> int:
        """The first guest-physical address behind the last segment."""
        return max((segment.gpa + len(segment.data) for segment in self.segments), default=0)
