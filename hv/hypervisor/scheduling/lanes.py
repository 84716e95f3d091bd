"""What `parallel.py` keeps of each partition: its logical processor, its own scheduler, and its host thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

from hv.hypervisor.scheduling.scheduler import Scheduler
from hv.machine.gate import Gate, GatedProcessor

if TYPE_CHECKING:
    from hv.hypervisor.hypervisor import Hypervisor
    from hv.hypervisor.partitions.partition import Partition

NEVER = 1 << 62                 # later than all virtual time


class _Nobody:
    """Root, to the scheduler of a partition: it is served by somebody else."""

    vps: dict[int, Any] = {}


class OnePartition:
    """The hypervisor as the scheduler of one *partition* sees it: there is no other, and no root to go first."""

    root = _Nobody()

    def __init__(self, hypervisor: Hypervisor, partition: Partition, processor: GatedProcessor) -> None:
        self._hypervisor, self._partition = hypervisor, partition
        self.clock, self.trace = processor.clock, hypervisor.trace

    @property
    def partitions(self) -> dict[int, Partition]:
        """It, unless its program is Python."""
        return {self._partition.id: self._partition} if self._partition.runs_code else {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hypervisor, name)


class Lane:
    """*partition* on *processor*: its VPs take turns on it, as `scheduler` says; each turn is on the lane's thread."""

    def __init__(self, hypervisor: Hypervisor, partition: Partition, processor: GatedProcessor, gate: Gate,
                 slice_ticks: int) -> None:
        self.partition, self.processor, self.clock = partition, processor, processor.clock
        self.view = OnePartition(hypervisor, partition, processor)
        self.scheduler = Scheduler(cast(Any, self.view), processor, slice_ticks)
        self.changed = threading.Condition(gate.lock)       # what it waits for may have come
        self.thread: threading.Thread | None = None
        self.in_turn = self.asleep = False
        self.held = False               # its parent acts on it: no turn begins
        self.gone = False               # the partition is no more
        self.moment = 0                 # while no turn goes on: when the next one begins at the earliest

    @property
    def time(self) -> int:
        """How far it is; NEVER when it has nothing to do, and no timer."""
        return self.clock.tsc if self.in_turn else self.moment

    def look(self) -> None:
        """Find out when the next turn can begin."""
        now = self.clock.tsc
        if self.scheduler.queue.next(now) is not None:
            self.moment = now
        else:
            deadline = self.clock.next_deadline()
            self.moment = NEVER if deadline is None else max(now, deadline)
