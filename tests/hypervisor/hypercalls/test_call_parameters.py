"""Each parameter that a call cannot have is refused with the status TLFS names, and what is just allowed is not."""

import pytest

from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.machine.faults import Access
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.devices import HvDeviceId
from hv.spec.hypercalls.interrupts import DeviceInterruptTarget, HvInterruptType
from hv.spec.hypercalls.memory import (
    GpaPageNumber,
    TranslateGvaFlags,
    TranslateGvaResult,
    UnmapGpaPagesInput,
    WithdrawMemoryInput,
)
from hv.spec.hypercalls.messages import PostMessageInput
from hv.spec.hypercalls.registers import RegisterAssoc, RegisterName
from hv.spec.intercepts import HvInterceptType as I
from hv.spec.partition import HvMapGpaFlags as F
from hv.spec.partition import HvPartitionProperty as P
from hv.spec.partition import HvUnmapGpaFlags
from hv.spec.synic import HvConnectionInfo, HvPortInfo, PortType
from hv.trace import events
from tests.hypervisor.fakes import Machine

IN, OUT = 0x4000, 0x5000
GUEST, PCI = 2, 1
DEVICE, ATTACHED = HvDeviceId(rid=9, device_type=PCI).raw, HvDeviceId(rid=8, device_type=PCI).raw
A_PORT = HvPortInfo(port_type=PortType.MESSAGE, target_sint=2)


class Bench(Machine):
    """A guest with device 8 and port 1 to itself; calls are root's, with their parameters in memory."""

    def __init__(self):
        super().__init__()
        self.guest = self.child()
        assert self.guest.id == GUEST
        self.done(C.ATTACH_DEVICE, partition_id=GUEST, device_id=ATTACHED, logical_device_id=1)
        self.done(C.CREATE_PORT, port_partition=GUEST, port_id=1, connection_partition=GUEST, port_info=A_PORT)

    def variable(self, code, units=(), vp=None, **fields):
        """The status of a call with a variable header."""
        vp = vp or self.root_vp
        data = HYPERCALLS[code].input(**fields).pack() + b"".join(unit.to_bytes(8, "little") for unit in units)
        vp.partition.space.write(IN, data)
        control = HypercallControl(call_code=code, variable_header_size=len(units))
        return S(HypercallResult(hypercall(self.hypervisor, vp, control.raw, IN, OUT)).status)

    def ask(self, code, elements=(), vp=None, **fields):
        """(status, reps completed)"""
        declaration, vp = HYPERCALLS[code], vp or self.root_vp
        vp.partition.space.write(IN, declaration.input(**fields).pack() + b"".join(e.pack() for e in elements))
        control = HypercallControl(call_code=code, rep_count=len(elements))
        result = HypercallResult(hypercall(self.hypervisor, vp, control.raw, IN, OUT))
        return S(result.status), result.reps_complete

    def done(self, code, elements=(), **fields):
        """The output, or the reps completed, of a call that must succeed."""
        status, reps = self.ask(code, elements, **fields)
        assert status == S.SUCCESS
        output = HYPERCALLS[code].output
        return output.parse(self.memory.read(OUT, output.SIZE)) if output else reps


@pytest.fixture
def bench():
    return Bench()


def interrupt(**fields):
    return {"partition_id": GUEST, "device_id": ATTACHED, "vector_count": 1, **target(**fields)}


def target(target_vector=0x61, target_flags=0, target_vp_mask=1, **others):
    return {**others, "target": DeviceInterruptTarget(
        target_vector=target_vector, target_flags=target_flags, target_vp_mask=target_vp_mask)}


def port(**fields):
    return {"port_partition": GUEST, "port_id": 2, "connection_partition": GUEST, "port_info": A_PORT, **fields}


def connection(**fields):
    return {"connection_partition": GUEST, "connection_id": 1, "port_partition": GUEST, "port_id": 1,
            "connection_info": HvConnectionInfo(port_type=PortType.MESSAGE), **fields}


def intercept(kind, parameter, access=3):
    return {"partition_id": GUEST, "access_type": access, "intercept_type": kind, "intercept_parameter": parameter}


def gpa(**fields):
    return {"partition_id": GUEST, "byte_count": 4, "base_gpa": 0x1000, **fields}


def prop(code, value):
    return {"partition_id": GUEST, "property_code": code, "property_value": value}


