"""Weights, caps and reserves, set by root's hypercalls, and what guests that never stop get of the processor."""

from __future__ import annotations

import pytest

from hv.hypervisor.scheduling.run_queue import PERIOD_TICKS, WHOLE
from hv.image.assembler import assemble
from hv.image.library import guests_folder
from hv.image.load import image_of
from hv.platform import Machine
from hv.spec.partition import HvPartitionProperty as P
from hv.trace import events
from hv.trace.events import SwitchReason

BUSY = ".loop: inc rax\n jmp .loop"
PAUSING = ".loop: pause\n jmp .loop"
ASKING = ".loop: xor eax, eax\n cpuid\n jmp .loop"
# Sleeps until the APIC timer interrupts, works for R12 rounds, sleeps again; R13 counts.
SLEEPER = """
    mov edi, 0x50
    lea rax, [rip + on_timer]
    call idt_set
    call idt_load
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov dword ptr [rbx + APIC_DIVIDE], 0x0B
    mov dword ptr [rbx + APIC_LVT_TIMER], 0x20050
    mov dword ptr [rbx + APIC_INITIAL], {interval}
.loop:
    sti
    hlt
    inc r13
    mov rcx, {rounds}
.work:
    dec rcx
    jnz .work
    jmp .loop
on_timer:
    mov dword ptr [rbx + APIC_EOI], 0
    iretq
.include "lib/idt64.inc"
"""
BUS = 10                        # ticks of the TSC for one of the APIC timer


def image(code):
    source = f'.include "lib/machine.inc"\n.bits 64\n.org 0x10000\nstart:\n{code}\n'
    return image_of(assemble(source, "busy", folders=(guests_folder(),)))


class Box:
    """One VM for each of *guests*; `run` lets them run and says what part of the time each of them had.

    They are made when a period of caps begins, so that some periods of run are whole ones.
    """

    def __init__(self, *guests, vps=1):
        self.machine = Machine(memory_mib=24 + 4 * len(guests))
        self.vms = [self.machine.create_vm(f"vm{n}", image(code), 2, vps) for n, code in enumerate(guests)]
        self.machine.clock.advance(-self.machine.clock.tsc % PERIOD_TICKS)
        self.reasons = []
        self.machine.trace.listen(self._note)

    def _note(self, record):
        if isinstance(record.event, events.VpSwitch):
            self.reasons.append(record.event.why)

    def set(self, code, *values):
        for vm, value in zip(self.vms, values, strict=True):
            self.machine.root.winhv.set_partition_property(vm.partition_id, code, value)
        return self

    def run(self, ticks):
        clock = self.machine.clock
        began, before = clock.tsc, self._runtimes()
        self.machine.run(began + ticks)
        return [(after - earlier) / (clock.tsc - began)
                for earlier, after in zip(before, self._runtimes(), strict=True)]

    def _runtimes(self):
        return [sum(vp.runtime for vp in vm.partition.vps.values()) for vm in self.vms]


@pytest.fixture
def box():
    boxes = []

    def make(*guests, **more):
        boxes.append(Box(*guests, **more))
        return boxes[-1]
    yield make
    for one in boxes:
        one.machine.close()


def near(wanted, within=0.02):
    return pytest.approx(wanted, rel=within)


@pytest.mark.parametrize("weights", [(100, 200, 400), (400, 100, 200), (1, 1, 2), (10_000, 2500, 2500)],
                         ids=lambda weights: "-".join(map(str, weights)))
def test_partitions_share_the_processor_by_weight(box, weights):
    """TLFS "CPU Management": the weight is relative to that of the others who want the processor."""
    shares = box(BUSY, BUSY, BUSY).set(P.CPU_WEIGHT, *weights).run(60_000_000)
    assert shares == [near(weight / sum(weights)) for weight in weights]


def test_who_pauses_or_exits_has_its_part_too(box):
    shares = box(PAUSING, ASKING, BUSY).set(P.CPU_WEIGHT, 100, 200, 400).run(35_000_000)
    assert shares == [near(1 / 7), near(2 / 7), near(4 / 7)]


def test_a_weight_means_nothing_to_who_is_alone(box):
    assert box(BUSY).set(P.CPU_WEIGHT, 1).run(10_000_000) == [near(1)]


def test_a_weight_that_changes_counts_from_then_on(box):
    both = box(BUSY, BUSY)
    assert both.run(20_000_000) == [near(0.5)] * 2
    assert both.set(P.CPU_WEIGHT, 100, 300).run(40_000_000) == [near(0.25), near(0.75)]


