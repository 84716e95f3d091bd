"""Hypercalls that act on a child, one call each, through winhv as root makes them."""

import contextlib

import pytest

from hv.hypervisor.devices.domains import DeviceDomains
from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.door import hypercall
from hv.machine.faults import Access
from hv.machine.idt import EventKind
from hv.root.winhv import HvError, RootMemory, WinHv
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_registers import PendingInterruptionRegister
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.interrupts import INTERRUPT_VECTOR_NONE, HvInterruptType
from hv.spec.hypercalls.memory import AccessGpaResult, TranslateGvaResult
from hv.spec.partition import HvMapGpaFlags, HvPartitionProperty
from hv.spec.synic import HvSegmentRegister, HvTableRegister
from hv.trace.events import InterruptRouted
from tests.hypervisor.fakes import Machine

P = HvPartitionProperty
R, W, X = HvMapGpaFlags.READABLE, HvMapGpaFlags.WRITABLE, HvMapGpaFlags.EXECUTABLE


@pytest.fixture
def machine():
    made = Machine()
    made.winhv = WinHv(lambda *words: hypercall(made.hypervisor, made.root_vp, *words),
                       RootMemory(made.root.space.read, made.root.space.write, range(600, 900)))
    made.guest = made.child()
    return made


def refused(status):
    return pytest.raises(HvError, match=rf": {status.name}$")


# Properties.

def test_a_property_is_set_and_read(machine):
    machine.winhv.set_partition_property(machine.guest.id, P.CPU_WEIGHT, 250)
    assert machine.winhv.get_partition_property(machine.guest.id, P.CPU_WEIGHT) == 250
    assert machine.winhv.get_partition_property(1, P.PHYSICAL_ADDRESS_WIDTH) == 40


SETS = [
    ("unknown", 0x99999, 1, HvStatus.UNKNOWN_PROPERTY), ("read-only", P.APIC_FREQUENCY, 1, HvStatus.OPERATION_DENIED),
    ("weight-0", P.CPU_WEIGHT, 0, HvStatus.PROPERTY_VALUE_OUT_OF_RANGE),
    ("privileges-while-active", P.PRIVILEGE_FLAGS, 0, HvStatus.INVALID_PARTITION_STATE),
]


@pytest.mark.parametrize(("code", "value", "status"), [row[1:] for row in SETS], ids=[row[0] for row in SETS])
def test_a_property_is_refused(machine, code, value, status):
    with refused(status):
        machine.winhv.set_partition_property(machine.guest.id, code, value)


def test_privileges_are_some_of_the_parents(machine):
    child = machine.winhv.create_partition()
    with refused(HvStatus.PROPERTY_VALUE_OUT_OF_RANGE):
        machine.winhv.set_partition_property(child, P.PRIVILEGE_FLAGS, HvPrivilege.ACCESS_VSM)
    machine.winhv.set_partition_property(child, P.PRIVILEGE_FLAGS, HvPrivilege.ACCESS_VP_INDEX)
    assert machine.hypervisor.partitions[child].cpuid.lookup(0x40000003, 0)[0] == HvPrivilege.ACCESS_VP_INDEX


def test_unknown_partitions_and_flags(machine):
    with refused(HvStatus.INVALID_PARTITION_ID):
        machine.winhv.initialize_partition(99)
    with refused(HvStatus.INVALID_PARAMETER):
        machine.winhv.create_partition(flags=1 << 40)
    with refused(HvStatus.ACCESS_DENIED):
        machine.winhv.finalize_partition(1)


def test_children_are_listed_in_order(machine):
    more = [machine.winhv.create_partition(), machine.winhv.create_partition()]
    assert machine.winhv.children() == [machine.guest.id, *more]
    assert machine.winhv.children(machine.guest.id) == []
    assert machine.winhv.get_partition_id() == 1


# Memory.

