"""The walk against a second one, written from the manual: any tables, any pointer, any processor."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.faults import Access
from hv.machine.ram import PhysicalMemory
from hv.spec.ept import EptVpidCap
from hv.vmx.capabilities import PROCESSOR
from hv.vmx.translation.ept import GIGABYTE, EptTables
from hv.vmx.translation.ept_walk import is_valid_eptp, mark_used, misconfiguration, violation_qualification, walk
from tests.proves import proves

PAGES = 8                   # tables lie in pages 0..3 of a small RAM; entries may name any page
ALL = Access.READ | Access.WRITE | Access.EXECUTE
POOR = replace(PROCESSOR, ept_vpid=EptVpidCap(PROCESSOR.ept_vpid.raw, execute_only=0, page_2m=0, page_1g=0),
               physical_bits=40)


# --- the model -----------------------------------------------------------------------------------------------------

def is_wrong(entry: int, level: int, execute_only: bool, large: bool, physical_bits: int) -> bool:
    """SDM "EPT Misconfigurations", of a present entry. *large*: pages of this level are offered."""
    r, w, x = entry & 1, entry >> 1 & 1, entry >> 2 & 1
    if not r and (w or (x and not execute_only)):
        return True
    if (entry & (1 << 52) - 1) >> physical_bits:
        return True
    maps = level == 1 or bool(entry >> 7 & 1)
    if level == 4 or (level > 1 and maps and not large):
        if entry >> 7 & 1:
            return True
        maps = False
    if not maps:
        return bool(entry & 0x78)
    if entry >> 3 & 7 in (2, 3, 7):
        return True
    below = {1: 12, 2: 21, 3: 30}[level]
    return bool(entry & (1 << below) - (1 << 12))


def model(memory: PhysicalMemory, root: int, gpa: int, rich: bool) -> tuple[str, int | None, int]:
    """("ok", spa, rights), ("violation", None, 0) or ("misconfiguration", None, 0)."""
    table, rights = root, 7
    for level, low in ((4, 39), (3, 30), (2, 21), (1, 12)):
        at = table + (gpa >> low & 511) * 8
        entry = int.from_bytes(memory.read(at, 8), "little") if at + 8 <= memory.size else (1 << 64) - 1
        if not entry & 7:
            return "violation", None, 0
        if is_wrong(entry, level, rich, rich, 46 if rich else 40):
            return "misconfiguration", None, 0
        rights &= entry
        page = entry & 0x000F_FFFF_FFFF_F000
        if level == 1 or (level < 4 and entry >> 7 & 1):
            return "ok", page | gpa & (1 << low) - 1, rights
        table = page
    raise AssertionError


BITS = st.sampled_from([0, 1 << 3, 3 << 3, 6 << 3, 7 << 3, 1 << 6, 1 << 7, 1 << 7 | 6 << 3, 1 << 8, 1 << 9, 1 << 10,
                        1 << 11, 1 << 40, 1 << 45, 1 << 46, 1 << 51, 1 << 52, 1 << 63])
ENTRY = st.builds(lambda page, rights, one, other: page << 12 | rights | one | other,
                  st.sampled_from([0, 1, 2, 3, 4, 7, 8, 512, 1 << 18, 1 << 24]),
                  st.sampled_from([7, 7, 7, 1, 3, 5, 4, 2, 6, 0]), BITS, BITS)
SLOTS = (0, 1, 511)
TABLES = st.dictionaries(st.tuples(st.integers(0, 3), st.sampled_from(SLOTS)), ENTRY, max_size=12)
GPA = st.builds(lambda a, b, c, d, low: a << 39 | b << 30 | c << 21 | d << 12 | low,
                *[st.sampled_from(SLOTS)] * 4, st.integers(0, 4095))


@settings(max_examples=400, deadline=None)
@given(TABLES, GPA, st.booleans())
def test_any_tables_are_walked_as_the_manual_says(tables, gpa, rich):
    memory = PhysicalMemory(PAGES * 4096)
    for (page, slot), entry in tables.items():
        memory.write_u64(page * 4096 + slot * 8, entry)
    found = walk(memory, 0x1E, gpa, PROCESSOR if rich else POOR)
    kind = "misconfiguration" if found.misconfigured else "violation" if found.spa is None else "ok"
    assert (kind, found.spa, int(found.rights)) == model(memory, 0, gpa, rich)
    mark_used(memory, found, write=True)
    memory.close()


@settings(max_examples=300)
@given(ENTRY, st.integers(1, 4), st.booleans())
def test_any_entry_is_judged_as_the_manual_says(entry, level, rich):
    wrong = misconfiguration(entry, level, PROCESSOR if rich else POOR)
    assert bool(wrong) == bool(entry & 7 and is_wrong(entry, level, rich, rich, 46 if rich else 40))


# --- what depends on the processor ---------------------------------------------------------------------------------

@proves("capability/EptVpidCap.walk_length_4", "capability/EptVpidCap.memory_type_uc",
        "capability/EptVpidCap.memory_type_wb", "capability/EptVpidCap.accessed_dirty")
@pytest.mark.parametrize(("eptp", "valid"), [
    (0x1E, True), (0x18, True), (0x5E, True), (0x1E | 1 << 45, True), (0x1E | 1 << 46, False), (0x26, False),
    (0x1B, False), (0x9E, False), (0x11E, False), (0x81E, False), (0x1E | 1 << 52, False), (0, False)])
def test_which_pointers_are_valid(eptp, valid):
    """SDM "Extended-Page-Table Pointer (EPTP)"."""
    assert is_valid_eptp(eptp) is valid


def test_a_pointer_may_ask_only_for_what_there_is():
    no_flags = replace(PROCESSOR, ept_vpid=EptVpidCap(PROCESSOR.ept_vpid.raw, accessed_dirty=0, memory_type_uc=0))
    assert [is_valid_eptp(eptp, no_flags) for eptp in (0x1E, 0x5E, 0x18)] == [True, False, False]


@proves("capability/EptVpidCap.advanced_violation_information")
def test_the_guests_rights_are_told_only_of_the_page_itself():
    memory = PhysicalMemory(4096)
    found = walk(memory, 0x1E, 0x5000)
    assert violation_qualification(found, Access.READ, linear=True, final=False).raw == 0x81
    assert violation_qualification(found, Access.READ, linear=False, final=True).raw == 1


# --- tables of every size ------------------------------------------------------------------------------------------

def some_tables(pages: int = 600) -> tuple[PhysicalMemory, EptTables, set[int]]:
    memory, out = PhysicalMemory(pages * 4096), set()
    free = iter(range(0, pages * 4096, 4096))

    def allocate() -> int:
        page = next(free)
        out.add(page)
        return page

    return memory, EptTables(memory, allocate, out.remove), out


@proves("capability/EptVpidCap.page_1g")
def test_a_page_of_1_gib_is_mapped_split_protected_and_unmapped():
    _, tables, out = some_tables()
    tables.map(GIGABYTE, 2 * GIGABYTE, ALL, GIGABYTE)
    at = tables.walk(GIGABYTE + 0x1234_5678)
    assert (at.spa, at.page_size, len(at.entries)) == (2 * GIGABYTE + 0x1234_5678, GIGABYTE, 2)
    assert tables.protect(GIGABYTE + 0x20_0000, Access.READ)
    sizes = [tables.walk(GIGABYTE + offset).page_size for offset in (0x20_0000, 0x20_1000, 0x40_0000, 0)]
    assert sizes == [4096, 4096, 2 << 20, 2 << 20]
    assert tables.walk(GIGABYTE + 0x20_0000).rights == Access.READ
    assert tables.walk(GIGABYTE + 0x20_1008).spa == 2 * GIGABYTE + 0x20_1008
    assert tables.walk(GIGABYTE + 0x3FFF_FFFF).spa == 2 * GIGABYTE + 0x3FFF_FFFF
    assert tables.unmap(GIGABYTE + 0x40_0000, 2 << 20)
    assert tables.walk(GIGABYTE + 0x5F_FFFF).spa is None
    assert tables.unmap(GIGABYTE, GIGABYTE)
    assert not tables.unmap(GIGABYTE, GIGABYTE)
    assert (tables.table_pages, len(out), list(tables.mappings())) == (1, 1, [])


@proves("capability/EptVpidCap.page_1g")
def test_a_large_page_replaces_everything_under_it():
    _, tables, out = some_tables()
    for page in (0, 5, 512, 1 << 17):
        tables.map(page << 12, 0x7000, ALL)
    tables.map(0, GIGABYTE, ALL, GIGABYTE)
    assert list(tables.mappings()) == [(0, GIGABYTE, ALL, GIGABYTE)]
    assert tables.table_pages == len(out) == 2
    tables.free()
    assert not out


def test_a_split_without_memory_changes_nothing():
    class NoPages(Exception):
        pass

    memory = PhysicalMemory(8 * 4096)
    free = [0x1000, 0x2000, 0x3000]

    def allocate() -> int:
        if not free:
            raise NoPages
        return free.pop()

    tables = EptTables(memory, allocate, free.append)
    tables.map(0, GIGABYTE, ALL, GIGABYTE)          # root and one more; one is left, two are needed
    with pytest.raises(NoPages):
        tables.unmap(0x5000)
    with pytest.raises(NoPages):
        tables.protect(0x5000, Access.READ)
    assert list(tables.mappings()) == [(0, GIGABYTE, ALL, GIGABYTE)]
    assert len(free) == 1


SIZES = st.sampled_from([4096, 4096, 2 << 20, GIGABYTE])
PLACES = st.sampled_from([0, 1 << 12, 511 << 12, 2 << 20, GIGABYTE - 4096, GIGABYTE, GIGABYTE + (4 << 20)])
RIGHTS = st.sampled_from([Access.READ, Access.READ | Access.WRITE, Access.EXECUTE, ALL])
STEPS = st.lists(st.tuples(st.sampled_from(["map", "unmap", "protect"]), PLACES, SIZES, RIGHTS), max_size=12)


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_pages_of_all_sizes_are_what_a_list_of_changes_says(steps):
    """The model: for each place, the last change that covers it."""
    _, tables, out = some_tables()
    last: list[tuple[int, int, int | None, Access]] = []

    def at(place: int) -> tuple[int | None, Access]:
        for base, size, spa, rights in reversed(last):
            if base <= place < base + size:
                return (None, Access(0)) if spa is None else (spa + place - base, rights)
        return None, Access(0)

    for what, place, size, rights in steps:
        base = place & -size
        if what == "map":
            tables.map(base, base + 4 * GIGABYTE, rights, size)
            last.append((base, size, base + 4 * GIGABYTE, rights))
        elif what == "unmap":
            tables.unmap(place, size)
            last.append((base, size, None, Access(0)))
        else:
            page, (spa, _) = place & -4096, at(place & -4096)
            assert tables.protect(place, rights) == (spa is not None)
            if spa is not None:
                last.append((page, 4096, spa, rights))
    for place in (0, 0x1000, 0x1F_F000, 0x20_0008, GIGABYTE - 1, GIGABYTE, GIGABYTE + 0x40_0000, GIGABYTE + 0x40_1000):
        found = tables.walk(place)
        assert (found.spa, found.rights) == at(place)
    assert tables.table_pages == len(out)
    tables.free()
    assert not out
