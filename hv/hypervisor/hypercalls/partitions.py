"""Partitions: create, initialize, finalize, delete; their properties; who is who. TLFS "Partition Management"."""

from __future__ import annotations

from collections.abc import Callable

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import Call, hypercall, require, require_any_node
from hv.hypervisor.partition import Partition, PartitionState
from hv.machine.clock import APIC_BUS_HZ, TSC_HZ
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.partitions import (
    CreatePartitionInput,
    GetNextChildPartitionInput,
    GetPartitionPropertyInput,
    GetPartitionPropertyOutput,
    PartitionIdOutput,
    PartitionInput,
    SetPartitionPropertyInput,
)
from hv.spec.partition import PARTITION_ID_INVALID, CreatePartitionFlags, HvPartitionProperty

MAX_WEIGHT, MAX_SHARE = 10_000, 1 << 16
VENDOR_INTEL = 1
COMPATIBILITY_VERSION = 1
PHYSICAL_ADDRESS_WIDTH = 40


@hypercall(HypercallCode.CREATE_PARTITION, input=CreatePartitionInput, output=PartitionIdOutput,
           privilege=HvPrivilege.CREATE_PARTITIONS)
def create_partition(call: Call, input: CreatePartitionInput) -> PartitionIdOutput:
    """A new child of the caller, in state Created. The feature masks have nothing here to take away."""
    require(not input.flags & CreatePartitionFlags.RESERVED, f"unknown creation flags {input.flags:#x}")
    require(not input.isolation_properties, "isolated partitions are not built")
    require_any_node(input.proximity_domain_info)
    return PartitionIdOutput(partition_id=call.hypervisor.create_partition(call.partition).id)


@hypercall(HypercallCode.INITIALIZE_PARTITION, input=PartitionInput)
def initialize_partition(call: Call, input: PartitionInput) -> None:
    """Created -> Active."""
    call.hypervisor.initialize_partition(call.find_child(input.partition_id))


@hypercall(HypercallCode.FINALIZE_PARTITION, input=PartitionInput)
def finalize_partition(call: Call, input: PartitionInput) -> None:
    """-> Finalized: its memory map, devices and ports are released."""
    call.hypervisor.finalize_partition(call.find_child(input.partition_id))


@hypercall(HypercallCode.DELETE_PARTITION, input=PartitionInput)
def delete_partition(call: Call, input: PartitionInput) -> None:
    """Gone, once it has neither VPs nor deposited pages."""
    call.hypervisor.delete_partition(call.find_child(input.partition_id))


@hypercall(HypercallCode.GET_PARTITION_ID, output=PartitionIdOutput, privilege=HvPrivilege.ACCESS_PARTITION_ID)
def get_partition_id(call: Call) -> PartitionIdOutput:
    """The caller's own id."""
    return PartitionIdOutput(partition_id=call.partition.id)


@hypercall(HypercallCode.GET_NEXT_CHILD_PARTITION, input=GetNextChildPartitionInput, output=PartitionIdOutput)
def get_next_child_partition(call: Call, input: GetNextChildPartitionInput) -> PartitionIdOutput:
    """The child after *previous_child_id* in order of id; 0 at the end."""
    children = sorted(call.find(input.parent_id).children)
    if input.previous_child_id == PARTITION_ID_INVALID:
        return PartitionIdOutput(partition_id=children[0] if children else PARTITION_ID_INVALID)
    require(input.previous_child_id in children, f"no child {input.previous_child_id}", HvStatus.INVALID_PARTITION_ID)
    after = [child for child in children if child > input.previous_child_id]
    return PartitionIdOutput(partition_id=after[0] if after else PARTITION_ID_INVALID)


@hypercall(HypercallCode.GET_PARTITION_PROPERTY, input=GetPartitionPropertyInput, output=GetPartitionPropertyOutput)
def get_partition_property(call: Call, input: GetPartitionPropertyInput) -> GetPartitionPropertyOutput:
    """A property of a child, or of root asked by itself."""
    partition = call.partition if call.partition.is_root and call.find(input.partition_id) is call.partition \
        else call.find_child(input.partition_id)
    getter = _GETTERS.get(input.property_code)
    require(getter, f"property {input.property_code:#x}", HvStatus.UNKNOWN_PROPERTY)
    assert getter is not None, "just checked"
    return GetPartitionPropertyOutput(property_value=getter(partition))