@pytest.mark.parametrize(("flags", "rights"), [
    (R, Access.READ), (R | W, Access.READ | Access.WRITE), (R | X, Access.READ | Access.EXECUTE),
    (R | W | X, Access(7)),
    (HvMapGpaFlags.NO_ACCESS, Access(0)), (HvMapGpaFlags(0), Access(0))])
def test_map_flags_are_rights(machine, flags, rights):
    machine.winhv.map_gpa_pages(machine.guest.id, 0x100, [700], flags)
    assert machine.guest.space.mapping(0x100).rights == rights
    assert machine.guest.space.tables.walk(0x100000).rights == rights


@pytest.mark.parametrize("flags", [W, X, W | X, R | 0x10, R | HvMapGpaFlags.LARGE_PAGE,
                                   R | HvMapGpaFlags.NO_ACCESS, 1 << 20])
def test_map_flags_are_refused(machine, flags):
    """TLFS "Page Access Rights"; checklist 11."""
    with refused(HvStatus.INVALID_PARAMETER):
        machine.winhv.map_gpa_pages(machine.guest.id, 0x100, [700], flags)


def test_the_source_must_be_roots_and_nobody_elses(machine):
    other = machine.child()
    for page in (machine.hypervisor.region[0] >> 12, machine.memory.size >> 12, other.space.mapping(0).spa >> 12):
        with refused(HvStatus.OPERATION_DENIED):
            machine.winhv.map_gpa_pages(machine.guest.id, 0x100, [page])
    with refused(HvStatus.INVALID_PARAMETER):
        machine.winhv.map_gpa_pages(machine.guest.id, 1 << 28, [700])


def test_pages_before_the_refused_one_are_mapped(machine):
    with refused(HvStatus.OPERATION_DENIED):
        machine.winhv.map_gpa_pages(machine.guest.id, 0x100, [700, 701, 1 << 30, 702])
    assert [machine.guest.space.mapping(0x100 + n) is not None for n in range(4)] == [True, True, False, False]


def test_unmapping_what_is_not_there_is_no_error(machine):
    machine.winhv.unmap_gpa_pages(machine.guest.id, 8, 100)
    assert [page for page, _ in machine.guest.space.mappings()] == list(range(8))


def test_the_engine_hears_of_one_invept_for_a_list(machine):
    seen = []
    machine.guest.space.tables.on_invept = lambda: seen.append(None)
    machine.winhv.map_gpa_pages(machine.guest.id, 0x100, list(range(700, 720)))
    assert len(seen) == 1


def test_a_page_goes_into_a_pool_once(machine):
    machine.winhv.deposit_memory(machine.guest.id, [700])
    with refused(HvStatus.INVALID_PARAMETER):
        machine.winhv.deposit_memory(machine.guest.id, [700])
    with refused(HvStatus.OPERATION_DENIED):
        machine.winhv.deposit_memory(machine.guest.id, [machine.guest.space.mapping(0).spa >> 12])


def test_a_child_is_read_and_written_with_its_own_rights(machine):
    winhv, guest = machine.winhv, machine.guest
    assert winhv.write_gpa(guest.id, 0, 0x1FF8, b"12345678") == AccessGpaResult.SUCCESS
    assert winhv.read_gpa(guest.id, 0, 0x1FFA, 4) == (AccessGpaResult.SUCCESS, b"3456")
    winhv.map_gpa_pages(guest.id, 1, [guest.space.mapping(1).spa >> 12], R)
    assert winhv.write_gpa(guest.id, 0, 0x1FF8, b"no") == AccessGpaResult.WRITE_INTERCEPT
    assert winhv.read_gpa(guest.id, 0, 0x900000, 4)[0] == AccessGpaResult.UNMAPPED
    guest.vps[0].synic.write_msr(0x40000083, 0x900001)
    assert winhv.read_gpa(guest.id, 0, 0x900000, 4)[0] == AccessGpaResult.SUCCESS
    for gpa, size in ((0x1FFA, 8), (0x1000, 17)):
        with refused(HvStatus.INVALID_PARAMETER):
            winhv.read_gpa(guest.id, 0, gpa, size)
    with refused(HvStatus.INVALID_VP_INDEX):
        winhv.read_gpa(guest.id, 5, 0, 4)