ATTACH = {"partition_id": GUEST, "device_id": DEVICE, "logical_device_id": 2}
RAISE = {"partition_id": GUEST, "vector": 0x41}
WRONG, VTL, NODE = S.INVALID_PARAMETER, S.INVALID_VTL_STATE, S.INVALID_PROXIMITY_DOMAIN_INFO
RANGE = S.PROPERTY_VALUE_OUT_OF_RANGE
RULES = [
    # call, its fields, the status
    (C.ATTACH_DEVICE, ATTACH, S.SUCCESS),
    (C.ATTACH_DEVICE, {**ATTACH, "device_id": 9}, S.INVALID_DEVICE_ID),
    (C.ATTACH_DEVICE, {**ATTACH, "device_id": DEVICE | 1 << 16}, S.INVALID_DEVICE_ID),
    (C.ATTACH_DEVICE, {**ATTACH, "flags": 1}, WRONG),
    (C.ATTACH_DEVICE, {**ATTACH, "attach_vtl": 1}, WRONG),
    (C.ATTACH_DEVICE, {**ATTACH, "logical_device_id": 1}, WRONG),
    (C.ATTACH_DEVICE, {**ATTACH, "device_id": ATTACHED}, S.DEVICE_ALREADY_IN_DOMAIN),
    (C.MAP_DEVICE_INTERRUPT, interrupt(), S.SUCCESS),
    (C.MAP_DEVICE_INTERRUPT, interrupt(interrupt_type=1, trigger_mode=1, target_vector=16), S.SUCCESS),
    (C.MAP_DEVICE_INTERRUPT, interrupt(target_vector=255), S.SUCCESS),
    (C.MAP_DEVICE_INTERRUPT, interrupt(device_id=DEVICE), S.INVALID_DEVICE_ID),
    (C.MAP_DEVICE_INTERRUPT, interrupt(target_flags=1), S.SUCCESS),
    (C.MAP_DEVICE_INTERRUPT, interrupt(target_flags=3, target_vp_mask=1), S.SUCCESS),
    (C.MAP_DEVICE_INTERRUPT, interrupt(target_flags=2), S.SUCCESS),
    (C.MAP_DEVICE_INTERRUPT, interrupt(target_flags=2, target_vp_mask=0), S.INVALID_HYPERCALL_INPUT),
    (C.MAP_DEVICE_INTERRUPT, interrupt(target_flags=4), S.FEATURE_UNAVAILABLE),
    (C.MAP_DEVICE_INTERRUPT, interrupt(target_flags=8), WRONG),
    (C.MAP_DEVICE_INTERRUPT, interrupt(target_vector=256), WRONG),
    (C.MAP_DEVICE_INTERRUPT, interrupt(interrupt_type=HvInterruptType.NMI), WRONG),
    (C.MAP_DEVICE_INTERRUPT, interrupt(trigger_mode=2), WRONG),
    (C.MAP_DEVICE_INTERRUPT, interrupt(vector_count=2), WRONG),
    (C.MAP_DEVICE_INTERRUPT, interrupt(target_vector=15), WRONG),
    (C.MAP_DEVICE_INTERRUPT, interrupt(target_vp_mask=0), S.INVALID_VP_INDEX),
    (C.MAP_DEVICE_INTERRUPT, interrupt(target_vp_mask=3), S.INVALID_VP_INDEX),
    (C.ASSERT_VIRTUAL_INTERRUPT, {**RAISE, "vector": 16}, S.SUCCESS),
    (C.ASSERT_VIRTUAL_INTERRUPT, {**RAISE, "vector": 255}, S.SUCCESS),
    (C.ASSERT_VIRTUAL_INTERRUPT, {**RAISE, "interrupt_control": 1 << 34}, WRONG),
    (C.ASSERT_VIRTUAL_INTERRUPT, {**RAISE, "target_vtl": 1}, VTL),
    (C.ASSERT_VIRTUAL_INTERRUPT, {**RAISE, "target_vtl": 0x20}, WRONG),
    (C.CREATE_PORT, port(), S.SUCCESS),
    (C.CREATE_PORT, port(port_vtl=1), WRONG), (C.CREATE_PORT, port(min_connection_vtl=1), WRONG),
    (C.CREATE_PORT, port(proximity_domain_info=1), NODE),
    (C.CREATE_PORT, port(proximity_domain_info=1 << 32), S.SUCCESS),
    (C.CONNECT_PORT, connection(), S.SUCCESS),
    (C.CONNECT_PORT, connection(connection_vtl=1), WRONG), (C.CONNECT_PORT, connection(proximity_domain_info=1), NODE),
    (C.DISCONNECT_PORT, {"connection_partition": GUEST, "connection_id": 1, "is_doorbell": 1}, WRONG),
    (C.DISCONNECT_PORT, {"connection_partition": GUEST, "connection_id": 1}, S.INVALID_CONNECTION_ID),
    (C.INSTALL_INTERCEPT, intercept(I.IO_PORT, 0xFFFF), S.SUCCESS),
    (C.INSTALL_INTERCEPT, intercept(I.IO_PORT, 1 << 16), WRONG),
    (C.INSTALL_INTERCEPT, intercept(I.IO_PORT, 1, 1), WRONG),
    (C.INSTALL_INTERCEPT, intercept(I.IO_PORT, 1, 0), S.SUCCESS),
    (C.INSTALL_INTERCEPT, intercept(I.IO_PORT_RANGE, 5 | 5 << 16), S.SUCCESS),
    (C.INSTALL_INTERCEPT, intercept(I.IO_PORT_RANGE, 6 | 5 << 16), WRONG),
    (C.INSTALL_INTERCEPT, intercept(I.IO_PORT_RANGE, 1 << 32), WRONG),
    (C.INSTALL_INTERCEPT, intercept(I.EXCEPTION, 32, 4), WRONG),
    (C.INSTALL_INTERCEPT, intercept(I.CPUID, 0xFFFFFFFF, 4), S.SUCCESS),
    (C.INSTALL_INTERCEPT, intercept(I.CPUID, 1 << 32, 4), WRONG),
    (C.INSTALL_INTERCEPT, intercept(I.CPUID, 1, 3), WRONG), (C.INSTALL_INTERCEPT, intercept(0x77, 1), WRONG),
    (C.CREATE_PARTITION, {"isolation_properties": 1}, WRONG), (C.CREATE_PARTITION, {"proximity_domain_info": 1}, NODE),
    (C.CREATE_VP, {"partition_id": GUEST, "vp_index": 1, "flags": 1}, WRONG),
    (C.CREATE_VP, {"partition_id": GUEST, "vp_index": 1, "proximity_domain_info": 7}, NODE),
    (C.GET_MEMORY_BALANCE, {"partition_id": GUEST, "proximity_domain_info": 1}, NODE),
    (C.GET_NEXT_CHILD_PARTITION, {"parent_id": 1, "previous_child_id": 9}, S.INVALID_PARTITION_ID),
    (C.SET_PARTITION_PROPERTY, prop(P.CPU_WEIGHT, 10_000), S.SUCCESS),
    (C.SET_PARTITION_PROPERTY, prop(P.CPU_WEIGHT, 10_001), RANGE),
    (C.SET_PARTITION_PROPERTY, prop(P.CPU_WEIGHT, 1), S.SUCCESS),
    (C.SET_PARTITION_PROPERTY, prop(P.CPU_CAP, 1 << 16), S.SUCCESS),
    (C.SET_PARTITION_PROPERTY, prop(P.CPU_CAP, (1 << 16) + 1), RANGE),
    (C.SET_PARTITION_PROPERTY, prop(P.CPU_CAP, 0), S.SUCCESS),
    (C.SET_PARTITION_PROPERTY, prop(P.CPU_RESERVE, 0), S.SUCCESS),
    (C.SET_PARTITION_PROPERTY, prop(P.CPU_RESERVE, 1 << 16), S.SUCCESS),
    (C.SET_PARTITION_PROPERTY, prop(P.CPU_RESERVE, (1 << 16) + 1), RANGE),
    (C.SET_PARTITION_PROPERTY, prop(P.UNIMPLEMENTED_MSR_ACTION, 1), S.SUCCESS),
    (C.SET_PARTITION_PROPERTY, prop(P.UNIMPLEMENTED_MSR_ACTION, 2), RANGE),
    (C.READ_GPA, gpa(byte_count=16), S.SUCCESS), (C.READ_GPA, gpa(byte_count=17), WRONG),
    (C.READ_GPA, gpa(base_gpa=0x1FFC), S.SUCCESS), (C.READ_GPA, gpa(base_gpa=0x1FFD), WRONG),
    (C.READ_GPA, gpa(control_flags=0xFF), S.SUCCESS), (C.READ_GPA, gpa(control_flags=0x100), WRONG),
    (C.WRITE_GPA, gpa(byte_count=17), WRONG), (C.WRITE_GPA, gpa(vp_index=3), S.INVALID_VP_INDEX),
    (C.TRANSLATE_VIRTUAL_ADDRESS, {"partition_id": GUEST, "control_flags": 1 << 11 | 1}, WRONG),
    (C.TRANSLATE_VIRTUAL_ADDRESS, {"partition_id": GUEST, "control_flags": 1 << 10 | 1}, WRONG),
    (C.TRANSLATE_VIRTUAL_ADDRESS, {"partition_id": GUEST, "control_flags": 1 << 4}, WRONG),
    (C.TRANSLATE_VIRTUAL_ADDRESS, {"partition_id": GUEST, "control_flags": 1 << 56 | 1}, VTL),
    (C.TRANSLATE_VIRTUAL_ADDRESS_EX, {"partition_id": GUEST, "control_flags": 1 << 11 | 1}, WRONG),
    (C.TRANSLATE_VIRTUAL_ADDRESS_EX, {"partition_id": GUEST, "vp_index": 3, "control_flags": 1}, S.INVALID_VP_INDEX),
    (C.TRANSLATE_VIRTUAL_ADDRESS_EX, {"partition_id": 1, "control_flags": 1}, S.ACCESS_DENIED),
]


