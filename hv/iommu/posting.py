"""Posted interrupts: an entry that names a place in memory where the vector is noted, instead of a processor.

A descriptor has a bit for each of 256 vectors, and says who is to be notified. A virtual processor's descriptor so
collects its devices' interrupts while it does not run; while it does, the notification vector makes its processor look.
VT-d "Interrupt Posting". What the notified processor does is `hv/vmx/apic/`.
"""

from __future__ import annotations

from typing import NamedTuple

from hv.iommu.memory import UnitMemory
from hv.machine.faults import BusError
from hv.spec.vtd import (
    PID_CONTROL_OFFSET,
    PID_SIZE,
    FaultReason,
    PidControl,
    PostedIrte,
    XapicIrteDestination,
)


class Posting(NamedTuple):
    """What an entry in posted format asks for."""

    descriptor: int             # its address
    vector: int
    urgent: bool


class DescriptorFault(Exception):
    """The descriptor cannot be used, for *reason*."""

    def __init__(self, reason: FaultReason) -> None:
        self.reason = reason
        super().__init__(reason.text)


def posting_of(entry: PostedIrte) -> Posting:
    """Of a sound entry."""
    return Posting(entry.descriptor, entry.vector, bool(entry.urgent))


def post(memory: UnitMemory, posting: Posting, extended: bool) -> tuple[int, int] | None:
    """Note the vector. The notification to send, as (vector, destination), or None; DescriptorFault.

    A destination has 32 bits when *extended* (EIME).
    """
    try:
        raw = memory.read(posting.descriptor, PID_SIZE)
        control = PidControl(int.from_bytes(raw[PID_CONTROL_OFFSET : PID_CONTROL_OFFSET + 8], "little"))
        if control.raw & PidControl.RESERVED or (
                not extended and control.destination & XapicIrteDestination.RESERVED):
            raise DescriptorFault(FaultReason.DESCRIPTOR_RESERVED)
        at, bit = divmod(posting.vector, 8)
        memory.write(posting.descriptor + at, bytes([raw[at] | 1 << bit]))
        if control.outstanding or (control.suppressed and not posting.urgent):
            return None
        control.outstanding = 1
        memory.write(posting.descriptor + PID_CONTROL_OFFSET, control.raw.to_bytes(8, "little"))
    except BusError:
        raise DescriptorFault(FaultReason.DESCRIPTOR_ACCESS) from None
    return control.vector, control.destination if extended else XapicIrteDestination(control.destination).id
