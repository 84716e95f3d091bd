"""Delivery through the IDT: the frame, the registers after it, and every check that can refuse."""

from __future__ import annotations

import copy
import struct

import pytest

from hv.machine.faults import GuestFault, NestedFault, TripleFault
from hv.machine.idt import Event, EventKind, TaskGate, combine, deliver, deliver_combined
from hv.machine.registers import Segment, Table, virtual_8086_segment
from hv.spec.x86 import GateDescriptor, SegmentDescriptor, SystemType, Tss32, Tss64, Vector
from tests.machine.fakes import FakeMemory, FakeState

EXTERNAL, NMI, EXCEPTION = EventKind.EXTERNAL, EventKind.NMI, EventKind.EXCEPTION
INT_N, INT1, INT3 = (EventKind.SOFTWARE_INTERRUPT, EventKind.PRIVILEGED_SOFTWARE_EXCEPTION,
                     EventKind.SOFTWARE_EXCEPTION)
GDT, IDT, TSS, KERNEL_STACK, IST_STACK, USER_STACK, HANDLER = 0x3000, 0x4000, 0x5000, 0x8000, 0x9008, 0xA010, 0x1234
IF, TF, NT, RF, VM, AC = 1 << 9, 1 << 8, 1 << 14, 1 << 16, 1 << 17, 1 << 18
KERNEL_CS, KERNEL_SS, USER_CS, USER_SS, LDT, ABSENT_CS, CONFORMING_CS, SS_16, ABSENT_SS, DATA_64, READ_ONLY_SS = (
    8 * n for n in range(1, 12))
FLAT = 0xFFFFFFFF
RIGHTS = {
    KERNEL_CS: 0xC09A, KERNEL_SS: 0xC092, USER_CS: 0xC0FA, USER_SS: 0xC0F2, LDT: 0x82, ABSENT_CS: 0xC01A,
    CONFORMING_CS: 0xC09E, SS_16: 0x8092, ABSENT_SS: 0xC012, DATA_64: 0xA092, READ_ONLY_SS: 0xC090,
}
GATE, TRAP, GATE_16, TASK = (SystemType.INTERRUPT_GATE, SystemType.TRAP_GATE, SystemType.INTERRUPT_GATE16,
                             SystemType.TASK_GATE)


class Box:
    """A processor and its memory with GDT, IDT and TSS in place, about to take an event."""

    def __init__(self, long: bool, cpl: int) -> None:
        self.long, self.memory = long, FakeMemory()
        for selector, rights in RIGHTS.items():
            code = rights & 0x18 == 0x18
            if long and code:
                rights = rights & ~0x4000 | 0x2000
            self.descriptor(selector, rights)
        self.state = FakeState(
            cr0=0x11, cpl=cpl, gdtr=Table(GDT, 8 * 12 - 1), idtr=Table(IDT, 0xFFF if long else 0x7FF), rip=0x7777,
            rflags=2 | IF, rsp=USER_STACK if cpl else KERNEL_STACK, tr=Segment(0x60, TSS, 0x67, 0x8B))
        self.state.cs = self.segment(USER_CS | 3 if cpl else KERNEL_CS)
        self.state.ss = self.segment(USER_SS | 3 if cpl else KERNEL_SS)
        if long:
            self._enter_long_mode()
            self.put(TSS, Tss64(rsp0=KERNEL_STACK, ist1=IST_STACK, ist2=1 << 63).pack())
        else:
            self.put(TSS, Tss32(esp0=KERNEL_STACK, ss0=KERNEL_SS).pack())

    def _enter_long_mode(self) -> None:
        """One identity-mapped 1 GiB page for everybody."""
        self.memory.store(0x1000, 0x2027, 8)
        self.memory.store(0x2000, 0xE7, 8)
        self.state.cr0, self.state.cr3, self.state.cr4, self.state.efer = 0x80000011, 0x1000, 0x20, 0x500

    def put(self, gpa: int, data: bytes) -> None:
        self.memory.data[gpa : gpa + len(data)] = data

    def descriptor(self, selector: int, rights: int, limit: int | None = None) -> None:
        limit = (FLAT if rights & 0x8000 else 0xFFFF) if limit is None else limit
        self.memory.store(GDT + (selector & ~7), SegmentDescriptor.of(0, limit, rights).raw, 8)

    def segment(self, selector: int) -> Segment:
        return Segment.from_descriptor(selector, self.memory.load(GDT + (selector & ~7), 8))

    def gate(self, vector: int, type: int = GATE, selector: int = KERNEL_CS, offset: int = HANDLER, dpl: int = 0,
             ist: int = 0, present: int = 1) -> None:
        gate = GateDescriptor.of(offset & FLAT, selector, type, dpl, ist)
        gate.present = present
        size = 16 if self.long else 8
        self.memory.store(IDT + size * vector, gate.raw | offset >> 32 << 64, size)

    def deliver(self, vector: int, kind: EventKind = EXTERNAL, error_code: int | None = None, length: int = 0) -> None:
        deliver(self.state, self.memory.linear(self.state), Event(vector, kind, error_code, length))

    def combined(self, vector: int, kind: EventKind = EXCEPTION, error_code: int | None = None,
                 address: int | None = None) -> Event:
        event = Event(vector, kind, error_code, address=address)
        return deliver_combined(self.state, self.memory.linear(self.state), event)

    def frame(self, count: int, width: int) -> tuple[int, ...]:
        """The *count* words at SS:RSP, lowest first."""
        gva = self.state.ss.base + self.state.rsp
        return struct.unpack(f"<{count}{ {2: 'H', 4: 'I', 8: 'Q'}[width]}", self.memory.data[gva : gva + count * width])


