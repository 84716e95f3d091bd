"""Domains of a partition's own making, for its own devices or by its parent: what a guest's IOMMU driver calls.

TLFS "HvCallCreateDeviceDomain" and its neighbours.
# Simplified: stage-2 domains only, of pages of 4 KiB; an IOMMU fault is an event of the trace, and no message to
anybody, for no public document gives its layout.
"""

from __future__ import annotations

from hv.hypervisor.devices.explicit_domain import ExplicitDomain
from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.devices import source_id_of
from hv.hypervisor.hypercalls.registry import Call, Reps, hypercall, require, require_vtl0
from hv.hypervisor.partitions.partition import Partition, PartitionState
from hv.machine.faults import Access
from hv.spec.apic import DEFAULT_BASE, INTERRUPT_WINDOW_END
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.devices import (
    DEFAULT_DOMAIN,
    NULL_DOMAIN,
    PVIOMMU_PROPERTY,
    AttachDeviceDomainInput,
    ConfigureDeviceDomainInput,
    CreateDeviceDomainInput,
    DetachDeviceDomainInput,
    DeviceDomainInput,
    DeviceDomainSettings,
    FlushDeviceDomainInput,
    GetIommuCapabilitiesInput,
    GetIommuCapabilitiesOutput,
    GetLogicalDevicePropertyInput,
    GetLogicalDevicePropertyOutput,
    HvDeviceDomainId,
    HvDeviceDomainType,
    HvIommuCapabilities,
    InputDeviceDomain,
    MapDeviceGpaPagesInput,
    UnmapDeviceGpaPagesInput,
)
from hv.spec.hypercalls.memory import GpaPageNumber
from hv.spec.vtd import GUEST_ADDRESS_WIDTH
from hv.spec.x86 import PAGE_SHIFT, PAGE_SIZE
from hv.trace.events import DeviceDomainCreated, DeviceDomainDeleted, DeviceInDomain

_READ, _READ_WRITE = int(Access.READ), int(Access.READ | Access.WRITE)
_KNOWN_FLAGS = 3                        # of create: neither changes anything here
_FIRST_MSI_PAGE, _LAST_MSI_PAGE = DEFAULT_BASE >> PAGE_SHIFT, INTERRUPT_WINDOW_END - 1 >> PAGE_SHIFT
_SWITCHES = (DeviceDomainSettings(translation=1).raw, DeviceDomainSettings(blocked=1).raw)


def _named(call: Call, named: InputDeviceDomain) -> tuple[Partition, int]:
    """The partition and the number. FEATURE_UNAVAILABLE for another stage, and for root, which has no devices."""
    partition, id = call.find(named.domain_partition), HvDeviceDomainId(named.domain_id)
    require_vtl0(named.owner_vtl)
    require(not id.raw & HvDeviceDomainId.RESERVED, f"reserved bits in device domain id {id.raw:#x}")
    require(id.domain_type in set(HvDeviceDomainType), f"device domain type {id.domain_type}")
    require(id.domain_type == HvDeviceDomainType.STAGE_2, "a domain is of stage 2", HvStatus.FEATURE_UNAVAILABLE)
    require(not partition.is_root, "root has no devices", HvStatus.FEATURE_UNAVAILABLE)
    partition.require_state(PartitionState.ACTIVE)
    return partition, id.id


def _found(call: Call, named: InputDeviceDomain) -> ExplicitDomain:
    """INVALID_PARAMETER when it is not of the partition's own making."""
    partition, number = _named(call, named)
    found: ExplicitDomain = call.iommu.find(partition, number)
    return found


@hypercall(HypercallCode.CREATE_DEVICE_DOMAIN, input=CreateDeviceDomainInput)
def create_device_domain(call: Call, input: CreateDeviceDomainInput) -> None:
    """An empty domain under a number of the caller's choice: a device in it reaches nothing yet.

    INVALID_PARAMETER when the number is taken, INSUFFICIENT_DEVICE_DOMAINS, INSUFFICIENT_MEMORY.
    """
    partition, number = _named(call, input.device_domain)
    require(not input.create_flags & ~_KNOWN_FLAGS, f"flags {input.create_flags:#x}")
    require(number not in (DEFAULT_DOMAIN, NULL_DOMAIN), f"device domain {number:#x} is always there")
    call.iommu.create(partition, number)
    call.emit(DeviceDomainCreated(partition.id, number))


@hypercall(HypercallCode.DELETE_DEVICE_DOMAIN, input=DeviceDomainInput)
def delete_device_domain(call: Call, input: DeviceDomainInput) -> None:
    """It is gone, with its pages; OBJECT_IN_USE while a device is in it."""
    partition, number = _named(call, input.device_domain)
    call.iommu.delete(partition, number)
    call.emit(DeviceDomainDeleted(partition.id, number))


@hypercall(HypercallCode.ATTACH_DEVICE_DOMAIN, input=AttachDeviceDomainInput)
def attach_device_domain(call: Call, input: AttachDeviceDomainInput) -> None:
    """A device of the partition sees this domain instead of the default one; NULL_DOMAIN shows it nothing.

    INVALID_DEVICE_ID, DEVICE_ALREADY_IN_DOMAIN, INVALID_DEVICE_STATE when it is in another one: detach it first.
    """
    partition, number = _named(call, input.device_domain)
    source_id = source_id_of(partition, input.device_id)
    call.iommu.enter(source_id, partition, number)
    call.emit(DeviceInDomain(source_id, partition.id, number))


