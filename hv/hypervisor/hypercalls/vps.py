"""Virtual processors: create, delete, start, find, and the hint that one spins.

TLFS "Virtual Processor Management".
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.registry import Call, Reps, hypercall, require, require_any_node, require_vtl0
from hv.hypervisor.partitions.partition import PartitionState
from hv.hypervisor.vps.start import start
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.vps import (
    ApicId,
    CreateVpInput,
    DeleteVpInput,
    GetVpIndexFromApicIdInput,
    NotifyLongSpinWaitInput,
    StartVirtualProcessorInput,
    VpIndex,
)


@hypercall(HypercallCode.CREATE_VP, input=CreateVpInput)
def create_vp(call: Call, input: CreateVpInput) -> None:
    """A VP in reset state; it does not run before its ExplicitSuspend register is cleared."""
    partition = call.find_child(input.partition_id)
    require(not input.flags, f"unknown flags {input.flags:#x}")
    require_any_node(input.proximity_domain_info)
    call.hypervisor.create_vp(partition, input.vp_index)


@hypercall(HypercallCode.DELETE_VP, input=DeleteVpInput)
def delete_vp(call: Call, input: DeleteVpInput) -> None:
    """The VP is gone, its pages are the pool's again."""
    call.hypervisor.delete_vp(call.find_child(input.partition_id), input.vp_index)


@hypercall(HypercallCode.START_VIRTUAL_PROCESSOR, input=StartVirtualProcessorInput,
           privilege=HvPrivilege.START_VIRTUAL_PROCESSOR)
def start_virtual_processor(call: Call, input: StartVirtualProcessorInput) -> None:
    """A VP that waits for INIT and SIPI begins with the registers given; of the caller's partition, or of a child."""
    partition = call.find(input.partition_id)
    vp = call.find_vp(partition, input.vp_index)
    require(not input.target_vtl, f"vtl {input.target_vtl} is not enabled", HvStatus.INVALID_VTL_STATE)
    partition.require_state(PartitionState.ACTIVE)
    start(vp, input.context)


@hypercall(HypercallCode.GET_VP_INDEX_FROM_APIC_ID, input=GetVpIndexFromApicIdInput, rep_input=ApicId,
           rep_output=VpIndex, privilege=HvPrivilege.START_VIRTUAL_PROCESSOR)
def get_vp_index_from_apic_id(call: Call, input: GetVpIndexFromApicIdInput, reps: Reps) -> None:
    """The VPs that have these APIC ids; INVALID_PARAMETER at the first that nobody has."""
    partition = call.find(input.partition_id)
    require_vtl0(input.input_vtl)
    by_id = {vp.apic.apic_id: index for index, vp in partition.vps.items()}
    for element in reps:
        require(element.apic_id in by_id, f"no vp has apic id {element.apic_id:#x}")
        reps.answer(VpIndex(vp_index=by_id[element.apic_id]))


@hypercall(HypercallCode.NOTIFY_LONG_SPIN_WAIT, input=NotifyLongSpinWaitInput)
def notify_long_spin_wait(call: Call, input: NotifyLongSpinWaitInput) -> None:
    """The caller spins for a lock that another VP has: whoever waits for the processor goes first. Always succeeds."""
    call.hypervisor.on_spin(call.vp)
