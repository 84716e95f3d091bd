"""Partitions: create, initialize, finalize, delete; who is who. TLFS "Partition Management"."""

from __future__ import annotations

from hv.hypervisor.hypercalls.registry import Call, hypercall, require, require_any_node
from hv.hypervisor.partitions.partition import PartitionState
from hv.hypervisor.partitions.reset import scrub
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.partitions import (
    CreatePartitionInput,
    GetNextChildPartitionInput,
    PartitionIdOutput,
    PartitionInput,
)
from hv.spec.partition import PARTITION_ID_INVALID, CreatePartitionFlags

# What every partition has, asked for or not; all other flags name what is not built.
_BUILT = CreatePartitionFlags(smt_enabled_guest=1, gpa_super_pages_enabled=1, lapic_enabled=1, x2apic_capable=1).raw


@hypercall(HypercallCode.CREATE_PARTITION, input=CreatePartitionInput, output=PartitionIdOutput,
           privilege=HvPrivilege.CREATE_PARTITIONS)
def create_partition(call: Call, input: CreatePartitionInput) -> PartitionIdOutput:
    """A new child of the caller, in state Created, without the processor features that are disabled.

    The second bank of features and those of XSAVE have nothing here to take away.
    """
    require(not input.flags & ~_BUILT, f"creation flags {input.flags & ~_BUILT:#x} are unknown or not built")
    require(not input.isolation_properties, "isolated partitions are not built")
    require_any_node(input.proximity_domain_info)
    partition = call.hypervisor.create_partition(call.partition)
    partition.disable_features(input.disabled_processor_features)
    if input.compatibility_version:
        partition.compatibility_version = input.compatibility_version
    return PartitionIdOutput(partition_id=partition.id)


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


@hypercall(HypercallCode.SCRUB_PARTITION, input=PartitionInput)
def scrub_partition(call: Call, input: PartitionInput) -> None:
    """The partition is as HV_X64_MSR_RESET leaves it: VPs, APICs and SynICs as after creation, its memory kept.

    How a parent restarts a virtual machine. The input is that of Microsoft's header (HV_INPUT_SCRUB_PARTITION).
    """
    partition = call.find_child(input.partition_id)
    partition.require_state(PartitionState.ACTIVE)
    scrub(partition)


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
