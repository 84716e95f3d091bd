"""Interrupts of assigned devices: root gives one to a partition.

TLFS "HvCallMapDeviceInterrupt".
# Simplified: a device interrupt has one target VP.
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.devices import source_id_of
from hv.hypervisor.hypercalls.registry import Call, hypercall, require
from hv.hypervisor.partition import Partition
from hv.spec.apic import LOWEST_LEGAL_VECTOR
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.interrupts import (
    INTERRUPT_SOURCE_MSI,
    HvInterruptType,
    InterruptEntry,
    MapDeviceInterruptInput,
    MapDeviceInterruptOutput,
    UnmapDeviceInterruptInput,
)

_FIXED = (HvInterruptType.FIXED, HvInterruptType.LOWEST_PRIORITY)


@hypercall(HypercallCode.MAP_DEVICE_INTERRUPT, input=MapDeviceInterruptInput, output=MapDeviceInterruptOutput,
           privilege=HvPrivilege.CPU_MANAGEMENT)
def map_device_interrupt(call: Call, input: MapDeviceInterruptInput) -> MapDeviceInterruptOutput:
    """A device's interrupt becomes a vector of the partition the device is assigned to; answers the MSI to program."""
    partition = call.find(input.partition_id)
    source_id = source_id_of(partition, input.device_id)
    require(input.target_flags == 0, "target sets are not built", HvStatus.FEATURE_UNAVAILABLE)
    require(input.interrupt_type in _FIXED, f"interrupt type {input.interrupt_type}")
    require(input.trigger_mode <= 1 and input.vector_count == 1, "trigger mode is 0 or 1, vector count 1")
    require(LOWEST_LEGAL_VECTOR <= input.target_vector <= 0xFF, f"vector {input.target_vector:#x} is not in 16..255")
    vp = partition.vp(_only_vp(partition, input.target_vp_mask))
    iommu = call.iommu
    routing = call.hypervisor.interrupts
    route = routing.allocate(source_id, partition, vp, input.target_vector, bool(input.trigger_mode))
    try:
        route.message = iommu.map_interrupt(source_id, route.vector)
    except Exception:
        routing.free(route, None)
        raise
    address, data = route.message
    entry = InterruptEntry(source=INTERRUPT_SOURCE_MSI, address=address, data=data)
    return MapDeviceInterruptOutput(interrupt_entry=entry)


def _only_vp(partition: Partition, mask: int) -> int:
    """The lowest VP of *mask*; INVALID_VP_INDEX when it names none, or one that does not exist."""
    chosen = [index for index in range(64) if mask >> index & 1]
    require(chosen and all(index in partition.vps for index in chosen), f"vp mask {mask:#x}", HvStatus.INVALID_VP_INDEX)
    return chosen[0]


@hypercall(HypercallCode.UNMAP_DEVICE_INTERRUPT, input=UnmapDeviceInterruptInput,
           privilege=HvPrivilege.CPU_MANAGEMENT)
def unmap_device_interrupt(call: Call, input: UnmapDeviceInterruptInput) -> None:
    """The device's MSI means nothing any more; INVALID_PARAMETER when it did not."""
    partition = call.find(input.partition_id)
    source_id = source_id_of(partition, input.device_id)
    routing, entry = call.hypervisor.interrupts, input.interrupt_entry
    route = routing.find(source_id, (entry.address, entry.data))
    require(route, f"device {source_id:#x} has no interrupt {entry.address:#x}/{entry.data:#x}")
    assert route is not None, "just checked"
    routing.free(route, call.hypervisor.iommu)
