"""A hypercall whose parameters are handed over as bytes is asked what the door asks."""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.direct import call_directly
from hv.hypervisor.hypercalls.registry import Call
from hv.platform import Machine
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.memory import GpaPageNumber, SparseGpaPagesInput
from hv.spec.hypercalls.partitions import SetPartitionPropertyExInput, SetPartitionPropertyInput
from hv.spec.partition import HvMapGpaFlags, HvPartitionProperty
from tests.replay.machines import STRAIGHT, machine_with

C, CAP = HypercallCode, HvPartitionProperty.CPU_CAP
READ_ONLY = SparseGpaPagesInput(target_partition_id=2, map_flags=HvMapGpaFlags.READABLE).pack()


@pytest.fixture
def machine():
    machine = machine_with(STRAIGHT)
    yield machine
    machine.close()


def call(machine: Machine, code, data, elements=b"", partition=1):
    call_directly(Call(machine.hypervisor, machine.hypervisor.partitions[partition].vps[0]), code, data, elements)


def test_a_simple_call_is_done(machine):
    call(machine, C.SET_PARTITION_PROPERTY,
         SetPartitionPropertyInput(partition_id=2, property_code=CAP, property_value=7).pack())
    assert machine.hypervisor.partitions[2].schedule.cap == 7


def test_a_call_with_a_variable_header_has_its_units_behind_the_input(machine):
    head = SetPartitionPropertyExInput(partition_id=2, property_code=CAP).pack()
    call(machine, C.SET_PARTITION_PROPERTY_EX, head + (9).to_bytes(8, "little"))
    assert machine.hypervisor.partitions[2].schedule.cap == 9


def test_a_rep_call_is_done_to_its_end_and_no_time_passes(machine):
    """At the door a list of 1000 pages would be interrupted; TLFS "Hypercall Continuation"."""
    space, tsc = machine.hypervisor.partitions[2].space, machine.clock.tsc
    call(machine, C.MODIFY_SPARSE_GPA_PAGES, READ_ONLY,
         b"".join(GpaPageNumber(page_number=page).pack() for page in range(1000)))
    assert {int(space.mapping(page).rights) for page in range(1000)} == {1}
    assert machine.clock.tsc == tsc


@pytest.mark.parametrize(("code", "data", "elements", "status"), [
    (C.SET_PARTITION_PROPERTY, bytes(23), b"", HvStatus.INVALID_HYPERCALL_INPUT),
    (C.SET_PARTITION_PROPERTY, bytes(32), b"", HvStatus.INVALID_HYPERCALL_INPUT),
    (C.SET_PARTITION_PROPERTY, bytes(24), b"x", HvStatus.INVALID_HYPERCALL_INPUT),
    (C.SET_PARTITION_PROPERTY, bytes(12) + b"\1" + bytes(11), b"", HvStatus.INVALID_PARAMETER),
    (C.SET_PARTITION_PROPERTY_EX, bytes(23), b"", HvStatus.INVALID_HYPERCALL_INPUT),
    (C.MODIFY_SPARSE_GPA_PAGES, READ_ONLY, b"", HvStatus.INVALID_HYPERCALL_INPUT),
    (C.MODIFY_SPARSE_GPA_PAGES, READ_ONLY, bytes(9), HvStatus.INVALID_HYPERCALL_INPUT),
    (C.CREATE_CPU_GROUP, b"", b"", HvStatus.INVALID_HYPERCALL_CODE),
], ids=["short", "long", "elements", "reserved", "half a unit", "no element", "half an element", "not built"])
def test_what_is_not_of_the_calls_shape_is_refused(machine, code, data, elements, status):
    with pytest.raises(HypercallError) as caught:
        call(machine, code, data, elements)
    assert caught.value.status is status


def test_a_caller_needs_the_privilege(machine):
    """TLFS "HvCallCreatePartition": CreatePartitions."""
    with pytest.raises(HypercallError) as caught:
        call(machine, C.CREATE_PARTITION, bytes(128), partition=2)
    assert caught.value.status is HvStatus.ACCESS_DENIED
