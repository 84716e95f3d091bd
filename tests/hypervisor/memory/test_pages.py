"""Whose a page of RAM is, and what a pool has."""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.memory.pages import PageOwners, PagePool
from hv.hypervisor.partitions.partition import PartitionState
from hv.machine.ram import PhysicalMemory
from hv.spec.partition import ANY_VP
from hv.spec.x86 import PAGE_SIZE
from tests.hypervisor.fakes import Machine

PAGES = 16
DEVICE = 0xF0000


@pytest.fixture
def memory():
    return PhysicalMemory(PAGES * PAGE_SIZE)


@pytest.fixture
def owners(memory):
    """The hypervisor has page 4, partition 2 has page 8; there is one page of a device's registers."""
    made = PageOwners(memory)
    made.take(4)
    made.lend(8, 2)
    made.device_pages.add(DEVICE)
    return made


def denied():
    return pytest.raises(HypercallError, match=r"^OPERATION_DENIED")


@pytest.mark.parametrize(("page", "is_root"), [(0, True), (PAGES - 1, True), (PAGES, False), (-1, False), (4, False),
                                               (8, True), (DEVICE, False)])
def test_a_page_is_roots_when_it_is_ram_and_not_the_hypervisors(owners, page, is_root):
    assert owners.is_root(page) is is_root


@pytest.mark.parametrize(("pages", "all_root"), [
    (range(4), True), (range(5), False), (range(4, 8), False), (range(5, PAGES), True),
    (range(5, PAGES + 1), False), (range(-1, 3), False), (range(PAGES), False),
])
def test_pages_are_all_roots_when_each_is(owners, pages, all_root):
    assert owners.all_root(pages) is all_root
    assert all(map(owners.is_root, pages)) is all_root


@pytest.mark.parametrize("page", [4, 8, PAGES, DEVICE])
def test_the_hypervisor_takes_only_what_is_roots_and_lent_to_nobody(owners, page):
    with denied():
        owners.take(page)
    owners.take(9)
    owners.give_back(9)
    assert owners.is_root(9)


@pytest.mark.parametrize(("page", "partition"), [(4, 2), (8, 3), (PAGES, 2), (DEVICE + 1, 2)])
def test_what_is_not_roots_or_is_anothers_is_not_lent(owners, page, partition):
    with denied():
        owners.lend(page, partition)
    with denied():
        owners.lend_all(range(page, page + 1), partition)


@pytest.mark.parametrize("page", [5, 8, DEVICE])
def test_a_page_is_lent_until_its_last_mapping_is_gone(owners, page):
    before = owners.borrower(page)
    owners.lend(page, 2)
    owners.lend_all(range(page, page + 1), 2)
    for _ in range(2):
        assert owners.borrower(page) == 2
        owners.end_loan(page)
    assert owners.borrower(page) == before


@pytest.mark.parametrize("pages", [range(3, 6), range(7, 10), range(PAGES - 1, PAGES + 1)],
                         ids=["one is taken", "one is another's", "one is no ram"])
def test_all_of_a_range_are_lent_or_none(owners, pages):
    before = [owners.borrower(page) for page in pages]
    with denied():
        owners.lend_all(pages, 3)
    assert [owners.borrower(page) for page in pages] == before
    owners.lend_all(range(5, 8), 3)
    assert owners.inspect() == {"pages": PAGES, "hypervisor": 1, "lent": 4}
    owners.lend_all(range(7, 8), 3)
    owners.lend_all(range(8, 11), 2)
    assert [owners.borrower(page) for page in range(5, 12)] == [3, 3, 3, 2, 2, 2, None]


def test_a_pool_gives_its_lowest_page_wiped_and_takes_it_back(memory):
    pool = PagePool(memory, [0x5000, 0x3000])
    memory.write(0x3000, b"secret" + bytes(PAGE_SIZE - 7) + b"x")
    assert pool.allocate() == 0x3000
    assert not any(memory.read(0x3000, PAGE_SIZE))
    assert pool.inspect() == {"available": 1, "in_use": 1}
    pool.free(0x3000)
    assert pool.allocate() == 0x3000
    assert pool.allocate() == 0x5000
    with pytest.raises(HypercallError, match=r"^INSUFFICIENT_MEMORY"):
        pool.allocate()