def test_a_linear_address_is_translated_by_the_guests_own_tables(machine):
    guest, regs = machine.guest, machine.guest.vps[0].regs
    regs.cr3 = 0x1000
    for table, entry in ((0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x4003), (0x4008, 0x5001), (0x4010, 0x90_0003)):
        guest.space.write(table, entry.to_bytes(8, "little"))
    ask = lambda gva, flags: machine.winhv.translate_virtual_address(guest.id, 0, gva, flags)   # noqa: E731
    assert (ask(0x1000, 1).result_code, ask(0x1000, 1).gpa_page) == (TranslateGvaResult.SUCCESS, 5)
    assert ask(0x1000, 2).result_code == TranslateGvaResult.PRIVILEGE_VIOLATION
    assert ask(0x7000, 1).result_code == TranslateGvaResult.PAGE_NOT_PRESENT
    assert (ask(0x2000, 1).result_code, ask(0x2000, 1).gpa_page) == (TranslateGvaResult.GPA_UNMAPPED, 0x900)
    with refused(HvStatus.INVALID_PARAMETER):
        ask(0x1000, 0)


# VPs and registers.

def test_vps_are_made_and_deleted(machine):
    machine.winhv.create_vp(machine.guest.id, 5)
    assert sorted(machine.guest.vps) == [0, 5]
    with refused(HvStatus.INVALID_VP_INDEX):
        machine.winhv.create_vp(machine.guest.id, 5)
    machine.winhv.delete_vp(machine.guest.id, 5)
    assert sorted(machine.guest.vps) == [0]


INTEGERS = {N.RAX: 1 << 63, N.R15: 0x1234_5678, N.RIP: 0x1234_5678, N.RFLAGS: 0x246, N.CR0: 0x8001_0033,
            N.CR2: 1 << 63, N.CR3: 0x1234_5000, N.CR4: 0x620, N.EFER: 0xD01, N.DR0: 1 << 62, N.DR7: 0x405,
            N.KERNEL_GS_BASE: 0x1234_5678, N.PAT: 0x0007_0406_0007_0406, N.STAR: 1 << 63, N.TSC_AUX: 0x1234_5678}


@pytest.mark.parametrize("name", INTEGERS, ids=lambda name: name.name)
def test_a_register_is_set_and_read(machine, name):
    machine.winhv.set_vp_registers(machine.guest.id, 0, {name: INTEGERS[name]})
    assert machine.winhv.get_vp_register(machine.guest.id, 0, name) == INTEGERS[name]


@pytest.mark.parametrize("name", [N.CR0, N.EFER, N.RFLAGS], ids=lambda name: name.name)
def test_vm_entry_checks_what_a_parent_wrote(machine, name):
    machine.winhv.set_vp_registers(machine.guest.id, 0, {name: INTEGERS[name]})
    assert machine.guest.vps[0].vcpu.state_written


def test_segments_and_tables_have_their_layouts(machine):
    code = HvSegmentRegister(base=0x1000, limit=0xFFFF, selector=8, attributes=0x209B)
    null = HvSegmentRegister()
    table = HvTableRegister(limit=0x3FF, base=0x5000)
    machine.winhv.set_vp_registers(machine.guest.id, 0, {N.CS: code, N.LDTR: null, N.IDTR: table})
    values = machine.winhv.get_vp_registers(machine.guest.id, 0, [N.CS, N.LDTR, N.IDTR])
    assert values == [code.pack(), null.pack(), table.pack()]
    regs = machine.guest.vps[0].regs
    assert (regs.cs.rights, regs.ldtr.rights & 1 << 16) == (0x209B, 1 << 16)