def long_mode(cpl: int = 0) -> Box:
    return Box(True, cpl)


def protected_mode(cpl: int = 0) -> Box:
    return Box(False, cpl)


def refused(box: Box, vector: int, kind: EventKind = EXTERNAL, **event: int) -> tuple[int, int | None]:
    """(vector, error code) of the fault; also checks that nothing but accessed flags has changed."""
    before, memory = copy.copy(box.state), bytes(box.memory.data[0x3000:])
    with pytest.raises(GuestFault) as fault:
        box.deliver(vector, kind, **event)
    assert box.state == before
    assert bytes(box.memory.data[0x3000:]) == memory
    return fault.value.vector, fault.value.error_code


# --- Long mode -----------------------------------------------------------------------------------

def test_long_mode_pushes_five_words_on_an_aligned_stack():
    """SDM "64-Bit Mode Stack Frame": SS:RSP always, from a 16-byte boundary; SS keeps its value at the same level."""
    box = long_mode()
    box.state.rsp, box.state.interrupt_shadow = 0x8009, True
    box.gate(0x40, offset=0xFFFF_8000_0000_1234)
    box.deliver(0x40)
    state = box.state
    assert (state.rsp, state.rip) == (0x8000 - 40, 0xFFFF_8000_0000_1234)
    assert box.frame(5, 8) == (0x7777, KERNEL_CS, 2 | IF, 0x8009, KERNEL_SS)
    assert (state.ss.selector, state.cs.selector, state.cpl, state.rflags) == (KERNEL_SS, KERNEL_CS, 0, 2)
    assert not state.interrupt_shadow
    assert state.cs == Segment(KERNEL_CS, 0, FLAT, 0xA09B)


def test_an_inner_level_gets_rsp0_and_a_null_ss():
    box = long_mode(cpl=3)
    box.gate(0x40)
    box.deliver(0x40)
    assert (box.state.rsp, box.state.cpl, box.state.cs.rpl) == (KERNEL_STACK - 40, 0, 0)
    assert box.frame(5, 8) == (0x7777, USER_CS | 3, 2 | IF, USER_STACK, USER_SS | 3)
    assert (box.state.ss.selector, box.state.ss.usable) == (0, False)


def test_an_ist_switches_the_stack_at_the_same_level_too():
    box = long_mode()
    box.gate(2, ist=1)
    box.deliver(2, NMI)
    assert (box.state.rsp, box.state.ss.selector) == ((IST_STACK & ~15) - 40, KERNEL_SS)
    assert box.frame(5, 8)[3:] == (KERNEL_STACK, KERNEL_SS)