@pytest.mark.parametrize("guest", [BUSY, PAUSING, ASKING], ids=["busy", "pausing", "asking"])
@pytest.mark.parametrize("cap", [WHOLE // 4, WHOLE // 10, WHOLE], ids=["quarter", "tenth", "whole"])
def test_a_capped_partition_idles_although_nobody_else_runs(box, guest, cap):
    """TLFS "CPU Management": in units of 1/65536 of a processor, for each VP; counted anew every 2 ms."""
    alone = box(guest).set(P.CPU_CAP, cap)
    assert alone.run(10 * PERIOD_TICKS) == [near(cap / WHOLE)]


def test_a_cap_leaves_the_rest_to_the_others_and_the_event_says_so(box):
    both = box(BUSY, BUSY).set(P.CPU_CAP, WHOLE // 8, 0)
    assert both.run(10 * PERIOD_TICKS) == [near(1 / 8), near(7 / 8)]
    assert SwitchReason.CAPPED in both.reasons


def test_a_cap_is_for_each_vp(box):
    """The second VP waits for SIPI, and takes none of the first one's part."""
    assert box(BUSY, vps=2).set(P.CPU_CAP, WHOLE // 4).run(10 * PERIOD_TICKS) == [near(1 / 4)]


def test_a_cap_that_is_taken_back_ends_with_the_period(box):
    one = box(BUSY).set(P.CPU_CAP, WHOLE // 20)
    assert one.run(5 * PERIOD_TICKS) == [near(1 / 20)]
    assert one.set(P.CPU_CAP, 0).run(10 * PERIOD_TICKS)[0] > 0.89


def test_sleep_does_not_count_against_a_cap_and_work_does(box):
    """Time that jumps while a VP halts is nobody's."""
    idle = SLEEPER.format(interval=20_000, rounds=1)
    few = box(idle).set(P.CPU_CAP, WHOLE // 4)
    few.run(10 * PERIOD_TICKS)
    assert few.vms[0].partition.vps[0].regs.r13 >= 10 * PERIOD_TICKS // (20_000 * BUS) - 2
    assert SwitchReason.CAPPED not in few.reasons
    worker = SLEEPER.format(interval=20_000, rounds=100_000)         # it wants more than it may have
    assert box(worker).set(P.CPU_CAP, WHOLE // 4).run(10 * PERIOD_TICKS) == [near(1 / 4)]


def test_a_reserve_is_had_whatever_the_weights_are(box):
    """TLFS "CPU Management": what is left above it goes by weight."""
    shares = box(BUSY, BUSY).set(P.CPU_WEIGHT, 1, 10_000).set(P.CPU_RESERVE, WHOLE // 2, 0).run(10 * PERIOD_TICKS)
    assert shares == [near(0.5, 0.06), near(0.5, 0.06)]


def test_a_reserve_is_no_cap(box):
    assert box(BUSY, BUSY).set(P.CPU_RESERVE, WHOLE // 10, 0).run(10 * PERIOD_TICKS) == [near(0.5, 0.03)] * 2


def test_a_sleeper_that_wakes_is_not_starved_and_cannot_monopolize(box):
    """It works for 10 us each time, and is there at once, although five others never stop."""
    sleeper = SLEEPER.format(interval=40_000, rounds=4000)
    ticks = 80_000_000
    several = box(sleeper, *[BUSY] * 5)
    shares = several.run(ticks)
    rounds = several.vms[0].partition.vps[0].regs.r13
    assert rounds >= ticks // (40_000 * BUS) * 9 // 10
    assert shares[0] < 1 / 6
    assert shares[1:] == [near((1 - shares[0]) / 5, 0.03)] * 5
    assert SwitchReason.WOKEN in several.reasons


def test_who_sleeps_a_little_and_works_a_lot_has_no_more_than_its_part(box):
    greedy = SLEEPER.format(interval=1000, rounds=50_000)
    shares = box(greedy, BUSY, BUSY).run(80_000_000)
    assert shares == [near(1 / 3, 0.05)] * 3


def test_a_partition_with_more_vps_has_as_many_parts(box):
    """# Simplified: as in `run_queue.py`, a weight is that of each VP: here three busy ones against one."""
    spread = """
        mov ebx, APIC
        mov dword ptr [rbx + APIC_SVR], 0x1FF
        mov dword ptr [rbx + APIC_ICR_LOW], 0xC4500
        mov dword ptr [rbx + APIC_ICR_LOW], 0xC4608
    .loop: inc rax
        jmp .loop
        .bits 16
        .org 0x8000
    .spin: jmp .spin
    """
    shares = box(spread, spread, vps=3)
    shares.machine.root.winhv.set_partition_property(shares.vms[1].partition_id, P.CPU_WEIGHT, 100)
    assert shares.run(60_000_000) == [near(0.5)] * 2
    mixed = Box(spread, BUSY, vps=3)
    try:
        assert mixed.run(60_000_000) == [near(0.75, 0.03), near(0.25, 0.08)]
    finally:
        mixed.machine.close()


@pytest.mark.parametrize("setting", [(P.CPU_WEIGHT, (100, 300)), (P.CPU_CAP, (WHOLE // 3, WHOLE // 5)),
                                     (P.CPU_RESERVE, (WHOLE // 3, WHOLE // 5))], ids=["weight", "cap", "reserve"])
def test_two_runs_have_the_same_switches(box, setting):
    told = []
    for _ in range(2):
        both, records = box(SLEEPER.format(interval=5000, rounds=9000), ASKING), []
        both.set(setting[0], *setting[1])
        both.machine.trace.listen(records.append)
        both.run(12_000_000)
        told.append([(record.tsc, repr(record.event)) for record in records
                     if isinstance(record.event, events.VpSwitch)])
    assert told[0] == told[1]
    assert len(told[0]) > 20
