"""Root's virtual processor: the one whose program is Python.

Root's management stack is not machine code, so its VP has no engine. It has all the rest of a VP: a virtual APIC, a
SynIC, and the hypercall door. It "runs" by taking the interrupts that wait for it, in the order of its APIC,
and by going on where a call of HvCallDispatchVp has come back.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hv.machine import context
from hv.machine.apic import LocalApic
from hv.machine.floating_point import FloatingPoint
from hv.machine.registers import Segment, Table
from hv.spec.apic import ApicRegister
from hv.spec.msrs import Msr
from hv.spec.x86 import DR6_RESET, DR7_RESET, PAT_RESET, Rflags
from hv.trace import events

if TYPE_CHECKING:
    from hv.hypervisor.interrupts.eoi_messages import EoiMessages
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.registers.dispatched import DispatchedVp
    from hv.hypervisor.synic.synic import Synic
    from hv.hypervisor.timers.stimer import SyntheticTimer
    from hv.hypervisor.timers.synthetic_timers import SyntheticTimers
    from hv.hypervisor.timers.unhalted import UnhaltedTimer

HANDLER_TICKS = 2000        # what one interrupt of root's costs in virtual time


class RootRegisters:
    """The registers of a 64-bit kernel, for who asks by hypercall; nothing runs on them.

    # Simplified: what is set is kept and has no effect.
    """

    cr3: int

    def __init__(self) -> None:
        for name in ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)), "rip",
                     "cr2", "cr3", "dr0", "dr1", "dr2", "dr3"):
            setattr(self, name, 0)
        self.rflags, self.cr0, self.cr4, self.efer = 0x202, 0x8005_0033, 0x220, 0x500
        self.debugctl = 0
        self.kept_msrs: dict[int, int] = {}
        self.fp = FloatingPoint(memoryview(bytearray(context.SIZE)))
        self.dr6, self.dr7, self.cpl, self.interrupt_shadow = DR6_RESET, DR7_RESET, 0, False
        self.cs = Segment(0x10, 0, 0xFFFF_FFFF, 0xA09B)
        self.ss = self.ds = self.es = self.fs = self.gs = Segment(0x18, 0, 0xFFFF_FFFF, 0xC093)
        self.ldtr, self.tr = Segment(0, 0, 0, 0x10000), Segment(0x40, 0, 0x67, 0x8B)
        self.gdtr = self.idtr = Table(0, 0xFFFF)
        self.msrs: defaultdict[int, int] = defaultdict(int, {Msr.PAT: PAT_RESET})
        self.is_kernel_64 = True

    def read_xmm(self, number: int) -> bytes:
        return self.fp.xmm(number)

    def write_xmm(self, number: int, value: bytes) -> None:
        self.fp.set_xmm(number, value)

    @property
    def paging_registers(self) -> tuple[int, int, int, int, int]:
        return self.cr0, self.cr3, self.cr4, self.efer, self.rflags & Rflags.AC.value


class RootVirtualProcessor:
    """VP 0 of root. *on_interrupt* is root's program: called with each vector its APIC delivers."""

    prompt = True               # its turns end by themselves, so it comes before all others
    synic: Synic
    eoi_messages: EoiMessages
    timers: SyntheticTimers
    is_available, tsc_offset = True, 0
    register_page, notifications = None, 0      # root has no parent to look, nor one that could be told
    event_pending = False               # it takes its interrupts when it runs
    exit_counts = [0] * 128             # Python has no VM exits
    npiep = 0
    runtime, running, tsc_reads = 0, False, 0       # nor work that could be counted
    clock_of_work: UnhaltedTimer | None = None

    def __init__(self, partition: Partition, index: int, on_kick: Callable[[Any], None]) -> None:
        self.partition, self.index = partition, index
        self.trace = partition.trace
        self.regs: Any = RootRegisters()
        self.nmi_masked = False
        self.guest_regs = self.regs
        self.apic = LocalApic(index, partition.clock, bsp=True)
        self.apic.write(ApicRegister.SVR, 0x1FF)
        self.explicit_suspend = self.intercept_suspend = self.halted = self.idles = self.wait_for_sipi = False
        self.pending_event = self.string_element = None
        self.runtime_100ns = 0
        self.caller = None
        self.kept_msrs: dict[int, int] = {}
        self.tsc_adjust = 0
        self.late_timers: list[SyntheticTimer] = []
        self.stopped_because = ""
        self.on_interrupt: Callable[[int], None] = lambda vector: None
        self.threads: dict[tuple[int, int], Callable[[], int]] = {}     # by partition and VP: behind HvCallDispatchVp
        self.returned: deque[DispatchedVp] = deque()    # VPs whose call has come back
        self.on_kick = on_kick
        self.apic.on_pending = self.kick

    def connect_thread(self, partition_id: int, vp_index: int, thread: Callable[[], int] | None) -> None:
        """Root's program has a thread for that VP of a child: it goes on where a call of HvCallDispatchVp comes back,
        and gives the flags of the next call. None: it has none any more."""
        if thread is None:
            self.threads.pop((partition_id, vp_index), None)
        else:
            self.threads[partition_id, vp_index] = thread

    @property
    def runnable(self) -> bool:
        """A call has come back, or an interrupt waits."""
        return bool(self.returned) or self.apic.deliverable() is not None

    def kick(self) -> None:
        """Something changed: tell the scheduler."""
        self.on_kick(self)

    def flush_translations(self, cr3: int | None) -> bool:
        """It caches none."""
        return False

    def load_cr3(self, value: int) -> None:
        """Kept, without effect."""
        self.regs.cr3 = value

    def end_run_with(self, action: Callable[[], object]) -> None:
        """Its program is no machine code: no instruction is cut short."""
        action()

    def drop_state_pages(self) -> None:
        """Root has no parent that could have mapped any."""

    def registers_written(self) -> None:
        """Software wrote its registers: no VM entry loads them, so none checks them."""

    def run(self, until: int) -> None:
        """Go on behind calls that have come back; take every interrupt that waits: each handler ends with EOI."""
        while self.returned:
            self.partition.clock.advance(HANDLER_TICKS)
            self.returned.popleft().go_on()
        while self.apic.deliverable() is not None:
            vector = self.apic.acknowledge()
            if self.trace.listening:
                self.trace.emit(events.Injected(vector, 0))
            self.partition.clock.advance(HANDLER_TICKS)
            self.on_interrupt(vector)
            self.apic.eoi()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"index": self.index, "partition": self.partition.id, "apic": self.apic.inspect(),
                "synic": self.synic.inspect(), "timers": self.timers.inspect()}
