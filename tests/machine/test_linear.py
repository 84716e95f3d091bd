"""Linear ranges: page by page, all checked before any byte moves."""

from __future__ import annotations

import pytest

from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.paging import NonCanonical
from tests.machine.fakes import FakeMemory, FakeState

P, W, U = 1, 2, 4


def paged(**pages: int) -> tuple[FakeState, FakeMemory]:
    """32-bit paging with CR0.WP; pages such as p4=0x9007 map linear page 4 by the given entry."""
    memory = FakeMemory()
    memory.store(0x1000, 0x2000 | P | W | U, 4)
    for name, entry in pages.items():
        memory.store(0x2000 + 4 * int(name[1:]), entry, 4)
    return FakeState(cr0=0x80010011, cr3=0x1000), memory


def test_a_range_that_crosses_pages_is_put_together():
    state, memory = paged(p4=0x9007, p5=0x7007)
    memory.data[0x9FFE:0xA000], memory.data[0x7000:0x7003] = b"ab", b"cde"
    assert memory.linear(state).read(0x4FFE, 5) == b"abcde"
    assert memory.linear(state).read_integer(0x4FFF, 2) == int.from_bytes(b"bc", "little")


def test_a_write_that_a_later_page_refuses_stores_nothing():
    state, memory = paged(p4=0x9007, p5=0x7005)
    with pytest.raises(GuestFault) as refused:
        memory.linear(state).write(0x4FFE, b"abcd")
    assert (refused.value.vector, refused.value.error_code, refused.value.address) == (14, 3, 0x5000)
    assert memory.data[0x9FFE:0xA000] == b"\0\0"
    memory.store(0x2000 + 4 * 5, 0x7007, 4)
    memory.linear(state).write(0x4FFE, b"abcd")
    assert memory.data[0x9FFE:0xA000] + memory.data[0x7000:0x7002] == b"abcd"


def test_the_privilege_is_the_processor_s_unless_given():
    state, memory = paged(p4=0x9001)
    linear = memory.linear(state)
    linear.read(0x4000, 1)
    state.cpl = 3
    with pytest.raises(GuestFault) as refused:
        linear.read(0x4000, 1)
    assert refused.value.error_code == 5
    linear.read(0x4000, 1, cpl=0)
    assert linear.read_system(0x4000, 4) == 0
    with pytest.raises(GuestFault):
        linear.check(0x4000, 1, Access.READ)


def test_addresses_wrap_at_4_gib_outside_long_mode():
    memory = FakeMemory()
    memory.data[0:2] = b"ab"
    state = FakeState()
    assert memory.linear(state).read(1 << 32, 2) == b"ab"


def test_a_fixed_memory_keeps_the_mode_it_was_made_in():
    state, memory = paged(p4=0x9007)
    memory.data[0x9000] = 7
    fixed = memory.linear(state).fixed()
    state.cr0 = 0x11
    assert (fixed.read(0x4000, 1), memory.linear(state).read(0x4000, 1)) == (b"\x07", b"\0")


@pytest.mark.parametrize("gva", [0x4FF0, 0x4FFC], ids=["one-page", "two-pages"])
def test_a_system_read_is_one_of_privilege_0(gva):
    state, memory = paged(p4=0x9001, p5=0xB001)
    memory.data[0x9FF0:0xA000], memory.data[0xB000:0xB004] = bytes(range(16)), b"abcd"
    state.cpl = 3
    expected = bytes(range(8)) if gva == 0x4FF0 else bytes(range(12, 16)) + b"abcd"
    assert memory.linear(state).read_system(gva, 8) == int.from_bytes(expected, "little")
    memory.refused.add(9)
    with pytest.raises(NestedFault) as refused:
        memory.linear(state).read_system(gva, 8)
    assert refused.value.gva == gva


def test_a_non_canonical_address_is_refused_in_long_mode():
    state = FakeState(cr0=0x80000011, cr4=0x20, efer=0x500, cr3=0x1000)
    with pytest.raises(NonCanonical):
        FakeMemory().linear(state).read(1 << 63, 1)


def test_accesses_set_accessed_and_dirty_flags():
    state, memory = paged(p4=0x9007)
    memory.linear(state).read(0x4000, 1)
    assert memory.load(0x2010, 4) == 0x9027
    memory.linear(state).write(0x4000, b"x")
    assert memory.load(0x2010, 4) == 0x9067
    assert memory.load(0x1000, 4) == 0x2027


def test_a_fetch_gives_what_stands_before_a_page_fault():
    state, memory = paged(p4=0x9007)
    memory.data[0x9FFD:0xA000] = b"abc"
    assert memory.linear(state).fetch(0x4FFD, 15) == b"abc"
    with pytest.raises(GuestFault) as refused:
        memory.linear(state).fetch(0x5000, 15)
    assert refused.value.address == 0x5000


def test_a_fetch_gives_what_stands_before_a_nested_fault():
    state, memory = paged(p4=0x9007, p5=0xA007)
    memory.refused.add(0xA)
    assert len(memory.linear(state).fetch(0x4FFD, 15)) == 3


@pytest.mark.parametrize("gva", [(1 << 32) + 0x10, 1 << 40], ids=["just-behind", "far"])
def test_a_nested_fault_behind_the_end_names_the_address_it_wrapped_to(gva):
    """A table whose base is near the end of the address space: a message to the parent has 64 bits for the address."""
    memory = FakeMemory()
    memory.refused.add(0)
    linear = memory.linear(FakeState())
    for attempt in (lambda: linear.read(gva, 2), lambda: linear.write(gva, b"ab"), lambda: linear.read_system(gva, 2)):
        with pytest.raises(NestedFault) as refused:
            attempt()
        assert refused.value.gva == gva & 0xFFFF_FFFF


@pytest.mark.parametrize("page", [0x9, 0x2], ids=["data", "table"])
def test_a_nested_fault_names_the_linear_address_and_whether_a_walk_met_it(page):
    state, memory = paged(p3=0xB007, p4=0x9007)
    memory.refused.add(page)
    linear = memory.linear(state)
    for attempt in (lambda: linear.read(0x3FFE, 6), lambda: linear.write(0x3FFE, b"abcdef")):
        with pytest.raises(NestedFault) as refused:
            attempt()
        during_walk = page == 0x2
        assert refused.value.during_walk == during_walk
        assert refused.value.gva == (0x3FFE if during_walk else 0x4000)
