"""The reference TSC page: the partition's reference counter without an exit.

TLFS "Partition Reference TSC Page". A guest computes (TSC * scale >> 64) + offset, and has exactly what
HV_TIME_REF_COUNT would tell it at that moment. That holds while every VP's TSC is the same number of 100 ns ahead of
the machine's. When a VP has set its TSC to anything else the sequence is 0, which sends guests to the MSR; once they
agree again it is a new number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hv.hypervisor.memory.gpa_space import Overlay
from hv.hypervisor.synic.synic import cover_or_fault
from hv.machine.clock import TICKS_PER_100NS, TSC_HZ
from hv.machine.faults import Access
from hv.spec.msrs import HvReferenceTsc, HvReferenceTscPage
from hv.trace.events import OverlayMoved

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition

# Rounded up: rounded down, the product would be one too small at each full unit. The excess adds up to a unit when a
# TSC has counted for 1.4 years; by then it is not used.
SCALE = -(-(10**7 << 64) // TSC_HZ)
LATEST_TSC = 1 << 55
UNUSABLE = 0                    # the sequence that says so
_LAST_SEQUENCE = 0xFFFF_FFFE    # 0xFFFFFFFF is avoided as well: it was the word for unusable in early versions
_NAME = "reference TSC page"


class ReferenceTsc:
    """The page of *partition*, at *spa*, and HV_X64_MSR_REFERENCE_TSC."""

    def __init__(self, partition: Partition, spa: int) -> None:
        self.partition, self.spa = partition, spa
        self.msr = HvReferenceTsc()
        self.sequence = UNUSABLE
        self._last = 0                          # sequence that was used
        self._offset: int | None = None
        self._closed = False
        self._overlay = Overlay(_NAME, spa, Access.READ)
        self.follow()

    def set_msr(self, value: int) -> None:
        """Show the page where *value* says, or nowhere; reserved bits are kept. #GP outside the GPA space."""
        old, new = self.msr, HvReferenceTsc(value)
        if (old.enable, old.gpfn) != (new.enable, new.gpfn) and (old.enable or new.enable):
            if new.enable:
                cover_or_fault(self.partition.space, new.gpfn, self._overlay)
            if old.enable:
                self.partition.space.uncover(old.gpfn, self._overlay)
            if self.partition.trace.listening:
                self.partition.trace.emit(OverlayMoved(_NAME, new.gpfn << 12 if new.enable else None))
        self.msr = new

    def close(self) -> None:
        """The partition gives its pages up."""
        self.set_msr(0)
        self._closed = True

    def follow(self) -> None:
        """A VP has come, gone, or set its TSC: the page says what is true now."""
        offset = self._offset_of_all()
        if self._closed or (offset == self._offset and self.sequence != UNUSABLE):
            return
        self._offset = offset
        self.sequence = UNUSABLE
        if offset is not None:
            self.sequence = self._last = self._last % _LAST_SEQUENCE + 1
        self._write()

    def _offset_of_all(self) -> int | None:
        """What to add to the scaled TSC of any VP; None when there is no such number."""
        partition = self.partition
        ahead = {vp.tsc_offset for vp in partition.vps.values()} or {0}
        ticks = ahead.pop()
        at_zero = partition.time.since_origin(-ticks)
        if ahead or at_zero % TICKS_PER_100NS or not 0 <= partition.clock.tsc + ticks < LATEST_TSC:
            return None
        return at_zero // TICKS_PER_100NS

    def _write(self) -> None:
        """No VP of the partition runs meanwhile, so nobody sees half of it."""
        page = HvReferenceTscPage(tsc_sequence=self.sequence, tsc_scale=SCALE, tsc_offset=self._offset or 0)
        self.partition.memory.write(self.spa, page.pack())

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {**self.msr.inspect(), "sequence": self.sequence, "scale": SCALE, "offset": self._offset}
