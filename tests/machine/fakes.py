"""A processor's registers and a physical memory without an engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from hv.machine.faults import Access, NestedFault
from hv.machine.linear import LinearMemory
from hv.machine.registers import Segment, Table, real_mode_segment
from hv.spec.x86 import DR6_RESET, DR7_RESET

UNUSED = Segment.null()
REAL = real_mode_segment(0)
NO_TABLE, REAL_VECTORS = Table(0, 0), Table(0, 0x3FF)
FLAT_CODE_64 = Segment(0x08, 0, 0xFFFFFFFF, 0xA09B)
FLAT_CODE_32 = Segment(0x08, 0, 0xFFFFFFFF, 0xC09B)
FLAT_DATA = Segment(0x10, 0, 0xFFFFFFFF, 0xC093)


@dataclass
class FakeState:
    """The attributes of the `Registers` protocol as plain fields; as after RESET, but at 0:0."""

    rax: int = 0
    rcx: int = 0
    rdx: int = 0
    rbx: int = 0
    rsp: int = 0
    rbp: int = 0
    rsi: int = 0
    rdi: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 2
    cpl: int = 0
    cr0: int = 0x10
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    dr6: int = DR6_RESET
    dr7: int = DR7_RESET
    es: Segment = REAL
    cs: Segment = REAL
    ss: Segment = REAL
    ds: Segment = REAL
    fs: Segment = REAL
    gs: Segment = REAL
    ldtr: Segment = UNUSED
    tr: Segment = UNUSED
    gdtr: Table = NO_TABLE
    idtr: Table = REAL_VECTORS
    interrupt_shadow: bool = False
    msrs: dict[int, int] = field(default_factory=dict)

    @property
    def interrupted(self):
        return self.rip, self.cs.selector, self.rflags, self.rsp, self.ss.selector

    def continue_at(self, rip, rflags, rsp):
        self.rip, self.rflags, self.rsp, self.interrupt_shadow = rip, rflags, rsp, False

    @property
    def descriptor_tables(self):
        return self.ldtr, self.gdtr, self.idtr

    @property
    def paging_registers(self):
        return self.cr0, self.cr3, self.cr4, self.efer, self.rflags & 1 << 18


class FakeMemory:
    """Guest-physical memory in a bytearray; addresses in *refused* pages raise NestedFault."""

    def __init__(self, size: int = 0x40000) -> None:
        self.data = bytearray(size)
        self.refused: set[int] = set()      # page numbers

    def load(self, gpa: int, size: int) -> int:
        self._admit(gpa, Access.READ)
        return int.from_bytes(self.data[gpa : gpa + size], "little")

    def store(self, gpa: int, value: int, size: int) -> None:
        self._admit(gpa, Access.WRITE)
        self.data[gpa : gpa + size] = value.to_bytes(size, "little")

    def linear(self, state: FakeState) -> LinearMemory:
        return LinearMemory(state, self.load, self.store)

    def _admit(self, gpa: int, access: Access) -> None:
        if gpa >> 12 in self.refused or gpa >= len(self.data):
            raise NestedFault(gpa, access)
