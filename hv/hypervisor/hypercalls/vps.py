"""Virtual processors: create, delete, and the hint that one spins. TLFS "Virtual Processor Management"."""

from __future__ import annotations

from hv.hypervisor.hypercalls.registry import Call, hypercall, require, require_any_node
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.vps import CreateVpInput, DeleteVpInput, NotifyLongSpinWaitInput


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


@hypercall(HypercallCode.NOTIFY_LONG_SPIN_WAIT, input=NotifyLongSpinWaitInput)
def notify_long_spin_wait(call: Call, input: NotifyLongSpinWaitInput) -> None:
    """The caller spins for a lock that another VP has: whoever waits for the processor goes first. Always succeeds."""
    call.hypervisor.on_spin(call.vp)
