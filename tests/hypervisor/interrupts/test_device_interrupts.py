"""Who gets an assigned device's interrupt: sets of VPs, and a change of them while one is under way."""

import pytest

from hv.hypervisor.errors import CallIntercepted
from hv.hypervisor.hypercalls.door import hypercall
from hv.root.winhv import HvError
from hv.spec.hv_status import HvStatus as S
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.interrupts import DeviceInterruptTarget, InterruptEntry, RetargetDeviceInterruptInput
from hv.spec.intercepts import HvInterceptType
from hv.spec.partition import PARTITION_ID_SELF
from hv.trace.events import InterruptRetargeted
from tests.hypervisor.hypercalls.test_calls import machine  # noqa: F401

IN, OUT = 0x4000, 0x5000
SET, ALL = 2, 1
PCI = 1 << 62


@pytest.fixture
def owner(machine):  # noqa: F811
    """A child with three VPs whose device 8 (logical 5) has vector 0x61 of VP 0."""
    child = machine.child(vps=3)
    machine.winhv.attach_device(child.id, 8, 5)
    child.message = machine.winhv.map_device_interrupt(child.id, 8, 0, 0x61)
    child.machine = machine
    return child


def retarget(child, mask=1, flags=0, units=(), vector=0x71, device=8 | PCI, source=1, caller=None, partition=None):
    caller = caller or child.vps[0]
    address, data = child.message
    block = RetargetDeviceInterruptInput(
        partition_id=PARTITION_ID_SELF if partition is None else partition, device_id=device,
        interrupt_entry=InterruptEntry(source=source, address=address, data=data),
        target=DeviceInterruptTarget(target_vector=vector, target_flags=flags, target_vp_mask=mask)).pack()
    block += b"".join(unit.to_bytes(8, "little") for unit in units)
    caller.partition.space.write(IN, block)
    word = HypercallControl(call_code=C.RETARGET_DEVICE_INTERRUPT, variable_header_size=len(units)).raw
    return S(HypercallResult(hypercall(child.machine.hypervisor, caller, word, IN, OUT)).status)


def arrived(child):
    """The device interrupts: which VPs have what."""
    child.machine.hypervisor.interrupts.route(child.message[1])
    taken = {index: vp.apic.irr.bit_length() - 1 for index, vp in child.vps.items() if vp.apic.irr}
    for vp in child.vps.values():
        vp.apic.irr = 0
    return taken


@pytest.mark.parametrize(("target", "taken"), [
    ({"mask": 0b010}, {1: 0x71}), ({"mask": 0b110}, {1: 0x71}), ({"mask": 0b110, "flags": 1}, {1: 0x71, 2: 0x71}),
    ({"flags": SET, "mask": 0, "units": (1, 0b100)}, {2: 0x71}), ({"flags": SET, "mask": ALL}, {0: 0x71}),
    ({"flags": SET | 1, "mask": ALL}, {0: 0x71, 1: 0x71, 2: 0x71}),
    ({"flags": SET | 1, "mask": 0, "units": (1, 0b101)}, {0: 0x71, 2: 0x71}),
    ({"mask": 0b010, "device": 5}, {1: 0x71}),
])
def test_a_partition_says_which_of_its_vps_takes_the_interrupt(owner, target, taken):
    """TLFS "HvCallRetargetDeviceInterrupt": no privilege is needed for one's own."""
    assert arrived(owner) == {0: 0x61}
    assert retarget(owner, **target) == S.SUCCESS
    assert arrived(owner) == taken


