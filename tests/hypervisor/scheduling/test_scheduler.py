"""Who runs next: order, fairness, jumps of time, root first."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.hypervisor.scheduling.scheduler import ALONE_TICKS, SLICE_TICKS, WOKEN_TICKS, Scheduler
from hv.trace.events import SwitchReason, VpSwitch
from tests.hypervisor.fakes import Machine

SLICE = 1000


class ScriptedVp:
    """A VP that may run *turns* times (for ever when None), each time as long as it is let."""

    def __init__(self, partition, index):
        self.partition, self.index = partition, index
        self.prompt, self.halted = partition.is_root, False
        self.tsc_reads = 0
        self.ran = self.left = 0
        self.follows = self.lasts = True
        self.turns = 0
        self.slices: list[int] = []         # how long each turn was, in ticks
        self.log = None
        self.act = lambda: None

    @property
    def runnable(self):
        return self.turns is None or self.turns > 0

    def run(self, until):
        clock = self.partition.clock
        self.running = True
        self.log.append((self.partition.id, self.index))
        self.slices.append(until - clock.tsc)
        if self.turns is not None:
            self.turns -= 1
        self.act()
        if not self.partition.is_root:
            self.ran += max(0, until - clock.tsc)
            clock.counter.done = max(until, clock.tsc)

    def leave(self):
        self.left += 1
        self.running = False

    def can_follow(self, other):
        return self.follows

    def take_over(self, until):
        self.run(until)
        return self.lasts

    running = False

    def stays(self):
        return True



class FakeProcessor:
    """Physical interrupts that wait, and the stops it was asked for."""

    def __init__(self, clock):
        self.vectors, self.stops, self.extended = [], [], []
        self.counter = clock.counter
        self.counter.deadline = 1 << 62

    def acknowledge(self):
        return self.vectors.pop(0) if self.vectors else None

    def stop_by(self, tsc):
        self.stops.append(tsc)

    def run_until(self, tsc):
        self.extended.append(tsc)


class Bench:
    """*shape* is the number of VPs of each child."""

    def __init__(self, *shape):
        self.machine, self.log = Machine(), []
        self.processor = FakeProcessor(self.machine.clock)
        self.clock, self.hypervisor = self.machine.clock, self.machine.hypervisor
        self.children = [self.machine.child(vps=0) for _ in shape]
        self.vps = {}
        for child, count in zip(self.children, shape, strict=True):
            for index in range(count):
                self.add(child, index)
        self.root = self.add(self.machine.root, 0)
        self.scheduler = Scheduler(self.hypervisor, self.processor, SLICE)

    def add(self, partition, index):
        vp = partition.vps[index] = self.vps[partition.id, index] = ScriptedVp(partition, index)
        vp.log = self.log
        return vp

    def let(self, turns, *only):
        for place, vp in self.vps.items():
            if not vp.partition.is_root and (not only or place in only):
                vp.turns = turns
        self.scheduler.look()
        return self

    def wake(self, place, turns=1):
        self.vps[place].turns = turns
        self.hypervisor.on_wake(self.vps[place])


def test_every_vp_has_its_turn_in_the_order_of_partition_and_number():
    bench = Bench(2, 1).let(2)
    bench.scheduler.run()
    assert bench.log == [(2, 0), (3, 0), (2, 1)] * 2


def test_the_order_does_not_depend_on_who_was_made_first():
    bench = Bench(0)
    for index in (2, 0, 1):
        bench.add(bench.children[0], index).turns = 1
    bench.scheduler.run()
    assert bench.log == [(2, 0), (2, 1), (2, 2)]


def test_slices_are_as_long_as_was_asked_while_others_wait():
    bench = Bench(1, 1).let(3)
    bench.scheduler.run()
    assert bench.vps[2, 0].slices == [SLICE] * 3
    assert bench.vps[3, 0].slices == [SLICE, SLICE, ALONE_TICKS]      # at last nobody else was left


def test_who_runs_alone_keeps_the_processor():
    bench = Bench(1, 1).let(1, (2, 0))
    bench.scheduler.run()
    assert bench.vps[2, 0].slices == [ALONE_TICKS]


def test_a_slice_ends_at_the_next_timer():
    bench = Bench(1).let(2)
    bench.clock.at(300, lambda: None)
    bench.scheduler.run()
    assert bench.vps[2, 0].slices[0] == 300


def test_a_slice_ends_where_the_run_shall_end():
    bench = Bench(1).let(None)
    bench.scheduler.run(until=SLICE // 2)
    assert bench.log == [(2, 0)]
    assert bench.clock.tsc == SLICE // 2


def test_root_comes_first_and_does_not_change_whose_turn_it_is():
    bench = Bench(3).let(2)

    def ask_root():
        bench.wake((1, 0))
    bench.vps[2, 1].act = ask_root
    bench.scheduler.run()
    assert bench.log == [(2, 0), (2, 1), (1, 0), (2, 2), (2, 0), (2, 1), (1, 0), (2, 2)]


def test_a_woken_sibling_gives_the_running_slice_an_end_and_root_ends_it_at_once():
    bench = Bench(2)
    runs = bench.vps[2, 0]

    def act():
        bench.hypervisor.on_wake(runs)
        assert bench.processor.stops == []              # it runs already
        bench.wake((2, 1))
        bench.hypervisor.on_wake(bench.root)
    runs.act = act
    bench.let(1, (2, 0)).scheduler.turn()
    assert bench.processor.stops == [SLICE, 0]


def test_who_was_not_woken_for_anything_it_can_take_is_not_ready():
    bench = Bench(2).let(1, (2, 0))
    bench.vps[2, 0].act = lambda: bench.hypervisor.on_wake(bench.vps[2, 1])
    bench.scheduler.run()
    assert bench.log == [(2, 0)]


def test_a_sibling_that_was_woken_goes_first_for_a_short_turn():
    """So an IPI is taken soon, and who is woken often has no more than its part."""
    bench = Bench(3)
    bench.scheduler = Scheduler(bench.hypervisor, bench.processor, 10 * WOKEN_TICKS)
    bench.vps[2, 0].act = lambda: bench.wake((2, 2), 2)
    bench.let(1, (2, 0), (2, 1))
    bench.scheduler.run()
    assert bench.processor.stops == [WOKEN_TICKS]
    assert bench.log == [(2, 0), (2, 2), (2, 1), (2, 2)]
    assert bench.vps[2, 2].slices[0] == WOKEN_TICKS


def test_who_spins_for_a_lock_gives_way_if_somebody_waits():
    bench = Bench(2)
    spins = bench.vps[2, 0]
    spins.act = lambda: bench.hypervisor.on_spin(spins)
    bench.let(1, (2, 0)).scheduler.turn()
    assert bench.processor.stops == []              # nobody waits
    bench.let(2).scheduler.turn()
    assert bench.processor.stops == [bench.clock.tsc - SLICE]
    assert bench.log == [(2, 0), (2, 0)]
    bench.hypervisor.on_spin(bench.vps[2, 1])       # it does not run
    assert len(bench.processor.stops) == 1


class HaltingBench(Bench):
    """VP 0 of the first child halts in its first turn; *woken* is what it was told, at *moment*."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.vp, self.woken, self.moment = self.vps[2, 0], None, None
        self.vp.act = self.halt
        self.let(1, (2, 0))

    def halt(self):
        if self.woken is None:
            self.woken = self.hypervisor.on_halt(self.vp)
            self.moment = self.clock.tsc

    def rouse(self):
        self.vp.turns = 1


