"""What a parent asked to hear of: what is in the table, what is not, and who pays. TLFS "HvCallInstallIntercept"."""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.intercepts.table import INTERCEPT_SIZE, InterceptTable
from hv.hypervisor.memory.pages import PagePool
from hv.machine.ram import PhysicalMemory
from hv.spec.intercepts import HvInterceptType as K
from hv.spec.x86 import PAGE_SIZE


def a_table(pages=4):
    memory = PhysicalMemory((1 + pages) * PAGE_SIZE)
    pool = PagePool(memory, [page << 12 for page in range(1, 1 + pages)])
    return InterceptTable(pool), pool


def test_the_table_of_installed_intercepts():
    table, _ = a_table()
    table.install(K.MSR, 0x60, 3)
    assert table.wants(K.MSR, 0x60, 1)
    assert not table.wants(K.MSR, 0x61, 1)
    table.install(K.MSR, 0x60, 0)
    assert not table.wants(K.MSR, 0x60, 1)


def test_a_map_of_ports_takes_two_pages_however_many_are_in_it():
    table, pool = a_table()
    table.install_ports(0, 0xFFFF, 3)
    table.install(K.IO_PORT, 0x60, 3)
    assert pool.inspect() == {"available": 2, "in_use": 2}
    table.install_ports(0x100, 0x1FF, 0)
    assert [port for port in range(1 << 16) if not table.wants_port(port, 1)] == list(range(0x100, 0x200))
    assert table.inspect() == [{"type": 0, "parameter": 0, "last": 0xFF, "access": 3},
                               {"type": 0, "parameter": 0x200, "last": 0xFFFF, "access": 3}]
    table.install_ports(0, 0xFFFF, 0)
    assert (pool.in_use, table.inspect(), table.wants_port(0x60, 3)) == (0, [], 0)
    table.install(K.IO_PORT, 0x60, 0)           # nothing is there to be removed
    assert pool.in_use == 0


@pytest.mark.parametrize("kind", [K.MSR, K.CPUID])
def test_as_many_entries_as_the_pool_can_pay(kind):
    table, pool = a_table(pages=1)
    fit = PAGE_SIZE // INTERCEPT_SIZE
    for parameter in range(fit):
        table.install(kind, parameter, 3)
        table.install(kind, parameter, 3)       # again costs nothing
    with pytest.raises(HypercallError, match=r"^INSUFFICIENT_MEMORY"):
        table.install(kind, fit, 3)
    assert not table.wants(kind, fit, 3)
    table.install(kind, 0, 0)
    table.install(kind, 0, 0)
    table.install(kind, fit, 3)
    table.clear()
    assert (table.inspect(), pool.in_use) == ([], 0)


def test_ports_that_cannot_be_paid_are_not_intercepted():
    table, pool = a_table(pages=1)
    with pytest.raises(HypercallError, match=r"^INSUFFICIENT_MEMORY"):
        table.install_ports(0x60, 0x70, 3)
    assert (table.wants_port(0x60, 3), pool.in_use) == (0, 0)


def test_exceptions_have_a_register_of_their_own():
    table, pool = a_table(pages=0)
    for vector in range(32):
        table.install(K.EXCEPTION, vector, 4)
    assert (table.exceptions, pool.in_use) == (0xFFFF_FFFF, 0)
