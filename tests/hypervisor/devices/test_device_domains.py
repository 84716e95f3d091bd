"""Device domains of a partition's own making: who may make them, what a device sees through them, and who pays."""

import pytest

from hv.hypervisor.devices import domains
from hv.hypervisor.devices.domains import DeviceDomains
from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.iommu.driver import IommuDriver
from hv.iommu.unit import Iommu
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.devices import NULL_DOMAIN, HvDeviceDomainId, InputDeviceDomain
from hv.spec.hypercalls.memory import GpaPageNumber
from hv.spec.partition import PARTITION_ID_SELF
from hv.spec.x86 import PAGE_SIZE
from hv.trace import events
from tests.hypervisor.hypercalls.test_calls import machine  # noqa: F401

IN, OUT = 0x4000, 0x5000
IOVA = 0x7_0000_0000
PCI = 1 << 62
RW, R = 3, 1


class Owner:
    """A child with device 8 (logical 5) behind a real remapping unit, and what it may ask."""

    def __init__(self, machine):  # noqa: F811
        self.machine = machine
        self.iommu = Iommu(machine.memory, lambda message: None, machine.trace)
        driver = IommuDriver(self.iommu, machine.memory, machine.root.pool.allocate, machine.root.pool.free)
        driver.start()
        self.domains = machine.hypervisor.iommu = DeviceDomains(driver)
        self.child = machine.child(pool=64)
        machine.winhv.attach_device(self.child.id, 8, 5)

    def ask(self, code, elements=(), caller=None, reps=0, **fields):
        """(status, reps completed)."""
        vp = caller or self.child.vps[0]
        block = HYPERCALLS[code].input(**fields).pack() + b"".join(element.pack() for element in elements)
        vp.partition.space.write(IN, block)
        word = HypercallControl(call_code=code, rep_count=len(elements) or reps)
        result = HypercallResult(hypercall(self.machine.hypervisor, vp, word.raw, IN, OUT))
        return S(result.status), result.reps_complete

    def done(self, code, elements=(), **more):
        status, _ = self.ask(code, elements, **more)
        assert status == S.SUCCESS, self.machine.events(events.Hypercall)[-1].why
        output = HYPERCALLS[code].output
        return output.parse(self.child.space.read(OUT, output.SIZE)) if output else None

    def map(self, *pages, iova=IOVA, flags=RW, id=1):
        return self.ask(C.MAP_DEVICE_GPA_PAGES, [GpaPageNumber(page_number=page) for page in pages],
                        device_domain=domain(id), device_map_flags=flags, device_va_base=iova)

    def unmap(self, count=1, iova=IOVA, id=1):
        return self.ask(C.UNMAP_DEVICE_GPA_PAGES, reps=count, device_domain=domain(id), device_va_base=iova)

    def reads(self, iova=IOVA):
        """Four bytes that the device reads there; None when it is refused."""
        return self.iommu.dma_read(8, iova, 4)

    def writes(self, iova=IOVA):
        return self.iommu.dma_write(8, iova, b"here")


def domain(id=1, kind=0, partition=PARTITION_ID_SELF, **more):
    return InputDeviceDomain(domain_partition=partition, domain_id=HvDeviceDomainId(domain_type=kind, id=id).raw,
                             **more)


@pytest.fixture
def owner(machine):  # noqa: F811
    return Owner(machine)


@pytest.fixture
def inside(owner):
    """Its device is in domain 1, where nothing is yet."""
    owner.done(C.CREATE_DEVICE_DOMAIN, device_domain=domain())
    owner.done(C.ATTACH_DEVICE_DOMAIN, device_domain=domain(), device_id=5)
    return owner


def test_a_device_sees_what_its_domain_maps_and_nothing_else(inside):
    inside.child.space.write(0x3000, b"this")
    assert (inside.reads(0x3000), inside.reads()) == (None, None)
    assert inside.map(3, 6) == (S.SUCCESS, 2)
    assert (inside.reads(), inside.reads(0x3000), inside.reads(IOVA + 2 * PAGE_SIZE)) == (b"this", None, None)
    assert inside.writes(IOVA + PAGE_SIZE)
    assert inside.child.space.read(0x6000, 4) == b"here"
    assert inside.unmap(2) == (S.SUCCESS, 2)
    assert (inside.reads(), inside.writes(IOVA + PAGE_SIZE)) == (None, False)
    assert [fault.iova for fault in inside.machine.events(events.DmaFault)][-1] == IOVA + PAGE_SIZE


