"""What a parent can have in its own memory of a VP of its child; TLFS "HvCallMapVpStatePage".

A page of the child's pool that the parent sees at a place of its GPA space. `register_page.py` fills one with
registers; here is the other one: the VP's last intercept message, which the parent then finds without taking a message
from a slot that is everybody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.memory.gpa_space import READ_WRITE, Overlay
from hv.spec.synic import HvMessage, HvMessageHeader, HvMessageType
from hv.spec.x86 import PAGE_SHIFT

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.vps.vp import VirtualProcessor


class StatePage:
    """One of *vp*, in a page of its partition's pool, which *reader* sees at page number *place*.

    INSUFFICIENT_MEMORY when the pool is empty, or *reader*'s tables cannot grow.
    """

    name = "state"

    def __init__(self, vp: VirtualProcessor, reader: Partition, place: int | None) -> None:
        self.vp, self.reader = vp, reader
        self.spa = vp.partition.pool.allocate()
        self.place = self.spa >> PAGE_SHIFT if place is None else place
        self._overlay = Overlay(f"{self.name} of vp {vp.index} of partition {vp.partition.id}", self.spa, READ_WRITE)
        try:
            reader.space.cover(self.place, self._overlay)
        except BaseException:
            vp.partition.pool.free(self.spa)
            raise

    def close(self) -> None:
        """It is gone from the reader's memory, and the page is the pool's again."""
        self.reader.space.uncover(self.place, self._overlay)
        self.vp.partition.pool.free(self.spa)


class MessagePage(StatePage):
    """The last intercept message of a VP, as it would stand in a slot: `HvMessage`. It comes by the SynIC as well.

    # Simplified: of a VP that waits already when the page is mapped, it has the next one.
    """

    name = "intercept message"

    def show(self, message_type: HvMessageType, payload: bytes) -> None:
        """The VP has this message for its parent."""
        header = HvMessageHeader(message_type=message_type, payload_size=len(payload), sender=self.vp.partition.id)
        self.reader.memory.write(self.spa, HvMessage(header=header, payload=payload).pack())
