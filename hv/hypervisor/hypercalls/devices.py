"""Devices: assign one to a partition, so that its DMA sees that partition's addresses, and take it back.

TLFS "HvCallAttachDevice", "HvCallDetachDevice". A PCI function is named by its requester id.
# Simplified: only children get devices, each in its partition's default domain; no PASIDs, ATS, virtual functions.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import Call, hypercall, require
from hv.hypervisor.partitions.partition import DEVICE_SIZE, Partition, PartitionState
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.devices import AttachDeviceInput, DetachDeviceInput, HvDeviceId
from hv.trace.events import DeviceAttached, DeviceDetached

LOGICAL, PCI = 0, 1              # HvDeviceId.device_type


def requester_id(device_id: int) -> int:
    """The requester id of a plain PCI function of segment 0; INVALID_DEVICE_ID for anything else."""
    device = HvDeviceId(device_id)
    require(_is_plain(device), f"device id {device_id:#x} is no PCI function of segment 0", HvStatus.INVALID_DEVICE_ID)
    return device.rid


def _is_plain(device: HvDeviceId) -> bool:
    return device == HvDeviceId(rid=device.rid, device_type=PCI)


def source_id_of(partition: Partition, device_id: int,
                 unknown: Callable[[Partition], None] = lambda partition: None) -> int:
    """The requester id of a device that is assigned to *partition*, which may name it by its logical id too.

    INVALID_DEVICE_ID when there is none, after *unknown* was asked.
    """
    device = HvDeviceId(device_id)
    logical = device.device_type == LOGICAL
    source_id = partition.devices.get(device_id) if logical else device.rid
    if source_id not in partition.devices.values() or not (logical or _is_plain(device)):
        unknown(partition)
        raise HypercallError(HvStatus.INVALID_DEVICE_ID, f"device {device_id:#x} is not partition {partition.id}'s")
    assert source_id is not None, "it is in the table"
    return source_id


@hypercall(HypercallCode.ATTACH_DEVICE, input=AttachDeviceInput, privilege=HvPrivilege.CPU_MANAGEMENT)
def attach_device(call: Call, input: AttachDeviceInput) -> None:
    """The device translates through the partition's domain from now on.

    DEVICE_ALREADY_IN_DOMAIN when it is the partition's, OBJECT_IN_USE when it is another's; INSUFFICIENT_MEMORY, and
    INSUFFICIENT_ROOT_MEMORY for the table of the device's bus.
    """
    partition, source_id = call.find_child(input.partition_id), requester_id(input.device_id)
    require(not input.flags and not input.attach_vtl, f"attach flags {input.flags:#x} are not built")
    partition.require_state(PartitionState.ACTIVE)
    require(source_id not in partition.devices.values(), f"device {source_id:#x}", HvStatus.DEVICE_ALREADY_IN_DOMAIN)
    owner = next((each.id for each in call.hypervisor.partitions.values() if source_id in each.devices.values()), None)
    require(owner is None, f"device {source_id:#x} is partition {owner}'s", HvStatus.OBJECT_IN_USE)
    require(input.logical_device_id not in partition.devices, f"logical id {input.logical_device_id:#x} is in use")
    iommu, records = call.iommu, partition.pool.records("device", DEVICE_SIZE)
    records.take()
    try:
        iommu.attach(source_id, partition, input.logical_device_id & 0xFFFF)
    except HypercallError:
        records.give_back()
        raise
    partition.devices[input.logical_device_id] = source_id
    call.emit(DeviceAttached(source_id, partition.id))


@hypercall(HypercallCode.DETACH_DEVICE, input=DetachDeviceInput, privilege=HvPrivilege.CPU_MANAGEMENT)
def detach_device(call: Call, input: DetachDeviceInput) -> None:
    """The device belongs to nobody: its interrupts are unmapped and every access faults."""
    partition = call.find_child(input.partition_id)
    source_id = partition.devices.get(input.logical_device_id)
    if source_id is None:
        raise HypercallError(HvStatus.INVALID_DEVICE_ID, f"no device {input.logical_device_id:#x} is attached")
    iommu, routing = call.iommu, call.hypervisor.interrupts
    for route in routing.of_device(source_id):
        routing.free(route, iommu)
    iommu.detach(source_id)
    del partition.devices[input.logical_device_id]
    partition.pool.records("device", DEVICE_SIZE).give_back()
    call.emit(DeviceDetached(source_id, partition.id))
