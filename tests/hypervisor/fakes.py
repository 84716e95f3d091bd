"""Fakes for the hypervisor's tests: a VP without an engine, and a small machine of them."""

from __future__ import annotations

import struct
from collections import defaultdict
from contextlib import nullcontext
from types import SimpleNamespace

from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.intercepts.shown import ShownRegisters
from hv.hypervisor.partitions.partition import Partition
from hv.machine import context
from hv.machine.apic import LocalApic
from hv.machine.clock import VirtualClock
from hv.machine.floating_point import FloatingPoint
from hv.machine.ram import PhysicalMemory
from hv.machine.registers import Segment, Table
from hv.spec.x86 import DR6_RESET, PAGE_SIZE
from hv.trace.bus import Recent, Trace

CODE = Segment(0x10, 0, 0xFFFF_FFFF, 0xA09B)
DATA = Segment(0x18, 0, 0xFFFF_FFFF, 0xC093)


class Shown:
    """What a parent is shown of a processor's state."""

    @property
    def general(self):
        return struct.pack("<17Q", self.rax, self.rcx, self.rdx, self.rbx, self.rsp, self.rbp, self.rsi, self.rdi,
                           *(getattr(self, f"r{n}") for n in range(8, 16)), self.rip)

    @property
    def settings(self):
        return (self.cs, self.ss, self.ds, self.es, self.fs, self.gs, self.cr0, self.cr3, self.cr4, self.efer,
                self.dr7, self.cpl, self.interrupt_shadow, *map(self.fp.xmm, range(6)))


class FakeRegs(Shown):
    """ProcessorState's attributes, in long mode at CPL 0."""

    def __init__(self) -> None:
        for name in ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)), "rip",
                     "cr2", "cr3", "dr0", "dr1", "dr2", "dr3"):
            setattr(self, name, 0)
        self.rflags, self.cr0, self.cr4, self.efer, self.dr6, self.dr7 = 2, 0x8005_0033, 0x220, 0x500, DR6_RESET, 0x400
        self.cpl, self.interrupt_shadow, self.debugctl = 0, False, 0
        self.fp = FloatingPoint(memoryview(bytearray(context.SIZE)))
        self.cs = CODE
        self.ss = self.ds = self.es = self.fs = self.gs = self.ldtr = self.tr = DATA
        self.gdtr = self.idtr = Table(0, 0xFFFF)
        self.msrs: dict[int, int] = defaultdict(int)
        self.is_kernel_64 = True

    def read_xmm(self, number: int) -> bytes:
        return self.fp.xmm(number)

    def write_xmm(self, number: int, value: bytes) -> None:
        self.fp.set_xmm(number, value)

    @property
    def paging_registers(self):
        return self.cr0, self.cr3, self.cr4, self.efer, self.rflags & 1 << 18

    @property
    def single_stepping(self):
        return bool(self.rflags & 0x100)