@pytest.mark.parametrize(("code", "fields", "status"), RULES,
                         ids=[f"{row[0].name}-{row[2].name}-{n}" for n, row in enumerate(RULES)])
def test_a_call_has_its_status(bench, code, fields, status):
    assert bench.ask(code, **fields)[0] == status


PAGES = [GpaPageNumber(page_number=page) for page in (600, 601, 602)]
MAP = {"target_partition_id": GUEST, "target_gpa_base": 0x100, "map_flags": int(F.READABLE)}


@pytest.mark.parametrize(("code", "fields", "elements", "status", "reps"), [
    (C.MAP_GPA_PAGES, MAP, PAGES, S.SUCCESS, 3),
    (C.MAP_GPA_PAGES, {**MAP, "target_gpa_base": (1 << 28) - 3}, PAGES, S.SUCCESS, 3),
    (C.MAP_GPA_PAGES, {**MAP, "target_gpa_base": (1 << 28) - 2}, PAGES, WRONG, 0),
    (C.MAP_GPA_PAGES, {**MAP, "map_flags": int(F.READABLE | F.LARGE_PAGE)}, PAGES, WRONG, 0),
    (C.MAP_GPA_PAGES, {**MAP, "target_gpa_base": 0x200, "map_flags": int(F.READABLE | F.LARGE_PAGE)}, PAGES, WRONG, 0),
    (C.MAP_GPA_PAGES, MAP, [PAGES[0], GpaPageNumber(page_number=1 << 30)], S.OPERATION_DENIED, 1),
    (C.MAP_GPA_PAGES, {**MAP, "map_flags": int(F.NO_ACCESS)}, PAGES[:1], S.SUCCESS, 1),
    (C.MAP_GPA_PAGES, {**MAP, "map_flags": int(F.NO_ACCESS | F.READABLE)}, PAGES, WRONG, 0),
    (C.MAP_GPA_PAGES, {**MAP, "map_flags": int(F.WRITABLE)}, PAGES, WRONG, 0),
    (C.DEPOSIT_MEMORY, {"partition_id": GUEST}, PAGES, S.SUCCESS, 3),
    (C.DEPOSIT_MEMORY, {"partition_id": GUEST}, [PAGES[0], PAGES[0]], WRONG, 1),
    (C.GET_VP_REGISTERS, {"partition_id": GUEST, "input_vtl": 1}, [RegisterName(name=N.RIP)], VTL, 0),
    (C.GET_VP_REGISTERS, {"partition_id": GUEST, "vp_index": 4}, [RegisterName(name=N.RIP)], S.INVALID_VP_INDEX, 0),
    (C.SET_VP_REGISTERS, {"partition_id": GUEST}, [RegisterAssoc(name=N.RIP), RegisterAssoc(name=N.APIC_ID)], WRONG, 1),
    (C.SET_VP_REGISTERS, {"partition_id": GUEST}, [RegisterAssoc(name=N.RIP, padding=b"\1" + bytes(11))], WRONG, 0),
])
def test_a_list_ends_at_what_is_refused(bench, code, fields, elements, status, reps):
    assert bench.ask(code, elements, **fields) == (status, reps)


