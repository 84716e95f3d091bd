"""Who runs next: every runnable VP in turn, for a slice of work each, on the one logical processor.

Deterministic: the order is by partition and VP number, slices are counted in work, and nothing asks the host's clock.
When nobody can run, time jumps to the next timer. Root comes first whenever it has something to do: it owns the devices
that the others wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.partition import Partition
from hv.machine.lp import LogicalProcessor
from hv.trace import events

SLICE_TICKS = 100_000       # 50 us: small enough for two VPs that spin on each other's lock
ALONE_TICKS = 20_000_000    # 10 ms: nobody waits, so only a timer, an interrupt or a woken VP needs an end


class Schedulable(Protocol):
    """What the scheduler asks of a VP."""

    partition: Partition
    index: int

    @property
    def runnable(self) -> bool: ...

    def run(self, until: int) -> None: ...


class Scheduler:
    """Takes turns. `current` is the VP that runs, or ran last."""

    def __init__(self, hypervisor: Hypervisor, processor: LogicalProcessor, slice_ticks: int = SLICE_TICKS) -> None:
        self.hypervisor, self.processor, self.slice_ticks = hypervisor, processor, slice_ticks
        self.clock, self.trace = hypervisor.clock, hypervisor.trace
        self.current: Schedulable | None = None
        self._last_child: Schedulable | None = None     # whose turn it was: root's errands do not change the order
        hypervisor.on_wake = self._woken

    def _woken(self, vp: Schedulable) -> None:
        """*vp* got something to do while another one runs: the slice of that one gets an end, for root at once."""
        if vp is not self.current:
            self.processor.stop_by(self.clock.tsc + (0 if vp.partition.is_root else self.slice_ticks))

    def run(self, until: int | None = None, finished: Callable[[], bool] = lambda: False) -> None:
        """Run until *finished* says so, the clock reaches *until*, or nobody can run and no timer is set."""
        while not finished() and (until is None or self.clock.tsc < until):
            if not self.turn(until):
                return

    def turn(self, until: int | None = None) -> bool:
        """One slice for the next VP, or a jump to the next timer; False when nothing can ever happen again."""
        self.clock.run_due()
        vp, others_wait = self._next()
        if vp is None:
            return self.take_idle_interrupts() or self._idle(until)
        self.trace.at(vp.partition.id, vp.index)    # root may have been at work since this VP ran last
        if vp is not self.current and self.trace.listening:
            self.trace.emit(events.VpSwitch(vp.partition.id, vp.index))
        self.current = vp
        if not vp.partition.is_root:
            self._last_child = vp
        vp.run(self._end_of_slice(until, self.slice_ticks if others_wait else ALONE_TICKS))
        return True

    def run_root(self) -> bool:
        """Let root do what waits for it; False when nothing did."""
        for vp in self.hypervisor.root.vps.values():
            if vp.runnable:
                self.trace.at(vp.partition.id, vp.index)
                vp.run(self.clock.tsc)
                return True
        return False

    def _end_of_slice(self, until: int | None, ticks: int) -> int:
        end = self.clock.tsc + ticks
        deadline = self.clock.next_deadline()
        return min(moment for moment in (end, deadline, until) if moment is not None)

    def _idle(self, until: int | None) -> bool:
        deadline = self.clock.next_deadline()
        if deadline is None:
            return False
        if until is not None and deadline > until:
            self.clock.counter.done = until
            return True
        return self.clock.skip_to_next()

    def take_idle_interrupts(self) -> bool:
        """Physical interrupts while no guest runs: there is nobody to exit from, so they are routed at once."""
        taken = False
        while (vector := self.processor.acknowledge()) is not None:
            self.hypervisor.interrupts.route(vector)
            taken = True
        return taken

    def _children(self) -> Iterator[Schedulable]:
        for _, partition in sorted(self.hypervisor.partitions.items()):
            if not partition.is_root:
                for _, vp in sorted(partition.vps.items()):
                    yield vp

    def _next(self) -> tuple[Schedulable | None, bool]:
        """Root's VP, or the runnable one after the last child's in order; and whether another child's could run."""
        root = next((vp for vp in self.hypervisor.root.vps.values() if vp.runnable), None)
        if root is not None:
            return root, False                      # it ends by itself
        vps = list(self._children())
        at = next((n for n, vp in enumerate(vps) if vp is self._last_child), -1)
        runnable = [vp for vp in vps[at + 1 :] + vps[: at + 1] if vp.runnable]
        return (runnable[0] if runnable else None), len(runnable) > 1