@hypercall(HypercallCode.DETACH_DEVICE_DOMAIN, input=DetachDeviceDomainInput)
def detach_device_domain(call: Call, input: DetachDeviceDomainInput) -> None:
    """The device sees the default domain again; INVALID_DEVICE_STATE when it does so now."""
    partition = call.find(input.partition_id)
    source_id = source_id_of(partition, input.device_id)
    call.iommu.leave(source_id)
    call.emit(DeviceInDomain(source_id, partition.id, DEFAULT_DOMAIN))


@hypercall(HypercallCode.MAP_DEVICE_GPA_PAGES, input=MapDeviceGpaPagesInput, rep_input=GpaPageNumber)
def map_device_gpa_pages(call: Call, input: MapDeviceGpaPagesInput, reps: Reps) -> None:
    """The partition's pages stand at consecutive pages of the domain, instead of what does.

    INVALID_PARAMETER for a page that the partition has not, and for rights without read. INSUFFICIENT_MEMORY.
    """
    domain = _found(call, input.device_domain)
    require_vtl0(input.target_vtl)
    require(input.device_map_flags in (_READ, _READ_WRITE), f"device map flags {input.device_map_flags:#x}")
    space = domain.partition.space
    for element in reps:
        page = _iova_page(input.device_va_base, reps.done)
        require(space.mapping(element.page_number), f"nothing stands at gpa page {element.page_number:#x}")
        domain.map(page, element.page_number, input.device_map_flags)


@hypercall(HypercallCode.UNMAP_DEVICE_GPA_PAGES, input=UnmapDeviceGpaPagesInput, rep=True)
def unmap_device_gpa_pages(call: Call, input: UnmapDeviceGpaPagesInput, reps: Reps) -> None:
    """Nothing stands there any more, whether anything did or not; no device reaches it when the call returns."""
    domain = _found(call, input.device_domain)
    for number in reps:
        domain.unmap(_iova_page(input.device_va_base, number))


def _iova_page(base: int, number: int) -> int:
    """INVALID_PARAMETER where no device can reach memory: addresses of interrupts are never translated."""
    page = (base >> PAGE_SHIFT) + number
    require(not base % PAGE_SIZE and not page >> GUEST_ADDRESS_WIDTH - PAGE_SHIFT, f"device address {base:#x}")
    require(not _FIRST_MSI_PAGE <= page <= _LAST_MSI_PAGE, f"device page {page:#x} is for interrupts")
    return page


@hypercall(HypercallCode.CONFIGURE_DEVICE_DOMAIN, input=ConfigureDeviceDomainInput)
def configure_device_domain(call: Call, input: ConfigureDeviceDomainInput) -> None:
    """Block every access of the domain's devices, or translate them again. A domain of stage 2 has no other setting."""
    domain = _found(call, input.device_domain)
    require(input.settings in _SWITCHES, f"settings {input.settings:#x}: expected translation or blocked")
    require(not input.page_table_root, "the tables of stage 2 are the hypervisor's")
    domain.block(bool(DeviceDomainSettings(input.settings).blocked))


@hypercall(HypercallCode.FLUSH_DEVICE_DOMAIN, input=FlushDeviceDomainInput)
def flush_device_domain(call: Call, input: FlushDeviceDomainInput) -> None:
    """The unit looks up every translation anew. Who unmaps needs none of this: it is done before that call returns."""
    domain = _found(call, input.device_domain)
    require(not input.flush_flags, f"flush flags {input.flush_flags:#x}")
    domain.flush()


@hypercall(HypercallCode.GET_IOMMU_CAPABILITIES, input=GetIommuCapabilitiesInput, output=GetIommuCapabilitiesOutput)
def get_iommu_capabilities(call: Call, input: GetIommuCapabilitiesInput) -> GetIommuCapabilitiesOutput:
    """What domains the partition can make; nothing without an IOMMU."""
    call.find(input.partition_id)
    there = call.hypervisor.iommu is not None
    return GetIommuCapabilitiesOutput(
        size=GetIommuCapabilitiesOutput.SIZE, max_iova_width=GUEST_ADDRESS_WIDTH if there else 0,
        capabilities=HvIommuCapabilities(present=int(there), stage_2=int(there)).raw,
        page_sizes=PAGE_SIZE if there else 0)


@hypercall(HypercallCode.GET_LOGICAL_DEVICE_PROPERTY, input=GetLogicalDevicePropertyInput,
           output=GetLogicalDevicePropertyOutput)
def get_logical_device_property(call: Call, input: GetLogicalDevicePropertyInput) -> GetLogicalDevicePropertyOutput:
    """May this device of the partition be put into domains? Any may. INVALID_DEVICE_ID, UNKNOWN_PROPERTY."""
    partition = call.find(input.partition_id)
    if input.logical_device_id not in partition.devices:
        raise HypercallError(HvStatus.INVALID_DEVICE_ID, f"no device {input.logical_device_id:#x} is attached")
    require(input.logical_property_code == PVIOMMU_PROPERTY, f"property {input.logical_property_code}",
            HvStatus.UNKNOWN_PROPERTY)
    return GetLogicalDevicePropertyOutput(device_iommu=1)
