"""Root's VP: its program is Python, its interrupts are a VP's."""

import contextlib

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registers import get_vp_registers, set_vp_registers
from hv.hypervisor.hypercalls.registry import Call, Reps
from hv.hypervisor.vps.root_vp import HANDLER_TICKS, RootVirtualProcessor
from hv.machine.faults import GuestFault
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hypercalls.registers import RegisterAssoc, RegisterName, VpRegistersInput
from hv.spec.partition import PARTITION_ID_SELF, VP_INDEX_SELF
from hv.spec.x86 import PAT_RESET
from hv.trace.events import Injected
from tests.hypervisor.fakes import FakeRegs, Machine

N = HvRegisterName


class Bench:
    """Root with a RootVirtualProcessor as VP 1; *taken* are the vectors its program saw."""

    def __init__(self):
        self.machine, self.kicked, self.taken = Machine(), [], []
        self.machine.hypervisor.vp_factory = lambda partition, index: RootVirtualProcessor(
            partition, index, self.kicked.append)
        self.vp = self.machine.hypervisor.create_vp(self.machine.root, 1)
        self.vp.on_interrupt = self.taken.append
        self.call, self.itself = Call(self.machine.hypervisor, self.vp), VpRegistersInput(
            partition_id=PARTITION_ID_SELF, vp_index=VP_INDEX_SELF)

    def get(self, name):
        reps = Reps(RegisterName(name=name).pack(), RegisterName, 0, 1)
        get_vp_registers(self.call, self.itself, reps)
        return int.from_bytes(reps.output, "little")

    def set(self, name, value):
        data = RegisterAssoc(name=name, value=value.to_bytes(16, "little")).pack()
        set_vp_registers(self.call, self.itself, Reps(data, RegisterAssoc, 0, 1))


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


@pytest.mark.parametrize("name", [
    N.RAX, N.RIP, N.CR0, N.CR4, N.EFER, N.DR7, N.STAR, N.LSTAR, N.PAT, N.KERNEL_GS_BASE], ids=lambda name: name.name)
def test_its_registers_are_set_and_read_by_hypercall(name):
    """TLFS "HvCallSetVpRegisters": a partition with AccessVpRegisters may name itself."""
    bench = Bench()
    bench.set(name, 0x401)
    assert bench.get(name) == 0x401


@pytest.mark.parametrize("name", HvRegisterName, ids=lambda name: name.name)
def test_every_register_of_its_own_has_a_value_or_a_status(name):
    bench = Bench()
    for act in (lambda: bench.get(name), lambda: bench.set(name, 0x31), lambda: bench.get(name)):
        with contextlib.suppress(HypercallError):
            act()


@pytest.mark.parametrize("value", [0, 1, (1 << 128) - 1])
def test_every_register_of_its_own_takes_a_value_or_refuses_it(value):
    """Also those that only a VP with a parent has a use for, like InterceptSuspend."""
    bench = Bench()
    for name in HvRegisterName:
        with contextlib.suppress(HypercallError, GuestFault):
            bench.set(name, value)


def test_its_msrs_begin_as_after_reset():
    bench = Bench()
    assert (bench.get(N.PAT), bench.get(N.STAR)) == (PAT_RESET, 0)


def test_inspect_is_plain_data():
    shown = Bench().vp.inspect()
    assert (shown["index"], shown["partition"]) == (1, 1)