def test_what_was_never_deposited_is_not_withdrawn(memory):
    pool = PagePool(memory, [0x3000, 0x5000])
    pool.keep = frozenset({0x3000})
    memory.write(0x5000, b"secret")
    assert pool.withdraw() == 0x5000
    assert not any(memory.read(0x5000, 16))
    with pytest.raises(HypercallError, match=r"^NO_RESOURCES"):
        pool.withdraw()
    assert pool.allocate() == 0x3000


@pytest.mark.parametrize("pages", [0, 1])
def test_a_partition_that_cannot_be_initialized_is_as_it_was(pages):
    """It needs a page for the hypercall code and one for the top of its tables."""
    machine = Machine()
    child = machine.hypervisor.create_partition(machine.root)
    for page in range(600, 600 + pages):
        machine.hypervisor.owners.take(page)
        child.pool.deposit(page << 12)
    with pytest.raises(HypercallError, match=r"^INSUFFICIENT_MEMORY"):
        machine.hypervisor.initialize_partition(child)
    assert (child.state, child.pool.available, child.pool.in_use) == (PartitionState.CREATED, pages, 0)


def test_a_message_for_any_vp_goes_to_the_first_that_can_take_it():
    child = Machine().child(vps=2)
    assert child.target_vps(ANY_VP) == [child.vps[0], child.vps[1]]
    assert child.target_vps(1) == [child.vps[1]]
    for index in (5, ANY_VP):
        empty = child if index == 5 else Machine().child(vps=0)
        with pytest.raises(HypercallError, match=r"^INVALID_VP_INDEX"):
            empty.target_vps(index)


# --- records that share pages -----------------------------------------------------------------------------------------

def a_pool(memory, pages=3):
    return PagePool(memory, [page << 12 for page in range(1, 1 + pages)])


def test_records_of_a_kind_share_pages_and_the_last_one_gives_its_page_back(memory):
    pool = a_pool(memory)
    records = pool.records("port", 1024)
    assert pool.records("port", 1024) is records
    seen = []
    for _ in range(9):
        records.take()
        seen.append(records.pages)
    for _ in range(9):
        records.give_back()
        seen.append(records.pages)
    assert seen == [1] * 4 + [2] * 4 + [3] + [2] * 4 + [1] * 4 + [0]
    assert pool.inspect() == {"available": 3, "in_use": 0}


def test_kinds_do_not_share_a_page(memory):
    pool = a_pool(memory)
    pool.records("port", 64).take()
    pool.records("connection", 64).take(2)
    assert pool.inspect() == {"available": 1, "in_use": 2, "records": {"connection": 2, "port": 1}}


def test_records_that_do_not_all_fit_are_not_taken(memory):
    pool = a_pool(memory, pages=2)
    records = pool.records("port", 2048)
    records.take(3)
    with pytest.raises(HypercallError, match=r"^INSUFFICIENT_MEMORY"):
        records.take(2)
    assert (records.count, records.pages) == (3, 2)
    records.take()
    with pytest.raises(HypercallError, match=r"^INSUFFICIENT_MEMORY"):
        records.take()
    records.give_back(4)
    assert pool.available == 2


@pytest.mark.parametrize("size", [0, 3, 96, 8192])
def test_a_size_that_does_not_divide_a_page_is_our_mistake(memory, size):
    with pytest.raises(AssertionError):
        a_pool(memory).records("port", size)


def test_a_kind_has_one_size_and_no_more_records_than_were_taken(memory):
    pool = a_pool(memory)
    records = pool.records("port", 64)
    with pytest.raises(AssertionError):
        pool.records("port", 128)
    with pytest.raises(AssertionError):
        records.give_back()
