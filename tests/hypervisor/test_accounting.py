"""Nothing the hypervisor stores for a partition is free; TLFS "Memory Management"."""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.devices import attach_device, detach_device
from hv.hypervisor.hypercalls.registry import Call
from hv.hypervisor.memory.gpa_space import ALL
from hv.hypervisor.synic import connections, ports
from hv.machine.faults import Access
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.devices import AttachDeviceInput, DetachDeviceInput, HvDeviceId
from hv.spec.synic import MESSAGE_BUFFERS_PER_PORT, HvConnectionInfo, HvPortInfo, PortType
from tests.hypervisor.fakes import Machine

MESSAGES = HvPortInfo(port_type=PortType.MESSAGE, target_sint=2)
EVENTS = HvPortInfo(port_type=PortType.EVENT, target_sint=2, flag_count=1)
SIMP, SCONTROL, SINT2 = 0x40000083, 0x40000080, 0x40000092


@pytest.fixture
def machine():
    return Machine()


def no_memory():
    return pytest.raises(HypercallError, match=r"^INSUFFICIENT_MEMORY")


def spend(pool):
    """Use up what *pool* has."""
    return [pool.allocate() for _ in range(pool.available)]


def counts(partition):
    return partition.pool.inspect().get("records", {})


def test_a_port_pays_for_itself_and_for_the_buffers_of_its_messages(machine):
    child = machine.child()
    before = child.pool.inspect()
    ports.create_port(child, 1, machine.root, EVENTS)
    assert counts(child) == {"port": 1}
    ports.create_port(child, 2, machine.root, MESSAGES)
    assert counts(child) == {"port": 2, "message buffer": MESSAGE_BUFFERS_PER_PORT}
    assert child.pool.in_use == before["in_use"] + 2
    ports.delete_port(child, 2)
    ports.delete_port(child, 1)
    assert child.pool.inspect() == before


def test_a_connection_is_paid_by_who_sends(machine):
    child = machine.child()
    ports.create_port(machine.root, 1, child, EVENTS)
    connections.connect_port(child, 7, machine.root, 1, HvConnectionInfo(port_type=PortType.EVENT))
    assert (counts(child), counts(machine.root)) == ({"connection": 1}, {"port": 1})
    connections.disconnect_port(child, 7)
    assert counts(child) == {}


@pytest.mark.parametrize("free", [0, 1])
def test_a_port_that_cannot_be_paid_is_not_made(machine, free):
    """A message port takes two pages: one is not enough, and stays in the pool."""
    child = machine.child()
    pages = spend(child.pool)
    for _ in range(free):
        child.pool.free(pages.pop())
    before = child.pool.inspect()
    with no_memory():
        ports.create_port(child, 1, machine.root, MESSAGES)
    assert (child.ports, child.pool.inspect()) == ({}, before)


def test_a_connection_that_cannot_be_paid_is_not_made(machine):
    child = machine.child()
    ports.create_port(machine.root, 1, child, EVENTS)
    spend(child.pool)
    with no_memory():
        connections.connect_port(child, 7, machine.root, 1, HvConnectionInfo(port_type=PortType.EVENT))
    assert child.connections == {}


def with_messages_under_way(machine, count=3):
    """A child whose SINT2 has one message in its slot and *count* waiting, of port 1."""
    child = machine.child()
    port = ports.create_port(child, 1, machine.root, MESSAGES)
    for msr, value in ((SCONTROL, 1), (SIMP, 0x7001), (SINT2, 0x40)):
        child.vps[0].synic.write_msr(msr, value)
    for _ in range(1 + count):
        port.post(5, b"")
    assert port.buffers_in_use == count
    return child


def test_a_port_takes_its_buffers_along_with_the_messages_in_them(machine):
    """TLFS "HvCallDeletePort": what waits is lost, and the memory is free."""
    child = with_messages_under_way(machine)
    ports.delete_port(child, 1)
    assert counts(child) == {}
    child.space.write(0x7200, bytes(4))
    child.vps[0].synic.write_msr(0x40000084, 0)
    assert child.space.read(0x7200, 4) == bytes(4)