def test_an_error_code_lies_below_the_rip():
    box = long_mode(cpl=3)
    box.gate(14)
    box.deliver(14, EXCEPTION, error_code=6)
    assert box.frame(6, 8) == (6, 0x7777, USER_CS | 3, 2 | IF | RF, USER_STACK, USER_SS | 3)


def test_a_conforming_handler_runs_at_the_interrupted_level():
    box = long_mode(cpl=3)
    box.gate(0x40, selector=CONFORMING_CS)
    box.deliver(0x40)
    assert (box.state.cpl, box.state.cs.selector, box.state.ss.selector) == (3, CONFORMING_CS | 3, USER_SS | 3)
    assert box.state.rsp == USER_STACK - 40


@pytest.mark.parametrize(("type", "after"), [(GATE, AC), (TRAP, AC | IF)], ids=["interrupt-gate", "trap-gate"])
def test_the_gate_s_type_decides_over_if_and_the_rest_is_cleared(type, after):
    box = long_mode()
    box.state.rflags = 2 | IF | TF | NT | RF | AC
    box.gate(0x40, type)
    box.deliver(0x40)
    assert box.state.rflags == 2 | after
    assert box.frame(5, 8)[2] == 2 | IF | TF | NT | RF | AC


@pytest.mark.parametrize(("vector", "kind", "pushed"), [
    (13, EXCEPTION, True), (6, EXCEPTION, True), (1, EXCEPTION, False), (3, INT3, False), (0x40, EXTERNAL, False),
    (8, EXCEPTION, False), (0x80, INT_N, False), (2, NMI, False),
], ids=["gp", "ud", "db", "int3", "external", "df", "int-n", "nmi"])
def test_faults_push_rf_so_that_a_breakpoint_does_not_hit_twice(vector, kind, pushed):
    box = long_mode()
    box.gate(vector)
    box.deliver(vector, kind, error_code=0 if vector in (8, 13) else None)
    words = box.frame(6, 8)
    assert bool(words[3 if vector in (8, 13) else 2] & RF) == pushed


@pytest.mark.parametrize(("kind", "rip"), [(INT_N, 0x7779), (INT3, 0x7779), (INT1, 0x7779), (EXCEPTION, 0x7777)])
def test_the_frame_of_a_software_event_points_behind_its_instruction(kind, rip):
    box = long_mode()
    box.gate(3)
    box.deliver(3, kind, length=2)
    assert box.frame(1, 8) == (rip,)


# name, gate of vector 0x20, event kind, what else is changed, fault
LONG_REFUSALS = [
    ("idt-limit", {}, EXTERNAL, {"idtr": Table(IDT, 0x20E)}, (13, 0x103)),
    ("idt-limit-int-n", {}, INT_N, {"idtr": Table(IDT, 0x20E)}, (13, 0x102)),
    ("task-gate-in-long-mode", {"type": TASK}, EXTERNAL, {}, (13, 0x103)),
    ("16-bit-gate-in-long-mode", {"type": GATE_16}, EXTERNAL, {}, (13, 0x103)),
    ("gate-not-present", {"present": 0}, EXTERNAL, {}, (11, 0x103)),
    ("type-before-present", {"present": 0, "type": TASK}, EXTERNAL, {}, (13, 0x103)),
    ("null-selector", {"selector": 3}, EXTERNAL, {}, (13, 1)),
    ("null-selector-int1", {"selector": 0}, INT1, {}, (13, 1)),
    ("null-selector-by-exception", {"selector": 0}, EXCEPTION, {}, (13, 1)),
    ("null-selector-int3", {"selector": 0}, INT3, {}, (13, 0)),
    ("gdt-limit", {"selector": 0x60}, EXTERNAL, {}, (13, 0x61)),
    ("ldt-is-null", {"selector": 0xC}, EXTERNAL, {}, (13, 0xD)),
    ("data-segment", {"selector": KERNEL_SS}, EXTERNAL, {}, (13, KERNEL_SS | 1)),
    ("code-absent", {"selector": ABSENT_CS}, EXTERNAL, {}, (11, ABSENT_CS | 1)),
    ("outer-code", {"selector": USER_CS | 3}, EXTERNAL, {}, (13, USER_CS | 1)),
    ("non-canonical-handler", {"offset": 1 << 47}, EXTERNAL, {}, (13, 1)),
    ("non-canonical-ist", {"ist": 2}, EXTERNAL, {}, (12, 1)),
    ("non-canonical-stack", {}, EXTERNAL, {"rsp": 1 << 63}, (12, 1)),
    ("stack-runs-out-of-canonical-space", {}, EXTERNAL, {"rsp": 0xFFFF_8000_0000_0010}, (12, 1)),
    ("tss-limit-ist", {"ist": 7}, EXTERNAL, {"tr": Segment(0x60, TSS, 0x5A, 0x8B)}, (10, 0x61)),
]


