"""One interrupt for many VPs of the caller's partition, in one call instead of one write of ICR for each.

TLFS "HvCallSendSyntheticClusterIpi", "HvCallSendSyntheticClusterIpiEx".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.hypercalls.registry import Call, hypercall, require, require_vtl0
from hv.hypervisor.vps.sets import vps_in_mask, vps_in_set
from hv.spec.apic import LOWEST_LEGAL_VECTOR
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.ipis import SendSyntheticClusterIpiExInput, SendSyntheticClusterIpiInput
from hv.trace.events import ClusterIpi

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor


@hypercall(HypercallCode.SEND_SYNTHETIC_CLUSTER_IPI, input=SendSyntheticClusterIpiInput)
def send_synthetic_cluster_ipi(call: Call, input: SendSyntheticClusterIpiInput) -> None:
    """A fixed, edge-triggered interrupt for the VPs of the mask; INVALID_PARAMETER unless the vector is in 16..255."""
    _check(input)
    _send(call, input.vector, vps_in_mask(call.partition, input.processor_mask))


@hypercall(HypercallCode.SEND_SYNTHETIC_CLUSTER_IPI_EX, input=SendSyntheticClusterIpiExInput, variable=True)
def send_synthetic_cluster_ipi_ex(call: Call, input: SendSyntheticClusterIpiExInput, banks: tuple[int, ...]) -> None:
    """The same for the VPs of a set."""
    _check(input)
    _send(call, input.vector, vps_in_set(call.partition, input.processor_set, banks))


def _check(input: SendSyntheticClusterIpiInput | SendSyntheticClusterIpiExInput) -> None:
    require(LOWEST_LEGAL_VECTOR <= input.vector <= 0xFF, f"vector {input.vector:#x} is not in 16..255")
    require_vtl0(input.target_vtl)
    require(not input.flags, f"unknown flags {input.flags:#x}")


def _send(call: Call, vector: int, targets: list[VirtualProcessor]) -> None:
    call.emit(ClusterIpi(vector, tuple(vp.index for vp in targets)))
    for vp in targets:
        vp.apic.accept(vector)
