"""Remembered translations give the answers of a walk, at every moment."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.faults import Access, GuestFault
from hv.machine.idt import Event, EventKind, deliver
from hv.machine.linear import LinearMemory
from hv.machine.ram import PhysicalMemory
from hv.machine.registers import Segment, Table
from hv.spec.ept import InveptType
from hv.vmx.translation.cached import CachedMappings
from hv.vmx.translation.ept import EptTables
from hv.vmx.translation.remembered import RememberingMemory
from hv.vmx.translation.second_level import SecondLevel
from tests.machine.fakes import FakeState

PML4, PDPT, PD, PT = 0x1000, 0x2000, 0x3000, 0x4000
ALL = Access.READ | Access.WRITE | Access.EXECUTE


class Box:
    """Sixty-four pages behind an EPT that moves them up by 1 MiB, and four-level tables for the first 64 KiB."""

    def __init__(self):
        self.ram = PhysicalMemory(2 << 20)
        pool = iter(range(0x1F0000, 0x200000, 0x1000))
        self.ept = EptTables(self.ram, lambda: next(pool), lambda spa: None)
        for page in range(64):
            self.ept.map(page << 12, 0x100000 + (page << 12), ALL)
        self.cached = CachedMappings(self.ram, None)
        self.second_level = SecondLevel(self.cached, self.ept.eptp.raw)
        self.state = FakeState(cr0=0x80010001, cr3=PML4, cr4=0x20, efer=0x500)
        self.poke(PML4, PDPT | 3)
        self.poke(PDPT, PD | 3)
        self.poke(PD, PT | 3)
        for page in range(16):
            self.poke(PT + 8 * page, 0x10000 + (page << 12) | 0x63)
        self.memory = RememberingMemory(self.state, self.second_level)
        self.plain = LinearMemory(self.state, self.second_level.load, self.second_level.store)

    def poke(self, gpa, value):
        self.ram.write_u64(0x100000 + gpa, value)


def outcome(memory, gva, access):
    try:
        return memory.walk(gva, access).gpa, memory.gpa_of(memory.mode, gva, int(access), 0, False)
    except GuestFault as fault:
        return fault.vector, fault.error_code, fault.address


def test_a_changed_page_table_entry_is_seen_without_a_word():
    box = Box()
    box.ram.write(0x110000, b"old!")
    box.ram.write(0x115000, b"new!")
    assert box.memory.read(0, 4) == b"old!"
    assert box.memory.read(0, 4) == b"old!"
    box.poke(PT, 0x15063)
    assert box.memory.read(0, 4) == b"new!"


def test_an_entry_taken_away_faults_at_the_next_access():
    box = Box()
    box.memory.read(0x2000, 1)
    box.poke(PD, 0)
    with pytest.raises(GuestFault) as caught:
        box.memory.read(0x2000, 1)
    assert (caught.value.vector, caught.value.address) == (14, 0x2000)


def test_the_first_write_still_sets_the_dirty_flag():
    box = Box()
    box.poke(PT, 0x10003)
    box.memory.read(0, 1)
    assert box.ram.read_u64(0x100000 + PT) & 0x60 == 0x20
    box.memory.write(0, b"x")
    assert box.ram.read_u64(0x100000 + PT) & 0x60 == 0x60


def test_another_cr3_begins_anew():
    box = Box()
    box.memory.read(0, 1)
    box.state.cr3 = 0x9000
    with pytest.raises(GuestFault):
        box.memory.read(0, 1)


def test_what_the_second_level_forgets_is_forgotten_here_too():
    box = Box()
    box.memory.read(0, 1)
    box.ept.map(PML4, 0x121000, ALL)        # another frame, with a PML4 that maps nothing
    box.ept.on_invept = lambda: box.cached.invept(InveptType.ALL_CONTEXT)
    box.ept.invept()
    with pytest.raises(GuestFault):
        box.memory.read(0, 1)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["poke", "look"]), st.integers(0, 15), st.integers(0, 0x7F),
                          st.sampled_from([Access.READ, Access.WRITE, Access.EXECUTE])), max_size=30))
def test_whatever_a_guest_does_to_its_tables_both_walkers_agree(steps):
    box = Box()
    for what, page, bits, access in steps:
        if what == "poke":
            box.poke(PT + 8 * page, 0x10000 + ((page * 7 & 15) << 12) | bits)
        else:
            assert outcome(box.memory, page << 12 | 8, access) == outcome(box.plain, page << 12 | 8, access)


# --- Gates and code segments -------------------------------------------------------------------------------------

IDT, GDT, STACK = 0x5000, 0x6000, 0x7FF8        # linear, each in a page of its own
INTERRUPT_GATE, CODE64, CODE32, CODE64_3 = 0x8E, 0x00209B0000000000, 0x00CF9B000000FFFF, 0x0020FB0000000000


def gate(selector=8, offset=0x1234, rights=INTERRUPT_GATE, ist=0):
    return offset & 0xFFFF | selector << 16 | ist << 32 | rights << 40 | (offset >> 16 & 0xFFFF) << 48


class DeliveryBox(Box):
    """The same with an IDT, a GDT and a stack; an event is delivered by both memories, to states that are alike."""

    def __init__(self):
        super().__init__()
        self.state.cs, self.state.ss = Segment(8, 0, 0, 0xA09B), Segment(0, 0, 0, 0x1_0000)
        self.state.gdtr, self.state.idtr = Table(GDT, 0x3F), Table(IDT, 0x3FF)
        self.state.rsp, self.state.rip, self.state.rflags = STACK, 0x4444, 0x202
        for selector, descriptor in ((8, CODE64), (16, CODE32), (24, CODE64_3)):
            self.set(GDT + selector, descriptor)
        for vector in (0x20, 0x21):
            self.set(IDT + 16 * vector, gate(offset=vector << 8))

    def set(self, gva, value):
        """Store a word of the tables, by the address that page table entries began with."""
        self.poke(0x10000 + gva, value)

    def outcome(self, event, remembering):
        before = replace(self.state)
        memory = self.memory if remembering else self.plain
        self.ram.write(0x100000 + 0x10000 + 0x7000, bytes(0x1000))
        try:
            deliver(self.state, memory, event)
            found = repr(self.state)
        except GuestFault as fault:
            found = fault.vector, fault.error_code, fault.address
        for name, value in vars(before).items():
            setattr(self.state, name, value)
        return found, self.ram.read(0x100000 + 0x10000 + 0x7000, 0x1000)

    def agree(self, vector=0x20, kind=EventKind.EXTERNAL):
        event = Event(vector, kind)
        expected = self.outcome(event, remembering=False)
        assert self.outcome(event, remembering=True) == expected
        return expected[0]


def test_a_gate_is_looked_at_once_and_its_handler_is_entered_again():
    box = DeliveryBox()
    reads, load = [], box.memory.load
    box.memory.load = lambda gpa, size: reads.append(gpa) or load(gpa, size)
    box.agree()
    assert [gpa & ~0xFFF for gpa in reads] == [0x15000, 0x16000]
    box.agree()
    assert len(reads) == 2


@pytest.mark.parametrize("change", [
    pytest.param(lambda box: box.set(IDT + 0x200, gate(offset=0x9999)), id="gate"),
    pytest.param(lambda box: box.set(IDT + 0x208, 0xFFFF), id="upper-half-of-gate"),
    pytest.param(lambda box: box.set(IDT + 0x200, 0), id="no-gate"),
    pytest.param(lambda box: box.set(GDT + 8, CODE32), id="code-segment"),
    pytest.param(lambda box: box.set(GDT + 8, CODE64 & ~(1 << 47)), id="segment-not-present"),
    pytest.param(lambda box: box.poke(PT + 8 * 5, 0x19063), id="page-of-the-idt"),
    pytest.param(lambda box: box.poke(PT + 8 * 6, 0), id="page-of-the-gdt"),
    pytest.param(lambda box: setattr(box.state, "idtr", Table(IDT, 0x1FF)), id="idt-limit"),
    pytest.param(lambda box: setattr(box.state, "gdtr", Table(GDT, 7)), id="gdt-limit"),
    pytest.param(lambda box: setattr(box.state, "gdtr", Table(GDT + 8, 0x3F)), id="gdt-base"),
])
def test_whatever_changes_between_two_interrupts_is_seen_by_the_second(change):
    """SDM "Interrupt and Exception Handling": each delivery reads the gate and the descriptor."""
    box = DeliveryBox()
    first = box.agree()
    change(box)
    assert box.agree() != first


PLACES = st.sampled_from([IDT + 0x200, IDT + 0x208, IDT + 0x210, GDT + 8, GDT + 16, GDT + 24])
GATES = st.builds(gate, st.sampled_from([0, 8, 11, 12, 16, 24, 0x38]), st.sampled_from([0x1000, 0xFFFF_FFFF]),
                  st.sampled_from([0x8E, 0x8F, 0x0E, 0xEE, 0x85, 0x8C]), st.integers(0, 1))
WORDS = st.one_of(GATES, st.sampled_from([0, 1, 0x8000, CODE64, CODE32, CODE64_3, CODE64 | 1 << 42]))
CHANGES = st.one_of(
    st.tuples(st.just("set"), PLACES, WORDS),
    st.tuples(st.just("page"), st.integers(4, 8), st.integers(0, 0x7F)),
    st.tuples(st.just("idt"), st.sampled_from([IDT, IDT + 8, IDT + 16, IDT + 0xDFF]), st.integers(0, 0x3FF)),
    st.tuples(st.just("gdt"), st.sampled_from([GDT, GDT + 4, GDT + 8]), st.integers(0, 0x3F)),
    st.tuples(st.just("look"), st.sampled_from([0x20, 0x21]),
              st.sampled_from([EventKind.EXTERNAL, EventKind.SOFTWARE_INTERRUPT, EventKind.NMI])),
)


@settings(max_examples=150)
@given(st.lists(CHANGES, max_size=30))
def test_whatever_a_guest_does_to_its_tables_an_event_meets_the_same(steps):
    box = DeliveryBox()
    box.agree()
    for what, first, second in steps:
        if what == "set":
            box.set(first, second)
        elif what == "page":
            box.poke(PT + 8 * first, 0x10000 + (first << 12) | second)
        elif what in ("idt", "gdt"):
            setattr(box.state, what + "r", Table(first, second))
        else:
            box.agree(first, second)
    box.agree()
