"""What HV_X64_MSR_RESET does, and a parent by HvCallScrubPartition: the partition is as it was when it began, and its
parent starts it again.

TLFS "Partition Reset" says that memory, and what the partition was given (ports, connections, devices, intercepts,
properties, CPUID results, the register page), stay. So do the reference counter and the crash registers, which are
for whoever looks for the reason. Pages of counters that the guest mapped, and its debug MSRs, go.
Every VP is in the state after its creation: reset registers, and waiting for its parent's word. When a guest resets
itself, a parent that has installed an MSR intercept of HV_RESET gets that message; one that has not sees its VPs
suspended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.intercepts import intercepts
from hv.spec.intercepts import HvInterceptType
from hv.spec.msrs import HvGuestOsId, HvHypercallMsr, Msr
from hv.trace.events import PartitionReset

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.vps.vp import VirtualProcessor

_MSR, _WRITE = HvInterceptType.MSR, 2


def reset_by(vp: VirtualProcessor) -> None:
    """*vp* has written HV_RESET and is past the instruction: reset its partition, and tell the parent."""
    partition = vp.partition
    if partition.trace.listening:
        partition.trace.emit(PartitionReset(partition.id))
    tell_parent(vp, Msr.HV_RESET)
    reset(partition)


def scrub(partition: Partition) -> None:
    """Its parent resets it: HvCallScrubPartition. A VP that waits for the parent's answer goes on waiting for it."""
    if partition.trace.listening:
        partition.trace.emit(PartitionReset(partition.id))
    reset(partition)


def tell_parent(vp: VirtualProcessor, msr: int) -> None:
    """*vp* waits for its parent, if that asked to hear of writes to *msr*. The write is done: RIP is behind it."""
    if vp.partition.intercepts.wants(_MSR, msr, _WRITE):
        intercepts.send_msr(vp, msr, True, 0)


def reset(partition: Partition) -> None:
    """Every VP, and every synthetic MSR that is the partition's, as after creation."""
    for vp in partition.vps.values():
        vp.timers.reset()
        vp.synic.reset()
        vp.reset()
    partition.external.reset()
    if partition.virtual_iommu is not None:
        partition.virtual_iommu.reset()
    partition.guest_os_id = HvGuestOsId()
    partition.kept_msrs.clear()
    partition.debug_msrs.clear()
    partition.statistics.release(partition)
    partition.cpuid.show_invariant_tsc(False)
    partition.set_hypercall_page(HvHypercallMsr())
    partition.reference_tsc.set_msr(0)
    partition.reference_tsc.follow()
