"""Remembered translations give the answers of a walk, at every moment."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.faults import Access, GuestFault
from hv.machine.linear import LinearMemory
from hv.machine.ram import PhysicalMemory
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
