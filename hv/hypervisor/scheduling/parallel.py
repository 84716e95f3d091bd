"""Each partition on a logical processor and in a host thread of its own.

`docs/decisions/0013-one-lock-above-guest-code.md` says why it is so.

A partition's VPs take turns on its processor, as a `Scheduler` of its own says; guest code of different partitions
runs at the same time. All else is done by one thread at a time, the one with the gate's lock (`machine/gate.py`).

*Time.* Each processor has a clock. None gets more than a quantum ahead of the others: a turn ends there, and the next
one waits until they have come after. The one that is behind all others never waits for time, so somebody always goes
on. An idle partition counts by its next timer, and its clock goes to the time of whoever wakes it.

*Root's program*, in Python, runs in whichever thread made it necessary; one at a time.

*A parent acts on a child* (maps memory, sets registers, deletes it) while the child is between two turns: `_reach` has
it leave guest code, finish the exit it may be in, and stay. Meanwhile the lock is free, for the child needs it to get
there. That cannot deadlock: only a parent waits so, and nobody on the way to the end of a turn waits for anything but
the lock, and for guest code to reach its next block.

Not deterministic: what a partition sees of the others depends on how the host's threads run. Weights and caps concern
the VPs of one partition only; between partitions there is nothing to share out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.partitions.partition import Partition
from hv.hypervisor.scheduling.lanes import NEVER, Lane
from hv.hypervisor.scheduling.run_queue import Schedulable
from hv.hypervisor.scheduling.scheduler import SLICE_TICKS
from hv.machine.clock import MonotonicClock
from hv.machine.gate import Gate, GatedProcessor

QUANTUM_TICKS = 4_000_000       # 2 ms: so far may processors be apart

_SIGNALS = ("on_spin", "on_halt", "on_sent", "on_yield")       # from a VP that runs, to the scheduler of its partition


class ParallelScheduler:
    """The same to its users as `Scheduler`: `run` and what the machine asks between runs."""

    def __init__(self, hypervisor: Hypervisor, gate: Gate, slice_ticks: int = SLICE_TICKS,
                 quantum_ticks: int = QUANTUM_TICKS) -> None:
        self.hypervisor, self.gate, self.slice_ticks, self.quantum = hypervisor, gate, slice_ticks, quantum_ticks
        self.current: Schedulable | None = None
        self._rested = threading.Condition(gate.lock)       # somebody came to the end of a turn
        self._running = self._over = self._root_acts = False
        self._error: BaseException | None = None
        self._until = NEVER
        self._finished: Callable[[], bool] = lambda: False
        self._paused: Callable[[], bool] | None = None
        self._held: list[tuple[GatedProcessor, Lane]] = []      # who acts, and on whom
        self._threads: list[threading.Thread] = []
        self._boot = Lane(hypervisor, hypervisor.root, gate.boot, gate, slice_ticks)
        self.lanes = {hypervisor.root.id: self._boot}
        hypervisor.root.use_clock(gate.boot.clock if hypervisor.root.runs_code else MonotonicClock(gate.clock))
        hypervisor.root.still = gate.boot.still
        gate.boot.apic.on_pending = self._route     # no guest runs there that would exit
        hypervisor.on_wake, hypervisor.on_reach = self._woken, self._reach
        for name in _SIGNALS:
            setattr(hypervisor, name, partial(self._signal, name))

    # --- partitions come and go ------------------------------------------------------------------------------

    def lane_of(self, partition: Partition) -> Lane:
        """The lane of *partition*, made when it gets its first VP."""
        if partition.id not in self.lanes:
            processor = self.gate.new_processor()
            lane = self.lanes[partition.id] = Lane(self.hypervisor, partition, processor, self.gate, self.slice_ticks)
            partition.use_clock(processor.clock)
            partition.still = processor.still
            if self._running:
                self._start(lane)
        return self.lanes[partition.id]

    def drop(self, partition: Partition) -> None:
        """*partition* is finalized: nothing of it runs any more."""
        lane = self.lanes.pop(partition.id)
        lane.gone = True
        lane.changed.notify()
        partition.use_clock(self.hypervisor.clock)
        partition.still = None
        self.gate.remove(lane.processor)

    # --- a run -----------------------------------------------------------------------------------------------

    def run(self, until: int | None = None, finished: Callable[[], bool] = lambda: False,
            paused: Callable[[], bool] | None = None) -> None:
        """Run until *finished* or *paused* says so, all clocks reach *until*, or nobody can run and no timer is set.

        The first error of any thread ends the run, and is raised here. No thread is left when this returns.
        """
        self._paused = paused
        self._until, self._finished = NEVER if until is None else until, finished
        self._over, self._error, now = False, None, self.gate.clock.tsc
        for lane in self.lanes.values():
            lane.clock.counter.done = lane.moment = max(now, lane.clock.tsc)
            lane.scheduler.look()
        self._ask_whether_finished()
        self._running = True
        try:
            for lane in [lane for lane in self.lanes.values() if lane is not self._boot and not self._over]:
                self._start(lane)
            self._work(self._boot)
        except BaseException as error:
            self._fail(error)
        finally:
            self._end()
            self._join()
            self._running = False
        self._set_time()
        if self._error is not None:
            raise self._error

    def _start(self, lane: Lane) -> None:
        lane.moment = lane.clock.tsc
        lane.thread = threading.Thread(target=self._thread, args=(lane,), name=f"partition {lane.partition.id}")
        self._threads.append(lane.thread)
        lane.thread.start()

    def _thread(self, lane: Lane) -> None:
        with self.gate.lock:
            self.gate.show(lane.processor)
            try:
                self._work(lane)
            except BaseException as error:
                self._fail(error)
            finally:
                lane.moment = NEVER
                self._tell()

    def _fail(self, error: BaseException) -> None:
        """The first error is the one that counts; what others meet because the run ends is none."""
        self._error = self._error or error
        self._end()

    def _end(self) -> None:
        self._over = True
        for lane in self.lanes.values():
            lane.processor.kick()
            lane.changed.notify()
        self._rested.notify_all()

    def _join(self) -> None:
        """Every thread ends: it needs the lock for that, and for nothing else."""
        self.gate.lock.release()
        try:
            while self._threads:
                try:
                    self._threads[-1].join()
                    self._threads.pop()
                except KeyboardInterrupt as error:
                    self._error = self._error or error
        finally:
            self.gate.lock.acquire()
            self.gate.show(self.gate.boot)

    def _set_time(self) -> None:
        """Outside of a run there is one time, that of whoever is furthest."""
        stopped = any(self._until <= lane.moment < NEVER for lane in self.lanes.values())
        latest = max(lane.clock.tsc for lane in self.lanes.values())
        self.gate.boot.counter.done = max(latest, self._until) if stopped else latest

    # --- a lane's thread -------------------------------------------------------------------------------------

    def _work(self, lane: Lane) -> None:
        """Turns, as far as time allows, until the run or the partition is over."""
        while not self._over and not lane.gone:
            lane.processor.kicked = False
            if lane.held:
                self._sleep(lane)
            elif not self.run_root():
                lane.look()
                if lane.moment < self._horizon():
                    self._turn(lane)
                elif self._nobody_goes_on():
                    self._end()
                else:
                    self._sleep(lane)

    def _turn(self, lane: Lane) -> None:
        lane.in_turn = True
        try:
            went_on = lane.scheduler.turn(self._horizon())
        finally:
            lane.in_turn, lane.moment = False, lane.clock.tsc
            self._let_go()
        self._tell()
        self._ask_whether_finished()
        if not went_on and not self._over:
            lane.moment = NEVER
            self._sleep(lane)

    def _horizon(self) -> int:
        """Where the next turn of anybody ends at the latest, and before which it must begin."""
        return min(self._until, min(lane.time for lane in self.lanes.values()) + self.quantum)

    def _nobody_goes_on(self) -> bool:
        return not self._root_acts and all(lane.time >= self._until for lane in self.lanes.values())

    def _sleep(self, lane: Lane) -> None:
        lane.asleep = True
        self._tell()
        try:
            self.gate.wait(lane.changed)
        finally:
            lane.asleep = False

    def _tell(self) -> None:
        """A lane's time has changed, or it has come to rest: those who waited for that look again."""
        horizon = self._horizon() if self.lanes else 0
        for lane in self.lanes.values():
            if lane.asleep and lane.moment < horizon and not lane.held:
                lane.changed.notify()
        if self._held:
            self._rested.notify_all()

    # --- root ------------------------------------------------------------------------------------------------

    def run_root(self) -> bool:
        """Let root do what waits for it; False when nothing did."""
        if not self._root_acts:
            for vp in self.hypervisor.root.vps.values():
                if vp.prompt and vp.runnable:
                    self.gate.trace.at(vp.partition.id, vp.index)
                    self._as_root(partial(vp.run, 0))
                    return True
        return False

    def _ask_whether_finished(self) -> None:
        """Root's management looks at its VMs; what it finds ended it stops."""
        if not self._root_acts:
            self._as_root(self._ask)

    def _ask(self) -> None:
        if self._finished() or (self._paused is not None and self._paused()):
            self._end()

    def _as_root(self, action: Callable[[], None]) -> None:
        self._root_acts = True
        try:
            action()
        finally:
            self._root_acts = False
            self._let_go()

    def has_ready(self, partition: Partition) -> bool:
        """A VP of *partition* waits for its turn."""
        lane = self.lanes.get(partition.id)
        return lane is not None and lane.scheduler.has_ready(partition)

    def take_idle_interrupts(self) -> bool:
        """None ever waits while no guest runs."""
        return False

    def _route(self) -> None:
        """Physical interrupts go to the first processor, which sends each to whoever owns it."""
        while (vector := self.gate.boot.acknowledge()) is not None:
            self.hypervisor.interrupts.route(vector)

    # --- what one does to another ----------------------------------------------------------------------------

    def _signal(self, name: str, vp: Schedulable) -> Any:
        return getattr(self.lanes[vp.partition.id].view, name)(vp)

    def _woken(self, vp: Schedulable) -> None:
        """*vp* has something to do, or to look at; whoever runs on its processor is interrupted."""
        here = self.gate.here
        if vp.prompt:
            here.kick()                         # root's program comes next in this thread
            return
        lane = self.lanes.get(vp.partition.id)
        if lane is None:                        # it is being deleted
            return
        lane.view.on_wake(vp)
        if lane.processor is here:
            return
        lane.processor.kick()
        if lane.asleep and vp.runnable:
            lane.clock.counter.done = lane.moment = max(lane.clock.tsc, here.clock.tsc)
            lane.changed.notify()

    def _reach(self, partition: Partition) -> None:
        """The lane of *partition* is at rest when this returns, until whoever acts on it is done."""
        lane = self.lanes.get(partition.id)
        here = self.gate.here
        if lane is None or not self._running or lane.processor is here:
            return
        if (here, lane) not in self._held:
            lane.held = True
            self._held.append((here, lane))
            here.kick()                         # who acts in an exit lets go when its turn ends
        while lane.in_turn:
            lane.processor.kick()
            self.gate.wait(self._rested)

    def _let_go(self) -> None:
        """Who acts here is done with the others; those on whom somebody else acts too stay where they are."""
        here = self.gate.here
        free = [lane for holder, lane in self._held if holder is here]
        self._held = [(holder, lane) for holder, lane in self._held if holder is not here]
        for lane in free:
            lane.held = any(held is lane for _, held in self._held)
            lane.changed.notify()