@pytest.mark.parametrize("name", [N.XFEM, N.VSM_VP_STATUS, 0x123456], ids=["xfem", "vsm", "unknown"])
def test_a_name_that_is_not_built_is_a_parameter_error(machine, name):
    with refused(HvStatus.INVALID_PARAMETER):
        machine.winhv.get_vp_registers(machine.guest.id, 0, [name])


@pytest.mark.parametrize(("name", "value", "status"), [
    (N.SINT2, 0x0F, HvStatus.INVALID_REGISTER_VALUE), (N.CR8, 16, HvStatus.INVALID_REGISTER_VALUE),
    (N.VP_INDEX, 1, HvStatus.INVALID_PARAMETER), (N.INITIAL_APIC_ID, 1, HvStatus.INVALID_PARAMETER)],
    ids=["sint-vector", "cr8", "read-only-msr", "read-only"])
def test_a_value_is_refused(machine, name, value, status):
    with refused(status):
        machine.winhv.set_vp_registers(machine.guest.id, 0, {name: value})


def test_clearing_explicit_suspend_lets_a_vp_run(machine):
    vp = machine.guest.vps[0]
    machine.winhv.set_vp_registers(machine.guest.id, 0, {N.EXPLICIT_SUSPEND: 0})
    assert (vp.explicit_suspend, vp.kicks) == (False, 1)


def test_synthetic_registers_need_no_privilege_of_the_childs(machine):
    machine.guest.set_privileges(0)
    machine.winhv.set_vp_registers(machine.guest.id, 0, {N.GUEST_OS_ID: 5, N.SINT2: 0x30})
    assert machine.winhv.get_vp_register(machine.guest.id, 0, N.GUEST_OS_ID) == 5
    leaf = machine.winhv.get_vp_registers(machine.guest.id, 0, [N.PRIVILEGES_AND_FEATURES_INFO])[0]
    assert leaf[:8] == bytes(8)


def test_a_parent_answers_with_an_exception(machine):
    register = PendingInterruptionRegister(interruption_pending=1, interruption_type=3, deliver_error_code=1,
                                           interruption_vector=13, error_code=0x10)
    machine.winhv.set_vp_registers(machine.guest.id, 0, {N.PENDING_INTERRUPTION: register.raw})
    event = machine.guest.vps[0].pending_event
    assert (event.vector, event.kind, event.error_code) == (13, EventKind.EXCEPTION, 0x10)
    assert machine.winhv.get_vp_register(machine.guest.id, 0, N.PENDING_INTERRUPTION) == register.raw
    register.interruption_type = 1
    with refused(HvStatus.INVALID_REGISTER_VALUE):
        machine.winhv.set_vp_registers(machine.guest.id, 0, {N.PENDING_INTERRUPTION: register.raw})
    assert machine.guest.vps[0].pending_event is event


@pytest.mark.parametrize(("kind", "vector", "error_code", "taken"), [
    (0, 0x50, None, True), (0, 0x50, 0, False), (2, 2, None, True), (2, 3, None, False), (2, 2, 0, False),
    (3, 31, None, True), (3, 32, None, False), (3, 6, None, True), (3, 6, 0, False), (3, 14, 2, True),
    (3, 14, 0x10000, False), (3, 29, 0, False), (4, 0x80, None, True), (4, 13, 0, False), (6, 3, None, True),
    (6, 3, 0, False)])
def test_only_what_vm_entry_takes_may_be_pending(machine, kind, vector, error_code, taken):
    register = PendingInterruptionRegister(
        interruption_pending=1, interruption_type=kind, interruption_vector=vector, error_code=error_code or 0,
        deliver_error_code=int(error_code is not None))
    with contextlib.nullcontext() if taken else refused(HvStatus.INVALID_REGISTER_VALUE):
        machine.winhv.set_vp_registers(machine.guest.id, 0, {N.PENDING_INTERRUPTION: register.raw})
    assert (machine.guest.vps[0].pending_event is not None) is taken


def test_a_finalized_partitions_vp_cannot_be_started(machine):
    machine.winhv.finalize_partition(machine.guest.id)
    with refused(HvStatus.INVALID_PARTITION_STATE):
        machine.winhv.set_vp_registers(machine.guest.id, 0, {N.EXPLICIT_SUSPEND: 0})