@pytest.mark.parametrize(("gate", "kind", "registers", "fault"), [row[1:] for row in LONG_REFUSALS],
                         ids=[row[0] for row in LONG_REFUSALS])
def test_long_mode_refuses_and_changes_nothing(gate, kind, registers, fault):
    """SDM "INT n/INTO/INT3/INT1", exceptions of 64-bit mode."""
    box = long_mode()
    box.gate(0x20, **gate)
    for name, value in registers.items():
        setattr(box.state, name, value)
    assert refused(box, 0x20, kind) == fault


def test_code_without_l_is_no_handler_of_long_mode():
    box = long_mode()
    box.descriptor(KERNEL_CS, 0xC09A)
    box.gate(0x20)
    assert refused(box, 0x20) == (13, KERNEL_CS | 1)


def test_rsp0_beyond_the_tss_limit_is_an_invalid_tss():
    box = long_mode(cpl=3)
    box.state.tr = Segment(0x60, TSS, 0xA, 0x8B)
    box.gate(0x20)
    assert refused(box, 0x20) == (10, 0x61)


@pytest.mark.parametrize(("kind", "fault"), [(INT_N, (13, 0x102)), (INT3, (13, 0x102)), (INT1, None), (EXTERNAL, None),
                                             (EXCEPTION, None)])
def test_the_gate_s_dpl_counts_for_int_n_int3_and_into_only(kind, fault):
    box = long_mode(cpl=3)
    box.gate(0x20, dpl=2)
    if fault:
        assert refused(box, 0x20, kind) == fault
    else:
        box.deliver(0x20, kind)
        assert box.state.cpl == 0


def test_the_push_at_a_new_level_has_that_level_s_rights():
    """A supervisor page serves as stack for an entry from CPL 3, and a page fault there changes nothing."""
    box = long_mode(cpl=3)
    box.memory.store(0x2000, 0x83, 8)
    box.gate(0x20)
    box.deliver(0x20)
    box = long_mode(cpl=3)
    box.memory.store(0x2000, 0x87, 8)
    box.put(TSS, Tss64(rsp0=0x7000_0000_0000).pack())
    box.gate(0x20)
    assert refused(box, 0x20) == (14, 2)


def test_smap_holds_for_the_frame_pushed_from_cpl_3_whatever_ac_says():
    box = long_mode(cpl=3)
    box.state.cr4 |= 1 << 21
    box.state.rflags |= AC
    box.gate(0x20)
    assert refused(box, 0x20) == (14, 1)        # already the IDT lies in a user page


def test_a_refused_second_level_access_changes_nothing():
    box = long_mode()
    box.gate(0x20)
    box.memory.refused.add((KERNEL_STACK - 1) >> 12)
    before = copy.copy(box.state)
    with pytest.raises(NestedFault):
        box.deliver(0x20)
    assert box.state == before


# --- Protected mode ------------------------------------------------------------------------------

def test_protected_mode_pushes_three_words_at_the_same_level():
    box = protected_mode()
    box.gate(0x20)
    box.deliver(0x20)
    assert box.frame(3, 4) == (0x7777, KERNEL_CS, 2 | IF)
    assert (box.state.rsp, box.state.rip, box.state.ss.selector, box.state.rflags) == (0x7FF4, HANDLER, KERNEL_SS, 2)


