"""Debug sessions: two byte queues between a partition and who debugs it.

TLFS "Debugging". Partitions with the same DebugChannelId are the two ends of one channel: root gives a child the
number, and itself the same one while it listens. What an end sends waits in the other end's buffer, a page of the
pool of the partition that receives.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hv.hypervisor.errors import HypercallError
from hv.machine.faults import NestedFault
from hv.spec.hv_status import HvStatus
from hv.spec.msrs import Msr
from hv.spec.x86 import PAGE_SIZE
from hv.trace.events import DebugDataPosted

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition

NO_CHANNEL = 0


class DebugEnd:
    """One partition's end of channel *number*, with the *page* that its buffer costs."""

    def __init__(self, partition: Partition, number: int, page: int) -> None:
        self.partition, self.number, self.page = partition, number, page
        self.incoming = bytearray()
        self.peer: DebugEnd | None = None

    def tell(self) -> None:
        """The first byte of the pending page, if the guest named one, is 1 while data wait."""
        gpa = self.partition.debug_msrs.get(Msr.HV_SYNTH_DEBUG_PENDING_BUFFER)
        if gpa:
            with suppress(NestedFault):     # the guest took the page away, and hears of nothing
                self.partition.space.write(gpa, bytes([bool(self.incoming)]))

    def take(self, count: int, keep: bool = False) -> bytes:
        """Up to *count* bytes that came."""
        data = bytes(self.incoming[:count])
        if not keep:
            del self.incoming[:count]
            self.tell()
        return data

    def send(self, data: bytes) -> int:
        """Bytes of *data* that found room at the other end; INACTIVE when there is none."""
        if self.peer is None:
            raise HypercallError(HvStatus.INACTIVE, f"nobody is at the other end of debug channel {self.number}")
        sent = data[: PAGE_SIZE - len(self.peer.incoming)]
        self.peer.incoming += sent
        self.peer.tell()
        if sent and self.partition.trace.listening:
            self.partition.trace.emit(DebugDataPosted(self.peer.partition.id, len(sent)))
        return len(sent)


class DebugChannels:
    """The ends of all channels, by partition."""

    def __init__(self) -> None:
        self._ends: dict[int, DebugEnd] = {}

    def end_of(self, partition: Partition) -> DebugEnd:
        """The end that *partition* has; OPERATION_DENIED when it is not debugged."""
        end = self._ends.get(partition.id)
        if end is None:
            raise HypercallError(HvStatus.OPERATION_DENIED, f"partition {partition.id} has no debug channel")
        return end

    def number_of(self, partition: Partition) -> int:
        """Its DebugChannelId."""
        end = self._ends.get(partition.id)
        return end.number if end else NO_CHANNEL

    def join(self, partition: Partition, number: int) -> None:
        """*partition* is at an end of channel *number* from now on, with nothing in its buffer; 0: of none.

        OBJECT_IN_USE when the channel has two ends; INSUFFICIENT_MEMORY. Then it stays where it was.
        """
        others = [end for end in self._ends.values() if end.number == number and end.partition is not partition]
        if number != NO_CHANNEL and len(others) > 1:
            raise HypercallError(HvStatus.OBJECT_IN_USE, f"debug channel {number} has two ends")
        page = partition.pool.allocate() if number != NO_CHANNEL else 0
        self.leave(partition)
        if number == NO_CHANNEL:
            return
        end = self._ends[partition.id] = DebugEnd(partition, number, page)
        if others:
            end.peer, others[0].peer = others[0], end

    def leave(self, partition: Partition) -> None:
        """*partition* is at no end any more; what waited for it is lost."""
        end = self._ends.pop(partition.id, None)
        if end is not None:
            partition.pool.free(end.page)
            if end.peer is not None:
                end.peer.peer = None

    def inspect(self) -> dict[int, Any]:
        """Plain data: who is at which channel, and how much waits for it."""
        return {id: {"channel": end.number, "waiting": len(end.incoming)} for id, end in sorted(self._ends.items())}
