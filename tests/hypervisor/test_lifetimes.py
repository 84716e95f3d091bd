"""What is left when a VP, a partition or a device's interrupt ends, and what root's own space reaches."""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.interrupts.routing import DEVICE_VECTORS
from hv.hypervisor.partitions.partition import DEVICE_SIZE
from hv.machine.faults import NestedFault
from hv.spec.hv_status import HvStatus
from hv.spec.partition import VP_INDEX_SELF
from hv.spec.synic import HvConnectionInfo, HvPortInfo, PortType
from hv.trace import events
from tests.hypervisor.fakes import Machine


@pytest.fixture
def machine():
    return Machine()


def refused(status):
    return pytest.raises(HypercallError, match=rf"^{status.name}")


def routed(machine, vp, source_id=8, vector=0x61):
    interrupts = machine.hypervisor.interrupts
    route = interrupts.allocate(source_id, vp.partition, [vp], vector)
    route.message = machine.iommu.map_interrupt(source_id, route.vector)
    return route


def test_a_vp_that_is_deleted_leaves_nothing(machine):
    child = machine.child(vps=2)
    vp, other = child.vps[1], child.vps[0]
    vp.explicit_suspend = False
    mine, others = routed(machine, vp), routed(machine, other, vector=0x62)
    vp.synic.write_msr(0x40000083, 0x7001)
    machine.hypervisor.delete_vp(child, 1)
    assert (list(child.vps), vp.explicit_suspend, vp.kicks) == ([0], True, 1)
    assert vp.apic not in child.interconnect.apics
    assert machine.hypervisor.interrupts.of_device(8) == [others]
    assert machine.iommu.interrupts == {(8, others.vector)}
    assert machine.hypervisor.interrupts.route(mine.vector) is None
    assert child.space.overlay_at(7) is None
    assert machine.events(events.VpDeleted) == [events.VpDeleted(child.id, 1)]
    assert machine.events(events.VpCreated)[1:] == [events.VpCreated(child.id, 0), events.VpCreated(child.id, 1)]


def test_a_partition_is_deleted_when_it_has_neither_vps_nor_pages(machine):
    hypervisor, child = machine.hypervisor, machine.child()
    with refused(HvStatus.INVALID_PARTITION_STATE):
        hypervisor.delete_partition(child)
    hypervisor.finalize_partition(child)
    pages = [child.pool.withdraw() for _ in range(child.pool.available)]
    with refused(HvStatus.OBJECT_IN_USE):                       # a VP, and its pages
        hypervisor.delete_partition(child)
    hypervisor.delete_vp(child, 0)
    with refused(HvStatus.OBJECT_IN_USE):                       # pages only
        hypervisor.delete_partition(child)
    while child.pool.available:
        pages.append(child.pool.withdraw())
    hypervisor.delete_partition(child)
    assert machine.root.children == {}
    assert machine.events(events.PartitionDeleted) == [events.PartitionDeleted(child.id)]
    assert machine.events(events.PartitionCreated) == [events.PartitionCreated(child.id, 1)]


@pytest.mark.parametrize("keeps", ["available", "in use"])
def test_a_partition_with_one_page_is_in_use(machine, keeps):
    child = machine.hypervisor.create_partition(machine.root)
    machine.hypervisor.owners.take(600)
    child.pool.deposit(600 << 12)
    if keeps == "in use":
        child.pool.allocate()
    with refused(HvStatus.OBJECT_IN_USE):
        machine.hypervisor.delete_partition(child)


def test_what_is_finalized_has_no_ports_and_those_it_had_are_dead(machine):
    from hv.hypervisor.synic import connections, ports

    child = machine.child()
    ports.create_port(child, 1, machine.root, HvPortInfo(port_type=PortType.MESSAGE, target_sint=2))
    connections.connect_port(machine.root, 5, child, 1, HvConnectionInfo(port_type=PortType.MESSAGE))
    ports.create_port(machine.root, 2, child, HvPortInfo(port_type=PortType.MESSAGE, target_sint=2))
    connections.connect_port(child, 6, machine.root, 2, HvConnectionInfo(port_type=PortType.MESSAGE))
    port = child.ports[1]
    child.devices[1] = 8
    child.pool.records("device", DEVICE_SIZE).take()
    machine.iommu.attach(8, child)
    machine.hypervisor.finalize_partition(child)
    assert (child.ports, child.connections, child.devices, machine.iommu.attached) == ({}, {}, {}, {})
    assert port.deleted
    with refused(HvStatus.INVALID_PORT_ID):
        connections.find_connection(machine.root, 5).message_port()