def test_who_halts_alone_sleeps_on_the_spot_until_a_timer_wakes_it():
    bench = HaltingBench(1)
    bench.clock.at(300, lambda: None)
    bench.clock.at(500, bench.rouse)
    bench.clock.at(900, lambda: None)
    bench.scheduler.turn()
    assert (bench.woken, bench.moment) == (True, 500)
    assert bench.processor.extended == [900]        # the next timer, or the slice's end


def test_who_was_woken_on_the_spot_has_the_rest_of_its_slice():
    bench = HaltingBench(1)
    bench.clock.at(500, bench.rouse)
    bench.scheduler.turn()
    assert bench.processor.extended == [ALONE_TICKS]


def test_a_physical_interrupt_wakes_who_halts_on_the_spot():
    bench = HaltingBench(1)
    bench.clock.at(500, lambda: bench.processor.vectors.append(0x31))
    bench.hypervisor.interrupts.route = lambda vector: bench.rouse()
    bench.scheduler.turn()
    assert (bench.woken, bench.moment, bench.processor.vectors) == (True, 500, [])


@pytest.mark.parametrize(("at", "moment"), [([], 0), ([ALONE_TICKS], 0), ([700], 700)], ids=["none", "later", "idle"])
def test_nobody_sleeps_on_the_spot_beyond_its_slice_or_for_nothing(at, moment):
    bench = HaltingBench(1)
    for tsc in at:
        bench.clock.at(tsc, lambda: None)
    bench.scheduler.turn()
    assert (bench.woken, bench.moment, bench.processor.extended) == (False, moment, [])


