"""Who may run, and who shall: the ready VPs of one logical processor by partition, with what each has had of it.

A partition's VPs take turns in the order in which they became ready. Between partitions the processor is shared by
weight: each has a *passed* time, its work divided by its weight, and the one that has passed least comes next. A cap
and a reserve count anew in each period of virtual time. TLFS "CPU Management".

Plain state and arithmetic, in whole numbers: no clock, no engine, so a choice depends on nothing but what happened.
# Simplified: weight, cap and reserve are those of each VP of the partition; the Windows scheduler's groups are absent.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

PERIOD_TICKS = 4_000_000        # 2 ms: what is left of a cap or a reserve ends with it
WHOLE = 65_536                  # of a processor, in the units of cap and reserve
_SCALE = 1_000_000


class Schedulable(Protocol):
    """What the scheduler asks of a VP. Its partition's `schedule` may change at any time."""

    partition: Any
    index: int
    halted: bool
    prompt: bool                # its turns end by themselves and come before all others: root's program

    running: bool
    ran: int                    # ticks, in the turns that are over

    @property
    def runnable(self) -> bool: ...

    @property
    def tsc_reads(self) -> int: ...

    def run(self, until: int) -> None:
        """Run until the clock says *until* at the latest."""

    def stays(self) -> bool:
        """Its turn goes on inside the exit it is at; False when that ended at once."""

    def can_follow(self, other: Any) -> bool:
        """It may take over from *other*: nothing rare is asked of either."""

    def take_over(self, until: int) -> bool:
        """`run`, inside an exit of a sibling: the engine goes on with this VP. False when its turn ended at once."""

    def leave(self) -> None:
        """Its turn is over."""


class Share:
    """One partition's part of the processor. *ready* is in order of turn, *capped* waits for the next period."""

    __slots__ = ("_used", "capped", "partition", "passed", "period", "ready")

    def __init__(self, partition: Any) -> None:
        self.partition = partition
        self.ready: OrderedDict[Schedulable, bool] = OrderedDict()      # VP -> it goes first, for a short turn
        self.capped: OrderedDict[Schedulable, None] = OrderedDict()
        self.passed = 0                         # ticks per weight of one VP, scaled
        self.period = 0
        self._used: dict[int, int] = {}         # VP index -> ticks of this period, while there is a cap or a reserve

    def cost(self, ticks: int) -> int:
        """How far *ticks* of one of its VPs move it on: less with a greater weight, and with more VPs to share them."""
        weight: int = self.partition.schedule.weight
        return ticks * _SCALE // (weight * (len(self.ready) + 1))

    def charge(self, vp: Schedulable, ticks: int, now: int) -> None:
        """*vp*, which is not in the queue, has run for *ticks*."""
        schedule = self.partition.schedule
        self.passed += ticks * _SCALE // (schedule.weight * (len(self.ready) + 1))      # `cost`, without its call
        if schedule.cap or schedule.reserve:
            self._used[vp.index] = self._used.get(vp.index, 0) + ticks
            self._roll(now)                     # it was the period in which they began that paid

    def left(self, vp: Schedulable, now: int) -> int:
        """Ticks that the cap, of which there is one, leaves to *vp* in this period; 0 or less when it is used up."""
        self._roll(now)
        cap: int = self.partition.schedule.cap
        return cap * PERIOD_TICKS // WHOLE - self._used.get(vp.index, 0)

    def owed(self, now: int) -> Schedulable | None:
        """The first ready VP that has had less of this period than its reserve says; or None."""
        reserve = self.partition.schedule.reserve
        if not reserve:
            return None
        self._roll(now)
        due = reserve * (now % PERIOD_TICKS) // WHOLE
        return next((vp for vp in self.ready if self._used.get(vp.index, 0) < due), None)

    def _roll(self, now: int) -> None:
        """Begin the period of *now*. What was taken beyond the cap is taken from the next periods."""
        elapsed = now // PERIOD_TICKS - self.period
        if elapsed:
            allowed = (self.partition.schedule.cap or WHOLE) * PERIOD_TICKS // WHOLE * elapsed
            self._used = {index: used - allowed for index, used in self._used.items() if used > allowed}
            self.period += elapsed

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"ready": [vp.index for vp in self.ready], "capped": [vp.index for vp in self.capped],
                "passed": self.passed, "used": dict(sorted(self._used.items()))}