def test_an_inner_level_gets_its_stack_from_the_tss():
    box = protected_mode(cpl=3)
    box.gate(13)
    box.deliver(13, EXCEPTION, error_code=0x18)
    assert box.frame(6, 4) == (0x18, 0x7777, USER_CS | 3, 2 | IF | RF, USER_STACK, USER_SS | 3)
    assert (box.state.rsp, box.state.ss, box.state.cpl) == (0x7FE8, Segment(KERNEL_SS, 0, FLAT, 0xC093), 0)


def test_a_286_tss_and_a_16_bit_gate_use_words():
    """SDM "16-Bit Task-State Segment": SP0 at 2, SS0 at 4; the gate's offset has 16 bits."""
    box = protected_mode(cpl=3)
    box.put(TSS, struct.pack("<HHH", 0, 0x6000, SS_16))
    box.state.tr = Segment(0x60, TSS, 0x2B, 0x83)
    box.gate(0x20, GATE_16, offset=0xF1234)
    box.deliver(0x20)
    assert box.frame(5, 2) == (0x7777, USER_CS | 3, 2 | IF, USER_STACK, USER_SS | 3)
    assert (box.state.rip, box.state.rsp) == (0x1234, 0x6000 - 10)


def test_a_16_bit_stack_wraps_and_keeps_the_upper_half_of_esp():
    box = protected_mode()
    box.state.ss, box.state.rsp = Segment(SS_16, 0x10000, 0xFFFF, 0x93), 0xABCD0004
    box.gate(0x20)
    box.deliver(0x20)
    assert box.state.rsp == 0xABCDFFF8
    assert box.memory.load(0x10000, 4) == 2 | IF
    assert struct.unpack("<II", box.memory.data[0x1FFF8:0x20000]) == (0x7777, KERNEL_CS)


def test_an_expand_down_stack_lies_above_its_limit():
    box = protected_mode()
    box.gate(0x20)
    box.state.ss = Segment(KERNEL_SS, 0, 0x7FF3, 0x4097)
    box.deliver(0x20)
    box = protected_mode()
    box.gate(0x20)
    box.state.ss = Segment(KERNEL_SS, 0, 0x7FF4, 0x4097)
    assert refused(box, 0x20) == (12, 1)


PROTECTED_REFUSALS = [
    ("idt-limit", 0, {}, EXTERNAL, {"idtr": Table(IDT, 0x106)}, (13, 0x103)),
    ("not-a-gate", 0, {"type": 9}, EXTERNAL, {}, (13, 0x103)),
    ("ip-beyond-code-limit", 0, {"selector": DATA_64}, EXTERNAL, {}, (13, DATA_64 | 1)),
    ("stack-full", 0, {}, EXTERNAL, {"ss": Segment(KERNEL_SS, 0, 0x7FFE, 0x4093)}, (12, 1)),
    ("stack-full-int-n", 0, {}, INT_N, {"ss": Segment(KERNEL_SS, 0, 0x7FFE, 0x4093)}, (12, 0)),
    ("tss-limit", 3, {}, EXTERNAL, {"tr": Segment(0x60, TSS, 8, 0x8B)}, (10, 0x61)),
    ("ss0-null", 3, {}, EXTERNAL, {"ss0": 0}, (10, 1)),
    ("ss0-rpl", 3, {}, EXTERNAL, {"ss0": KERNEL_SS | 3}, (10, KERNEL_SS | 1)),
    ("ss0-beyond-gdt", 3, {}, EXTERNAL, {"ss0": 0x60}, (10, 0x61)),
    ("ss0-dpl", 3, {}, EXTERNAL, {"ss0": USER_SS}, (10, USER_SS | 1)),
    ("ss0-read-only", 3, {}, EXTERNAL, {"ss0": READ_ONLY_SS}, (10, READ_ONLY_SS | 1)),
    ("ss0-is-code", 3, {}, INT_N, {"ss0": KERNEL_CS}, (10, KERNEL_CS)),
    ("ss0-absent", 3, {}, EXTERNAL, {"ss0": ABSENT_SS}, (12, ABSENT_SS | 1)),
    ("inner-stack-full", 3, {}, EXTERNAL, {"esp0": 8, "ss0": SS_16, "limit": 0xFF}, (12, SS_16 | 1)),
]


@pytest.mark.parametrize(("cpl", "gate", "kind", "changes", "fault"), [row[1:] for row in PROTECTED_REFUSALS],
                         ids=[row[0] for row in PROTECTED_REFUSALS])