def test_behind_detach_it_sees_the_partition_again(inside):
    inside.child.space.write(0x3000, b"this")
    inside.map(6)
    inside.done(C.DETACH_DEVICE_DOMAIN, partition_id=PARTITION_ID_SELF, device_id=8 | PCI)
    assert (inside.reads(0x3000), inside.reads()) == (b"this", None)
    assert [(event.source_id, event.domain) for event in inside.machine.events(events.DeviceInDomain)] == [
        (8, 1), (8, 0)]


def test_a_read_only_page_is_not_written(inside):
    inside.map(3, flags=R)
    assert (inside.reads() is None, inside.writes()) == (False, False)


def test_a_page_has_no_more_rights_than_the_partition_and_is_there_as_long(inside):
    """What root takes away or exchanges, the device does not reach under its old address either."""
    winhv, child = inside.machine.winhv, inside.child
    inside.map(3, 3)
    page = inside.machine.fresh_page()
    inside.machine.memory.write(page << 12, b"new!")
    winhv.map_gpa_pages(child.id, 3, [page], R)
    assert (inside.reads(), inside.reads(IOVA + PAGE_SIZE), inside.writes()) == (b"new!", b"new!", False)
    winhv.unmap_gpa_pages(child.id, 3, 1)
    assert (inside.reads(), inside.reads(IOVA + PAGE_SIZE)) == (None, None)
    winhv.map_gpa_pages(child.id, 3, [page])
    assert (inside.reads(), inside.writes()) == (b"new!", True)


def test_a_page_takes_the_place_of_another_which_is_not_followed_any_more(inside):
    for page in (3, 6):
        inside.child.space.write(page << 12, bytes([page]) * 4)
    inside.map(3)
    assert inside.reads() == b"\3\3\3\3"
    inside.map(6)
    assert inside.reads() == b"\6\6\6\6"
    inside.machine.winhv.unmap_gpa_pages(inside.child.id, 3, 1)
    assert inside.reads() == b"\6\6\6\6"


def test_a_domain_is_blocked_and_let_go_on(inside):
    inside.map(3)
    inside.done(C.CONFIGURE_DEVICE_DOMAIN, device_domain=domain(), settings=2)
    assert inside.reads() is None
    inside.map(6, iova=IOVA + PAGE_SIZE)
    inside.done(C.CONFIGURE_DEVICE_DOMAIN, device_domain=domain(), settings=1)
    assert (inside.reads() is None, inside.reads(IOVA + PAGE_SIZE) is None) == (False, False)
    inside.done(C.FLUSH_DEVICE_DOMAIN, device_domain=domain())
    assert inside.writes()


def test_the_null_domain_shows_nothing(owner):
    assert owner.writes(0x3000)
    owner.done(C.ATTACH_DEVICE_DOMAIN, device_domain=domain(NULL_DOMAIN), device_id=5)
    assert not owner.writes(0x3000)
    owner.done(C.DETACH_DEVICE_DOMAIN, partition_id=PARTITION_ID_SELF, device_id=5)
    assert owner.writes(0x3000)


def test_a_parent_makes_one_for_its_child_and_nobody_for_another(owner):
    root, other = owner.machine.root_vp, owner.machine.child()
    owner.done(C.CREATE_DEVICE_DOMAIN, caller=root, device_domain=domain(partition=owner.child.id))
    owner.done(C.ATTACH_DEVICE_DOMAIN, caller=root, device_domain=domain(partition=owner.child.id), device_id=8 | PCI)
    assert not owner.writes(0x3000)
    assert owner.ask(C.CREATE_DEVICE_DOMAIN, device_domain=domain(partition=other.id))[0] == S.ACCESS_DENIED
    ask = {"caller": other.vps[0], "device_domain": domain()}
    assert owner.ask(C.DELETE_DEVICE_DOMAIN, **ask)[0] == S.INVALID_PARAMETER
    owner.done(C.CREATE_DEVICE_DOMAIN, **ask)
    assert owner.ask(C.ATTACH_DEVICE_DOMAIN, device_id=8 | PCI, **ask)[0] == S.INVALID_DEVICE_ID