def test_reserved_bytes_in_the_header_of_a_list_are_refused_before_its_first_element(bench):
    assert bench.ask(C.MAP_GPA_PAGES, PAGES, **MAP, padding=1) == (WRONG, 0)
    assert bench.guest.space.mapping(0x100) is None


def test_what_was_done_is_told_and_nothing_else(bench):
    bench.ask(C.MAP_GPA_PAGES, [*PAGES[:2], GpaPageNumber(page_number=1 << 30)], **MAP)
    bench.ask(C.MAP_GPA_PAGES, PAGES, **{**MAP, "map_flags": 2})
    assert bench.events(events.PagesMapped) == [events.PagesMapped(GUEST, 0x100000, 2, 1)]
    word = HypercallControl(call_code=C.UNMAP_GPA_PAGES, rep_count=3, rep_start=1)
    bench.memory.write(IN, UnmapGpaPagesInput(target_partition_id=GUEST, target_gpa_base=0x100).pack())
    assert HypercallResult(hypercall(bench.hypervisor, bench.root_vp, word.raw, IN, OUT)).reps_complete == 3
    assert bench.events(events.PagesUnmapped) == [events.PagesUnmapped(GUEST, 0x101000, 2)]
    assert bench.guest.space.mapping(0x100) is not None
    bench.done(C.DEPOSIT_MEMORY, PAGES[2:], partition_id=GUEST)
    assert bench.events(events.MemoryDeposited)[-1] == events.MemoryDeposited(GUEST, 1)
    bench.done(C.DETACH_DEVICE, partition_id=GUEST, logical_device_id=1)
    assert bench.events(events.DeviceAttached) == [events.DeviceAttached(8, GUEST)]
    assert bench.events(events.DeviceDetached) == [events.DeviceDetached(8, GUEST)]


