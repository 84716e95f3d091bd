"""Who runs next: every runnable VP in turn, for a slice of work each, on the one logical processor.

Deterministic: the order is by partition and VP number, slices are counted in work, and nothing asks the host's clock.
When nobody can run, time jumps to the next timer. Root comes first whenever it has something to do: it owns the devices
that the others wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
        self._others_wait = False                       # for the end of the slice that runs
        self._slice_end: int | None = None              # of the slice that runs, if no timer comes first
        hypervisor.on_wake, hypervisor.on_spin, hypervisor.on_halt = self._woken, self._spins, self._halts

    def _woken(self, vp: Schedulable) -> None:
        """*vp* got something to do while another one runs: the slice of that one gets an end, for root at once."""
        if vp is not self.current:
            self._others_wait = True
            self.processor.stop_by(self.clock.tsc + (self.slice_ticks if vp.partition.runs_code else 0))

    def _spins(self, vp: Schedulable) -> None:
        """*vp* runs, and needs what another VP has: its slice ends now if anybody waits for it."""
        if self._others_wait and vp is self.current:
            self.processor.stop_by(self.clock.tsc)

    def _halts(self, vp: Schedulable) -> bool:
        """*vp*, which runs, halts. If only time has to pass until it is woken, it passes here: True, and *vp* goes on.

        To leave the engine and to come back would take longer than all else that a timer's interrupt needs.
        """
        if self._others_wait or self._slice_end is None or vp is not self.current:
            return False
        woken = vp.runnable
        while not woken and self._next_timer_ends_in_slice():
            self.clock.skip_to_next()
            self.clock.run_due()
            self.take_idle_interrupts()
            if self._others_wait:
                break
            woken = vp.runnable
        if woken:
            self.processor.run_until(self._next_stop())
        return woken

    def _next_timer_ends_in_slice(self) -> bool:
        deadline = self.clock.next_deadline()
        return deadline is not None and self._slice_end is not None and deadline < self._slice_end

    def run(self, until: int | None = None, finished: Callable[[], bool] = lambda: False) -> None:
        """Run until *finished* says so, the clock reaches *until*, or nobody can run and no timer is set."""
        while not finished() and (until is None or self.clock.tsc < until):
            if not self.turn(until):
                return

    def turn(self, until: int | None = None) -> bool:
        """One slice for the next VP, or a jump to the next timer; False when nothing can ever happen again."""
        self.clock.run_due()
        vp, self._others_wait = self._next()
        if vp is None:
            if not self.take_idle_interrupts():
                return self._idle(until)
            vp, self._others_wait = self._next()
            if vp is None:
                return True
        self.trace.at(vp.partition.id, vp.index)    # root may have been at work since this VP ran last
        if vp is not self.current and self.trace.listening:
            self.trace.emit(events.VpSwitch(vp.partition.id, vp.index))
        self.current = vp
        if vp.partition.runs_code:
            self._last_child = vp
        end = self.clock.tsc + (self.slice_ticks if self._others_wait else ALONE_TICKS)
        self._slice_end = end if until is None or end < until else until
        try:
            vp.run(self._next_stop())
        finally:
            self._slice_end = None
        return True

    def run_root(self) -> bool:
        """Let root do what waits for it; False when nothing did."""
        for vp in self._software():
            if vp.runnable:
                self.trace.at(vp.partition.id, vp.index)
                vp.run(self.clock.tsc)
                return True
        return False

    def _software(self) -> Iterable[Schedulable]:
        """Root's VPs when its program is Python: that comes first, and ends by itself."""
        root = self.hypervisor.root
        return () if root.runs_code else root.vps.values()

    def _next_stop(self) -> int:
        """The end of the slice, or the next timer before it."""
        assert self._slice_end is not None, "nobody runs"
        deadline = self.clock.next_deadline()
        return self._slice_end if deadline is None or deadline > self._slice_end else deadline

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

    def _next(self) -> tuple[Schedulable | None, bool]:
        """Root's VP, or the runnable one after the last child's in order; and whether another child's could run.

        A root of machine code takes its turn like a child.
        """
        for root in self._software():
            if root.runnable:
                return root, False                  # it ends by itself
        found: Schedulable | None = None
        for vp in self._children_in_turn():
            if vp.runnable:
                if found is not None:
                    return found, True
                found = vp
        return found, False

    def _children_in_turn(self) -> list[Schedulable]:
        """The VPs that run machine code by partition and number, from the one after the last on."""
        last, partitions = self._last_child, self.hypervisor.partitions
        vps: list[Schedulable] = []
        turn = 0
        for partition_id in sorted(partitions):
            partition = partitions[partition_id]
            if partition.runs_code:
                for index in sorted(partition.vps):
                    vps.append(partition.vps[index])
                    if vps[-1] is last:
                        turn = len(vps)
        return vps[turn:] + vps[:turn] if turn else vps
