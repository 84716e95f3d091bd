"""The MSRs a partition sees beside the processor's own, and how each is declared: `provide(index, ...)`.

TLFS "Synthetic MSRs". `read_msr` and `write_msr` are what an exit calls; #GP(0) (GuestFault 13) for an MSR that is not
there, is not for writing, whose privilege the partition lacks, or whose value breaks a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from hv.machine.faults import GuestFault
from hv.spec.msrs import SYNTHETIC_MSRS
from hv.spec.x86 import Vector

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

Read = Callable[["VirtualProcessor", int], int]
Write = Callable[["VirtualProcessor", int, int], None]


class Provided(NamedTuple):
    """One MSR: the privilege it takes, how to read and how to write it; None where the access is #GP."""

    privilege: int
    read: Read | None
    write: Write | None


_ABSENT = Provided(0, None, None)
MSRS: dict[int, Provided] = dict.fromkeys(SYNTHETIC_MSRS, _ABSENT)
OURS = MSRS.keys()          # the MSRs that we answer for, be it with #GP


def provide(index: int, read: Read | None = None, write: Write | None = None, *, privilege: int = 0) -> None:
    """The MSR *index* is there, for partitions that have *privilege*; TypeError when it was before."""
    if MSRS.get(index, _ABSENT) is not _ABSENT:
        raise TypeError(f"MSR {index:#x} is provided twice")
    MSRS[int(index)] = Provided(int(privilege), read, write)


def read_msr(vp: VirtualProcessor, index: int) -> int:
    """The 64-bit value RDMSR gives; GuestFault(13, 0)."""
    privilege, read, _ = MSRS.get(index, _ABSENT)
    if read is None or vp.partition.privileges & privilege != privilege:
        raise refuse()
    return read(vp, index)


def write_msr(vp: VirtualProcessor, index: int, value: int) -> None:
    """Do what WRMSR of *value* (64 bits) does; GuestFault(13, 0), and nothing done."""
    privilege, _, write = MSRS.get(index, _ABSENT)
    if write is None or vp.partition.privileges & privilege != privilege:
        raise refuse()
    write(vp, index, value)


def read_unchecked(vp: VirtualProcessor, index: int) -> int:
    """Like `read_msr`, whatever privileges the partition has: for its parent."""
    read = MSRS.get(index, _ABSENT).read
    if read is None:
        raise refuse()
    return read(vp, index)


def write_unchecked(vp: VirtualProcessor, index: int, value: int) -> None:
    """Like `write_msr`, whatever privileges the partition has: for its parent."""
    write = MSRS.get(index, _ABSENT).write
    if write is None:
        raise refuse()
    write(vp, index, value)


def refuse() -> GuestFault:
    """The #GP(0) of a refused access."""
    return GuestFault(Vector.GP, 0)
