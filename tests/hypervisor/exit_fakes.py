"""A VP for the exit handlers: registers as plain fields, a vcpu that notes what it is told, a real partition behind."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine import context
from hv.machine.floating_point import FloatingPoint
from hv.machine.registers import Segment, Table
from hv.spec.msrs import Msr
from hv.vmx.checks import EntryResult
from hv.vmx.vmcs import Vmcs
from tests.hypervisor.fakes import FakeVp, Machine, Shown
from tests.machine.fakes import FLAT_CODE_64, FLAT_DATA, FakeMemory, FakeState

NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
TASK = Segment(0x20, 0, 0x67, 0x8B)


class Gpr:
    """The general registers by number, as ProcessorState.gpr has them."""

    def __init__(self, state: ExitState) -> None:
        self.state = state

    def __getitem__(self, number: int) -> int:
        return getattr(self.state, NAMES[number])

    def __setitem__(self, number: int, value: int) -> None:
        setattr(self.state, NAMES[number], value & (1 << 64) - 1)


class ExitState(Shown, FakeState):
    """64-bit code at CPL 0 without paging, which no processor has and which keeps addresses plain."""

    def __init__(self) -> None:
        super().__init__(rflags=0x202, cr0=0x11, cr4=0x20, efer=0x500)
        self.cs, self.gdtr, self.idtr, self.tr = FLAT_CODE_64, Table(0, 0xFFFF), Table(0, 0xFFFF), TASK
        self.ss = self.ds = self.es = self.fs = self.gs = FLAT_DATA
        self.gpr = Gpr(self)
        self.fp = FloatingPoint(memoryview(bytearray(context.SIZE)))
        self.fp.reset()
        self.bits = 64
        self.kept_msrs, self.debugctl = {}, 0
        self.msrs = dict.fromkeys((Msr.STAR, Msr.LSTAR, Msr.PAT, Msr.SFMASK, Msr.SYSENTER_CS, Msr.SYSENTER_ESP,
                                   Msr.SYSENTER_EIP), 0)

    def keep_base(self, index: int) -> None:
        """Nothing here returns to a user."""

    @property
    def protected(self) -> bool:
        return bool(self.cr0 & 1)

    @property
    def in_long_mode(self) -> bool:
        return bool(self.efer & 0x400)

    @property
    def is_kernel_64(self) -> bool:
        return self.bits == 64 and not self.cpl

    @property
    def linear_rip(self) -> int:
        return self.rip if self.bits == 64 else self.cs.base + self.rip & 0xFFFF_FFFF

    @property
    def location(self) -> tuple[int, int, int]:
        return self.rip, self.cr3, self.cpl | self.bits << 2 | (self.cr0 & 1) << 9

    @property
    def single_stepping(self) -> bool:
        return bool(self.rflags & 0x100)

    @property
    def interrupts_enabled(self) -> bool:
        return bool(self.rflags & 0x200)

    def complete_instruction(self, length: int) -> bool:
        self.rip += length
        self.interrupt_shadow = False
        return self.single_stepping


class FakeWork:
    """The words of the work counter, of which the first is the clock."""

    def __init__(self, clock) -> None:
        self.clock = clock

    def __getitem__(self, word: int) -> int:
        return {0: self.clock.tsc}[word]


class FakeVcpu:
    """What a VP asks of its vcpu. *injected* are the events, *ran* the moments it should have run until."""

    def __init__(self, state: ExitState, clock=None) -> None:
        self.state, self.work = state, FakeWork(clock)
        self.guest = FakeMemory()
        self.memory = self.guest.linear(state)
        self.engine = SimpleNamespace(code_bytes=lambda: b"\x90", known_code=lambda: b"")
        self.vmcs = Vmcs(state, lambda: None)
        self.exits = [0] * 128
        self.state_written = False
        self.entry_result = EntryResult()
        self.injected: list = []
        self.exits = [0] * 128
        self.window: bool | None = None
        self.nmi_window: bool | None = None
        self.nmi_blocked = self.debug_pends = False
        self.non_register, self.controls = SimpleNamespace(nmi_blocked=False), None
        self.ran: list[int] = []
        self.exits = [0] * 128
        self.tsc = 0
        self.goes_on = True
        self.on_run = lambda: None

    def inject(self, event) -> bool:
        self.injected.append(event)
        self.nmi_blocked = self.nmi_blocked or event.kind == 2
        return self.goes_on

    def want_window(self, wanted: bool) -> None:
        self.window = wanted

    @property
    def takes_nmi(self) -> bool:
        return not self.nmi_blocked and not self.state.interrupt_shadow

    def want_nmi_window(self, wanted: bool) -> None:
        self.nmi_window = wanted

    def owe_single_step(self) -> None:
        self.debug_pends = True

    def reset_events(self) -> None:
        self.nmi_blocked = self.debug_pends = False

    def set_tsc(self, value: int) -> None:
        self.tsc = value

    def run(self, until: int, apic_entered: bool) -> None:
        self.ran.append(until)
        self.on_run()

    def step(self) -> None:
        self.ran.append(-1)


class FakeVpVmcs:
    """What a VP asks of its VMCS; *entered* counts its turns."""

    def __init__(self, fields: Vmcs) -> None:
        self.fields = fields
        self.entered = 0

    def current(self):
        return nullcontext()

    def read(self, field) -> int:
        return self.fields.read(field)

    def write(self, field, value: int) -> None:
        self.fields.write(field, value)

    def enter(self) -> None:
        self.entered += 1

    def clear(self) -> None:
        self.fields.detach()


def new_vp(hypervisor, partition, index: int) -> VirtualProcessor:
    """The hypervisor's own VP over a fake vcpu."""
    vcpu = FakeVcpu(ExitState(), partition.clock)
    return VirtualProcessor(hypervisor, partition, index, vcpu, FakeVpVmcs(vcpu.vmcs))


class ExitVp(FakeVp):
    """A VP that handlers and the run loop work on."""

    def __init__(self, partition, index: int) -> None:
        super().__init__(partition, index)
        self.regs = ExitState()
        self.vcpu = FakeVcpu(self.regs)
        self.vmcs = FakeVpVmcs(self.vcpu.vmcs)
        self.trace = partition.trace
        self.hypervisor = None
        self.stopped_because = ""
        self.event_pending = False
        self.call_site = None
        self.deliveries = 0
        self.asleep_for_good = False
        self.slept = 0

    def sleep(self) -> bool:
        start = self.partition.clock.tsc
        woken = self.hypervisor.on_halt(self)
        self.slept += self.partition.clock.tsc - start
        return woken

    def deliver_pending(self) -> bool:
        self.deliveries += 1
        return True

    def stop(self, why: str) -> None:
        self.stopped_because = why


def a_machine() -> Machine:
    """A hypervisor whose VPs are ExitVps, root ready for intercept messages."""
    machine = Machine()
    machine.hypervisor.vp_factory = ExitVp
    return machine


def a_vp(machine: Machine | None = None) -> ExitVp:
    """VP 0 of an active child."""
    machine = machine or a_machine()
    vp = machine.child().vps[0]
    vp.hypervisor = machine.hypervisor
    vp.machine = machine
    return vp
