"""Processors in threads of their own: who has the lock, what it brings along, and how guest code is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import sleep

import pytest

from hv.machine.clock import CurrentClock, MonotonicClock, VirtualClock
from hv.machine.gate import Gate
from hv.machine.gated_engine import GatedEngine
from hv.machine.state import ProcessorState
from hv.machine.traps import Trap
from hv.trace.bus import Trace
from tests.machine.engine_box import CODE, DATA, EngineBox

FOR_EVER = 1 << 60


class GatedBox(EngineBox):
    """An engine of its own on a new processor of *gate*."""

    def __init__(self, gate: Gate, source: str) -> None:
        super().__init__()
        self.engine.close()
        self.gate, self.processor = gate, gate.new_processor()
        self.engine = GatedEngine(self.memory, self.processor)
        self.engine.on_trap, self.engine.second_level = self._on_trap, self.translate
        self.vp: ProcessorState = self.state()
        self.put(source)
        self.rounds = 0

    def until(self, done: Callable[[], bool]) -> None:
        """What a lane's thread does: run, and run again."""
        with self.gate.lock:
            self.gate.show(self.processor)
            while not done():
                self.engine.run(self.vp, FOR_EVER)
                self.processor.kicked = False
                self.rounds += 1


@pytest.fixture
def gate() -> Gate:
    return Gate(Trace())


@contextmanager
def running(box: GatedBox) -> Iterator[list[bool]]:
    """*box* runs in a thread; inside, the test has the lock. The list ends the thread once it is not empty."""
    over: list[bool] = []
    thread = threading.Thread(target=box.until, args=(lambda: bool(over),))
    thread.start()
    try:
        yield over
    finally:
        over.append(True)
        box.processor.kick()
        box.gate.lock.release()
        thread.join()
        box.gate.lock.acquire()


def let_run(gate: Gate, condition: Callable[[], bool]) -> None:
    """Give the lock away until *condition* holds."""
    while not condition():
        gate.lock.release()
        sleep(0)            # let others have both locks
        gate.lock.acquire()
    gate.show(gate.boot)


def test_processors_have_the_lowest_free_number_as_their_apic_id(gate):
    first, second = gate.new_processor(), gate.new_processor()
    gate.remove(first)
    assert (second.apic.apic_id, gate.new_processor().apic.apic_id) == (2, 1)


def test_a_new_processor_begins_at_the_time_of_who_asks(gate):
    gate.boot.counter.done = 777
    assert gate.new_processor().clock.tsc == 777


def test_timers_of_a_processor_that_goes_come_by_the_first_ones_clock(gate):
    fired: list[str] = []
    processor = gate.new_processor()
    processor.clock.at(50, lambda: fired.append("later"))
    processor.clock.at(10, lambda: fired.append("sooner"))
    processor.clock.cancel(processor.clock.at(20, lambda: fired.append("never")))
    gate.remove(processor)
    gate.boot.counter.done = 100
    assert (gate.boot.clock.run_due(), fired) == (2, ["sooner", "later"])


def test_still_returns_when_no_guest_code_runs_and_none_begins_while_the_lock_is_held(gate):
    box = GatedBox(gate, "spin: inc rax; jmp spin")
    with running(box):
        let_run(gate, lambda: box.processor.in_guest)
        box.processor.still()
        assert not box.processor.in_guest
        before = box.processor.counter.done
        assert all(box.processor.counter.done == before for _ in range(10_000))
        let_run(gate, lambda: box.processor.counter.done > before)      # it goes on by itself


def test_a_processor_that_was_kicked_enters_no_guest_code_until_that_is_taken_back(gate):
    box = GatedBox(gate, "spin: inc rax; jmp spin")
    box.processor.kick()
    assert box.engine.run(box.vp, FOR_EVER)
    assert box.vp.rax == 0
    box.processor.kicked = False
    assert not box.engine.run(box.vp, 200)
    assert box.vp.rax > 0


