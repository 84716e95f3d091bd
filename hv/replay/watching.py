"""Run a machine until an event happens: the one place that stops it at an event.

    with Watch(machine, lambda record: isinstance(record.event, MessagePosted)) as watch:
        machine.run(paused=lambda: watch.met is not None)

The machine stands before the next instruction of any guest. What the event is part of comes to its end: of a VM exit
the handler is done, and what it leaves to the parent waits for the parent.

Nothing is asked while nobody watches. For a watched machine the hypervisor's words to its scheduler (`on_halt`,
`on_sent`, `on_yield`, `on_ask`) are wrapped, and once the event is met no engine runs.

# Simplified: the VP that is stopped has given up the rest of its turn, so the next turns may be others' than without
# the stop. It is the same order in every run with the same stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.engine import Engine
from hv.trace.bus import Record
from hv.trace.events import VpSwitch

Predicate = Callable[[Record], bool]


def run_until(machine: Any, predicate: Predicate, until_tsc: int | None = None,
              interrupted: Callable[[], bool] = lambda: False) -> Record | None:
    """Run *machine* until an event of which *predicate* is true: its record. None when something else ended the run:
    the end of all guests, the clock at *until_tsc*, or *interrupted*."""
    with Watch(machine, predicate) as watch:
        machine.run(until_tsc, lambda: interrupted() or watch.met is not None)
    return watch.met


class Watch:
    """Stops *machine* at the first event of which *predicate* is true; then `met` is its record.

    An error that *predicate* raises stops the machine likewise, and is raised when the block ends.
    """

    def __init__(self, machine: Any, predicate: Predicate) -> None:
        self._machine, self._predicate = machine, predicate
        self.met: Record | None = None
        self.stopped = False
        self._error: Exception | None = None
        self._held: list[Engine] = []
        self._cut: VirtualProcessor | None = None
        self._idle_turn = False             # it ends before its VP did anything

    def __enter__(self) -> Watch:
        hypervisor = self._machine.hypervisor
        self._before = hypervisor.on_halt, hypervisor.on_sent, hypervisor.on_yield, hypervisor.on_ask
        hypervisor.on_halt, hypervisor.on_sent, hypervisor.on_yield, hypervisor.on_ask = map(
            self._unless_met, self._before)
        self._machine.trace.listen(self._hear)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        hypervisor = self._machine.hypervisor
        self._machine.trace.unlisten(self._hear)
        hypervisor.on_halt, hypervisor.on_sent, hypervisor.on_yield, hypervisor.on_ask = self._before
        for engine in self._held:
            engine.breakpoints.held = False
        if self._cut is not None and self._cut.leaving is _nothing_more:
            self._cut.leaving = None
        if self._idle_turn:                 # or VPs that are stopped at their first event would only take turns
            self._machine.scheduler.queue.go_first(self._machine.scheduler.current)
        if self._error is not None and kind is None:
            raise self._error

    def _unless_met(self, word: Callable[[Any], bool]) -> Callable[[Any], bool]:
        """The same question of the hypervisor's; once the event is met the answer is to leave the engine."""
        return lambda vp: not self.stopped and word(vp)

    def _hear(self, record: Record) -> None:
        if self.stopped:
            return
        try:
            met = self._predicate(record)
        except Exception as error:      # of the user's own condition: it must not surface inside the engine
            met, self._error = True, error
        if met:
            self.met = record
            self.stop()

    def stop(self) -> None:
        """Stop the machine here and now, whatever was met."""
        self.stopped = True
        machine = self._machine
        for engine in self._engines():
            engine.breakpoints.hold()
            self._held.append(engine)
        current = machine.scheduler.current
        self._idle_turn = isinstance(self.met.event, VpSwitch) if self.met is not None else False
        if isinstance(current, VirtualProcessor) and current.running and current.leaving is None:
            self._idle_turn = current.runtime == current.ran
            current.end_run_with(_nothing_more)
            self._cut = current
        machine.processor.stop_by(machine.clock.tsc)

    def _engines(self) -> Iterator[Engine]:
        """One for each partition that executes machine code."""
        for partition in self._machine.hypervisor.partitions.values():
            for vp in partition.vps.values():
                if isinstance(vp, VirtualProcessor):
                    yield vp.vcpu.engine
                    break


def _nothing_more() -> None:
    """Behind the instruction that the event belongs to."""