CREATE, DELETE, ATTACH = C.CREATE_DEVICE_DOMAIN, C.DELETE_DEVICE_DOMAIN, C.ATTACH_DEVICE_DOMAIN
WRONG, ABSENT = S.INVALID_PARAMETER, S.FEATURE_UNAVAILABLE
RULES = [
    # of a partition whose device is in domain 1, and which has domain 2
    (CREATE, {"device_domain": domain(3)}, S.SUCCESS),
    (CREATE, {"device_domain": domain(3), "create_flags": 3}, S.SUCCESS),
    (CREATE, {"device_domain": domain(3), "create_flags": 4}, WRONG), (CREATE, {"device_domain": domain(1)}, WRONG),
    (CREATE, {"device_domain": domain(0)}, WRONG), (CREATE, {"device_domain": domain(NULL_DOMAIN)}, WRONG),
    (CREATE, {"device_domain": domain(3, kind=1)}, ABSENT), (CREATE, {"device_domain": domain(3, kind=2)}, ABSENT),
    (CREATE, {"device_domain": domain(3, kind=3)}, WRONG),
    (CREATE, {"device_domain": domain(3, owner_vtl=0x20)}, WRONG),
    (CREATE, {"device_domain": domain(3, owner_vtl=0x11)}, S.INVALID_VTL_STATE),
    (CREATE, {"device_domain": InputDeviceDomain(domain_partition=PARTITION_ID_SELF, domain_id=3 << 32 | 16)}, WRONG),
    (CREATE, {"device_domain": domain(3, partition=77)}, S.INVALID_PARTITION_ID),
    (CREATE, {"device_domain": domain(3), "reserved": 1}, WRONG),
    (DELETE, {"device_domain": domain(2)}, S.SUCCESS), (DELETE, {"device_domain": domain(1)}, S.OBJECT_IN_USE),
    (DELETE, {"device_domain": domain(0)}, WRONG), (DELETE, {"device_domain": domain(4)}, WRONG),
    (ATTACH, {"device_domain": domain(1), "device_id": 5}, S.DEVICE_ALREADY_IN_DOMAIN),
    (ATTACH, {"device_domain": domain(2), "device_id": 5}, S.INVALID_DEVICE_STATE),
    (ATTACH, {"device_domain": domain(0), "device_id": 5}, S.INVALID_DEVICE_STATE),
    (ATTACH, {"device_domain": domain(4), "device_id": 5}, WRONG),
    (ATTACH, {"device_domain": domain(2), "device_id": 6}, S.INVALID_DEVICE_ID),
    (C.DETACH_DEVICE_DOMAIN, {"partition_id": PARTITION_ID_SELF, "device_id": 6}, S.INVALID_DEVICE_ID),
    (C.CONFIGURE_DEVICE_DOMAIN, {"device_domain": domain(), "settings": 0}, WRONG),
    (C.CONFIGURE_DEVICE_DOMAIN, {"device_domain": domain(), "settings": 3}, WRONG),
    (C.CONFIGURE_DEVICE_DOMAIN, {"device_domain": domain(), "settings": 5}, WRONG),
    (C.CONFIGURE_DEVICE_DOMAIN, {"device_domain": domain(), "settings": 1, "page_table_root": 0x1000}, WRONG),
    (C.CONFIGURE_DEVICE_DOMAIN, {"device_domain": domain(0), "settings": 2}, WRONG),
    (C.FLUSH_DEVICE_DOMAIN, {"device_domain": domain(), "flush_flags": 1}, WRONG),
    (C.FLUSH_DEVICE_DOMAIN, {"device_domain": domain(9)}, WRONG),
    (C.GET_LOGICAL_DEVICE_PROPERTY, {"partition_id": PARTITION_ID_SELF, "logical_device_id": 6,
                                     "logical_property_code": 10}, S.INVALID_DEVICE_ID),
    (C.GET_LOGICAL_DEVICE_PROPERTY, {"partition_id": PARTITION_ID_SELF, "logical_device_id": 5,
                                     "logical_property_code": 9}, S.UNKNOWN_PROPERTY),
]


@pytest.mark.parametrize(("code", "fields", "status"), RULES)
def test_what_is_asked_of_domains(inside, code, fields, status):
    inside.done(CREATE, device_domain=domain(2))
    before = inside.child.pool.inspect()
    assert inside.ask(code, **fields)[0] == status
    assert (inside.child.pool.inspect() == before) is (status != S.SUCCESS)
    inside.map(3)
    assert inside.writes()


def test_in_the_default_domain_a_device_is_already(owner):
    """Linux takes DEVICE_ALREADY_IN_DOMAIN for success."""
    assert owner.ask(ATTACH, device_domain=domain(0), device_id=5)[0] == S.DEVICE_ALREADY_IN_DOMAIN
    asked = {"partition_id": PARTITION_ID_SELF, "device_id": 5}
    assert owner.ask(C.DETACH_DEVICE_DOMAIN, **asked)[0] == S.INVALID_DEVICE_STATE


