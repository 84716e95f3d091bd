"""Interrupts by hypercall: a parent raises one in a child; root gives a device's interrupt to a partition.

TLFS "Virtual Interrupt Controller", "HvCallAssertVirtualInterrupt", "HvCallMapDeviceInterrupt".
# Simplified: ExtINT, SMI and the LINT types are not built; a device interrupt has one target VP.
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.devices import source_id_of
from hv.hypervisor.hypercalls.registry import Call, hypercall, require, require_vtl0
from hv.hypervisor.partition import Partition, PartitionState
from hv.spec.apic import LOWEST_LEGAL_VECTOR
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.interrupts import (
    INTERRUPT_SOURCE_MSI,
    AssertVirtualInterruptInput,
    HvInterruptControl,
    HvInterruptType,
    InterruptEntry,
    MapDeviceInterruptInput,
    MapDeviceInterruptOutput,
    UnmapDeviceInterruptInput,
)
from hv.trace.events import InterruptRequested

T = HvInterruptType
_BUILT = (T.FIXED, T.LOWEST_PRIORITY, T.NMI, T.INIT, T.SIPI)
_WITH_VECTOR = (T.FIXED, T.LOWEST_PRIORITY, T.SIPI)
_FIXED = (T.FIXED, T.LOWEST_PRIORITY)


@hypercall(HypercallCode.ASSERT_VIRTUAL_INTERRUPT, input=AssertVirtualInterruptInput)
def assert_virtual_interrupt(call: Call, input: AssertVirtualInterruptInput) -> None:
    """Raise an interrupt in a child, as its I/O APIC would; INVALID_VP_INDEX when the destination names nobody."""
    partition = call.find_child(input.partition_id)
    control = HvInterruptControl(input.interrupt_control)
    require(not control.raw & HvInterruptControl.RESERVED, f"reserved bits in interrupt control {control.raw:#x}")
    require(control.interrupt_type in _BUILT, f"interrupt type {control.interrupt_type}")
    _check_vector(control.interrupt_type, input.vector)
    require_vtl0(input.target_vtl)
    partition.require_state(PartitionState.ACTIVE)      # INIT and SIPI write registers, which go with the engine
    wires, logical = partition.interconnect, bool(control.logical_destination_mode)
    targets = wires.targets(input.destination, logical)
    require(targets, f"destination {input.destination:#x} is nobody", HvStatus.INVALID_VP_INDEX)
    wires.deliver(input.vector, input.destination, logical, control.interrupt_type, bool(control.level_triggered))
    call.emit(InterruptRequested(input.vector, "hypercall"))


def _check_vector(kind: int, vector: int) -> None:
    require(vector <= 0xFF, f"vector {vector:#x} is out of range 0..255")
    require(kind in _WITH_VECTOR or not vector, f"vector {vector:#x} with interrupt type {kind}")
    require(kind not in _FIXED or vector >= LOWEST_LEGAL_VECTOR, f"vector {vector:#x} is below 16")


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