def test_protected_mode_refuses_and_changes_nothing(cpl, gate, kind, changes, fault):
    """SDM "INT n/INTO/INT3/INT1", exceptions of protected mode."""
    box = protected_mode(cpl)
    box.gate(0x20, dpl=3, **gate)
    box.put(TSS, Tss32(esp0=changes.get("esp0", KERNEL_STACK), ss0=changes.get("ss0", KERNEL_SS)).pack())
    if "limit" in changes:
        box.descriptor(SS_16, 0x92, changes["limit"])
    for name in changes.keys() & {"idtr", "ss", "tr"}:
        setattr(box.state, name, changes[name])
    assert refused(box, 0x20, kind) == fault


def test_a_handler_beyond_its_code_segment_is_refused():
    box = protected_mode()
    box.descriptor(KERNEL_CS, 0x409A, limit=HANDLER - 1)
    box.gate(0x20)
    assert refused(box, 0x20) == (13, 1)


def test_a_handler_may_come_from_the_ldt():
    box = protected_mode()
    box.state.ldtr = Segment(LDT, GDT, 0x5F, 0x82)
    box.gate(0x20, selector=KERNEL_CS | 4)
    box.deliver(0x20)
    assert box.state.cs.selector == KERNEL_CS | 4


def test_a_task_gate_asks_for_a_task_switch():
    box = protected_mode(cpl=3)
    box.gate(8, TASK, selector=0x58)
    box.descriptor(0x58, 0x89, 0x67)
    before = copy.copy(box.state)
    with pytest.raises(TaskGate) as asked:
        box.deliver(8, EXCEPTION, error_code=0)
    assert (asked.value.selector, asked.value.event.vector) == (0x58, 8)
    assert box.state == before


# --- Virtual-8086 mode ---------------------------------------------------------------------------

def virtual_8086(iopl: int = 3) -> Box:
    box = protected_mode(cpl=3)
    state = box.state
    state.rflags |= VM | iopl << 12
    for number, name in enumerate(("cs", "ss", "ds", "es", "fs", "gs")):
        setattr(state, name, virtual_8086_segment(0x100 + number))
    return box


def test_leaving_virtual_8086_mode_saves_and_nulls_the_data_segments():
    """SDM "Handling an Interrupt or Exception Through a Protected-Mode Trap or Interrupt Gate"."""
    box = virtual_8086()
    box.gate(0x20)
    box.deliver(0x20)
    flags = 2 | IF | VM | 3 << 12
    assert box.frame(9, 4) == (0x7777, 0x100, flags, USER_STACK, 0x101, 0x103, 0x102, 0x104, 0x105)
    state = box.state
    assert (state.rflags, state.cpl, state.cs.selector, state.ss.selector) == (2 | 3 << 12, 0, KERNEL_CS, KERNEL_SS)
    assert not any(segment.usable or segment.selector for segment in (state.ds, state.es, state.fs, state.gs))


def test_virtual_8086_mode_enters_level_0_only():
    box = virtual_8086()
    box.gate(0x20, selector=USER_CS)
    assert refused(box, 0x20) == (13, USER_CS | 1)
    box.gate(0x20, selector=CONFORMING_CS)
    assert refused(box, 0x20) == (13, CONFORMING_CS | 1)


def test_int_n_in_virtual_8086_mode_needs_iopl_3_and_int3_does_not():
    box = virtual_8086(iopl=2)
    box.gate(3, dpl=3)
    assert refused(box, 3, INT_N) == (13, 0)
    box.deliver(3, INT3)
    assert box.state.cpl == 0


# --- Real mode -----------------------------------------------------------------------------------

def real_mode() -> tuple[FakeState, FakeMemory]:
    memory = FakeMemory()
    memory.store(4 * 0x10, 0x1234_5678, 4)
    return FakeState(rip=0x100, rsp=0xFFFF0000, rflags=2 | IF | TF | AC), memory