class RunQueue:
    """The shares of all partitions that have something to run. The VP that runs is not in it."""

    def __init__(self) -> None:
        self._shares: dict[int, Share] = {}     # by partition id, also of those that have nothing ready
        self.active: dict[int, Share] = {}      # those that have

    def share(self, partition: Any) -> Share:
        """That of *partition*, made when it is first asked for."""
        found = self._shares.get(partition.id)
        if found is None or found.partition is not partition:
            found = self._shares[partition.id] = Share(partition)
        return found

    def add(self, vp: Schedulable, share: Share, floor: int = 0) -> bool:
        """*vp* is ready, at the end of its *share*'s queue; False when it was in there already.

        A partition that had nothing to run is moved on to *floor*: having slept it is owed so much, and no more.
        """
        if vp in share.ready or vp in share.capped:
            return False
        if not share.ready:
            self.active[share.partition.id] = share
            if floor > share.passed:
                share.passed = floor
        share.ready[vp] = False
        return True

    def cap(self, vp: Schedulable) -> None:
        """*vp*, which was ready, has used up its cap: it waits for the next period."""
        share = self.share(vp.partition)
        self.take(vp, share)
        share.capped[vp] = None

    def uncap(self) -> list[Schedulable]:
        """A period begins: those that waited for it, in order of partition; they are to be added again."""
        waited: list[Schedulable] = []
        for _, share in sorted(self._shares.items()):
            waited += share.capped
            share.capped.clear()
        return waited

    def front(self, share: Share) -> Schedulable | None:
        """The VP of *share* whose turn comes next; one that cannot run any more is dropped on the way."""
        while share.ready:
            vp = next(iter(share.ready))
            if vp.runnable:
                return vp
            self.take(vp, share)
        return None

    def take(self, vp: Schedulable, share: Share) -> bool:
        """*vp* of *share* is about to run, or cannot; whether it was put first."""
        first = share.ready.pop(vp)
        if not share.ready:
            del self.active[share.partition.id]
        return first

    def put_back(self, vp: Schedulable, share: Share, first: bool = False) -> bool:
        """*vp* is ready, at the end of its *share*'s queue or *first*; False when it was in there already.

        By itself this is for a partition that runs: so it has not slept, and is owed nothing.
        """
        if vp in share.ready or vp in share.capped:
            return False
        if not share.ready:
            self.active[share.partition.id] = share
        share.ready[vp] = first
        if first:
            share.ready.move_to_end(vp, last=False)
        return True

    def go_first(self, vp: Schedulable) -> None:
        """*vp* is the next one of its partition, if it is ready: its turn was ended before it did anything."""
        ready = self.share(vp.partition).ready
        if vp in ready:
            ready.move_to_end(vp, last=False)

    def has(self, partition: Any) -> bool:
        """A VP of *partition* is ready."""
        return partition.id in self.active

    def least(self) -> Share | None:
        """The share that comes next: of the active ones that which has passed least, the first by number of several."""
        least = None
        for share in self.active.values():      # `min` with its key costs a call for each
            if least is None or share.passed < least.passed \
                    or (share.passed == least.passed and share.partition.id < least.partition.id):
                least = share
        return least

    def next(self, now: int) -> Schedulable | None:
        """Who shall run; it stays in the queue until it is taken. Those whose reserve is owed come before others."""
        for reserved in self.active.values():
            if reserved.partition.schedule.reserve:
                owed = self._owed(now)
                if owed is not None:
                    return owed
                break
        while (share := self.least()) is not None:
            found = self.front(share)
            if found is not None:
                return found
        return None

    def _owed(self, now: int) -> Schedulable | None:
        for _, share in sorted(self.active.items()):
            found = share.owed(now)
            if found is not None and found.runnable:
                return found
        return None

    def keep(self, partitions: dict[int, Any]) -> None:
        """Forget the shares of partitions that are not among *partitions* any more."""
        for number, share in list(self._shares.items()):
            if partitions.get(number) is not share.partition:
                del self._shares[number]
                self.active.pop(number, None)

    def inspect(self) -> dict[int, Any]:
        """Plain data for the REPL: the shares by partition."""
        return {number: share.inspect() for number, share in sorted(self._shares.items())}