def test_a_device_that_is_detached_keeps_no_interrupt(bench):
    bench.done(C.MAP_DEVICE_INTERRUPT, **interrupt())
    assert len(bench.iommu.interrupts) == 1
    bench.done(C.DETACH_DEVICE, partition_id=GUEST, logical_device_id=1)
    assert (bench.iommu.interrupts, bench.iommu.attached) == (set(), {})


def test_a_device_goes_to_an_active_partition_only(bench):
    made = bench.done(C.CREATE_PARTITION).partition_id
    assert bench.ask(C.ATTACH_DEVICE, **{**ATTACH, "partition_id": made})[0] == S.INVALID_PARTITION_STATE


def test_a_vector_is_free_again_when_the_iommu_has_no_room(bench, monkeypatch):
    before = [bench.hypervisor.interrupts.route(vector) for vector in range(256)]

    def full(source_id, vector):
        raise MemoryError

    monkeypatch.setattr(bench.iommu, "map_interrupt", full)
    with pytest.raises(MemoryError):
        bench.ask(C.MAP_DEVICE_INTERRUPT, **interrupt())
    assert [bench.hypervisor.interrupts.route(vector) for vector in range(256)] == before


def test_a_virtual_interrupt_wakes_its_target_and_is_told(bench):
    bench.hypervisor.create_vp(bench.guest, 1)
    bench.done(C.ASSERT_VIRTUAL_INTERRUPT, **RAISE, destination=1)
    assert [vp.kicks for vp in bench.guest.vps.values()] == [0, 1]
    assert [vp.apic.irr for vp in bench.guest.vps.values()] == [0, 1 << 0x41]
    assert bench.events(events.InterruptRequested)[-1] == events.InterruptRequested(0x41, "hypercall")


def test_children_are_told_one_after_the_other(bench):
    other = bench.child()
    after = [bench.done(C.GET_NEXT_CHILD_PARTITION, parent_id=1, previous_child_id=n).partition_id
             for n in (0, GUEST, other.id)]
    assert after == [GUEST, other.id, 0]


@pytest.mark.parametrize(("code", "privileges", "status"), [
    (0x7FFF, 0, S.INVALID_HYPERCALL_CODE), (0x8000, 0, S.ACCESS_DENIED),
    (0x8000, HvPrivilege.ENABLE_EXTENDED_HYPERCALLS, S.INVALID_HYPERCALL_CODE),
])
def test_an_extended_code_needs_its_privilege_even_to_be_unknown(bench, code, privileges, status):
    bench.guest.set_privileges(int(privileges))
    assert HypercallResult(hypercall(bench.hypervisor, bench.guest.vps[0], code, IN, OUT)).status == status


def test_a_call_without_its_privilege_says_which(bench):
    """In memory and in registers, for a simple call and for a list."""
    bench.guest.set_privileges(0)
    for code, fields in ((C.SIGNAL_EVENT, {"fast": 1}), (C.POST_MESSAGE, {}), (C.DEPOSIT_MEMORY, {"rep_count": 1}),
                         (C.DEPOSIT_MEMORY, {"rep_count": 1, "fast": 1})):
        word = HypercallControl(call_code=code, **fields).raw
        assert HypercallResult(hypercall(bench.hypervisor, bench.guest.vps[0], word, IN, OUT)).status == S.ACCESS_DENIED
        missing = HYPERCALLS[code].privilege
        assert bench.events(events.Hypercall)[-1].why == f"{code.name} needs privilege {missing:#x}"


def test_what_is_wider_than_64_bits_is_no_control_word(bench):
    wide = 1 << 64 | int(HypercallControl(call_code=C.NOTIFY_LONG_SPIN_WAIT, fast=1))
    assert HypercallResult(hypercall(bench.hypervisor, bench.root_vp, wide, 0, 0)).status == S.INVALID_HYPERCALL_INPUT