# Interrupts and devices.

def test_a_virtual_interrupt_is_in_irr(machine):
    machine.winhv.assert_virtual_interrupt(machine.guest.id, 0x41)
    assert machine.guest.vps[0].apic.irr == 1 << 0x41


ASSERTS = [
    ("vector-below-16", {"vector": 15}, HvStatus.INVALID_PARAMETER),
    ("vector-256", {"vector": 256}, HvStatus.INVALID_PARAMETER),
    ("nmi-with-vector", {"vector": 2, "kind": HvInterruptType.NMI}, HvStatus.INVALID_PARAMETER),
    ("smi", {"vector": 0, "kind": HvInterruptType.SMI}, HvStatus.INVALID_PARAMETER),
    ("remote-read", {"vector": 0, "kind": HvInterruptType.REMOTE_READ}, HvStatus.INVALID_PARAMETER),
    ("type-10", {"vector": 0, "kind": 10}, HvStatus.INVALID_PARAMETER),
    ("lint-with-vector", {"vector": 0x41, "kind": HvInterruptType.LOCAL_INT0}, HvStatus.INVALID_PARAMETER),
    ("none-but-extint", {"vector": INTERRUPT_VECTOR_NONE}, HvStatus.INVALID_PARAMETER),
    ("none-nmi", {"vector": INTERRUPT_VECTOR_NONE, "kind": HvInterruptType.NMI}, HvStatus.INVALID_PARAMETER),
    ("extint-vector-256", {"vector": 256, "kind": HvInterruptType.EXT_INT}, HvStatus.INVALID_PARAMETER),
    ("extint-for-one", {"vector": 8, "kind": HvInterruptType.EXT_INT, "destination": 1}, HvStatus.INVALID_PARAMETER),
    ("nobody", {"vector": 0x41, "destination": 9}, HvStatus.INVALID_VP_INDEX),
    ("nobody-logical", {"vector": 0x41, "destination": 4, "logical": True}, HvStatus.INVALID_VP_INDEX),
    ("wider-than-an-id", {"vector": 0x41, "destination": 1 << 32}, HvStatus.INVALID_VP_INDEX),
]


@pytest.mark.parametrize(("fields", "status"), [row[1:] for row in ASSERTS], ids=[row[0] for row in ASSERTS])
def test_a_virtual_interrupt_is_refused(machine, fields, status):
    """TLFS "HvCallAssertVirtualInterrupt"."""
    with refused(status):
        machine.winhv.assert_virtual_interrupt(machine.guest.id, **fields)


@pytest.mark.parametrize(("destination", "logical", "modes", "taken"), [
    (0xFF, False, "xxx", [0, 1, 2]), (0xFFFF_FFFF, False, "xxx", [0, 1, 2]), (0xFFFF_FFFF, True, "2x2", [0, 1, 2]),
    (0xFF, False, "22x", [2]), (0b101, True, "xxx", [0, 2]), (0b101, True, "222", [0, 2]), (2, False, "2x2", [2]),
    (0x1_0000, True, "222", []),
])
def test_a_destination_is_read_as_each_apic_reads_it(machine, destination, logical, modes, taken):
    """SDM "Logical Destination Mode", "x2APIC": 0xFF is everybody to an xAPIC only."""
    partition = machine.child(vps=3)
    for n, mode in enumerate(modes):
        apic = partition.vps[n].apic
        apic.write(0xD0, 1 << 24 + n)
        if mode == "2":
            apic.write_msr(0x1B, apic.base.raw | 0xC00)
    if taken:
        machine.winhv.assert_virtual_interrupt(partition.id, 0x41, destination, logical=logical)
    else:
        with refused(HvStatus.INVALID_VP_INDEX):
            machine.winhv.assert_virtual_interrupt(partition.id, 0x41, destination, logical=logical)
    assert [n for n, vp in partition.vps.items() if vp.apic.irr] == taken


