"""Inputs and outputs of the device calls; TLFS "HvCallAttachDevice" and its neighbours."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, Register, bits, raw, u8, u16, u32, u64
from hv.spec.numbering import Numbering


class HvDeviceId(Register):
    """HV_DEVICE_ID of a PCI function; type 1."""

    rid = bits(15, 0)                   # bus 8, device 5, function 3
    segment = bits(31, 16)
    shadow_bus_range = bits(47, 32)
    phantom_function_bits = bits(49, 48)
    source_shadow = bits(50)
    device_type = bits(63, 62)          # 0 logical, 1 PCI, 2 IOAPIC, 3 ACPI


class AttachDeviceInput(Layout):
    """HvCallAttachDevice."""

    partition_id: u64
    device_id: u64
    flags: u32
    attach_vtl: u8
    reserved0: u8
    reserved1: u16
    logical_device_id: u64
    pci_capabilities: u32
    pf_rid: u16
    reserved2: u16


class HvDeviceDomainId(Register):
    """HV_DEVICE_DOMAIN_ID."""

    domain_type = bits(3, 0)            # HvDeviceDomainType
    id = bits(63, 32)                   # DEFAULT_DOMAIN, NULL_DOMAIN, or the partition's choice


class HvDeviceDomainType(Numbering):
    """HV_DEVICE_DOMAIN_TYPE."""

    STAGE_2 = 0                         # the hypervisor's tables: a list of pages
    STAGE_1 = 1                         # the partition's own tables
    SOC = 2


DEFAULT_DOMAIN, NULL_DOMAIN = 0, 0xFFFFFFFF     # the partition's own addresses, and nothing at all


class InputDeviceDomain(Layout):
    """HV_INPUT_DEVICE_DOMAIN."""

    domain_partition: u64
    owner_vtl: u8
    padding: raw[7]
    domain_id: u64                      # HvDeviceDomainId


class CreateDeviceDomainInput(Layout):
    """HvCallCreateDeviceDomain."""

    device_domain: InputDeviceDomain
    create_flags: u32                   # bit 0 forward progress is required, 1 inherits the owner's VTL
    reserved: u32


class DeviceDomainInput(Layout):
    """HvCallDeleteDeviceDomain."""

    device_domain: InputDeviceDomain


class AttachDeviceDomainInput(Layout):
    """HvCallAttachDeviceDomain."""

    device_domain: InputDeviceDomain
    device_id: u64


class DetachDeviceDomainInput(Layout):
    """HvCallDetachDeviceDomain."""

    partition_id: u64
    device_id: u64


class MapDeviceGpaPagesInput(Layout):
    """HvCallMapDeviceGpaPages, before its list of pages."""

    device_domain: InputDeviceDomain
    target_vtl: u8
    padding: raw[3]
    device_map_flags: u32               # 1 read, 2 write
    device_va_base: u64                 # bytes


class UnmapDeviceGpaPagesInput(Layout):
    """HvCallUnmapDeviceGpaPages; as many pages as it has reps."""

    device_domain: InputDeviceDomain
    device_va_base: u64                 # bytes


class DeviceDomainSettings(Register):
    """The flags of HvCallConfigureDeviceDomain."""

    translation = bits(0)
    blocked = bits(1)
    five_levels = bits(2)


class ConfigureDeviceDomainInput(Layout):
    """HvCallConfigureDeviceDomain."""

    device_domain: InputDeviceDomain
    settings: u64                       # DeviceDomainSettings
    page_table_root: u64                # of a stage-1 domain


class FlushDeviceDomainInput(Layout):
    """HvCallFlushDeviceDomain."""

    device_domain: InputDeviceDomain
    flush_flags: u32
    reserved: u32


class HvIommuCapabilities(Register):
    """What HvCallGetIommuCapabilities tells."""

    present = bits(0)
    stage_2 = bits(1)
    stage_1 = bits(2)
    stage_1_five_levels = bits(3)
    pasids = bits(4)
    ats = bits(5)
    page_requests = bits(6)


class GetIommuCapabilitiesInput(Layout):
    """HvCallGetIommuCapabilities."""

    partition_id: u64
    reserved: u64


class GetIommuCapabilitiesOutput(Layout):
    """HvCallGetIommuCapabilities."""

    size: u32                           # of this, in bytes
    reserved: u16
    max_iova_width: u8                  # bits
    max_pasid_width: u8
    capabilities: u64                   # HvIommuCapabilities
    page_sizes: u64                     # bit n: pages of 2^n bytes


PVIOMMU_PROPERTY = 10


class GetLogicalDevicePropertyInput(Layout):
    """HvCallGetLogicalDeviceProperty."""

    partition_id: u64
    logical_device_id: u64
    logical_property_code: u32
    reserved: u32


class GetLogicalDevicePropertyOutput(Layout):
    """HvCallGetLogicalDeviceProperty of PVIOMMU_PROPERTY."""

    device_iommu: u64                   # bit 0: the device may be put into domains
    reserved: u64


class DetachDeviceInput(Layout):
    """HvCallDetachDevice."""

    partition_id: u64
    logical_device_id: u64
