"""The INTR line of a partition: where its parent's interrupt controller, a pair of 8259s say, speaks to its processors.

An interrupt of type ExtInt has no destination. It stands on the line until a VP takes it: one whose LINT0 entry says
ExtINT, or whose APIC is disabled, so that LINT0 is INTR itself; SDM "Local Interrupts". That VP has acknowledged it,
and the line takes no other one until the parent has cleared it. TLFS "Virtual Interrupt Types".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hv.hypervisor.errors import HypercallError
from hv.spec.hv_status import HvStatus

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.vps.vp import VirtualProcessor


class ExternalLine:
    """The line of *partition*. There is one, so it costs nothing that grows."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self.vector: int | None = None      # what stands there
        self.level = False                  # it can be withdrawn
        self.acknowledged = False           # the last one was taken, and not cleared yet

    def raise_vector(self, vector: int, level: bool) -> None:
        """*vector* stands on the line, instead of what nobody has taken yet; ACKNOWLEDGED before the last is cleared.
        """
        self._require_cleared()
        self.level = level
        self._put(vector)

    def lower(self) -> None:
        """A level-triggered interrupt that nobody has taken yet is withdrawn; ACKNOWLEDGED when it was taken."""
        self._require_cleared()
        if self.level:
            self._put(None)

    def acknowledge(self) -> int:
        """A VP takes what stands there: the vector."""
        assert self.vector is not None, "nothing stands on the line"
        vector, self.acknowledged = self.vector, True
        self._put(None)
        return vector

    def clear(self) -> None:
        """The next one may come; NOT_ACKNOWLEDGED when none was taken."""
        if not self.acknowledged:
            raise HypercallError(HvStatus.NOT_ACKNOWLEDGED, "no external interrupt was acknowledged")
        self.acknowledged = False

    def reset(self) -> None:
        """As after the partition's creation."""
        self.acknowledged = False
        self._put(None)

    def show_to(self, vp: VirtualProcessor) -> None:
        """A VP has come: it sees the line as the others do."""
        if self.vector is not None:
            vp.show_external_line(True)

    def _require_cleared(self) -> None:
        if self.acknowledged:
            raise HypercallError(HvStatus.ACKNOWLEDGED, "the last external interrupt was acknowledged and not cleared")

    def _put(self, vector: int | None) -> None:
        before, self.vector = self.vector, vector
        if (before is None) is not (vector is None):
            for _, vp in sorted(self._partition.vps.items()):
                vp.show_external_line(vector is not None)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"vector": self.vector, "level": self.level, "acknowledged": self.acknowledged}
