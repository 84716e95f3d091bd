"""Root's address space when root runs machine code: the machine's own, in tables that say what the hypervisor has."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.memory.gpa_space import READ_WRITE, Overlay
from hv.machine.clock import VirtualClock
from hv.machine.faults import Access
from hv.machine.ram import PhysicalMemory
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.x86 import LARGE_PAGE_SIZE, LARGE_PAGES, PAGE_SIZE
from hv.trace.bus import Trace
from tests.hypervisor.fakes import FakeVp

MEMORY = 9 << 20            # the last 2 MiB are half RAM, and the hypervisor's region is there
REGION_PAGES = 32
READ = Access.READ


class Root:
    """A hypervisor whose root runs code."""

    def __init__(self):
        self.memory = PhysicalMemory(MEMORY)
        self.hypervisor = Hypervisor(self.memory, VirtualClock(), Trace(), REGION_PAGES, root_runs_code=True)
        self.owners, self.pool = self.hypervisor.owners, self.hypervisor.root.pool
        self.space = self.hypervisor.root.space
        self.tables = self.space.tables

    def reaches(self, page):
        return self.tables.walk(page << 12).spa


@pytest.fixture
def root():
    made = Root()
    yield made
    made.memory.close()


@pytest.mark.parametrize("gpa", [0, 0x12345, 7 << 20, MEMORY, 0xFEE0_0000, 0x12_3456_7000, (1 << 40) - 1])
def test_every_address_but_the_hypervisors_is_the_machines(root, gpa):
    """TLFS "Memory Accesses": root's access to where no memory is proceeds to the same system-physical address."""
    assert root.tables.walk(gpa).spa == gpa


def test_the_hypervisors_region_is_not_there(root):
    first, end = root.hypervisor.region
    assert all(root.reaches(page) is None for page in range(first >> 12, end >> 12))
    assert root.reaches((first >> 12) - 1) == first - PAGE_SIZE
    assert root.reaches(end >> 12) == end


def test_memory_that_is_all_roots_is_in_large_pages(root):
    assert root.tables.walk(0).page_size == LARGE_PAGE_SIZE


def test_a_page_that_is_taken_is_gone_and_comes_back_in_a_large_page(root):
    before = root.pool.in_use
    root.owners.take(700)
    assert (root.reaches(700), root.reaches(701)) == (None, 701 << 12)
    assert root.pool.in_use == before + 1           # the table that says so
    root.owners.give_back(700)
    assert root.reaches(700) == 700 << 12
    assert root.tables.walk(700 << 12).page_size == LARGE_PAGE_SIZE
    assert root.pool.in_use == before


def test_nothing_changes_when_the_tables_cannot_grow(root):
    """INSUFFICIENT_ROOT_MEMORY: whoever was to get the page, it is root that must be given memory."""
    held = [root.pool.allocate() for _ in range(root.pool.available)]
    with pytest.raises(HypercallError) as caught:
        root.owners.take(700)
    assert caught.value.status is HvStatus.INSUFFICIENT_ROOT_MEMORY
    assert root.owners.is_root(700)
    assert root.reaches(700) == 700 << 12
    root.pool.free(held.pop())
    root.owners.take(700)
    assert root.reaches(700) is None


def test_a_child_borrows_what_root_still_reaches(root):
    root.owners.lend(700, 2)
    assert root.reaches(700) == 700 << 12


_PAGES = st.sampled_from([0, 1, 511, 512, 700, 1023, 1024, 2047])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "give", "cover", "uncover"]), _PAGES), max_size=40))
def test_after_any_changes_the_tables_say_what_is_so(steps):
    """And when everything is undone, they take as much memory as before."""
    root = Root()
    before, taken, covered = root.pool.in_use, set(), {}
    overlay = Overlay("test", root.pool.allocate(), READ_WRITE)
    for what, page in [*steps, *(("uncover", page) for page in range(2048)), *(("give", page) for page in range(2048))]:
        if what == "take" and page not in taken:
            root.owners.take(page)
            taken.add(page)
        elif what == "give" and page in taken:
            root.owners.give_back(page)
            taken.remove(page)
        elif what == "cover" and page not in covered:
            root.space.cover(page, overlay)
            covered[page] = overlay
        elif what == "uncover" and page in covered:
            root.space.uncover(page, overlay)
            del covered[page]
        else:
            continue
        for each in (0, 1, 511, 512, 700, 1023, 1024, 2047):
            expected = overlay.spa if each in covered else None if each in taken else each << 12
            assert root.reaches(each) == expected
    assert root.pool.in_use == before + 1           # the overlay's own page
    assert all(root.tables.walk(first << 12).page_size == LARGE_PAGE_SIZE for first in range(0, 2048, LARGE_PAGES))
    root.memory.close()


def call(root, code, page, partition_id=(1 << 64) - 1):
    """DepositMemory or WithdrawMemory of one page, with parameters in page 16; the status."""
    vp = FakeVp(root.hypervisor.root, 0)
    root.memory.write(16 << 12, partition_id.to_bytes(8, "little") + page.to_bytes(8, "little"))
    return hypercall(root.hypervisor, vp, code | 1 << 32, 16 << 12, 17 << 12) & 0xFFFF


def test_a_page_that_root_gives_itself_can_pay_for_its_own_table(root):
    """Else a root without any memory in its pool could never get any."""
    while root.pool.available:
        root.pool.allocate()
    assert call(root, HypercallCode.DEPOSIT_MEMORY, 700) == HvStatus.SUCCESS
    assert root.reaches(700) is None
    assert root.pool.available == 0
    assert call(root, HypercallCode.DEPOSIT_MEMORY, 701) == HvStatus.SUCCESS
    assert root.pool.available == 1


def test_a_deposit_into_a_child_without_memory_for_roots_tables_takes_nothing(root):
    child = root.hypervisor.create_partition(root.hypervisor.root)
    while root.pool.available:
        root.pool.allocate()
    assert call(root, HypercallCode.DEPOSIT_MEMORY, 700, child.id) == HvStatus.INSUFFICIENT_ROOT_MEMORY
    assert (child.pool.available, root.reaches(700)) == (0, 700 << 12)


def test_a_withdrawal_without_memory_for_roots_tables_leaves_the_page_where_it_is(root):
    """The 2 MiB are all the hypervisor's, so the table that said so is gone and has to be made again."""
    child = root.hypervisor.create_partition(root.hypervisor.root)
    for page in range(1024, 1536):
        assert call(root, HypercallCode.DEPOSIT_MEMORY, page, child.id) == HvStatus.SUCCESS
    while root.pool.available:
        root.pool.allocate()
    assert call(root, HypercallCode.WITHDRAW_MEMORY, 0, child.id) == HvStatus.INSUFFICIENT_ROOT_MEMORY
    assert child.pool.available == 512