@hypercall(HypercallCode.SET_PARTITION_PROPERTY, input=SetPartitionPropertyInput)
def set_partition_property(call: Call, input: SetPartitionPropertyInput) -> None:
    """A property of a child. One that can only be read is OPERATION_DENIED."""
    partition = call.find_child(input.partition_id)
    setter = _SETTERS.get(input.property_code)
    if setter is None:
        known = input.property_code in _GETTERS
        raise HypercallError(HvStatus.OPERATION_DENIED if known else HvStatus.UNKNOWN_PROPERTY,
                             f"property {input.property_code:#x} cannot be set")
    setter(partition, input.property_value)


def _set_privileges(partition: Partition, value: int) -> None:
    """A child's privileges are some of its parent's, and are settled before it runs."""
    partition.require_state(PartitionState.CREATED)
    assert partition.parent is not None, "root's privileges are not set"
    excess = value & ~partition.parent.privileges
    require(not excess, f"privileges {excess:#x} are not the parent's to give", HvStatus.PROPERTY_VALUE_OUT_OF_RANGE)
    partition.set_privileges(value)


def _in_range(value: int, low: int, high: int) -> int:
    require(low <= value <= high, f"{value} is out of range {low}..{high}", HvStatus.PROPERTY_VALUE_OUT_OF_RANGE)
    return value


def _set_weight(partition: Partition, value: int) -> None:
    partition.schedule.weight = _in_range(value, 1, MAX_WEIGHT)


def _set_cap(partition: Partition, value: int) -> None:
    partition.schedule.cap = _in_range(value, 0, MAX_SHARE)


def _set_reserve(partition: Partition, value: int) -> None:
    partition.schedule.reserve = _in_range(value, 0, MAX_SHARE)


def _set_msr_action(partition: Partition, value: int) -> None:
    partition.unimplemented_msr_action = _in_range(value, 0, 1)


P = HvPartitionProperty
_GETTERS: dict[int, Callable[[Partition], int]] = {
    P.PRIVILEGE_FLAGS: lambda partition: partition.privileges,
    P.CPU_WEIGHT: lambda partition: partition.schedule.weight,
    P.CPU_CAP: lambda partition: partition.schedule.cap,
    P.CPU_RESERVE: lambda partition: partition.schedule.reserve,
    P.UNIMPLEMENTED_MSR_ACTION: lambda partition: partition.unimplemented_msr_action,
    P.REFERENCE_TIME: lambda partition: partition.reference_time,
    P.REFERENCE_TSC_PAGE_ACTIVE: lambda partition: int(partition.state is PartitionState.ACTIVE
                                                       and partition.reference_tsc.msr.enable),
    P.APIC_FREQUENCY: lambda partition: APIC_BUS_HZ,
    P.PROCESSOR_CLOCK_FREQUENCY: lambda partition: TSC_HZ,
    P.PROCESSOR_VENDOR: lambda partition: VENDOR_INTEL,
    P.COMPATIBILITY_VERSION: lambda partition: COMPATIBILITY_VERSION,
    P.PHYSICAL_ADDRESS_WIDTH: lambda partition: PHYSICAL_ADDRESS_WIDTH,
    P.AUTO_EOI_ENABLED: lambda partition: 1,
    P.GUEST_OS_ID: lambda partition: partition.guest_os_id.raw,
}
_SETTERS: dict[int, Callable[[Partition, int], None]] = {
    P.PRIVILEGE_FLAGS: _set_privileges, P.CPU_WEIGHT: _set_weight, P.CPU_CAP: _set_cap,
    P.CPU_RESERVE: _set_reserve, P.UNIMPLEMENTED_MSR_ACTION: _set_msr_action,
}