@pytest.mark.parametrize("end", ["finalize", "delete vp"])
def test_messages_under_way_end_with_their_partition_or_vp(machine, end):
    child = with_messages_under_way(machine)
    if end == "finalize":
        machine.hypervisor.finalize_partition(child)
        assert counts(child) == {}
    else:
        machine.hypervisor.delete_vp(child, 0)
        ports.delete_port(child, 1)
        assert counts(child) == {}


def test_what_is_finalized_pays_for_nothing_but_its_vps(machine):
    child = machine.child()
    ports.create_port(child, 1, machine.root, MESSAGES)
    ports.create_port(machine.root, 1, child, EVENTS)
    connections.connect_port(child, 7, machine.root, 1, HvConnectionInfo(port_type=PortType.EVENT))
    machine.hypervisor.finalize_partition(child)
    assert child.pool.in_use == len(list(child.vp_pages[0]))


def test_a_devices_interrupt_is_paid_by_who_gets_it(machine):
    child, interrupts = machine.child(), machine.hypervisor.interrupts
    routes = [interrupts.allocate(8, child, [child.vps[0]], 0x61) for _ in range(3)]
    assert counts(child) == {"device interrupt": 3}
    interrupts.free(routes[0], machine.iommu)
    machine.hypervisor.delete_vp(child, 0)
    assert counts(child) == {}


def test_an_interrupt_that_cannot_be_paid_takes_no_vector(machine):
    child, interrupts = machine.child(), machine.hypervisor.interrupts
    spend(child.pool)
    with no_memory():
        interrupts.allocate(8, child, [child.vps[0]], 0x61)
    assert interrupts.of_device(8) == []


def test_a_device_is_paid_by_its_partition_until_it_is_detached_or_the_partition_ends(machine):
    child, call = machine.child(), Call(machine.hypervisor, machine.root_vp)
    for rid in (8, 9):
        device = HvDeviceId(rid=rid, device_type=1).raw
        attach_device(call, AttachDeviceInput(partition_id=child.id, device_id=device, logical_device_id=rid))
    assert counts(child) == {"device": 2}
    detach_device(call, DetachDeviceInput(partition_id=child.id, logical_device_id=8))
    assert counts(child) == {"device": 1}
    machine.hypervisor.finalize_partition(child)
    assert counts(child) == {}


@pytest.mark.parametrize("shortage", ["of the partition", "of the tables"])
def test_a_device_that_cannot_be_paid_is_not_attached(machine, monkeypatch, shortage):
    child, call = machine.child(), Call(machine.hypervisor, machine.root_vp)

    def refuse(source_id, partition, guest_id=None):
        raise HypercallError(HvStatus.INSUFFICIENT_MEMORY, "no page for a table")

    if shortage == "of the partition":
        spend(child.pool)
    else:
        monkeypatch.setattr(machine.iommu, "attach", refuse)
    before = child.pool.inspect()
    with no_memory():
        attach_device(call, AttachDeviceInput(partition_id=child.id, device_id=HvDeviceId(rid=8, device_type=1).raw))
    assert (child.devices, child.pool.inspect(), machine.iommu.attached) == ({}, before, {})


def test_an_inaccessible_page_costs_its_table_as_any_other(machine):
    """Else 2^28 of them could stand around one page of root's for nothing."""
    child = machine.child(pages=0)
    before, page = child.pool.in_use, machine.fresh_page()
    for n in range(2):
        child.space.map(n << 9, page, Access(0))
    assert child.pool.in_use == before + 4              # a directory pointer table, a directory, two tables
    assert list(child.space.tables.mappings()) == []
    spend(child.pool)
    with no_memory():
        child.space.map(2 << 9, page, Access(0))
    assert child.space.unmap(0)
    assert child.space.unmap(1 << 9)
    assert child.space.tables.table_pages == 1


def test_an_inaccessible_page_becomes_accessible_and_back(machine):
    child = machine.child(pages=1)
    spa_page = child.space.mapping(0).spa >> 12
    for rights in (Access(0), Access.READ, Access(0), ALL):
        child.space.map(0, spa_page, rights)
        assert child.space.tables.walk(0).rights == rights
