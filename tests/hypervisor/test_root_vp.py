"""Root's VP: its program is Python, its interrupts are a VP's."""

from hv.hypervisor.root_vp import HANDLER_TICKS, RootVirtualProcessor
from hv.trace.events import Injected
from tests.hypervisor.fakes import FakeRegs, Machine


class Bench:
    """Root with a RootVirtualProcessor as VP 1; *taken* are the vectors its program saw."""

    def __init__(self):
        self.machine, self.kicked, self.taken = Machine(), [], []
        self.machine.hypervisor.vp_factory = lambda partition, index: RootVirtualProcessor(
            partition, index, self.kicked.append)
        self.vp = self.machine.hypervisor.create_vp(self.machine.root, 1)
        self.vp.on_interrupt = self.taken.append


def test_it_is_runnable_while_an_interrupt_waits():
    bench = Bench()
    assert not bench.vp.runnable
    bench.vp.apic.accept(0x30)
    assert bench.vp.runnable
    bench.vp.run(0)
    assert not bench.vp.runnable


def test_it_takes_all_that_waits_in_the_order_of_its_apic():
    bench = Bench()
    for vector in (0x31, 0x90, 0x55):
        bench.vp.apic.accept(vector)
    bench.vp.run(0)
    assert bench.taken == [0x90, 0x55, 0x31]
    assert [event.vector for event in bench.machine.events(Injected)] == [0x90, 0x55, 0x31]
    assert bench.vp.apic.isr == 0                   # each handler ended with EOI


def test_what_comes_while_it_handles_is_taken_too():
    bench = Bench()

    def handler(vector):
        bench.taken.append(vector)
        if vector == 0x31:
            bench.vp.apic.accept(0x30)
    bench.vp.on_interrupt = handler
    bench.vp.apic.accept(0x31)
    bench.vp.run(0)
    assert bench.taken == [0x31, 0x30]


def test_an_interrupt_costs_virtual_time():
    bench = Bench()
    bench.vp.apic.accept(0x30)
    before = bench.machine.clock.tsc
    bench.vp.run(0)
    assert bench.machine.clock.tsc - before == HANDLER_TICKS


def test_a_kick_reaches_the_scheduler():
    bench = Bench()
    bench.vp.apic.accept(0x30)
    assert bench.vp in bench.kicked


def test_its_registers_are_those_of_a_64_bit_kernel():
    """The hypercall door looks at them as at a guest's."""
    vp = Bench().vp
    assert vp.regs.cpl == 0
    assert vp.regs.cr0 & 0x8000_0001 == 0x8000_0001
    assert vp.regs.efer & 0x500 == 0x500
    assert vars(FakeRegs()).keys() <= vars(vp.regs).keys()


def test_inspect_is_plain_data():
    shown = Bench().vp.inspect()
    assert (shown["index"], shown["partition"]) == (1, 1)
