"""EPT: tables in RAM against a dictionary, misconfigurations, violation qualification, honest use of pages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.faults import Access, NestedFault
from hv.machine.ram import PhysicalMemory
from hv.spec.ept import EptEntry
from hv.spec.x86 import LARGE_PAGE_SIZE, PAGE_SIZE
from hv.vmx.translation.ept import EptTables
from hv.vmx.translation.ept_walk import misconfiguration, violation_qualification

READ, WRITE, EXECUTE = Access.READ, Access.WRITE, Access.EXECUTE
ALL = READ | WRITE | EXECUTE


class NoPages(Exception):
    """The fake pool is empty."""


class Pool:
    """Pages 0.. of a small RAM, and how many are out."""

    def __init__(self, pages=64):
        self.memory = PhysicalMemory(pages * PAGE_SIZE)
        self.free_pages = [n * PAGE_SIZE for n in range(pages)]
        self.out = set()

    def allocate(self):
        if not self.free_pages:
            raise NoPages
        spa = self.free_pages.pop()
        self.memory.write(spa, b"\xa5" * PAGE_SIZE)       # a page is not clean when it comes
        self.out.add(spa)
        return spa

    def free(self, spa):
        self.out.remove(spa)
        self.free_pages.append(spa)


def some_tables(pages=64):
    pool = Pool(pages)
    return pool, EptTables(pool.memory, pool.allocate, pool.free)


def test_a_page_is_found_with_all_four_entries():
    _, tables = some_tables()
    tables.map(0x12_3456_7000, 0x8000, READ | WRITE)
    walk = tables.walk(0x12_3456_7ABC)
    assert (walk.spa, walk.rights, [step.level for step in walk.entries]) == (0x8ABC, READ | WRITE, [4, 3, 2, 1])
    assert tables.eptp.raw == tables.root | 0x1E        # write-back, four levels


def test_an_unmapped_address_is_a_violation_without_rights():
    _, tables = some_tables()
    walk = tables.walk(0x5000)
    assert (walk.spa, int(walk.rights), walk.misconfigured) == (None, 0, "")
    with pytest.raises(NestedFault) as caught:
        tables.translate(0x5123, READ, gva=0x77)
    assert (caught.value.gpa, caught.value.gva, caught.value.access) == (0x5123, 0x77, READ)


@pytest.mark.parametrize(("rights", "access", "allowed"), [
    (READ, READ, True), (READ, WRITE, False), (READ, EXECUTE, False), (READ | WRITE, WRITE, True),
    (READ | EXECUTE, EXECUTE, True), (READ | EXECUTE, READ | WRITE, False)])
def test_rights_decide(rights, access, allowed):
    _, tables = some_tables()
    tables.map(0x3000, 0x7000, rights)
    if allowed:
        assert tables.translate(0x3010, access) == 0x7010
    else:
        with pytest.raises(NestedFault):
            tables.translate(0x3010, access)


def test_the_rights_of_a_walk_are_the_and_of_all_levels():
    """SDM "EPT Translation Mechanism"."""
    pool, tables = some_tables()
    tables.map(0x3000, 0x7000, ALL)
    above = tables.walk(0x3000).entries[1]
    pool.memory.write_u64(above.spa, above.entry.raw & ~int(WRITE))
    assert tables.walk(0x3000).rights == READ | EXECUTE


MISCONFIGURATIONS = [
    ("write-only", EptEntry(write=1), 1), ("write-execute", EptEntry(write=1, execute=1), 2),
    ("address-above-maxphyaddr", EptEntry(read=1, frame=1 << 39), 4),
    ("1g-address", EptEntry(read=1, large=1, memory_type=6, frame=512), 3),
    ("bit-7-of-pml4e", EptEntry(read=1, large=1), 4),
    ("memory-type-2", EptEntry(read=1, memory_type=2), 1), ("memory-type-3", EptEntry(read=1, memory_type=3), 1),
    ("memory-type-7", EptEntry(read=1, memory_type=7), 1), ("type-in-table-entry", EptEntry(read=1, memory_type=6), 3),
    ("ipat-in-table-entry", EptEntry(read=1, ignore_pat=1), 2),
    ("2m-address", EptEntry(read=1, large=1, memory_type=6, frame=1), 2),
]


@pytest.mark.parametrize(("entry", "level"), [row[1:] for row in MISCONFIGURATIONS],
                         ids=[row[0] for row in MISCONFIGURATIONS])
def test_misconfigured(entry, level):
    """SDM "EPT Misconfigurations"."""
    assert misconfiguration(entry.raw, level)


@pytest.mark.parametrize(("entry", "level"), [
    (EptEntry(frame=1 << 39, write=0), 4), (EptEntry(read=1, memory_type=6, ignore_pat=1, large=1), 1),
    (EptEntry(read=1, write=1, execute=1, frame=5), 3), (EptEntry(read=1, large=1, memory_type=6, frame=512), 2)],
    ids=["not-present-is-ignored", "bit-7-of-pte-is-ignored", "table", "2m-page"])
def test_not_misconfigured(entry, level):
    assert misconfiguration(entry.raw, level) == ""


def test_a_misconfiguration_stops_the_walk():
    """SDM "EPT Misconfigurations": it comes before what deeper entries would say."""
    pool, tables = some_tables()
    tables.map(0x3000, 0x7000, ALL)
    step = tables.walk(0x3000).entries[2]
    pool.memory.write_u64(step.spa, EptEntry(write=1, frame=step.entry.frame).raw)
    walk = tables.walk(0x3000)
    assert (walk.spa, walk.misconfigured, len(walk.entries)) == (None, "write without read", 3)


def test_the_qualification_tells_what_was_tried_and_what_was_allowed():
    """SDM "Exit Qualification for EPT Violations"."""
    _, tables = some_tables()
    tables.map(0x3000, 0x7000, READ | EXECUTE)
    said = violation_qualification(tables.walk(0x3000), WRITE, linear=True, final=True)
    assert (said.write, said.readable, said.writable, said.executable) == (1, 1, 0, 1)
    assert (said.linear_valid, said.final) == (1, 1)
    assert violation_qualification(tables.walk(0x9000), READ, linear=False, final=True).raw == 1


def test_a_large_page_is_split_when_one_page_of_it_changes():
    pool, tables = some_tables()
    tables.map(LARGE_PAGE_SIZE, 0, ALL, LARGE_PAGE_SIZE)
    assert tables.walk(LARGE_PAGE_SIZE + 0x3210).spa == 0x3210
    assert tables.walk(LARGE_PAGE_SIZE).page_size == LARGE_PAGE_SIZE
    assert tables.unmap(LARGE_PAGE_SIZE + 0x3000)
    tables.protect(LARGE_PAGE_SIZE + 0x4000, READ)
    assert tables.walk(LARGE_PAGE_SIZE + 0x3000).spa is None
    assert tables.walk(LARGE_PAGE_SIZE + 0x4000).rights == READ
    assert tables.walk(LARGE_PAGE_SIZE + 0x5008).spa == 0x5008
    tables.map(LARGE_PAGE_SIZE, 0, READ, LARGE_PAGE_SIZE)
    assert tables.table_pages == len(pool.out) == 3
    tables.free()
    assert not pool.out


def test_nothing_is_announced_before_invept():
    _, tables = some_tables()
    seen = []
    tables.on_invept = lambda: seen.append(None)
    tables.map(0x3000, 0x7000, ALL)
    tables.unmap(0x3000)
    tables.map(0x5000, 0x7000, ALL)
    assert (seen, tables.generation) == ([], 0)
    tables.invept()
    tables.invept()
    assert (len(seen), tables.generation) == (1, 1)


def test_a_map_without_memory_for_tables_leaves_nothing_behind():
    pool, tables = some_tables(pages=6)
    tables.map(0, 0x1000, ALL)                  # root + 3
    with pytest.raises(NoPages):
        tables.map(1 << 39, 0x2000, ALL)
    assert tables.table_pages == len(pool.out) == 4
    assert tables.walk(1 << 39).spa is None
    tables.map(1 << 30, 0x2000, ALL)            # two tables were enough for this one
    assert tables.walk(1 << 30).spa == 0x2000


PAGES = st.sampled_from([0, 1, 2, 511, 512, 513, 1 << 18, (1 << 18) + 1, 1 << 27, (1 << 36) - 1])
STEPS = st.lists(st.tuples(st.sampled_from(["map", "unmap", "protect"]), PAGES, st.integers(0, 60),
                           st.sampled_from([READ, READ | WRITE, READ | EXECUTE, ALL])), max_size=40)


@settings(max_examples=60)
@given(STEPS)
def test_the_tables_say_what_a_dictionary_says(steps):
    pool, tables = some_tables(pages=80)
    model = {}
    for what, page, spa_page, rights in steps:
        if what == "map":
            tables.map(page << 12, spa_page << 12, rights)
            model[page] = (spa_page << 12, rights)
        elif what == "unmap":
            assert tables.unmap(page << 12) == (model.pop(page, None) is not None)
        else:
            assert tables.protect(page << 12, rights) == (page in model)
            if page in model:
                model[page] = (model[page][0], rights)
    assert [(gpa >> 12, spa, rights) for gpa, spa, rights, _ in tables.mappings()] == \
        [(page, *model[page]) for page in sorted(model)]
    assert tables.table_pages == len(pool.out)
    for page in list(model):
        tables.unmap(page << 12)
    assert tables.table_pages == 1
    tables.free()
    assert not pool.out