@pytest.mark.parametrize(("input_gpa", "status"), [(IN + 0xF00, S.INVALID_CONNECTION_ID),
(IN + 0xF08, S.INVALID_ALIGNMENT)])
def test_parameters_may_end_with_their_page(bench, input_gpa, status):
    """PostMessage takes 256 bytes."""
    bench.guest.space.write(IN + 0xF00, PostMessageInput(connection_id=77).pack())
    vp = bench.guest.vps[0]
    assert HypercallResult(hypercall(bench.hypervisor, vp, C.POST_MESSAGE, input_gpa, OUT)).status == status


def translation(bench, gva, **flags):
    return bench.done(C.TRANSLATE_VIRTUAL_ADDRESS, partition_id=GUEST, gva_page=gva >> 12,
                      control_flags=TranslateGvaFlags(**flags).raw)


@pytest.mark.parametrize(("gva", "flags", "result"), [
    (0x1000, {"validate_read": 1}, TranslateGvaResult.SUCCESS),
    (0x1000, {"validate_read": 1, "user_access": 1}, TranslateGvaResult.PRIVILEGE_VIOLATION),
    (0x1000, {"validate_read": 1, "user_access": 1, "supervisor_access": 1}, TranslateGvaResult.SUCCESS),
    (0x1000, {"validate_read": 1, "user_access": 1, "privilege_exempt": 1}, TranslateGvaResult.SUCCESS),
    (0x2000, {"validate_read": 1, "user_access": 1}, TranslateGvaResult.SUCCESS),
    (0x3000, {"validate_read": 1}, TranslateGvaResult.INVALID_PAGE_TABLE_FLAGS),
    (0x4000, {"validate_read": 1}, TranslateGvaResult.SUCCESS),
    (0x4000, {"validate_write": 1}, TranslateGvaResult.GPA_NO_WRITE_ACCESS),
    (0x4000, {"validate_execute": 1}, TranslateGvaResult.GPA_NO_READ_ACCESS),
    (0x5000, {"validate_read": 1}, TranslateGvaResult.GPA_NO_READ_ACCESS),
    (0x6000, {"validate_read": 1}, TranslateGvaResult.SUCCESS),
    (0x6000, {"validate_execute": 1}, TranslateGvaResult.GPA_ILLEGAL_OVERLAY_ACCESS),
    (0x8000, {"validate_read": 1}, TranslateGvaResult.PAGE_NOT_PRESENT),
])
def test_a_translation_says_what_is_in_its_way(bench, gva, flags, result):
    """The guest's tables first (user, supervisor, reserved bits), then the rights of the page itself."""
    space, regs = bench.guest.space, bench.guest.vps[0].regs
    regs.cr3 = 0x1000
    entries = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4008: 0x5003, 0x4010: 0x5007, 0x4018: 0x5003 | 1 << 50,
               0x4020: 0x6003, 0x4028: 0x7003, 0x4030: 0x900003}
    for at, entry in entries.items():
        space.write(at, entry.to_bytes(8, "little"))
    for page, rights in ((6, Access.READ), (7, Access(0))):
        spa = space.mapping(page).spa >> 12
        space.unmap(page)
        space.map(page, spa, rights)
    space.invept()
    bench.guest.vps[0].synic.write_msr(0x40000083, 0x900001)
    found = translation(bench, gva, **flags)
    assert found.result_code == result
    if result == TranslateGvaResult.SUCCESS:
        assert (found.overlay_page, found.gpa_page) == ((1, 0x900) if gva == 0x6000 else (0, found.gpa_page))


# --- pools, messages, registers -----------------------------------------------------------------------------------

def test_a_pool_gives_back_what_it_does_not_use_and_says_when_there_is_no_more(bench):
    pool, free = bench.guest.pool, bench.guest.pool.available
    word = HypercallControl(call_code=C.WITHDRAW_MEMORY, rep_count=free + 1)
    bench.memory.write(IN, WithdrawMemoryInput(partition_id=GUEST).pack())
    result = HypercallResult(hypercall(bench.hypervisor, bench.root_vp, word.raw, IN, OUT))
    assert (result.status, result.reps_complete, pool.available) == (S.NO_RESOURCES, free, 0)
    pages = {int.from_bytes(bench.memory.read(OUT + 8 * n, 8), "little") for n in range(free)}
    assert len(pages) == free
    assert all(bench.hypervisor.owners.is_root(page) for page in pages)
    assert bench.events(events.MemoryDeposited)[-1] == events.MemoryDeposited(GUEST, -free)
    balance = bench.done(C.GET_MEMORY_BALANCE, partition_id=GUEST)
    assert (balance.pages_available, balance.pages_in_use) == (0, pool.in_use)