@pytest.mark.parametrize(("pages", "more", "end"), [
    ((3, 6), {}, (S.SUCCESS, 2)), ((3,), {"flags": 0}, (WRONG, 0)), ((3,), {"flags": 2}, (WRONG, 0)),
    ((3,), {"flags": 7}, (WRONG, 0)), ((3, 99, 6), {}, (WRONG, 1)), ((3, 1 << 60), {}, (WRONG, 1)),
    ((3,), {"iova": 0x1001}, (WRONG, 0)), ((3, 3), {"iova": (1 << 48) - 0x1000}, (WRONG, 1)),
    ((3, 3), {"iova": 0xFEDF_F000}, (WRONG, 1)), ((3,), {"iova": 0xFEEF_F000}, (WRONG, 0)),
    ((3,), {"iova": 0xFEF0_0000}, (S.SUCCESS, 1)), ((3,), {"iova": (1 << 64) - 0x1000}, (WRONG, 0)),
    ((3,), {"id": 0}, (WRONG, 0)), ((3,), {"id": 2}, (WRONG, 0)),
])
def test_a_list_of_device_pages_ends_at_what_is_refused(inside, pages, more, end):
    assert inside.map(*pages, **more) == end


def test_unmapping_what_is_not_mapped_is_no_mistake(inside):
    assert inside.unmap(3) == (S.SUCCESS, 3)
    assert inside.unmap(iova=0x1001) == (WRONG, 0)


def test_root_has_no_domains(owner):
    status, _ = owner.ask(CREATE, caller=owner.machine.root_vp, device_domain=domain(1))
    assert status == S.FEATURE_UNAVAILABLE


def test_what_the_hypervisor_keeps_is_paid_from_the_partitions_pool_and_given_back(owner):
    child, root = owner.child, owner.machine.root.pool.inspect()
    before = child.pool.inspect()
    owner.done(CREATE, device_domain=domain())
    assert child.pool.in_use == before["in_use"] + 2                        # its record, the top table
    owner.map(3, 6)
    assert child.pool.in_use == before["in_use"] + 2 + 3 + 1                # three tables, the pages' records
    assert child.pool.inspect()["records"]["device page"] == 2
    owner.unmap(2)
    owner.done(DELETE, device_domain=domain())
    assert (child.pool.inspect(), owner.machine.root.pool.inspect()) == (before, root)


def test_the_default_domain_is_paid_by_its_partition(owner):
    machine, other = owner.machine, owner.machine.child()  # noqa: F811
    before, root = other.pool.inspect(), machine.root.pool.inspect()
    machine.winhv.attach_device(other.id, 9, 1)
    assert (other.pool.in_use, machine.root.pool.inspect()) == (before["in_use"] + 5, root)
    machine.winhv.detach_device(other.id, 1)
    assert other.pool.inspect() == before


@pytest.mark.parametrize("left", range(6))
def test_without_memory_nothing_changes(inside, left):
    """Wherever it ends: the record, one of the tables."""
    pool = inside.child.pool
    spent = [pool.allocate() for _ in range(pool.available - left)]
    before = pool.inspect().get("records")
    status = inside.map(3)
    assert status == ((S.INSUFFICIENT_MEMORY, 0) if left < 4 else (S.SUCCESS, 1))
    assert (pool.inspect().get("records") == before) is (left < 4)
    pool.free_all(spent)
    assert inside.map(3) == (S.SUCCESS, 1)
    assert inside.writes()


def test_a_map_that_fails_in_the_default_domain_leaves_the_others_as_they_were(inside):
    """Root exchanges a page, and the partition's own tables of another region have no memory: nothing is half done."""
    child = inside.child
    inside.map(3)
    before = inside.domains.find(child, 1).inspect()

    def refuse(page, mapping):
        if mapping is not None and mapping.spa == 0x100000:
            raise MemoryError

    child.space.listeners.append(refuse)
    child.space.write(0x3000, b"this")
    with pytest.raises(MemoryError):
        child.space.map(3, 0x100, child.space.mapping(3).rights)
    assert (inside.reads(), inside.domains.find(child, 1).inspect()) == (b"this", before)


@pytest.mark.parametrize("end", ["detach", "finalize"])
def test_domains_end_with_their_partition_and_devices_leave_them(inside, end):
    winhv, child = inside.machine.winhv, inside.child
    inside.map(3)
    if end == "detach":
        winhv.detach_device(child.id, 5)
        inside.done(DELETE, device_domain=domain())
        assert child.space.listeners == []
    else:
        winhv.finalize_partition(child.id)
        assert child.pool.in_use == len(list(child.vp_pages[0]))
    assert not inside.writes()
    assert (inside.domains.driver.domains, inside.domains._places) == ({}, {})