def test_who_halts_while_others_wait_or_wakes_one_yields():
    bench = HaltingBench(2)
    bench.wake((2, 1))
    bench.clock.at(50, bench.rouse)
    bench.scheduler.turn()
    assert (bench.woken, bench.moment) == (False, 0)
    bench = HaltingBench(1)
    bench.clock.at(300, lambda: bench.hypervisor.on_wake(bench.root))
    bench.clock.at(500, bench.rouse)
    bench.scheduler.turn()
    assert (bench.woken, bench.moment) == (False, 300)


def test_a_halt_outside_a_turn_is_the_caller_s_affair():
    bench = HaltingBench(1)
    bench.clock.at(500, bench.rouse)
    bench.scheduler.current = bench.vp
    bench.halt()
    assert (bench.woken, bench.moment) == (False, 0)


class YieldingBench(Bench):
    """VP 0 of the first child pauses or halts after 10 ticks of its first turn; *stays* is what it was told."""

    def __init__(self, *shape, halts=False):
        super().__init__(*shape)
        self.vp, self.stays, self.halts = self.vps[2, 0], None, halts
        self.vp.act, self.vp.turns = self.pause, 1
        self.scheduler.look()

    def pause(self):
        if self.stays is None:
            self.clock.counter.done += 10
            self.vp.ran += 10
            self.vp.turns, self.vp.halted = (0, True) if self.halts else (1, False)
            self.stays = self.hypervisor.on_yield(self.vp)

    def why(self):
        return [switch.why for switch in self.machine.events(VpSwitch)]


@pytest.mark.parametrize(("halts", "why"), [(False, SwitchReason.SPINS), (True, SwitchReason.HALTED)])
def test_a_sibling_takes_over_without_leaving_the_engine(halts, why):
    bench = YieldingBench(2, halts=halts)
    bench.wake((2, 1))
    bench.scheduler.turn()
    assert bench.stays
    assert bench.log == [(2, 0), (2, 1)]
    assert bench.why()[1] is why
    assert [bench.vps[2, n].left for n in (0, 1)] == [1, 1]
    assert bench.scheduler.current is bench.vps[2, 1]


def test_a_sibling_whose_turn_ended_at_once_ends_the_run():
    bench = YieldingBench(2)
    bench.vps[2, 1].lasts = False
    bench.wake((2, 1))
    bench.scheduler.turn()
    assert (bench.stays, bench.log) == (False, [(2, 0), (2, 1)])


def test_who_pauses_alone_runs_on_and_who_halts_alone_is_left():
    bench = YieldingBench(1)
    bench.scheduler.turn()
    assert bench.stays is True
    bench = YieldingBench(1, halts=True)
    bench.scheduler.turn()
    assert bench.stays is False


REASONS_TO_LEAVE = {
    "root-waits": lambda bench: bench.wake((1, 0)),
    "a-timer-is-due": lambda bench: setattr(bench.processor.counter, "deadline", 10),
    "a-physical-interrupt-waits": lambda bench: setattr(bench.processor.counter, "deadline", 0),
    "the-sibling-is-watched": lambda bench: setattr(bench.vps[2, 1], "follows", False),
}


@pytest.mark.parametrize("reason", REASONS_TO_LEAVE)
def test_the_engine_is_left_when_somebody_else_is_to_be_asked(reason):
    bench = YieldingBench(2)
    bench.wake((2, 1))
    pause = bench.vp.act

    def act():
        REASONS_TO_LEAVE[reason](bench)
        pause()
    bench.vp.act = act
    bench.scheduler.turn()
    assert (bench.stays, bench.log) == (False, [(2, 0)])


def test_siblings_do_not_keep_the_engine_from_another_partition_for_longer_than_a_slice():
    bench = YieldingBench(2, 1)
    bench.wake((2, 1))
    bench.wake((3, 0))
    bench.scheduler.turn()
    assert bench.vps[2, 1].slices == [SLICE - 10]


def test_a_yield_outside_a_turn_is_the_caller_s_affair():
    bench = YieldingBench(2)
    bench.wake((2, 1))
    bench.scheduler.current = bench.vp
    bench.pause()
    assert (bench.stays, bench.log) == (False, [])


def test_when_nobody_can_run_time_jumps_to_the_next_timer():
    bench = Bench(1)

    bench.clock.at(7_000_000, lambda: bench.wake((2, 0)))
    bench.scheduler.run()
    assert bench.log == [(2, 0)]
    assert bench.clock.tsc >= 7_000_000


