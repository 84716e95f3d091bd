"""Who runs next, on the one logical processor, and for how long.

A VP that becomes ready says so (`Hypervisor.on_wake`), so nobody asks those that sleep. `run_queue.py` says which of
the ready ones comes next; root comes before all, since it owns the devices that the others wait for. A turn ends when
its slice is over, when the VP halts or spins, or for somebody woken who has more right to the processor. Where it halts
or spins, a sibling takes over inside the engine (`docs/decisions/0012-a-sibling-takes-over-in-the-hook.md`).

Deterministic: slices are counted in work, the order is that of wake-ups, and nothing asks the host's clock. When nobody
can run, time jumps to the next timer. A `Scheduler` serves one logical processor: a second one would have its own
queue, current VP and clock, and a wake-up would go to the one that the VP belongs to.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.partitions.partition import Partition
from hv.hypervisor.scheduling.run_queue import PERIOD_TICKS, RunQueue, Schedulable, Share
from hv.machine.clock import Timer
from hv.machine.lp import LogicalProcessor
from hv.trace import events
from hv.trace.events import SwitchReason

SLICE_TICKS = 100_000       # 50 us: small enough for two VPs that spin on each other's lock
ALONE_TICKS = 10_000_000    # 5 ms: nobody waits, so only a timer, an interrupt or a woken VP needs an end
WOKEN_TICKS = 20_000        # 10 us: what a VP has before a sibling that was woken goes first, and what that one has
SPIN_GAP = 100_000          # 50 us between two PAUSEs: the VP does not spin, or no more
SPIN_SHIFT = 6              # a PAUSE of one that waits for a moment is worth 1/64 of the time that it has spun
STAY_TICKS = 2_000_000      # 1 ms: so long siblings hand the engine to each other before anybody else is asked
_SLICE_OVER, _HALTED, _SPINS = SwitchReason.SLICE_OVER, SwitchReason.HALTED, SwitchReason.SPINS
_WOKEN, _CAPPED, _SUSPENDED = SwitchReason.WOKEN, SwitchReason.CAPPED, SwitchReason.SUSPENDED


class Scheduler:
    """Takes turns. `current` is the VP that runs, or ran last."""

    def __init__(self, hypervisor: Hypervisor, processor: LogicalProcessor, slice_ticks: int = SLICE_TICKS) -> None:
        self.hypervisor, self.processor, self.slice_ticks = hypervisor, processor, slice_ticks
        self.clock, self.trace = hypervisor.clock, hypervisor.trace
        self._counter = processor.counter
        self.queue = RunQueue()
        self.current: Schedulable | None = None
        self._share: Share | None = None        # of the child that runs; None between turns
        self._began = self._ran = 0             # of the turn: the clock, and what the VP had run before
        self._slice_end = 0                     # of the turn, if no timer comes first
        self._stay_until = 0                    # when the engine is left at the latest
        self._reason = _SLICE_OVER              # why the turn ends, or the last one ended
        self._next: Share | None = None         # whose turn comes next, if nothing happens until then
        self._spins_since = self._last_pause = 0        # of a VP that spins alone: its first PAUSE, and its last
        self._tsc_reads = 0                     # of that VP, at the last one
        self._cut_short = False                 # the last one, by a timer: somebody may be woken now
        self._passed = 0                        # how far the shares are that ran last
        self._root_waits = True
        self._fewer = True                      # somebody who ran does not wait to run again, or root has acted
        self._period: Timer | None = None       # at its end those that are capped go on
        self._until: int | None = None          # of the run, or of one turn
        self._paused: Callable[[], bool] | None = None
        hypervisor.on_wake, hypervisor.on_spin = self._woken, self._spins
        hypervisor.on_halt, hypervisor.on_sent, hypervisor.on_yield = self._halts, self._sent, self._yields
        hypervisor.on_ask, hypervisor.root_answers_at_once = self._asks, True

    # --- the run ------------------------------------------------------------------------------------------

    def run(self, until: int | None = None, finished: Callable[[], bool] = lambda: False,
            paused: Callable[[], bool] | None = None) -> None:
        """Run until *paused* says so, the clock reaches *until*, or nobody can run and no timer is set; or until
        *finished* says so, which is asked whenever a VP may have run for the last time."""
        self.look()
        self._paused = paused
        while (paused is None or not paused()) and (until is None or self.clock.tsc < until):
            if self._fewer:
                self._fewer = False
                if finished():
                    return
            if not self.turn(until):
                return

    def look(self) -> None:
        """Find out who is ready, whatever was done to the VPs from outside."""
        partitions = self.hypervisor.partitions
        self.queue.keep(partitions)
        self._root_waits = self._fewer = True
        self._next = None
        for number in sorted(partitions):
            for _, vp in sorted(partitions[number].vps.items()):
                if not vp.prompt and vp.runnable:
                    self._add(vp, self.queue.share(vp.partition))

    def turn(self, until: int | None = None) -> bool:
        """One slice for the next VP, or a jump to the next timer; False when nothing can ever happen again."""
        queue, due = self.queue, self.clock.next_deadline()
        share, self._next, self._until = self._next, None, until
        if due is not None and due <= self._counter.done:
            self.clock.run_due()
            due, share = self.clock.next_deadline(), None
        if self._root_waits and self.run_root():
            return True
        vp = None if share is None else next(iter(share.ready), None)      # it was asked when it woke, a moment ago
        if vp is None or share is None:
            vp = queue.next(self._counter.done)
            if vp is None:
                return self.take_idle_interrupts() or self._idle(until)
            share = queue.share(vp.partition)
        self._stay_until = self._stay(share)
        if share.partition.schedule.cap and self._is_capped(vp, share):
            return True
        self._begin(vp, share)
        try:
            vp.run(self._slice_end if due is None or due > self._slice_end else due)
        finally:
            if self._share is not None:         # an error may come between two siblings' turns
                self._end()
        return True

    def _stay(self, share: Share) -> int:
        """When the engine is left at the latest, if a VP of *share* has the next turn."""
        stay = self.slice_ticks
        if len(self.queue.active) == 1:         # no other partition has anything to run
            stay = ALONE_TICKS if len(share.ready) == 1 else max(STAY_TICKS, stay)
        end = self._counter.done + stay
        return end if self._until is None or end < self._until else self._until

    def run_root(self) -> bool:
        """Let root do what waits for it; False when nothing did."""
        self._root_waits = False
        for vp in self.hypervisor.root.vps.values():
            if vp.prompt and vp.runnable:
                self._show(vp)
                vp.run(self.clock.tsc)
                self._reason, self._root_waits, self._fewer = _HALTED, True, True
                return True
        return False

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

    @property
    def idle(self) -> bool:
        """Nobody can run before the next timer, so the next turn would let time jump there."""
        if self.queue.active or self.processor.interrupt_waits():
            return False
        deadline = self.clock.next_deadline()
        return (deadline is None or deadline > self._counter.done) \
            and not any(vp.prompt and vp.runnable for vp in self.hypervisor.root.vps.values())

    def has_ready(self, partition: Partition) -> bool:
        """A VP of *partition* waits for its turn."""
        return self.queue.has(partition)

    # --- a turn -------------------------------------------------------------------------------------------

    def _begin(self, vp: Schedulable, share: Share) -> None:
        """*vp* leaves the queue and has the processor."""
        queue, now = self.queue, self._counter.done
        self.hypervisor.turn_over = False
        first = queue.take(vp, share)
        length = ALONE_TICKS if not queue.active else WOKEN_TICKS if first else self.slice_ticks
        if share.partition.schedule.cap:
            length = min(length, share.left(vp, now))
        if share.passed > self._passed:
            self._passed = share.passed
        self._show(vp)
        self._share, self._began, self._ran = share, now, vp.ran
        self._reason, self._cut_short = _SLICE_OVER, False
        end = now + length
        self._slice_end = end if end < self._stay_until else self._stay_until

    def _show(self, vp: Schedulable) -> None:
        self.trace.place = vp.partition.id, vp.index    # root may have been at work since this VP ran last
        if vp is not self.current:
            if self.trace.listening:
                self.trace.emit(events.VpSwitch(vp.partition.id, vp.index, self._reason))
            self.current = vp

    def _end(self) -> None:
        """The turn of `current` is over: what it had is counted, and it waits for the next one if it can run."""
        vp, share = self.current, self._share
        assert vp is not None, "nobody runs"
        assert share is not None, "no turn goes on"
        now = self._counter.done
        self._share, self._cut_short = None, now < self._slice_end
        if vp.running:
            vp.leave()
        share.charge(vp, vp.ran - self._ran, now)
        if not vp.runnable:
            self._reason, self._fewer = _HALTED if vp.halted else _SUSPENDED, True
        else:
            self.queue.put_back(vp, share)
            if share.partition.schedule.cap:
                self._is_capped(vp, share)

    def _is_capped(self, vp: Schedulable, share: Share) -> bool:
        """*vp*, which is in the queue, has had what its cap allows: it is ready again when the next period begins."""
        now = self.clock.tsc
        if share.left(vp, now) > 0:
            return False
        self.queue.cap(vp)
        self._reason = _CAPPED
        if self._period is None:
            self._period = self.clock.at((now // PERIOD_TICKS + 1) * PERIOD_TICKS, self._period_begins)
        return True

    def _period_begins(self) -> None:
        self._period = None
        for vp in self.queue.uncap():
            self._woken(vp)

    def _next_stop(self) -> int:
        """The end of the slice, or the next timer before it."""
        deadline = self.clock.next_deadline()
        return self._slice_end if deadline is None or deadline > self._slice_end else deadline

    # --- what is said while a turn goes on ----------------------------------------------------------------

    def _woken(self, vp: Schedulable) -> None:
        """*vp* has something to do: root at once; a child when its turn comes, which may be at once."""
        if vp.prompt:
            self._root_waits = True
            self.processor.stop_by(self.clock.tsc)
            return
        running = self._share
        if (running is not None and vp is self.current) or not vp.runnable:
            return
        if self._cut_short and self._reason is _SLICE_OVER:
            self._reason = _WOKEN
        self._next = None
        if running is None or vp.partition is not running.partition:
            self._add(vp, self.queue.share(vp.partition))
        elif self.queue.put_back(vp, running, first=True):
            self._end_by(max(self._counter.done, self._began + min(self.slice_ticks, WOKEN_TICKS)))

    def _add(self, vp: Schedulable, woken: Share) -> None:
        """*vp*, of a partition that does not run now, waits for its turn. If another one runs, its turn gets an end.

        Having slept, a partition is owed the work of one slice at most: by those that run, and by those that wait.
        """
        queue, running, now = self.queue, self._share, self._counter.done
        reached = passed = self._passed
        if running is not None:
            reached = running.passed + running.cost(now - self._began)
            if reached > passed:
                passed = reached
        others = queue.least() if queue.active else None
        if others is not None:
            passed = min(passed, max(self._passed, others.passed))
        if not queue.add(vp, woken, passed - woken.cost(self.slice_ticks)) or running is None:
            return
        if woken.passed < reached or woken.owed(now) is not None:
            end, self.hypervisor.turn_over = now, True
            if others is None and not running.partition.schedule.reserve:
                self._next = woken
        else:
            end = now + self.slice_ticks
        if end < self._stay_until:
            self._stay_until = end
        self._end_by(end)

    def _end_by(self, end: int) -> None:
        """For somebody woken the turn ends at *end* at the latest."""
        if end < self._slice_end:
            self._slice_end, self._reason = end, _WOKEN
        self.processor.stop_by(end)

    def _spins(self, vp: Schedulable) -> None:
        """*vp* runs, and needs what another VP has: its turn ends now if anybody waits for it."""
        if self.queue.active and vp is self.current and self._share is not None:
            self._slice_end, self._reason = self.clock.tsc, _SPINS
            self.processor.stop_by(self.clock.tsc)

    def _halts(self, vp: Schedulable) -> bool:
        """*vp*, which runs, halts. If only time has to pass until it is woken, it passes here: True, and *vp* goes on.

        To leave the engine and to come back would take longer than all else that a timer's interrupt needs.
        """
        if self.queue.active or self._root_waits or self._share is None or vp is not self.current:
            return False
        woken = vp.runnable
        while not woken and self._next_timer_ends_in_slice():
            asleep = self.clock.tsc
            self.clock.skip_to_next()
            self._began += self.clock.tsc - asleep      # which is no work that anybody is charged for
            self.clock.run_due()
            self.take_idle_interrupts()
            if self.queue.active or self._root_waits:
                break
            woken = vp.runnable
        if woken:
            self.processor.run_until(self._next_stop())
        return woken

    def _next_timer_ends_in_slice(self) -> bool:
        deadline = self.clock.next_deadline()
        return deadline is not None and deadline < self._slice_end

    def _yields(self, vp: Schedulable) -> bool:
        """*vp* halted, or spins, and stands behind that instruction: True when the engine runs on, with a sibling or
        with *vp* itself; False when it is to be left, so that all are asked."""
        share, now = self._share, self._counter.done
        if share is None or vp is not self.current or self._root_waits or now >= self._stay_until \
                or self._counter.deadline <= now:       # a timer, a physical interrupt, the end of the slice
            return False
        sibling = self.queue.front(share)
        if sibling is None:
            if not vp.halted and not self.queue.active:
                self._spins_alone(vp, now)
            return not vp.halted and self._has_right(share) and vp.stays()
        return self._may_follow(sibling, vp, share) and self._follow(sibling, share, _SPINS)

    def _spins_alone(self, vp: Schedulable, now: int) -> None:
        """Who reads the clock between two PAUSEs waits for a moment: the longer it does, the more a PAUSE is worth."""
        reads = vp.tsc_reads
        if reads == self._tsc_reads or now - self._last_pause > SPIN_GAP:
            self._spins_since = now
        self._tsc_reads = reads
        ahead = now + (now - self._spins_since >> SPIN_SHIFT)
        self._counter.done = self._last_pause = min(ahead, self._counter.deadline)

    def _sent(self, vp: Schedulable) -> bool:
        """*vp* has sent an interrupt. A sibling that it woke goes on in the engine at once: who sends one mostly has
        nothing left to do but to wait for what comes of it. As `_yields`."""
        share = self._share
        if share is not None and share.ready and vp is self.current and not self._root_waits \
                and self._counter.done < self._stay_until and self._counter.deadline:   # 0: a physical interrupt
            sibling, first = next(iter(share.ready.items()))
            if first and self._may_follow(sibling, vp, share):
                return self._follow(sibling, share, _WOKEN)
        return vp.stays()

    def _asks(self, vp: Schedulable) -> bool:
        """*vp* waits for its parent. If that is root, it has its turn inside the exit; True when *vp* comes next after
        that, and the engine runs on with it: to leave it and to come back costs more than all else.
        `docs/decisions/0019-root-answers-in-the-hook.md`."""
        if not self._root_waits or self._share is None or vp is not self.current or not vp.can_follow(vp):
            return False
        self._end()
        while self._root_waits and self.run_root():
            pass
        self._next = None
        if (self._paused is not None and self._paused()) or self.processor.interrupt_waits():
            return False
        due = self.clock.next_deadline()
        if due is not None and due <= self._counter.done:
            self.clock.run_due()
        now = self._counter.done
        if (self._until is not None and now >= self._until) or self._root_waits or self.queue.next(now) is not vp \
                or not vp.can_follow(vp):
            return False
        share = self.queue.share(vp.partition)
        self._stay_until = self._stay(share)
        if share.partition.schedule.cap and self._is_capped(vp, share):
            return False
        self._begin(vp, share)
        return vp.take_over(self._next_stop())

    def _may_follow(self, sibling: Schedulable, vp: Schedulable, share: Share) -> bool:
        return sibling.can_follow(vp) and (not share.partition.schedule.cap
                                           or share.left(sibling, self._counter.done) > 0)

    def _follow(self, sibling: Schedulable, share: Share, reason: SwitchReason) -> bool:
        self._reason = reason
        self._end()
        self._begin(sibling, share)
        return sibling.take_over(self._next_stop())

    def _has_right(self, running: Share) -> bool:
        """None of those who wait has more right to the processor than the partition that runs."""
        waits = self.queue.least()
        return waits is None or running.passed + running.cost(self.clock.tsc - self._began) <= waits.passed
