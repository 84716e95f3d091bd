"""What can go wrong with an access, as exceptions: the guest's own faults, the second level's, and the bus's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.spec.numbering import Flags

if TYPE_CHECKING:
    from hv.machine.idt import Event


class Access(Flags):
    """What an access wants to do; the bits of an EPT entry and of an EPT-violation qualification."""

    READ = 1
    WRITE = 2
    EXECUTE = 4


class GuestFault(Exception):
    """An exception the guest must get. *address* is the linear address of a page fault (CR2), *debug_bits* what a #DB
    sets in DR6."""

    def __init__(self, vector: int, error_code: int | None = None, address: int | None = None,
                 debug_bits: int = 0) -> None:
        super().__init__()
        self.vector, self.error_code, self.address, self.debug_bits = vector, error_code, address, debug_bits

    @property
    def qualification(self) -> int:
        """What a VM exit records beside vector and error code; SDM "Basic VM-Exit Information"."""
        return self.debug_bits or self.address or 0

    def __str__(self) -> str:           # rarely asked for, and a guest may fault a million times
        shown = "" if self.error_code is None else f"({self.error_code:#x})"
        return f"exception {self.vector}{shown}" + ("" if self.address is None else f" at {self.address:#x}")


class TripleFault(Exception):
    """A fault while a double fault was being delivered: the processor shuts down."""


class NestedFault(Exception):
    """Second-level translation refuses a guest-physical address.

    *during_walk* is True when the access was to a guest paging structure; *gva* is None when no linear address exists.
    """

    delivering: Event | None = None     # the event whose delivery it interrupts

    def __init__(self, gpa: int, access: Access, gva: int | None = None, during_walk: bool = False) -> None:
        super().__init__()
        self.gpa, self.access, self.gva, self.during_walk = gpa, access, gva, during_walk

    def __str__(self) -> str:
        return f"guest-physical {self.gpa:#x}: {self.access!r} refused"


class BusError(Exception):
    """An access to system-physical memory that no RAM answers."""

    def __init__(self, spa: int, size: int, limit: int) -> None:
        self.spa, self.size = spa, size
        super().__init__(f"system-physical {spa:#x}+{size:#x} is outside RAM (0..{limit:#x})")