def test_there_is_an_end_to_domains(owner, monkeypatch):
    monkeypatch.setattr(domains, "MOST_DOMAINS", 2)
    for id in (1, 2):
        owner.done(CREATE, device_domain=domain(id))
    assert owner.ask(CREATE, device_domain=domain(3))[0] == S.INSUFFICIENT_DEVICE_DOMAINS


def test_what_the_iommu_can_do_is_told(owner):
    told = owner.done(C.GET_IOMMU_CAPABILITIES, partition_id=PARTITION_ID_SELF)
    assert (told.size, told.max_iova_width, told.max_pasid_width, told.capabilities, told.page_sizes) == (
        24, 48, 0, 3, 4096)
    told = owner.done(C.GET_LOGICAL_DEVICE_PROPERTY, partition_id=PARTITION_ID_SELF, logical_device_id=5,
                      logical_property_code=10)
    assert told.device_iommu == 1
    owner.machine.hypervisor.iommu = None
    assert owner.done(C.GET_IOMMU_CAPABILITIES, partition_id=PARTITION_ID_SELF).capabilities == 0
    assert owner.ask(CREATE, device_domain=domain(2))[0] == S.FEATURE_UNAVAILABLE


# --- the table of a bus ---------------------------------------------------------------------------------------------

def roots(owner):
    """The balance of root's pool."""
    return owner.machine.root.pool.inspect()


def test_a_bus_costs_root_a_page_while_a_device_of_it_is_assigned(owner):
    """Whoever has the devices; root's pool is as before when the last is detached or its partition ends."""
    other, before = owner.machine.child(pool=64), roots(owner)
    for logical, (partition, rid) in enumerate([(owner.child, 0x0100), (other, 0x0101), (other, 0xFFFF)]):
        owner.machine.winhv.attach_device(partition.id, rid, 0x40 + logical)
    assert roots(owner)["in_use"] == before["in_use"] + 2
    owner.machine.winhv.detach_device(owner.child.id, 0x40)
    assert roots(owner)["in_use"] == before["in_use"] + 2
    owner.machine.hypervisor.finalize_partition(other)
    assert roots(owner) == before


def test_nothing_a_partition_does_with_its_devices_costs_root_a_page(inside):
    """Else a child could use up the pool of root: tables of buses come and go with assignment only."""
    before = roots(inside)
    for act in (
            lambda: inside.done(C.DETACH_DEVICE_DOMAIN, partition_id=PARTITION_ID_SELF, device_id=5),
            lambda: inside.done(C.ATTACH_DEVICE_DOMAIN, device_domain=domain(NULL_DOMAIN), device_id=5),
            lambda: inside.done(C.DETACH_DEVICE_DOMAIN, partition_id=PARTITION_ID_SELF, device_id=5),
            lambda: [inside.done(C.CREATE_DEVICE_DOMAIN, device_domain=domain(n)) for n in range(2, 9)],
            lambda: inside.done(C.ATTACH_DEVICE_DOMAIN, device_domain=domain(7), device_id=5),
            lambda: inside.map(3, 4, 5, id=7), lambda: inside.unmap(2, id=7),
            lambda: inside.ask(C.ATTACH_DEVICE, device_id=PCI | 0x0500, partition_id=PARTITION_ID_SELF)):
        act()
        assert roots(inside) == before


def test_a_table_that_root_cannot_pay_is_told_as_roots_shortage(owner):
    """So that root knows whose pool to fill: the child's has pages enough. A bus that has its table needs no page."""
    root, winhv, child = owner.machine.root, owner.machine.winhv, owner.machine.child(pool=64)
    spent = [root.pool.allocate() for _ in range(root.pool.available)]
    winhv.attach_device(owner.child.id, 9, 6)
    vp, pool, before = owner.machine.root_vp, child.pool.inspect(), roots(owner)
    assert owner.ask(C.ATTACH_DEVICE, caller=vp, partition_id=child.id, device_id=PCI | 0x0100,
                     logical_device_id=1)[0] == S.INSUFFICIENT_ROOT_MEMORY
    assert (child.devices, child.pool.inspect(), roots(owner)) == ({}, pool, before)
    winhv.attach_device(child.id, 0x0100, 1)                # it deposits for root, and asks again
    assert child.devices == {1: 0x0100}
    for page in spent:
        root.pool.free(page)
