"""A partition's own time: the reference counter, which its parent may stop, and set while it stands.

TLFS "Partition Reference Counter", partition properties TimeFreeze and ReferenceTime. While time is frozen no VP runs
and no timer of the partition expires; when it goes on, time-stamp counters and timers go on from where they stood, so
the guest sees no gap, and the reference TSC page stays right as it is.
"""

from __future__ import annotations

from hv.machine.clock import TICKS_PER_100NS, VirtualClock


class PartitionTime:
    """The reference counter of one partition, on the machine's *clock*; it starts at 0."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self._origin = clock.time_100ns * TICKS_PER_100NS   # when it was 0: ticks of the machine's clock
        self._frozen_at: int | None = None
        self.stood = 0                  # for how many ticks in all

    @property
    def frozen(self) -> bool:
        """It stands."""
        return self._frozen_at is not None

    @property
    def reference_time(self) -> int:
        """Units of 100 ns."""
        now = self.clock.tsc if self._frozen_at is None else self._frozen_at
        return (now - self._origin) // TICKS_PER_100NS

    def since_origin(self, tsc: int) -> int:
        """Ticks from where the counter was 0 until *tsc* of the machine's clock; negative before."""
        return tsc - self._origin

    def tsc_at(self, reference_time: int) -> int:
        """When the counter reaches *reference_time*, unless it is frozen before: ticks of the machine's clock."""
        return reference_time * TICKS_PER_100NS + self._origin

    def set(self, reference_time: int) -> None:
        """The counter shows *reference_time* (units of 100 ns) now, and the next one when it would have changed."""
        self._origin -= (reference_time - self.reference_time) * TICKS_PER_100NS

    def freeze(self) -> None:
        """Stand, from now on."""
        assert self._frozen_at is None, "time is frozen already"
        self._frozen_at = self.clock.tsc

    def thaw(self) -> int:
        """Go on; for how many ticks it stood."""
        assert self._frozen_at is not None, "time is not frozen"
        stood, self._frozen_at = self.clock.tsc - self._frozen_at, None
        self._origin += stood
        self.stood += stood
        return stood
