"""EOI assist: when the bit is set, when it is taken back, what a cleared one means. TLFS "Virtual VP Assist Page"."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hv.hypervisor.interrupts.assisted_apic import AssistedApic
from hv.machine.apic import LocalApic
from hv.machine.clock import VirtualClock
from hv.machine.ram import PhysicalMemory

PAGE = 0x1000
REST = 0xABCD_0000              # other bits of the dword are the guest's


class Bench:
    def __init__(self):
        self.memory = PhysicalMemory(0x2000)
        self.memory.write_u32(PAGE, REST)
        self.page = PAGE
        self.apic = AssistedApic(0, VirtualClock(), True, self.memory, lambda: self.page)
        self.apic.write(0xF0, 0x1FF)
        self.ended = []
        self.apic.on_eoi = self.ended.append

    @property
    def bit(self):
        word = self.memory.read_u32(PAGE)
        assert word & ~1 == REST
        return word & 1

    def take(self, vector, level=False):
        self.apic.accept(vector, level)
        assert self.apic.acknowledge() == vector

    def guest_ends(self):
        """As an operating system does: test and clear, and an EOI only if the bit was clear."""
        was = self.bit
        self.memory.write_u32(PAGE, REST)
        if not was:
            self.apic.eoi()
        return bool(was)


@pytest.fixture
def bench():
    return Bench()


def test_a_lone_interrupt_needs_no_eoi(bench):
    bench.take(0x52)
    assert bench.bit == 1
    assert bench.guest_ends()
    bench.take(0x41)                                # a lower one: the first is over
    assert (bench.ended, bench.apic.isr) == ([0x52], 1 << 0x41)


def test_one_that_waits_needs_a_real_eoi(bench):
    bench.apic.accept(0x41)
    bench.take(0x52)
    assert bench.bit == 0
    assert not bench.guest_ends()
    assert bench.apic.acknowledge() == 0x41


@pytest.mark.parametrize("vector", [0x31, 0x58, 0x52, 0x71])
def test_one_that_comes_takes_the_bit_back(bench, vector):
    bench.take(0x52)
    bench.apic.accept(vector)
    assert (bench.bit, bench.ended) == (0, [])
    assert not bench.guest_ends()
    assert bench.ended == [0x52]


def test_one_that_comes_after_the_guest_has_ended_is_deliverable_at_once(bench):
    bench.take(0x52)
    bench.guest_ends()
    bench.apic.accept(0x31)
    assert bench.apic.deliverable() == 0x31


def test_a_level_triggered_one_needs_a_real_eoi(bench):
    bench.take(0x52, level=True)
    assert bench.bit == 0


def test_an_eoi_that_somebody_waits_for_is_a_real_one(bench):
    bench.apic.hear_eoi(0x52)
    bench.take(0x52)
    assert bench.bit == 0
    bench.guest_ends()
    bench.take(0x52)
    assert bench.bit == 1                           # that was for once
    bench.apic.hear_eoi(0x52)
    assert bench.bit == 0


def test_a_guest_may_ignore_the_bit(bench):
    bench.take(0x52)
    bench.apic.eoi()
    assert (bench.bit, bench.ended, bench.apic.isr) == (0, [0x52], 0)


def test_an_eoi_after_a_cleared_bit_is_that_of_the_next_one_in_service(bench):
    bench.take(0x31)
    bench.apic.accept(0x52)
    assert bench.apic.acknowledge() == 0x52
    bench.guest_ends()                              # of 0x52, by the bit
    bench.apic.eoi()                                # of 0x31
    assert (bench.ended, bench.apic.isr) == ([0x52, 0x31], 0)


@pytest.mark.parametrize("look", [
    lambda apic: apic.read(0x120), lambda apic: apic.read(0xA0), lambda apic: apic.save()], ids=["isr", "ppr", "save"])
@pytest.mark.parametrize("ends", [True, False])
def test_who_looks_sees_what_is_in_service(bench, look, ends):
    bench.take(0x52)
    if ends:
        bench.guest_ends()
    look(bench.apic)
    assert bench.apic.isr == (0 if ends else 1 << 0x52)


def test_without_a_page_nothing_is_offered(bench):
    bench.page = None
    bench.take(0x52)
    assert bench.bit == 0


def test_an_init_forgets_what_was_offered(bench):
    bench.take(0x52)
    bench.apic.init()
    bench.memory.write_u32(PAGE, REST)
    bench.apic.settle()
    assert bench.ended == []


@given(st.lists(st.sampled_from(["31", "41", "42", "52", "take", "end", "tpr", "look", "level", "hear"]), max_size=30))
def test_a_guest_sees_the_same_as_without_assist(steps):
    """The same interrupts in the same order, the same in service, the same EOIs told that somebody waits for."""
    bench, plain = Bench(), LocalApic(0, VirtualClock(), True)
    plain.write(0xF0, 0x1FF)
    taken = ([], [])
    for step in steps:
        if step == "take":
            for apic, log in zip((bench.apic, plain), taken, strict=True):
                if apic.deliverable() is not None:
                    log.append(apic.acknowledge())
        elif step == "end":
            if plain.isr:
                bench.guest_ends()
                plain.eoi()
        elif step == "look":
            assert bench.apic.read(0xA0) == plain.read(0xA0)
        elif step == "hear":
            bench.apic.hear_eoi(0x41)
        else:
            for apic in (bench.apic, plain):
                if step == "tpr":
                    apic.set_tpr(apic.tpr ^ 0x40)
                else:
                    apic.accept(0x42 if step == "level" else int(step, 16), step == "level")
    assert taken[0] == taken[1]
    bench.apic.settle()
    assert (bench.apic.isr, bench.apic.irr) == (plain.isr, plain.irr)