def test_a_page_that_is_deposited_is_the_pools(bench):
    before = bench.guest.pool.available
    bench.done(C.DEPOSIT_MEMORY, PAGES, partition_id=GUEST)
    assert bench.guest.pool.available == before + 3
    assert not any(bench.hypervisor.owners.is_root(page) for page in (600, 601, 602))
    bench.done(C.FINALIZE_PARTITION, partition_id=GUEST)
    late = [GpaPageNumber(page_number=603)]
    assert bench.ask(C.DEPOSIT_MEMORY, late, partition_id=GUEST) == (S.INVALID_PARTITION_STATE, 0)


@pytest.mark.parametrize("code", [C.DEPOSIT_MEMORY, C.WITHDRAW_MEMORY])
def test_a_child_has_no_page_to_give_or_take_even_with_the_privilege(bench, code):
    bench.guest.set_privileges(int(HvPrivilege.ACCESS_MEMORY_POOL))
    elements = [GpaPageNumber(page_number=3)]
    assert bench.ask(code, elements, vp=bench.guest.vps[0], partition_id=GUEST) == (S.OPERATION_DENIED, 0)


@pytest.mark.parametrize(("fields", "status"), [
    ({}, S.SUCCESS), ({"message_type": 0}, WRONG), ({"message_type": (1 << 31) - 1}, S.SUCCESS),
    ({"message_type": 1 << 31}, WRONG), ({"payload_size": 240}, S.SUCCESS), ({"payload_size": 241}, WRONG),
    ({"connection_id": 9}, S.INVALID_CONNECTION_ID), ({"connection_id": 2}, S.INVALID_PORT_ID),
])
def test_a_message_has_a_type_and_at_most_240_bytes_and_goes_to_a_message_port(bench, fields, status):
    event_port = HvPortInfo(port_type=PortType.EVENT, target_sint=2, flag_count=2048)
    bench.done(C.CREATE_PORT, **port(port_info=event_port))
    for number, kind in ((1, PortType.MESSAGE), (2, PortType.EVENT)):
        info = HvConnectionInfo(port_type=kind)
        bench.done(C.CONNECT_PORT, **connection(connection_id=number, port_id=number, connection_info=info))
    for msr, value in ((0x40000080, 1), (0x40000083, 0x7001), (0x40000092, 0x40)):
        bench.guest.vps[0].synic.write_msr(msr, value)
    asked = {"connection_id": 1, "message_type": 5, "payload_size": 8, **fields}
    assert bench.ask(C.POST_MESSAGE, vp=bench.guest.vps[0], **asked)[0] == status
    told = [events.MessagePosted(1, asked["message_type"], asked["payload_size"])] if status == S.SUCCESS else []
    assert bench.events(events.MessagePosted) == told


def test_a_signal_is_told_with_its_flag(bench):
    info = HvPortInfo(port_type=PortType.EVENT, target_sint=2, flag_count=2048)
    bench.done(C.CREATE_PORT, **port(port_info=info))
    bench.done(C.CONNECT_PORT, **connection(port_id=2, connection_info=HvConnectionInfo(port_type=PortType.EVENT)))
    bench.ask(C.SIGNAL_EVENT, vp=bench.guest.vps[0], connection_id=1, flag_number=7)
    assert bench.events(events.EventSignaled) == [events.EventSignaled(1, 7)]


@pytest.mark.parametrize(("fields", "status"), [
    ({"unmap_flags": 0x20}, WRONG), ({"unmap_flags": int(HvUnmapGpaFlags.KEEP_PRECOMMITTED)}, S.SUCCESS),
    ({"target_gpa_base": (1 << 28) - 1}, S.SUCCESS),
    ({"target_gpa_base": 1 << 28}, WRONG),
])
def test_unmapping_has_its_range_and_its_flags(bench, fields, status):
    bench.memory.write(IN, UnmapGpaPagesInput(**{"target_partition_id": GUEST, **fields}).pack())
    word = HypercallControl(call_code=C.UNMAP_GPA_PAGES, rep_count=1)
    assert HypercallResult(hypercall(bench.hypervisor, bench.root_vp, word.raw, IN, OUT)).status == status


def test_a_spinning_vp_is_told_to_the_scheduler(bench):
    spun = []
    bench.hypervisor.on_spin = spun.append
    word = HypercallControl(call_code=C.NOTIFY_LONG_SPIN_WAIT, fast=1).raw
    hypercall(bench.hypervisor, bench.guest.vps[0], word, 100, 0)
    assert spun == [bench.guest.vps[0]]