def test_the_lowest_priority_is_asked_for_and_levels_are_kept(machine):
    partition, winhv = machine.child(vps=2), machine.winhv
    partition.vps[0].apic.set_tpr(0x30)
    winhv.assert_virtual_interrupt(partition.id, 0x41, 0xFF, HvInterruptType.LOWEST_PRIORITY, level=True)
    winhv.assert_virtual_interrupt(partition.id, 0x42, 1)
    assert [vp.apic.irr for vp in partition.vps.values()] == [0, 1 << 0x41 | 1 << 0x42]
    assert partition.vps[1].apic.tmr == 1 << 0x41


def test_a_new_vp_sees_the_line_and_a_finalized_partition_has_none(machine):
    partition, winhv = machine.child(), machine.winhv
    winhv.assert_virtual_interrupt(partition.id, 8, kind=HvInterruptType.EXT_INT)
    winhv.create_vp(partition.id, 1)
    assert [vp.sees_external for vp in partition.vps.values()] == [True, True]
    winhv.finalize_partition(partition.id)
    for act in (lambda: winhv.clear_virtual_interrupt(partition.id),
                lambda: winhv.assert_virtual_interrupt(partition.id, 8, kind=HvInterruptType.EXT_INT)):
        with refused(HvStatus.INVALID_PARTITION_STATE):
            act()


def test_a_device_interrupt_goes_to_its_owner_and_to_nobody_else(machine):
    other, winhv = machine.child(), machine.winhv
    winhv.attach_device(machine.guest.id, 8, logical_device_id=1)
    message = winhv.map_device_interrupt(machine.guest.id, 8, 0, 0x61)
    physical = message[1]                       # the fake's data is the vector
    assert machine.hypervisor.interrupts.route(physical).guest_vector == 0x61
    assert (machine.guest.vps[0].apic.irr, other.vps[0].apic.irr) == (1 << 0x61, 0)
    assert machine.events(InterruptRouted) == [InterruptRouted(8, 0x61, machine.guest.id, 0)]
    winhv.unmap_device_interrupt(machine.guest.id, 8, message)
    assert machine.hypervisor.interrupts.route(physical) is None
    assert machine.hypervisor.interrupts.spurious == 1
    with refused(HvStatus.INVALID_PARAMETER):
        winhv.unmap_device_interrupt(machine.guest.id, 8, message)


def test_a_device_has_one_owner(machine):
    other, winhv = machine.child(), machine.winhv
    winhv.attach_device(machine.guest.id, 8, 1)
    with refused(HvStatus.DEVICE_ALREADY_IN_DOMAIN):
        winhv.attach_device(machine.guest.id, 8, 2)
    with refused(HvStatus.OBJECT_IN_USE):
        winhv.attach_device(other.id, 8, 1)
    with refused(HvStatus.INVALID_DEVICE_ID):
        winhv.map_device_interrupt(other.id, 8, 0, 0x61)
    winhv.detach_device(machine.guest.id, 1)
    with refused(HvStatus.INVALID_DEVICE_ID):
        winhv.detach_device(machine.guest.id, 1)
    winhv.attach_device(other.id, 8, 1)
    assert machine.iommu.attached == {8: other.id}


@pytest.mark.parametrize(("vp_index", "vector", "status"), [
    (7, 0x61, HvStatus.INVALID_VP_INDEX), (0, 15, HvStatus.INVALID_PARAMETER), (0, 256, HvStatus.INVALID_PARAMETER)])
def test_a_device_interrupt_is_refused(machine, vp_index, vector, status):
    machine.winhv.attach_device(machine.guest.id, 8, 1)
    with refused(status):
        machine.winhv.map_device_interrupt(machine.guest.id, 8, vp_index, vector)
    assert not machine.iommu.interrupts


