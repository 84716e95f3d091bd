"""Partitions, pools and the GPA space: life cycle, honest accounting, overlays, ownership."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.memory.gpa_space import ALL, READ_EXECUTE, READ_WRITE, Overlay
from hv.hypervisor.memory.page_map import Mapping
from hv.hypervisor.partitions.cpuid import CHILD_PRIVILEGES
from hv.hypervisor.partitions.partition import PartitionState
from hv.machine.faults import Access, NestedFault
from hv.spec.hv_status import HvStatus
from hv.spec.x86 import PAGE_SIZE
from hv.trace.events import PartitionCreated, PartitionDeleted, PartitionFinalized, PartitionInitialized
from tests.hypervisor.fakes import Machine


@pytest.fixture
def machine():
    return Machine()


def refused(status):
    return pytest.raises(HypercallError, match=f"^{status.name}")


def test_a_partition_lives_from_created_to_deleted(machine):
    """TLFS "Partition States"; the pool of the parent pays one page for it."""
    hypervisor, before = machine.hypervisor, machine.root.pool.available
    partition = hypervisor.create_partition(machine.root)
    assert (partition.id, partition.state, machine.root.pool.available) == (2, PartitionState.CREATED, before - 1)
    with refused(HvStatus.INVALID_PARTITION_STATE):
        _ = partition.space
    with refused(HvStatus.INSUFFICIENT_MEMORY):
        hypervisor.initialize_partition(partition)
    assert partition.state is PartitionState.CREATED
    for page in (20, 21, 22):
        hypervisor.owners.take(page)
        partition.pool.deposit(page << 12)
    hypervisor.initialize_partition(partition)
    with refused(HvStatus.INVALID_PARTITION_STATE):
        hypervisor.initialize_partition(partition)
    with refused(HvStatus.INVALID_PARTITION_STATE):
        hypervisor.delete_partition(partition)
    hypervisor.finalize_partition(partition)
    with refused(HvStatus.INVALID_PARTITION_STATE):
        hypervisor.create_vp(partition, 0)
    with refused(HvStatus.OBJECT_IN_USE):
        hypervisor.delete_partition(partition)
    assert partition.pool.in_use == 0
    assert sorted(partition.pool.withdraw() for _ in range(3)) == [20 << 12, 21 << 12, 22 << 12]
    hypervisor.delete_partition(partition)
    assert (list(hypervisor.partitions), machine.root.pool.available) == ([1], before)
    kinds = [PartitionCreated, PartitionInitialized, PartitionFinalized, PartitionDeleted]
    assert [len(machine.events(kind)) for kind in kinds] == [1, 1, 1, 1]


def test_only_root_has_children(machine):
    child = machine.child()
    with refused(HvStatus.PARTITION_TOO_DEEP):
        machine.hypervisor.create_partition(child)


def test_a_child_has_no_privilege_its_parent_lacks(machine):
    assert CHILD_PRIVILEGES & ~machine.root.privileges == 0


def test_ids_are_never_used_again(machine):
    first = machine.hypervisor.create_partition(machine.root)
    machine.hypervisor.delete_partition(first)
    assert machine.hypervisor.create_partition(machine.root).id == first.id + 1


def test_a_vp_costs_five_pages_and_gives_them_back(machine):
    child = machine.child(vps=0)
    before = child.pool.available
    machine.hypervisor.create_vp(child, 3)
    assert child.pool.available == before - 5
    with refused(HvStatus.INVALID_VP_INDEX):
        machine.hypervisor.create_vp(child, 3)
    with refused(HvStatus.INVALID_VP_INDEX):
        machine.hypervisor.create_vp(child, 64)
    machine.hypervisor.delete_vp(child, 3)
    assert (child.pool.available, child.vps) == (before, {})
    with refused(HvStatus.INVALID_VP_INDEX):
        machine.hypervisor.delete_vp(child, 3)


def test_a_vp_without_memory_takes_nothing(machine):
    child = machine.child(pages=0, pool=6, vps=0)
    before = child.pool.inspect()
    with refused(HvStatus.INSUFFICIENT_MEMORY):
        machine.hypervisor.create_vp(child, 0)
    assert child.pool.inspect() == before


def test_every_page_comes_back_when_a_partition_ends(machine):
    child = machine.child(vps=2, pool=40)
    child.vps[0].synic.write_msr(0x40000083, 0x3001)
    machine.hypervisor.finalize_partition(child)
    machine.hypervisor.delete_vp(child, 0)
    machine.hypervisor.delete_vp(child, 1)
    assert child.pool.inspect() == {"available": 40, "in_use": 0}
    assert machine.hypervisor.owners.inspect()["lent"] == 0


# The GPA space.

def test_the_tables_and_the_record_agree(machine):
    child = machine.child(pages=4)
    child.space.map(2, child.space.mapping(2).spa >> 12, Access.READ)
    child.space.unmap(3)
    found = [(gpa >> 12, spa, rights) for gpa, spa, rights, _ in child.space.tables.mappings()]
    assert found == [(page, mapping.spa, mapping.rights) for page, mapping in child.space.mappings()]


def test_an_inaccessible_page_is_mapped_and_refuses_all(machine):
    child = machine.child(pages=2)
    child.space.map(1, child.space.mapping(1).spa >> 12, Access(0))
    assert child.space.mapping(1) is not None
    with pytest.raises(NestedFault):
        child.space.read(0x1000, 1)
    assert child.space.tables.walk(0x1000).spa is None


def test_an_access_over_two_pages_is_validated_whole(machine):
    """TLFS "Page Access Rights": no partial write."""
    child = machine.child(pages=2)
    child.space.map(1, child.space.mapping(1).spa >> 12, Access.READ)
    child.space.write(0xFF0, bytes(16))
    with pytest.raises(NestedFault) as caught:
        child.space.write(0xFF8, b"x" * 16)
    assert caught.value.gpa == 0x1000
    assert child.space.read(0xFF8, 16) == bytes(16)


def test_an_overlay_hides_the_page_beneath_and_uncovers_it_unchanged(machine):
    child = machine.child(pages=2)
    child.space.map(1, child.space.mapping(1).spa >> 12, Access.READ | Access.WRITE)
    child.space.write(0x1000, b"beneath")
    page = child.pool.allocate()
    overlay = Overlay("test", page, READ_EXECUTE)
    child.space.cover(1, overlay)
    assert child.space.read(0x1000, 7) == bytes(7)
    assert child.space.tables.walk(0x1000).rights == READ_EXECUTE
    with pytest.raises(NestedFault):
        child.space.write(0x1000, b"no")
    child.space.uncover(1, overlay)
    assert child.space.read(0x1000, 7) == b"beneath"
    assert child.space.tables.walk(0x1000).spa == child.space.mapping(1).spa


def test_an_overlay_needs_no_page_beneath(machine):
    child = machine.child(pages=0)
    overlay = Overlay("test", child.pool.allocate(), READ_WRITE)
    child.space.cover(9, overlay)
    child.space.write(0x9000, b"here")
    child.space.uncover(9, overlay)
    assert child.space.visible(9) is None


def test_mapping_under_an_overlay_changes_nothing_that_is_seen(machine):
    child = machine.child(pages=1)
    overlay = Overlay("test", child.pool.allocate(), READ_WRITE)
    child.space.cover(5, overlay)
    child.space.map(5, machine.fresh_page(), ALL)
    assert child.space.tables.walk(0x5000).spa == overlay.spa
    child.space.unmap(5)
    assert child.space.tables.walk(0x5000).spa == overlay.spa


def test_a_page_is_lent_to_one_child_only(machine):
    first, second, page = machine.child(), machine.child(), machine.fresh_page()
    first.space.map(0x100, page, ALL)
    first.space.map(0x101, page, ALL)
    for unmapped in (0x100, 0x101):
        with refused(HvStatus.OPERATION_DENIED):
            second.space.map(0x100, page, ALL)
        with refused(HvStatus.OPERATION_DENIED):
            machine.hypervisor.owners.take(page)
        first.space.unmap(unmapped)
    second.space.map(0x100, page, ALL)


def test_root_does_not_reach_what_it_deposited_nor_the_hypervisor(machine):
    child, page = machine.child(), machine.fresh_page()
    machine.hypervisor.owners.take(page)
    child.pool.deposit(page << 12)
    for gpa in (page << 12, machine.hypervisor.region[0], machine.memory.size):
        with pytest.raises(NestedFault):
            machine.root.space.read(gpa, 1)
    assert machine.root.space.read(0x1234, 4) == machine.memory.read(0x1234, 4)


def test_a_withdrawn_page_is_wiped(machine):
    child = machine.child(pool=20)
    page = child.pool.allocate()
    machine.memory.write(page, b"secret")
    child.pool.free(page)
    assert child.pool.withdraw() == page
    assert machine.memory.read(page, 6) == bytes(6)


def test_roots_first_pages_are_not_withdrawn(machine):
    with refused(HvStatus.NO_RESOURCES):
        machine.root.pool.withdraw()


def test_listeners_hear_of_mappings_and_not_of_overlays(machine):
    child, heard = machine.child(pages=1), []
    child.space.listeners.append(lambda page, mapping: heard.append((page, mapping and mapping.spa >> 12)))
    page = machine.fresh_page()
    child.space.map(7, page, ALL)
    child.space.cover(7, Overlay("test", child.pool.allocate(), READ_WRITE))
    child.space.unmap(7)
    assert heard == [(7, page), (7, None)]


@pytest.mark.parametrize("change", ["unmap", "map", "cover"])
def test_a_large_page_that_cannot_be_split_stays_as_it_was(change):
    """Without memory for a table nothing is half done: record, tables and loans agree, and a retry succeeds."""
    machine = Machine(pages=2048)
    child = machine.child(pages=0, pool=7, vps=0)
    child.space.map_large(0x200, 512, ALL)
    spare = [child.pool.allocate() for _ in range(child.pool.available)]
    overlay, other = Overlay("test", spare[0], READ_WRITE), 1500
    act = {"unmap": lambda: child.space.unmap(0x203), "map": lambda: child.space.map(0x203, other, ALL),
           "cover": lambda: child.space.cover(0x203, overlay)}[change]
    with refused(HvStatus.INSUFFICIENT_MEMORY):
        act()
    assert child.space.visible(0x203) == child.space.mapping(0x203)
    assert child.space.tables.walk(0x203 << 12).spa == child.space.mapping(0x203).spa == (512 + 3) << 12
    assert machine.hypervisor.owners.inspect()["lent"] == 512
    child.pool.free(spare[-1])
    act()
    seen = child.space.visible(0x203)
    assert child.space.tables.walk(0x203 << 12).spa == (seen and seen.spa)
    machine.hypervisor.finalize_partition(child)
    assert machine.hypervisor.owners.inspect()["lent"] == 0
    assert child.pool.in_use == len(spare) - 1


@pytest.mark.parametrize("standing", [{}, {0x210: 1500}, {0x210: 1500, 0x2FF: 1501}],
                         ids=["nothing-there", "a-page-there", "two-pages-there"])
@pytest.mark.parametrize("refused_page", [0x200, 0x280, 0x3FF], ids=hex)
def test_two_mib_that_a_listener_refuses_are_not_mapped(standing, refused_page):
    """A device's domain that cannot grow: record, tables, loans and what listeners know are as before."""
    machine = Machine(pages=2048)
    child, known = machine.child(pages=0, pool=7, vps=0), {}
    refusing = [refused_page]

    def listen(page, mapping):
        if mapping is not None and page in refusing:
            raise HypercallError(HvStatus.INSUFFICIENT_MEMORY, "no page for a table")
        known[page] = mapping

    for page, spa_page in standing.items():
        child.space.map(page, spa_page, READ_WRITE)
    before = dict(child.space.mappings()), list(child.space.tables.mappings()), machine.hypervisor.owners.inspect()
    child.space.listeners.append(listen)
    with refused(HvStatus.INSUFFICIENT_MEMORY):
        child.space.map_large(0x200, 512, ALL)
    assert before == (dict(child.space.mappings()), list(child.space.tables.mappings()),
                      machine.hypervisor.owners.inspect())
    assert all(child.space.mapping(page) == mapping for page, mapping in known.items())
    refusing.clear()
    child.space.map_large(0x200, 512, ALL)
    assert dict(child.space.mappings()) == known == {0x200 + n: Mapping(512 + n << 12, ALL) for n in range(512)}