def test_a_vp_may_call_itself_self_in_its_own_partition_only(machine):
    child, find = machine.child(vps=2), machine.hypervisor.find_vp
    assert find(child.vps[1], child, VP_INDEX_SELF) is child.vps[1]
    assert find(child.vps[1], child, 0) is child.vps[0]
    with refused(HvStatus.INVALID_VP_INDEX):
        find(machine.root_vp, child, VP_INDEX_SELF)


def test_an_eoi_is_for_the_synic_and_for_whoever_heard_of_it_before(machine):
    heard = []
    made = machine.hypervisor.vp_factory

    def factory(partition, index):
        vp = made(partition, index)
        vp.apic.on_eoi = lambda vector: heard.append(("before", vector))
        return vp

    machine.hypervisor.vp_factory = factory
    vp = machine.child().vps[0]
    vp.apic.on_eoi(0x41)
    assert heard == [("before", 0x41)]


def test_device_vectors_run_out_and_come_back(machine):
    vp, interrupts = machine.child().vps[0], machine.hypervisor.interrupts
    routes = [routed(machine, vp, vector=0x61) for _ in DEVICE_VECTORS]
    assert [route.vector for route in routes] == list(DEVICE_VECTORS)
    with refused(HvStatus.NO_RESOURCES):
        routed(machine, vp)
    interrupts.free(routes[3], machine.iommu)
    assert routed(machine, vp).vector == routes[3].vector
    interrupts.route(routes[5].vector)
    assert (vp.kicks, interrupts.spurious) == (1, 0)
    assert interrupts.inspect()[f"{routes[5].vector:#x}"] == {
        "source_id": 8, "partition": vp.partition.id, "vps": [0], "vector": 0x61,
        "multicast": False, "asked": None}


def test_a_route_without_a_message_is_not_in_the_iommu(machine):
    vp, interrupts = machine.child().vps[0], machine.hypervisor.interrupts
    interrupts.free(interrupts.allocate(8, vp.partition, [vp], 0x61), machine.iommu)
    assert interrupts.of_device(8) == []


# --- root's own space ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("gpa", "size"), [(0x1000, 4096), (0x1FF0, 16), (0x1FF0, 17), (0x1FFF, 2), (0x1F00, 0x2200),
                                           (0x1000, 8192)])
def test_root_reads_and_writes_its_memory_across_pages(machine, gpa, size):
    data = bytes(n % 251 + 1 for n in range(size))
    machine.root.space.write(gpa, data)
    assert machine.memory.read(gpa, size) == machine.root.space.read(gpa, size) == data
    assert not any(machine.memory.read(gpa - 16, 16) + machine.memory.read(gpa + size, 16))


@pytest.mark.parametrize(("gpa", "size"), [(0x3F80, 0x100), (0x4F80, 0x100), (0x3000, 0x3000), (0x4000, 1)])
def test_root_reaches_nothing_of_an_access_that_touches_a_page_it_gave_away(machine, gpa, size):
    machine.hypervisor.owners.take(4)
    with pytest.raises(NestedFault):
        machine.root.space.read(gpa, size)
    with pytest.raises(NestedFault):
        machine.root.space.write(gpa, b"x" * size)
    assert not any(machine.memory.read(0x3000, 0x3000))


def test_an_access_of_root_over_an_overlay_meets_the_overlay(machine):
    """SIMP of root's VP covers the page; what lies beneath is another one."""
    machine.root_vp.synic.write_msr(0x40000083, 0x5001)
    machine.root.space.write(0x4FF8, b"b" * 16)
    assert machine.root.space.read(0x4FF8, 16) == b"b" * 16
    assert (machine.memory.read(0x4FF8, 8), machine.memory.read(0x5000, 8)) == (b"b" * 8, bytes(8))
    (overlay,) = machine.root.space.inspect()["overlays"]
    assert (overlay["gpa"], machine.memory.read(overlay["spa"], 8)) == (0x5000, b"b" * 8)


def test_the_first_and_the_last_page_of_memory_are_ends(machine):
    size = machine.memory.size
    with pytest.raises(NestedFault):
        machine.root.space.read(size, 1)
    with pytest.raises(NestedFault):
        machine.root.space.read(size - 8, 16)