def test_a_jump_goes_no_further_than_the_run():
    bench = Bench(1)
    bench.clock.at(7_000_000, lambda: None)
    bench.scheduler.run(until=1_000_000)
    assert bench.clock.tsc == 1_000_000


def test_a_run_ends_when_nothing_can_ever_happen():
    bench = Bench(2)
    bench.scheduler.run()
    assert (bench.log, bench.clock.tsc) == ([], 0)
    bench.scheduler.run(until=5000)
    assert bench.clock.tsc == 0


def test_a_run_ends_when_it_is_paused():
    bench = Bench(1).let(None)
    bench.scheduler.run(paused=lambda: len(bench.log) == 4)
    assert len(bench.log) == 4


def test_whether_a_run_is_finished_is_asked_when_a_vp_may_have_run_for_the_last_time():
    bench, asked = Bench(2), []
    bench.vps[2, 0].turns, bench.vps[2, 1].turns = 3, None

    def finished():
        asked.append(len(bench.log))
        return len(asked) == 2

    bench.scheduler.run(finished=finished)
    assert asked == [0, 5]                          # at the beginning, and behind the third turn of VP 0


def test_a_physical_interrupt_while_nobody_runs_is_routed_at_once():
    bench = Bench(1)
    routed = []
    bench.hypervisor.interrupts.route = routed.append
    bench.processor.vectors = [0x31, 0x30]
    assert bench.scheduler.turn()                   # somebody may be awake now
    assert routed == [0x31, 0x30]
    assert not bench.scheduler.turn()


def test_a_physical_interrupt_is_left_to_exit_from_whoever_runs():
    """SDM "External-Interrupt Exiting": the VP that runs next takes the exit, whoever owns the device."""
    bench = Bench(1).let(1)
    bench.processor.vectors = [0x31]
    bench.scheduler.turn()
    assert bench.log == [(2, 0)]
    assert bench.processor.vectors == [0x31]


def test_a_switch_is_an_event_and_events_belong_to_who_runs():
    bench = Bench(2).let(2)

    def speak():
        bench.machine.trace.emit("here")
    bench.vps[2, 1].act = speak
    bench.scheduler.run()
    assert [(switch.partition, switch.vp) for switch in bench.machine.events(VpSwitch)] == [(2, 0), (2, 1)] * 2
    assert {(record.partition, record.vp) for record in bench.machine.recent.last(99, str)} == {(2, 1)}


def test_events_belong_to_who_runs_on_after_root_was_called_from_outside():
    """VMMS makes another VM between two slices of the only VP."""
    bench = Bench(1).let(2)
    bench.vps[2, 0].act = lambda: bench.machine.trace.emit("here")
    bench.scheduler.turn()
    bench.machine.trace.at(1, 0)
    bench.scheduler.turn()
    assert [(record.partition, record.vp) for record in bench.machine.recent.last(99, str)] == [(2, 0)] * 2
    assert len(bench.machine.events(VpSwitch)) == 1


def test_run_root_lets_root_do_what_waits():
    bench = Bench(1).let(1)
    assert not bench.scheduler.run_root()
    bench.wake((1, 0))
    assert bench.scheduler.run_root()
    assert bench.log == [(1, 0)]


def test_a_partition_that_is_gone_does_not_confuse_the_order():
    bench = Bench(1, 1, 1).let(None)
    bench.scheduler.run(paused=lambda: len(bench.log) == 2)
    del bench.hypervisor.partitions[3]
    bench.scheduler.run(paused=lambda: len(bench.log) == 5)
    assert bench.log[2:] == [(4, 0), (2, 0), (4, 0)]


def test_the_slice_of_a_machine_is_fifty_microseconds():
    assert SLICE_TICKS == 100_000


@settings(max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 60))
def test_nobody_waits_longer_than_one_round(shape, turns):
    """Round robin: of any two that can always run, neither is ever two turns ahead."""
    bench = Bench(*shape).let(None)
    bench.scheduler.run(paused=lambda: len(bench.log) >= turns)
    counts = [bench.log.count(place) for place, vp in bench.vps.items() if not vp.partition.is_root]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("turns", [1, 5])
def test_two_schedulers_with_the_same_work_do_the_same(turns):
    logs = []
    for _ in range(2):
        bench = Bench(2, 3).let(turns)
        bench.scheduler.run()
        logs.append((bench.log, bench.clock.tsc))
    assert logs[0] == logs[1]
