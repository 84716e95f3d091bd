"""What a change may name in a machine, and how it is refused: in one line, and nothing was changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.partitions.partition import Partition, PartitionState
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.faults import Access, GuestFault
from hv.machine.ram import pages_of
from hv.platform import Box
from hv.spec.x86 import PAGE_SHIFT, PAGE_SIZE


class ChangeRefused(ValueError):
    """The machine does not take the change, and nothing was changed; the message is one line."""


def partition_of(machine: Box, number: int) -> Partition:
    """The partition of that id; ChangeRefused."""
    found = machine.hypervisor.partitions.get(number)
    if found is None:
        raise ChangeRefused(f"there is no partition {number}")
    return found


def vp_of(machine: Box, number: int, index: int) -> VirtualProcessor:
    """VP *index* of a partition whose program is machine code; ChangeRefused."""
    partition = partition_of(machine, number)
    vp = partition.vps.get(index)
    if vp is None:
        raise ChangeRefused(f"partition {number} has no vp {index}")
    if not isinstance(vp, VirtualProcessor):
        raise ChangeRefused(f"partition {number} runs no machine code: its vp has no registers that act")
    with in_words():
        partition.require_state(PartitionState.ACTIVE)      # the registers go with the engine
    return vp


def spans(partition: Partition, gpa: int, size: int) -> list[tuple[int, int, Access]]:
    """(spa, length, rights) of the parts of *size* bytes at *gpa*, overlays included, whatever the rights are.

    ChangeRefused where there is no RAM.
    """
    with in_words():
        space = partition.space
    found = []
    for at, length in pages_of(gpa, size):
        mapping = space.visible(at >> PAGE_SHIFT)
        if mapping is None or mapping.spa >= partition.memory.size:
            what = "is not mapped" if mapping is None else "is a device's register"
            raise ChangeRefused(f"guest-physical {at:#x} of partition {partition.id} {what}")
        found.append((mapping.spa | at % PAGE_SIZE, length, mapping.rights))
    return found


@contextmanager
def in_words(what: str = "this") -> Iterator[None]:
    """Where the hypervisor or the processor refuses *what*, it is a ChangeRefused."""
    try:
        yield
    except (HypercallError, GuestFault) as error:
        fault = error if isinstance(error, GuestFault) else error.__cause__
        if isinstance(fault, GuestFault):
            raise ChangeRefused(f"{what}: the guest's own write of it would be exception {fault.vector}") from None
        raise ChangeRefused(str(error)) from None


def fits(value: int, width: int) -> None:
    """ChangeRefused unless *value* is a number of *width* bits."""
    if not 0 <= value < 1 << width:
        found = f"{value:#x}" if value.bit_length() <= 2 * width else f"a number of {value.bit_length()} bits"
        raise ChangeRefused(f"{found} is out of range 0..2^{width}-1")