def test_a_kick_while_a_hook_waits_for_the_lock_ends_the_run_behind_the_hook(gate):
    """The limit that the hook's handler sets is not the last word."""
    box = GatedBox(gate, "again: cpuid; jmp again")

    def handle(trap: Trap, detail: int) -> bool:
        box.vp.rip += 2
        box.processor.run_until(FOR_EVER)
        return True

    box.answer = handle
    with running(box):
        for rounds in range(20):
            box.processor.kick()
            let_run(gate, lambda rounds=rounds: box.rounds > rounds)


def test_the_lock_brings_the_clock_and_the_place_of_events_along(gate):
    places: list[tuple[tuple[int, int], int]] = []
    box = GatedBox(gate, "cpuid; cpuid; hlt")
    box.processor.counter.done = 5000

    def handle(trap: Trap, detail: int) -> bool:
        places.append((gate.trace.place, gate.clock.tsc))
        gate.trace.at(7, len(places))
        box.vp.rip += 2
        return trap is Trap.CPUID

    box.answer = handle
    gate.show(box.processor)
    gate.trace.at(7, 0)
    box.engine.run(box.vp, FOR_EVER)
    assert [place for place, _ in places] == [(7, 0), (7, 1), (7, 2)]
    assert all(tsc > 5000 for _, tsc in places)
    gate.show(gate.boot)
    assert (gate.trace.place, gate.clock.tsc) == ((0, 0), 0)


def test_code_that_is_written_while_it_runs_is_run_as_it_is_now(gate):
    """SDM "Handling Self- and Cross-Modifying Code": the loop's own instruction is patched from another thread."""
    box = GatedBox(gate, f"spin: mov eax, 1; mov [{DATA}], eax; jmp spin")
    with running(box):
        for value in range(2, 40):
            let_run(gate, lambda value=value: box.memory.read_u32(DATA) == value - 1 and box.processor.in_guest)
            box.memory.write(CODE + 1, value.to_bytes(4, "little"))
        let_run(gate, lambda: box.memory.read_u32(DATA) == 39)


def test_two_engines_compute_at_the_same_time_what_each_computes_alone(gate):
    source = "mov ecx, 300000; again: lea rax, [rax + rcx*4 + 17]; imul rax, rcx; dec rcx; jnz again; hlt"
    boxes = [GatedBox(gate, source) for _ in range(3)]
    alone = boxes[0]
    gate.show(alone.processor)
    alone.engine.run(alone.vp, FOR_EVER)
    threads = [threading.Thread(target=box.until, args=(lambda box=box: bool(box.traps),)) for box in boxes[1:]]
    for thread in threads:
        thread.start()
    gate.lock.release()
    for thread in threads:
        thread.join()
    gate.lock.acquire()
    assert {(box.vp.rax, box.processor.counter.done) for box in boxes} == {(alone.vp.rax, alone.processor.counter.done)}


def test_a_clock_shows_the_processor_that_is_looked_from():
    first, second, fired = VirtualClock(), VirtualClock(), []
    clock = CurrentClock(first)
    first.counter.done, second.counter.done = 400, 1000
    assert (clock.tsc, clock.time_100ns) == (400, 2)
    clock.now = second
    clock.advance(1)
    clock.at(1200, lambda: fired.append(clock.tsc))
    assert (first.next_deadline(), second.next_deadline(), clock.next_deadline()) == (None, 1200, 1200)
    assert clock.skip_to_next()
    assert clock.run_due() == 1
    assert fired == [1200]


def test_time_never_goes_back_for_who_changes_processors():
    first, second = VirtualClock(), VirtualClock()
    current = CurrentClock(first)
    clock = MonotonicClock(current)
    first.counter.done = 1000
    assert clock.tsc == 1000
    current.now = second
    assert (clock.tsc, current.tsc) == (1000, 0)
    clock.advance(1200)
    assert (clock.tsc, second.tsc) == (1200, 1200)