class FakeVp:
    """A VirtualProcessor as the hypercalls, the MSRs and the SynIC see it."""

    def __init__(self, partition: Partition, index: int) -> None:
        self.partition, self.index = partition, index
        self.regs = FakeRegs()
        self.apic = LocalApic(index, partition.clock, bsp=index == 0)
        self.apic.write(0xF0, 0x1FF)        # software-enabled
        self.explicit_suspend = True
        self.is_available, self.late_timers, self.tsc_offset = True, [], 0
        self.intercept_suspend = self.halted = self.idles = False
        self.wait_for_sipi = index != 0
        self.runtime_100ns = self.runtime = 0
        self.running, self.clock_of_work, self.npiep = False, None, 0
        self.kept_msrs, self.tsc_adjust = {}, 0
        self.pending_event = self.string_element = None
        self.vcpu = SimpleNamespace(tsc=0, state_written=False, set_tsc=self._set_tsc, takes_nmi=True,
                                    debug_pends=False, want_window=lambda wanted: None,
                                    want_nmi_window=lambda wanted: None,
                                    non_register=SimpleNamespace(nmi_blocked=False), controls=None)
        self.shown = ShownRegisters(self)
        self.notifications, self.nmi_pending = 0, False
        self.vmcs = SimpleNamespace(clear=lambda: None, current=nullcontext, read=lambda field: 0,
                                    write=lambda field, value: None)
        self.kicks = 0
        self.runnable = False
        self.flushes: list[int | None] = []
        self.apic.on_pending = self.kick
        self.nmi_masked = False
        self.caller = self.register_page = self.message_page = self.dispatched = None
        self.asked_at = 0
        self.message = None
        self.event_pending = False
        self.exit_counts = [0] * 128

    @property
    def guest_regs(self):
        return self.regs

    def kick(self) -> None:
        self.kicks += 1

    def show_external_line(self, asserted: bool) -> None:
        self.sees_external = asserted

    def stop_time(self) -> None:
        self.apic.timer.pause()
        self.timers.pause()

    def resume_time(self, stood: int) -> None:
        self.apic.timer.resume()
        self.timers.resume()
        self.tsc_offset -= stood

    def flush_translations(self, cr3: int | None) -> bool:
        self.flushes.append(cr3)
        return False

    def load_cr3(self, value: int) -> None:
        self.regs.cr3 = value

    def _set_tsc(self, value: int) -> None:
        self.tsc_offset = value - self.partition.clock.tsc

    def idle(self) -> None:
        self.halted = True

    def end_run_with(self, action) -> None:
        action()

    def drop_state_pages(self) -> None:
        for page in (self.register_page, self.message_page):
            if page is not None:
                page.close()
        self.register_page = self.message_page = None

    def registers_written(self) -> None:
        self.vcpu.state_written = True


class FakeIommu:
    """An IommuDriver that notes what it is told."""

    def __init__(self) -> None:
        self.attached: dict[int, int] = {}
        self.interrupts: set[tuple[int, int]] = set()

    def attach(self, source_id: int, partition: Partition, guest_id: int | None = None) -> None:
        self.attached[source_id] = partition.id

    def detach(self, source_id: int) -> None:
        del self.attached[source_id]

    def release(self, partition: Partition) -> None:
        """Nobody makes domains here."""

    def map_interrupt(self, source_id: int, vector: int) -> tuple[int, int]:
        self.interrupts.add((source_id, vector))
        return 0xFEE0_0010, vector

    def unmap_interrupt(self, source_id: int, vector: int) -> None:
        self.interrupts.remove((source_id, vector))


class Machine:
    """A hypervisor with root and its VP; *recent* holds the events."""

    def __init__(self, pages: int = 1024, region_pages: int = 64) -> None:
        self.memory = PhysicalMemory(pages * PAGE_SIZE)
        self.clock, self.trace, self.recent = VirtualClock(), Trace(), Recent()
        self.trace.listen(self.recent)
        self.hypervisor = Hypervisor(self.memory, self.clock, self.trace, region_pages)
        self.hypervisor.vp_factory = FakeVp
        self.hypervisor.apic_virtualization = False     # its VPs have no processor
        self.iommu = self.hypervisor.iommu = FakeIommu()
        self.root = self.hypervisor.root
        self.root_vp = self.hypervisor.create_vp(self.root, 0)
        self._next_page = 16

    def fresh_page(self) -> int:
        """A page number of root's that nobody uses yet."""
        self._next_page += 1
        return self._next_page

    def child(self, pages: int = 16, pool: int = 32, vps: int = 1) -> Partition:
        """An active child with *pages* of memory from gpa 0, and *vps* VPs."""
        partition = self.hypervisor.create_partition(self.root)
        for _ in range(pool):
            page = self.fresh_page()
            self.hypervisor.owners.take(page)
            partition.pool.deposit(page << 12)
        self.hypervisor.initialize_partition(partition)
        for n in range(pages):
            partition.space.map(n, self.fresh_page(), 7)
        partition.space.invept()
        for n in range(vps):
            self.hypervisor.create_vp(partition, n)
        return partition

    def events(self, kind: type) -> list:
        return [record.event for record in self.recent.last(10_000, kind)]