def test_a_partition_that_ends_gives_its_devices_and_vectors_back(machine):
    machine.winhv.attach_device(machine.guest.id, 8, 1)
    machine.winhv.map_device_interrupt(machine.guest.id, 8, 0, 0x61)
    machine.winhv.finalize_partition(machine.guest.id)
    assert (machine.iommu.attached, machine.iommu.interrupts) == ({}, set())


def test_a_machine_without_an_iommu_assigns_nothing(machine):
    machine.hypervisor.iommu = None
    with refused(HvStatus.FEATURE_UNAVAILABLE):
        machine.winhv.attach_device(machine.guest.id, 8, 1)


def test_a_bug_of_the_iommus_driver_is_no_status(machine, monkeypatch):
    monkeypatch.setattr(machine.iommu, "attach", lambda source_id, *more: {}[source_id])
    with pytest.raises(KeyError):
        machine.winhv.attach_device(machine.guest.id, 8, 1)


def test_a_finalized_partitions_vps_have_no_state_left(machine):
    """Its engine is gone: nobody reads a register of it, or writes one by INIT."""
    winhv, guest = machine.winhv, machine.guest.id
    winhv.finalize_partition(guest)
    for act in (lambda: winhv.get_vp_registers(guest, 0, [N.RIP]),
                lambda: winhv.set_vp_registers(guest, 0, {N.RIP: 1}),
                lambda: winhv.assert_virtual_interrupt(guest, 0, kind=HvInterruptType.INIT),
                lambda: winhv.translate_virtual_address(guest, 0, 0x1000, 1),
                lambda: winhv.read_gpa(guest, 0, 0, 4)):
        with refused(HvStatus.INVALID_PARTITION_STATE):
            act()


class FakeDriver:
    """The IOMMU's driver as DeviceDomains uses it: domains are dictionaries."""

    def __init__(self):
        self.domains, self.home = [], {}

    def create_domain(self, allocate_page, free_page):
        self.domains.append({})
        return self.domains[-1]

    def destroy_domain(self, domain):
        self.domains.remove(domain)

    def add_device(self, source_id):
        assert source_id not in self.home

    def attach(self, domain, source_id):
        self.home[source_id] = domain

    def remove_device(self, source_id):
        del self.home[source_id]

    def map(self, domain, iova, spa, write=True, read=True):
        domain[iova] = (spa, write)

    def unmap(self, domain, iova):
        return domain.pop(iova, None) is not None


def test_a_devices_domain_follows_the_partitions_map(machine):
    driver = FakeDriver()
    machine.hypervisor.iommu = DeviceDomains(driver)
    machine.winhv.attach_device(machine.guest.id, 8, 1)
    domain = driver.home[8]
    assert domain == {page << 12: (mapping.spa, True) for page, mapping in machine.guest.space.mappings()}
    machine.winhv.map_gpa_pages(machine.guest.id, 0x80, [700], R)
    assert domain[0x80000] == (700 << 12, False)
    machine.winhv.unmap_gpa_pages(machine.guest.id, 0x80, 1)
    assert 0x80000 not in domain
    machine.winhv.detach_device(machine.guest.id, 1)
    assert (driver.domains, machine.guest.space.listeners) == ([], [])


def test_a_device_that_gets_no_context_entry_leaves_no_domain_behind(machine, monkeypatch):
    driver = FakeDriver()
    devices = DeviceDomains(driver)

    def no_memory(source_id):
        raise HypercallError(HvStatus.INSUFFICIENT_MEMORY, "no page for a context table")

    with monkeypatch.context() as patch:
        patch.setattr(driver, "add_device", no_memory)
        with pytest.raises(HypercallError, match="INSUFFICIENT_ROOT_MEMORY"):
            devices.attach(8, machine.guest)
    assert (driver.domains, machine.guest.space.listeners) == ([], [])
    devices.attach(8, machine.guest)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "add_device", no_memory)
        with pytest.raises(HypercallError, match="INSUFFICIENT_ROOT_MEMORY"):
            devices.attach(9, machine.guest)
    assert len(driver.domains) == 1
