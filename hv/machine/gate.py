"""Several logical processors, each in a host thread of its own, and the one lock above guest code.

Only guest code runs at the same time as other guest code. A thread holds the gate's lock from the moment an engine's
hook enters Python until it returns, and between two runs of its engine; it lets go of it while guest code runs. So
everything above this room goes on being written as if it were alone.

Guest code of *another* processor is still running meanwhile. Whoever changes what it uses (its nested tables, pages
that it changes with read-modify-write instructions) first says `still`: that processor leaves guest code, and cannot
come back before the lock is free. Waiting for it with the lock in hand cannot deadlock: to leave guest code a thread
needs nothing but the next block, which asks the word that `still` has written; only then it asks for the lock.
"""

from __future__ import annotations

import threading

from hv.machine.clock import CurrentClock
from hv.machine.interconnect import Interconnect
from hv.machine.lp import LogicalProcessor
from hv.trace.bus import Trace

_AT_ONCE = 1            # a deadline that is over, and is none of an interrupt (0)


class Gate:
    """The lock, the processor whose thread has it (`here`), and the clock of that processor.

    The first processor is `boot`: the machine comes up on it, and whoever uses the machine from outside does so there.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.lock = threading.Lock()
        self.lock.acquire()             # nobody else is there yet
        self.interconnect = Interconnect()
        self.processors: list[GatedProcessor] = []
        self.here = self.boot = self.new_processor()
        self.clock = CurrentClock(self.boot.clock)

    def new_processor(self) -> GatedProcessor:
        """One more processor, under the lowest free number. Its time begins with that of who asks."""
        used = {processor.number for processor in self.processors}
        number = next(n for n in range(len(used) + 1) if n not in used)
        processor = GatedProcessor(self, number)
        if self.processors:
            processor.counter.done = self.clock.tsc
        self.processors.append(processor)
        return processor

    def remove(self, processor: GatedProcessor) -> None:
        """*processor* runs nothing any more; what others wait for on its clock comes by the first one's."""
        self.processors.remove(processor)
        self.interconnect.apics.remove(processor.apic)
        processor.clock.hand_over(self.boot.clock)

    def show(self, processor: GatedProcessor) -> None:
        """The thread of *processor* has the lock."""
        self.here, self.clock.now, self.trace.place = processor, processor.clock, processor.place

    def wait(self, condition: threading.Condition) -> None:
        """Wait for *condition*, which is one of the gate's lock; the lock is free meanwhile."""
        here = self.here
        here.place = self.trace.place
        try:
            condition.wait()
        finally:
            self.show(here)


class GatedProcessor(LogicalProcessor):
    """A processor behind *gate*. `kicked`: its guest is to be left, and not to be entered, until that is taken back."""

    def __init__(self, gate: Gate, number: int) -> None:
        super().__init__(number, gate.interconnect)
        self.gate = gate
        self.kicked = False
        self.place = (0, 0)                     # of the trace, while another thread has the lock
        self._in_guest = threading.Lock()       # held while guest code runs

    def enter_guest(self) -> None:
        """Guest code runs from here on: the lock is given up."""
        if self.kicked:                         # while its thread waited for the lock
            self._stop()
        gate = self.gate
        self.place = gate.trace.place
        self._in_guest.acquire()
        gate.lock.release()

    def leave_guest(self) -> None:
        """Guest code does not run any more: with the lock."""
        self._in_guest.release()
        gate = self.gate
        gate.lock.acquire()
        gate.here, gate.clock.now, gate.trace.place = self, self.clock, self.place

    @property
    def in_guest(self) -> bool:
        """Guest code runs on it."""
        return self._in_guest.locked()

    def kick(self) -> None:
        """With the lock: what runs here ends soon, for something has changed that concerns it."""
        self.kicked = True
        self._stop()

    def still(self) -> None:
        """With the lock: no guest code runs here when this returns, nor before the lock is free."""
        if self._in_guest.locked():
            self._stop()
            with self._in_guest:
                pass

    def _stop(self) -> None:
        self.counter.deadline = _AT_ONCE
        self.counter.limit = 0
