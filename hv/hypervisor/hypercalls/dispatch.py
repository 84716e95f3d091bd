"""HvCallDispatchVp: root's thread runs a VP, and gets its intercepts as the call's answer.

Its layout is that of Hyper-V's own headers. `registers/dispatched.py` is what comes of it.
# Simplified: who runs, and for how long, is the hypervisor's choice as for every other VP. The call does not wait: it
is answered at once, and where it would come back, root's function for that VP is called.
"""

from __future__ import annotations

from typing import cast

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import Call, hypercall, require
from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.partitions.partition import PartitionState
from hv.hypervisor.registers.dispatched import DispatchedVp
from hv.hypervisor.vps.root_vp import RootVirtualProcessor
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.vps import (
    DispatchVpFlags,
    DispatchVpInput,
    DispatchVpOutput,
    HvVpDispatchEvent,
    HvVpDispatchState,
)


@hypercall(HypercallCode.DISPATCH_VP, input=DispatchVpInput, output=DispatchVpOutput)
def dispatch_vp(call: Call, input: DispatchVpInput) -> DispatchVpOutput:
    """From now on intercepts of a child's VP come to the caller's thread for it. INVALID_VP_STATE unless the caller
    has mapped its registers and its intercept message; OPERATION_DENIED to a caller that has no thread for it."""
    partition = call.find_child(input.partition_id)
    vp, root_vp = call.find_vp(partition, input.vp_index), cast(object, call.vp)
    require(not input.flags & ~DispatchVpFlags(clear_intercept_suspend=1).raw, f"unknown flags {input.flags:#x}")
    require(not input.time_slice and not input.spec_ctrl, "slices and speculation are the hypervisor's")
    partition.require_state(PartitionState.ACTIVE)
    if not isinstance(root_vp, RootVirtualProcessor) or (partition.id, vp.index) not in root_vp.threads:
        raise HypercallError(HvStatus.OPERATION_DENIED, f"the caller has no thread for vp {vp.index}")
    if vp.register_page is None or vp.message_page is None:
        raise HypercallError(HvStatus.INVALID_VP_STATE, "its pages are not mapped")
    if vp.dispatched is None:
        thread = root_vp.threads[partition.id, vp.index]
        vp.dispatched = DispatchedVp(vp, vp.register_page, vp.message_page, root_vp, thread)
    if input.flags and vp.intercept_suspend:
        intercepts.complete(vp)
    return DispatchVpOutput(dispatch_state=HvVpDispatchState.READY, dispatch_event=HvVpDispatchEvent.INVALID)