def test_own_registers_need_a_privilege_and_own_properties_are_roots(bench):
    vp = bench.guest.vps[0]
    names = [RegisterName(name=N.RIP)]
    bench.guest.set_privileges(0)
    assert bench.ask(C.GET_VP_REGISTERS, names, vp=vp, partition_id=GUEST) == (S.ACCESS_DENIED, 0)
    bench.guest.set_privileges(int(HvPrivilege.ACCESS_VP_REGISTERS))
    assert bench.ask(C.GET_VP_REGISTERS, names, vp=vp, partition_id=GUEST) == (S.SUCCESS, 1)
    asked = {"partition_id": GUEST, "property_code": P.CPU_WEIGHT}
    assert bench.ask(C.GET_PARTITION_PROPERTY, vp=vp, **asked)[0] == S.ACCESS_DENIED
    assert bench.ask(C.GET_PARTITION_PROPERTY, partition_id=1, property_code=0x99)[0] == S.UNKNOWN_PROPERTY


@pytest.mark.parametrize(("code", "value"), [(P.CPU_CAP, 77), (P.CPU_RESERVE, 78), (P.UNIMPLEMENTED_MSR_ACTION, 1)])
def test_a_property_keeps_what_is_set(bench, code, value):
    bench.done(C.SET_PARTITION_PROPERTY, **prop(code, value))
    assert bench.done(C.GET_PARTITION_PROPERTY, partition_id=GUEST, property_code=code).property_value == value


def put(bench, name, value):
    element = RegisterAssoc(name=name, value=value.to_bytes(16, "little"))
    return bench.ask(C.SET_VP_REGISTERS, [element], partition_id=GUEST)[0]


def got(bench, name):
    bench.done(C.GET_VP_REGISTERS, [RegisterName(name=name)], partition_id=GUEST)
    return int.from_bytes(bench.memory.read(OUT, 16), "little")


@pytest.mark.parametrize(("name", "values"), [
    (N.INTERNAL_ACTIVITY_STATE, (0, 1, 2, 3)), (N.INTERRUPT_STATE, (0, 1, 2, 3)), (N.EXPLICIT_SUSPEND, (0, 1)),
    (N.INTERCEPT_SUSPEND, (1,)), (N.CR8, (0, 15)), (N.PENDING_INTERRUPTION, (0, 1 | 3 << 1 | 6 << 16)),
])
def test_a_register_of_the_vp_reads_back(bench, name, values):
    vp = bench.guest.vps[0]
    for value in values:
        assert put(bench, name, value) == S.SUCCESS
        assert got(bench, name) == value
    assert vp.kicks == (0 if name in (N.INTERRUPT_STATE, N.CR8) else len(values))


def test_the_activity_state_is_where_a_vp_waits(bench):
    vp = bench.guest.vps[0]
    for value, waits in ((1, (True, False)), (2, (False, True)), (0, (False, False))):
        put(bench, N.INTERNAL_ACTIVITY_STATE, value)
        assert (vp.wait_for_sipi, vp.halted) == waits


@pytest.mark.parametrize(("value", "status"), [
    (1 | 0 << 1 | 0xFF << 16, S.SUCCESS), (1 | 0 << 1 | 0x100 << 16, S.INVALID_REGISTER_VALUE),
    (1 | 1 << 1 | 5 << 16, S.INVALID_REGISTER_VALUE), (1 | 2 << 1 | 2 << 16, S.SUCCESS),
])
def test_an_event_that_waits_is_one_that_can_be_injected(bench, value, status):
    assert put(bench, N.PENDING_INTERRUPTION, value) == status
    assert got(bench, N.PENDING_INTERRUPTION) == (value if status == S.SUCCESS else 0)


@pytest.mark.parametrize(("name", "size", "value"), [
    (N.RAX, 8, 0x1122334455667788), (N.STAR, 8, 0x1122334455667788), (N.SINT3, 8, 0x10034), (N.GUEST_CRASH_P2, 8, 5),
    (N.IDTR, 16, 0x1234 << 48 | 0x5678 << 64), (N.GDTR, 16, 0xFFFF << 48 | 0x1000 << 64),
])
def test_a_register_is_as_wide_as_it_is(bench, name, size, value):
    assert put(bench, name, value) == S.SUCCESS
    assert got(bench, name) == value
    assert put(bench, name, value | 1 << 127 if size == 8 else value) == S.SUCCESS
    assert got(bench, name) == value


def test_a_cpuid_register_is_the_partitions_own_leaf(bench):
    answer = bench.guest.cpuid.lookup(0x40000003, 0)
    assert got(bench, N.PRIVILEGES_AND_FEATURES_INFO) == sum(word << 32 * n for n, word in enumerate(answer))
    assert put(bench, N.PRIVILEGES_AND_FEATURES_INFO, 0) == WRONG