def test_a_finalized_partition_never_runs_again(machine):
    child = machine.child()
    child.vps[0].explicit_suspend = False
    machine.hypervisor.finalize_partition(child)
    assert child.vps[0].explicit_suspend


STEPS = st.lists(st.tuples(st.sampled_from(["map", "unmap", "cover", "uncover"]), st.integers(0, 5),
                           st.integers(32, 40), st.sampled_from([Access(0), Access.READ, READ_WRITE, ALL])),
                 max_size=30)


@settings(max_examples=60)
@given(STEPS)
def test_what_is_seen_is_the_overlay_or_the_page(steps):
    machine = Machine(pages=256, region_pages=64)
    child = machine.child(pages=0, vps=0)
    overlay = Overlay("test", child.pool.allocate(), READ_EXECUTE)
    pages, covered = {}, set()
    for what, page, spa_page, rights in steps:
        page <<= 16
        if what == "map":
            child.space.map(page, spa_page + 32, rights)
            pages[page] = (spa_page + 32 << 12, rights)
        elif what == "unmap":
            assert child.space.unmap(page) == (pages.pop(page, None) is not None)
        elif what == "cover" and page not in covered:
            child.space.cover(page, overlay)
            covered.add(page)
        elif what == "uncover" and page in covered:
            child.space.uncover(page, overlay)
            covered.remove(page)
    seen = {gpa >> 12: (spa, rights) for gpa, spa, rights, _ in child.space.tables.mappings()}
    expected = {page: mapping for page, mapping in pages.items() if mapping[1]}
    expected.update(dict.fromkeys(covered, (overlay.spa, READ_EXECUTE)))
    assert seen == expected
    assert child.pool.in_use == child.space.tables.table_pages + 3
    machine.hypervisor.finalize_partition(child)
    assert child.pool.in_use == 1           # the test's own overlay page
    assert machine.hypervisor.owners.inspect()["lent"] == 0


def test_inspect_is_plain_data(machine):
    import json
    child = machine.child()
    child.vps[0].synic.write_msr(0x40000083, 0x3001)
    json.dumps(machine.hypervisor.inspect())
    json.dumps(child.vps[0].synic.inspect())
    assert PAGE_SIZE == 4096