@pytest.mark.parametrize(("target", "status"), [
    ({"mask": 0}, S.INVALID_VP_INDEX), ({"mask": 0b1001}, S.INVALID_VP_INDEX), ({"vector": 15}, S.INVALID_PARAMETER),
    ({"vector": 256}, S.INVALID_PARAMETER), ({"flags": 8}, S.INVALID_PARAMETER), ({"flags": 4}, S.FEATURE_UNAVAILABLE),
    ({"units": (1,)}, S.INVALID_HYPERCALL_INPUT), ({"flags": SET, "mask": 0}, S.INVALID_HYPERCALL_INPUT),
    ({"flags": SET, "mask": 0, "units": (3, 1)}, S.INVALID_HYPERCALL_INPUT),
    ({"flags": SET, "mask": 0, "units": (2, 1)}, S.INVALID_VP_INDEX),
    ({"flags": SET, "mask": 0, "units": (0,)}, S.INVALID_VP_INDEX),
    ({"flags": SET, "mask": 7, "units": (1, 1)}, S.INVALID_PARAMETER),
    ({"device": 9 | PCI}, S.INVALID_DEVICE_ID), ({"device": 8}, S.INVALID_DEVICE_ID),
    ({"device": 8 | 2 << 62}, S.INVALID_DEVICE_ID), ({"device": 8 | PCI | 1 << 16}, S.INVALID_DEVICE_ID),
    ({"source": 2}, S.INVALID_PARAMETER), ({"partition": 1}, S.ACCESS_DENIED),
])
def test_a_retarget_is_refused_and_nothing_changes(owner, target, status):
    assert retarget(owner, **target) == status
    assert arrived(owner) == {0: 0x61}


def test_a_parent_may_and_needs_its_privilege(owner):
    root_vp = owner.machine.root_vp
    assert retarget(owner, 2, caller=root_vp, partition=owner.id) == S.SUCCESS
    assert arrived(owner) == {1: 0x71}
    root_vp.partition.set_privileges(0)
    assert retarget(owner, 1, caller=root_vp, partition=owner.id) == S.ACCESS_DENIED


def test_what_is_under_way_arrives_once(owner):
    """In the APIC of VP 0 already: there it stays. Not taken by the processor yet: the new target's."""
    interrupts = owner.machine.hypervisor.interrupts
    interrupts.route(owner.message[1])
    retarget(owner, 0b010)
    interrupts.route(owner.message[1])
    assert [vp.apic.irr for vp in owner.vps.values()] == [1 << 0x61, 1 << 0x71, 0]
    assert owner.machine.events(InterruptRetargeted) == [InterruptRetargeted(8, 0x71, owner.id, (1,))]


def test_the_lowest_priority_of_those_that_listen(owner):
    route = owner.machine.hypervisor.interrupts.of_device(8)[0]
    retarget(owner, 0b111)
    route.lowest_priority = True
    owner.vps[0].apic.set_tpr(0x20)
    owner.vps[1].apic.write(0xF0, 0xFF)
    assert arrived(owner) == {2: 0x71}


def test_a_vp_that_goes_leaves_the_others(owner):
    retarget(owner, 0b011)
    owner.machine.hypervisor.delete_vp(owner, 0)
    assert arrived(owner) == {1: 0x71}
    owner.machine.hypervisor.delete_vp(owner, 1)
    assert (arrived(owner), owner.machine.iommu.interrupts) == ({}, set())


def test_a_parent_hears_of_a_device_that_there_is_not(owner):
    """TLFS "HV_INTERCEPT_TYPE": for a parent that shows its child a device of its own making."""
    winhv = owner.machine.winhv
    winhv.install_intercept(owner.id, HvInterceptType.RETARGET_INTERRUPT_WITH_UNKNOWN_DEVICE_ID, 0, 4)
    with pytest.raises(CallIntercepted):
        retarget(owner, device=77)
    assert retarget(owner, device=77, caller=owner.machine.root_vp, partition=owner.id) == S.INVALID_DEVICE_ID
    assert retarget(owner, 2) == S.SUCCESS
    winhv.install_intercept(owner.id, HvInterceptType.RETARGET_INTERRUPT_WITH_UNKNOWN_DEVICE_ID, 0, 0)
    assert retarget(owner, device=77) == S.INVALID_DEVICE_ID


def test_root_has_it_as_a_method(owner):
    winhv = owner.machine.winhv
    winhv.retarget_device_interrupt(owner.id, 8, owner.message, 0x72, 0b110, multicast=True)
    assert arrived(owner) == {1: 0x72, 2: 0x72}
    with pytest.raises(HvError, match="INVALID_PARAMETER"):
        winhv.retarget_device_interrupt(owner.id, 8, (0, 0), 0x72, 1)