def test_real_mode_pushes_three_words_and_wraps_the_stack():
    state, memory = real_mode()
    deliver(state, memory.linear(state), Event(0x10, INT_N, instruction_length=2))
    assert (state.cs.selector, state.cs.base, state.rip, state.rsp) == (0x1234, 0x12340, 0x5678, 0xFFFFFFFA)
    assert struct.unpack("<HHH", memory.data[0xFFFA:0x10000]) == (0x102, 0, 2 | IF | TF)
    assert state.rflags == 2


def test_real_mode_pushes_no_error_code():
    state, memory = real_mode()
    memory.store(4 * 13, 0x0000_4321, 4)
    deliver(state, memory.linear(state), Event(13, EXCEPTION, 0))
    assert (state.rip, state.rsp & 0xFFFF) == (0x4321, 0xFFFA)


@pytest.mark.parametrize(("limit", "delivered"), [(0x43, 0x10), (0x42, 13)], ids=["inside", "beyond"])
def test_a_vector_beyond_the_real_mode_table_is_a_general_protection(limit, delivered):
    state, memory = real_mode()
    state.idtr = Table(0, limit)
    assert deliver_combined(state, memory.linear(state), Event(0x10, EXTERNAL)).vector == delivered


def test_an_empty_real_mode_table_is_a_shutdown():
    state, memory = real_mode()
    state.idtr = Table(0, 0)
    with pytest.raises(TripleFault):
        deliver_combined(state, memory.linear(state), Event(0x10, EXTERNAL))


# --- Combinations --------------------------------------------------------------------------------

DE, GP, PF, DB, VE, UD = Vector.DE, Vector.GP, Vector.PF, Vector.DB, Vector.VE, Vector.UD


@pytest.mark.parametrize(("first", "second", "result"), [
    (DE, GP, 8), (GP, GP, 8), (GP, PF, PF), (PF, GP, 8), (PF, PF, 8), (VE, PF, 8), (VE, GP, 8), (DB, GP, GP),
    (UD, PF, PF), (PF, DB, DB), (GP, UD, UD),
])
def test_two_exceptions_are_served_in_turn_or_become_a_double_fault(first, second, result):
    """SDM "Interrupt 8 - Double Fault Exception", Conditions for Generating a Double Fault."""
    combined = combine(Event(first, EXCEPTION, 0), GuestFault(second, 5))
    assert (combined.vector, combined.kind) == (result, EXCEPTION)
    assert combined.error_code == (0 if result == 8 else 5)


@pytest.mark.parametrize("kind", [EXTERNAL, NMI, INT_N, INT1, INT3])
def test_an_event_which_is_no_exception_never_makes_a_double_fault(kind):
    """INT 13 is no general protection, although it uses the same vector."""
    assert combine(Event(13, kind), GuestFault(GP, 0)).vector == GP


def test_a_fault_during_a_double_fault_is_a_triple_fault():
    with pytest.raises(TripleFault):
        combine(Event(8, EXCEPTION, 0), GuestFault(PF, 0, 0x1000))


def test_a_missing_page_fault_gate_becomes_a_double_fault_with_cr2_set():
    box = long_mode(cpl=3)
    box.gate(14, present=0)
    box.gate(8, ist=1)
    assert box.combined(14, error_code=4, address=0xDEAD000) == Event(8, EXCEPTION, 0)
    assert box.state.cr2 == 0xDEAD000
    assert box.frame(2, 8) == (0, 0x7777)


def test_a_stack_that_is_not_mapped_gives_its_address_in_cr2():
    box = long_mode(cpl=3)
    box.put(TSS, Tss64(rsp0=0x7000_0000_0000, ist1=IST_STACK).pack())
    box.gate(0x20)
    box.gate(14, ist=1)
    delivered = box.combined(0x20, EXTERNAL)
    assert (delivered.vector, delivered.error_code, box.state.cr2) == (14, 2, 0x7000_0000_0000 - 40)
    assert box.frame(2, 8) == (2, 0x7777)


def test_an_injected_page_fault_without_address_leaves_cr2_alone():
    box = long_mode()
    box.gate(14)
    box.state.cr2 = 0x1000
    box.combined(14, error_code=0)
    assert box.state.cr2 == 0x1000


def test_no_double_fault_handler_is_a_shutdown():
    box = long_mode()
    with pytest.raises(TripleFault):
        box.combined(13, error_code=0)
