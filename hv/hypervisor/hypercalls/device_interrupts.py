"""Interrupts of assigned devices: root gives one to a partition, and the partition says which of its VPs takes it.

TLFS "HvCallMapDeviceInterrupt", "HvCallUnmapDeviceInterrupt", "HvCallRetargetDeviceInterrupt".
# Simplified: one vector at a time, of an MSI; no redirection by proxy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.errors import CallIntercepted
from hv.hypervisor.hypercalls.devices import source_id_of
from hv.hypervisor.hypercalls.registry import Call, hypercall, require
from hv.hypervisor.interrupts.routing import Route
from hv.hypervisor.partitions.partition import Partition
from hv.hypervisor.vps.sets import vps_in_mask, vps_in_set
from hv.iommu.unit import is_interrupt_address
from hv.spec.apic import LOWEST_LEGAL_VECTOR
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.interrupts import (
    INTERRUPT_SOURCE_MSI,
    DeviceInterruptTarget,
    DeviceInterruptTargetFlags,
    HvInterruptType,
    InterruptEntry,
    MapDeviceInterruptInput,
    MapDeviceInterruptOutput,
    RetargetDeviceInterruptInput,
    UnmapDeviceInterruptInput,
)
from hv.spec.intercepts import HvInterceptAccess, HvInterceptType
from hv.spec.vp_set import HvGenericSetFormat, HvVpSet
from hv.trace.events import InterruptRetargeted

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

_FIXED = (HvInterruptType.FIXED, HvInterruptType.LOWEST_PRIORITY)
_F = DeviceInterruptTargetFlags
_MULTICAST, _SET, _PROXY = int(_F.MULTICAST), int(_F.PROCESSOR_SET), int(_F.PROXY_REDIRECT)
_CPU_MANAGEMENT = int(HvPrivilege.CPU_MANAGEMENT)
_UNKNOWN_DEVICE = int(HvInterceptType.RETARGET_INTERRUPT_WITH_UNKNOWN_DEVICE_ID)
_EXECUTE = int(HvInterceptAccess.EXECUTE)


@hypercall(HypercallCode.MAP_DEVICE_INTERRUPT, input=MapDeviceInterruptInput, output=MapDeviceInterruptOutput,
           variable=True, privilege=HvPrivilege.CPU_MANAGEMENT)
def map_device_interrupt(call: Call, input: MapDeviceInterruptInput, units: tuple[int, ...]) -> \
        MapDeviceInterruptOutput:
    """A device's interrupt becomes a vector of the partition the device is assigned to; answers the MSI to program.

    With a logical entry it is the message of the entry instead, which the partition's own remapping unit looks up
    whenever it comes; such an interrupt has no target. FEATURE_UNAVAILABLE without that unit.
    """
    partition = call.find(input.partition_id)
    source_id = source_id_of(partition, input.device_id)
    require(input.interrupt_type in _FIXED, f"interrupt type {input.interrupt_type}")
    require(input.trigger_mode <= 1 and input.vector_count == 1, "trigger mode is 0 or 1, vector count 1")
    asked = _asked(partition, input.logical_interrupt_entry)
    vps = _targets(partition, input.target, units) if asked is None else []
    iommu, routing = call.iommu, call.hypervisor.interrupts
    route = routing.allocate(source_id, partition, vps, input.target.target_vector, bool(input.trigger_mode), asked)
    try:
        route.message = iommu.map_interrupt(source_id, route.vector)
    except Exception:
        routing.free(route, None)
        raise
    route.lowest_priority = input.interrupt_type == HvInterruptType.LOWEST_PRIORITY
    route.multicast = bool(input.target.target_flags & _MULTICAST)
    address, data = route.message
    entry = InterruptEntry(source=INTERRUPT_SOURCE_MSI, address=address, data=data)
    return MapDeviceInterruptOutput(interrupt_entry=entry)


def _asked(partition: Partition, entry: InterruptEntry) -> tuple[int, int] | None:
    """The message that the guest has written into its device; None when that is not said."""
    if not entry.source:
        return None
    require(partition.virtual_iommu, f"partition {partition.id} has no remapping unit", HvStatus.FEATURE_UNAVAILABLE)
    require(entry.source == INTERRUPT_SOURCE_MSI and is_interrupt_address(entry.address),
            f"{entry.address:#x} is no address of interrupts")
    return entry.address, entry.data


def _targets(partition: Partition, target: DeviceInterruptTarget, units: tuple[int, ...]) -> list[VirtualProcessor]:
    """The VPs that *target* names, with the bank mask and the banks of a set in *units*.

    INVALID_VP_INDEX when that is nobody, or a VP that does not exist; FEATURE_UNAVAILABLE for a redirection.
    """
    flags, vector = target.target_flags, target.target_vector
    require(not flags & ~(_MULTICAST | _SET | _PROXY), f"target flags {flags:#x}")
    require(not flags & _PROXY, "interrupts are not redirected by a proxy", HvStatus.FEATURE_UNAVAILABLE)
    require(LOWEST_LEGAL_VECTOR <= vector <= 0xFF, f"vector {vector:#x} is not in 16..255")
    if flags & _SET:
        vps, wanted = _in_set(partition, target.target_vp_mask, units)
    else:
        require(not units, "a vp mask is followed by nothing", HvStatus.INVALID_HYPERCALL_INPUT)
        vps, wanted = vps_in_mask(partition, target.target_vp_mask), target.target_vp_mask.bit_count()
    require(vps and len(vps) == wanted, f"{wanted} vps are named, {len(vps)} of them exist", HvStatus.INVALID_VP_INDEX)
    return vps


def _in_set(partition: Partition, format: int, units: tuple[int, ...]) -> tuple[list[VirtualProcessor], int]:
    """The VPs of the set, and how many it names; INVALID_HYPERCALL_INPUT without a bank mask."""
    everybody = format == HvGenericSetFormat.ALL
    require(units or everybody, "a vp set has a bank mask", HvStatus.INVALID_HYPERCALL_INPUT)
    mask, banks = (units[0], units[1:]) if units else (0, ())
    vps = vps_in_set(partition, HvVpSet(format=format, valid_bank_mask=mask), banks)
    return vps, len(vps) if everybody else sum(bank.bit_count() for bank in banks)


@hypercall(HypercallCode.RETARGET_DEVICE_INTERRUPT, input=RetargetDeviceInterruptInput, variable=True)
def retarget_device_interrupt(call: Call, input: RetargetDeviceInterruptInput, units: tuple[int, ...]) -> None:
    """From now on the device's MSI is another vector, or of other VPs. A partition may do so with its own.

    What is under way arrives once: what the processor has not taken yet by the new target, what waits in a VP's APIC
    there. INVALID_DEVICE_ID, unless the parent wants to hear of those; INVALID_PARAMETER when the device has no such
    interrupt.
    """
    partition = call.find(input.partition_id)
    require(partition is call.partition or call.partition.has(_CPU_MANAGEMENT), "another's interrupt",
            HvStatus.ACCESS_DENIED)
    source_id = source_id_of(partition, input.device_id, lambda partition: _let_parent(call, partition))
    vps = _targets(partition, input.target, units)
    route = _route_of(call, source_id, input.interrupt_entry)
    require(route.asked is None, "the guest's own remapping unit says whose it is")
    route.vps, route.guest_vector = tuple(vps), input.target.target_vector
    route.multicast = bool(input.target.target_flags & _MULTICAST)
    call.emit(InterruptRetargeted(source_id, route.guest_vector, partition.id, tuple(vp.index for vp in vps)))


def _let_parent(call: Call, partition: Partition) -> None:
    """A parent that shows a device of its own making wants to hear of it: CallIntercepted."""
    if partition is call.partition and partition.intercepts.wants(_UNKNOWN_DEVICE, 0, _EXECUTE):
        raise CallIntercepted


def _route_of(call: Call, source_id: int, entry: InterruptEntry) -> Route:
    """INVALID_PARAMETER when the device's MSI means nothing."""
    route = call.hypervisor.interrupts.find(source_id, (entry.address, entry.data))
    require(route and entry.source == INTERRUPT_SOURCE_MSI,
            f"device {source_id:#x} has no interrupt {entry.address:#x}/{entry.data:#x}")
    assert route is not None, "just checked"
    return route


@hypercall(HypercallCode.UNMAP_DEVICE_INTERRUPT, input=UnmapDeviceInterruptInput,
           privilege=HvPrivilege.CPU_MANAGEMENT)
def unmap_device_interrupt(call: Call, input: UnmapDeviceInterruptInput) -> None:
    """The device's MSI means nothing any more; INVALID_PARAMETER when it did not."""
    partition = call.find(input.partition_id)
    source_id = source_id_of(partition, input.device_id)
    call.hypervisor.interrupts.free(_route_of(call, source_id, input.interrupt_entry), call.hypervisor.iommu)
