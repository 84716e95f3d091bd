"""A vcpu over real EPT tables and a real engine, with a handler that keeps the exits."""

from __future__ import annotations

from collections.abc import Callable

from hv.machine.clock import VirtualClock
from hv.machine.faults import Access
from hv.machine.ram import PhysicalMemory
from hv.machine.registers import Segment, Table
from hv.spec.ept import InveptType
from hv.spec.exits import ExitReason
from hv.spec.vmcs import VmcsField
from hv.spec.x86 import Cr0, Cr4
from hv.vmx.exit import VmExit
from hv.vmx.translation.cached import CachedMappings
from hv.vmx.translation.ept import EptTables
from hv.vmx.translation.second_level import SecondLevel
from hv.vmx.vcpu import Vcpu
from tests.machine.engine_box import CODE, SIZE, EngineBox

ALL = Access.READ | Access.WRITE | Access.EXECUTE
IDT, HANDLERS = 0x50000, 0x51000
BITMAP_A, BITMAP_B, MSR_BITMAP = 0x60000, 0x61000, 0x62000
TABLES = 0x300000


class NoDevices:
    """A bus on which nobody answers."""

    def contains(self, spa: int) -> bool:
        return False

    def read(self, spa: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def write(self, spa: int, size: int, value: int) -> None:
        pass


class VcpuBox(EngineBox):
    """The exits are in `exits`; `handle` decides about each: True to enter again."""

    def __init__(self) -> None:
        super().__init__()
        free = iter(range(TABLES, SIZE, 4096))
        self.ept = EptTables(self.memory, lambda: next(free), lambda spa: None)
        for page in range(TABLES >> 12):
            self.ept.map(page << 12, page << 12, ALL)
        self.clock = VirtualClock(self.counter)
        self.cached = CachedMappings(self.memory, NoDevices(), self.engine)
        self.ept.on_invept = self._invept
        self.exits: list[VmExit] = []
        self.handle: Callable[[VmExit], bool] = lambda exit: False

    def _invept(self) -> None:
        assert self.cached.invept(InveptType.SINGLE_CONTEXT, self.ept.eptp.raw)

    def vcpu(self, bits: int = 64, user: bool = False) -> Vcpu:
        """A vcpu at CODE with an IDT whose handlers are HLT at HANDLERS + 16 * vector."""
        vcpu = Vcpu(self.engine, self.clock, SecondLevel(self.cached))
        vcpu.vmcs.write(VmcsField.EPT_POINTER, self.ept.eptp.raw)
        source = self.state(bits, user)
        self.engine.load_image(vcpu.state, self.engine.save_image(source))
        self.fix(vcpu)
        vcpu.on_exit = self._on_exit
        self.memory.write(HANDLERS, (b"\xf4" + b"\x90" * 15) * 256)
        if bits != 16:
            for vector in range(256):
                self.gate(vector, bits)
            vcpu.state.idtr = Table(IDT, 0xFFF)
            vcpu.state.tr = Segment(0x20, 0x8000, 0x67, 0x8B)
            self.memory.write(0x8000, bytes(4) + (0x40000).to_bytes(8, "little") if bits == 64 else
                              bytes(4) + (0x40000).to_bytes(4, "little") + b"\x10\0\0\0")
        else:
            for vector in range(256):
                self.memory.write_u32(vector * 4, (HANDLERS >> 4) << 16 | vector * 16)
            vcpu.state.idtr = Table(0, 0x3FF)
        return vcpu

    @staticmethod
    def fix(vcpu: Vcpu) -> None:
        """Set the bits of CR0 and CR4 that are 1 in VMX operation."""
        vcpu.state.cr0 |= Cr0.NE.value
        vcpu.state.cr4 |= Cr4.VMXE.value

    def gate(self, vector: int, bits: int, kind: int = 0xEE, offset: int | None = None, ist: int = 0) -> None:
        """An interrupt gate of DPL 3 unless said otherwise."""
        offset = HANDLERS + 16 * vector if offset is None else offset
        selector = 0x08 if bits == 64 else 0x18
        low = offset & 0xFFFF | selector << 16 | ist << 32 | kind << 40 | (offset >> 16) << 48
        self.memory.write_u64(IDT + vector * (16 if bits == 64 else 8), low)

    def _on_exit(self, exit: VmExit) -> bool:
        self.exits.append(exit)
        return self.handle(exit)

    def exit_of(self, source: str | bytes, bits: int = 64, user: bool = False,
                fields: dict[VmcsField, int] | None = None, **registers: int) -> tuple[Vcpu, VmExit | None]:
        """Run *source* on a new vcpu to its first exit; the exit, or None when the budget ended it."""
        vcpu = self.vcpu(bits, user)
        for field, value in (fields or {}).items():
            vcpu.vmcs.write(field, value)
        for name, value in registers.items():
            setattr(vcpu.state, name, value)
        self.fix(vcpu)
        self.put(source, bits)
        self.exits.clear()
        self.go(vcpu)
        return vcpu, self.exits[0] if self.exits else None

    def go(self, vcpu: Vcpu, ticks: int = 100_000) -> None:
        """Let it run."""
        vcpu.run(self.clock.tsc + ticks)

    def advance(self, vcpu: Vcpu) -> Callable[[VmExit], bool]:
        """A handler that steps over everything but HLT."""
        def handle(exit: VmExit) -> bool:
            if exit.reason is ExitReason.HLT:
                return False
            vcpu.state.complete_instruction(exit.instruction_length)
            return True
        return handle


def vector_at(vcpu: Vcpu) -> int | None:
    """The vector whose handler the vcpu halted in; None elsewhere."""
    at = vcpu.state.cs.base + vcpu.state.rip - HANDLERS
    return at // 16 if 0 <= at < 0x1000 else None


__all__ = ["BITMAP_A", "BITMAP_B", "CODE", "HANDLERS", "IDT", "MSR_BITMAP", "PhysicalMemory", "VcpuBox", "vector_at"]
