"""Partitions: well-known ids, property codes, creation and mapping flags; TLFS "Partition Management", "Guest
Physical Address Spaces"."""

from __future__ import annotations

from hv.spec.layout import Register, bits
from hv.spec.numbering import Flags, Numbering

PARTITION_ID_INVALID = 0
PARTITION_ID_SELF = 0xFFFF_FFFF_FFFF_FFFF
VP_INDEX_SELF = 0xFFFF_FFFE
ANY_VP = 0xFFFF_FFFF
ROOT_PARTITION_ID = 1


class HvPartitionProperty(Numbering):
    """HV_PARTITION_PROPERTY_CODE."""

    PRIVILEGE_FLAGS = 0x00010000            # EAX | EBX << 32 of CPUID leaf 0x40000003
    SYNTHETIC_PROC_FEATURES = 0x00010001
    SUSPEND = 0x00020000
    CPU_RESERVE = 0x00020001
    CPU_CAP = 0x00020002
    CPU_WEIGHT = 0x00020003
    CPU_GROUP_ID = 0x00020004
    TIME_FREEZE = 0x00030003
    APIC_FREQUENCY = 0x00030004
    REFERENCE_TIME = 0x00030005
    DEBUG_CHANNEL_ID = 0x00040000
    VIRTUAL_TLB_PAGE_COUNT = 0x00050000
    VSM_CONFIG = 0x00050001
    ZERO_MEMORY_ON_RESET = 0x00050002
    PROCESSORS_PER_SOCKET = 0x00050003
    NESTED_TLB_SIZE = 0x00050004
    GPA_PAGE_ACCESS_TRACKING = 0x00050005
    ISOLATION_STATE = 0x0005000C
    ISOLATION_CONTROL = 0x0005000D
    UNIMPLEMENTED_MSR_ACTION = 0x00050017   # 0 fault, 1 ignore
    REFERENCE_TSC_PAGE_ACTIVE = 0x00050019
    AUTO_EOI_ENABLED = 0x0005001A
    PROCESSOR_VENDOR = 0x00060000
    PROCESSOR_FEATURES = 0x00060001
    PROCESSOR_XSAVE_FEATURES = 0x00060002
    PROCESSOR_CL_FLUSH_SIZE = 0x00060003
    ENLIGHTENMENT_MODIFICATIONS = 0x00060004
    COMPATIBILITY_VERSION = 0x00060005
    PHYSICAL_ADDRESS_WIDTH = 0x00060006
    XSAVE_STATES = 0x00060007
    MAX_XSAVE_DATA_SIZE = 0x00060008
    PROCESSOR_CLOCK_FREQUENCY = 0x00060009
    PROCESSOR_FEATURES0 = 0x0006000A
    PROCESSOR_FEATURES1 = 0x0006000B
    GUEST_OS_ID = 0x00070000
    PROCESSOR_VIRTUALIZATION_FEATURES = 0x00080000
    VIRTUAL_IOMMU = 0x7FFF0000              # ours, not TLFS's: 1 gives the partition a remapping unit, and it keeps it


class CreatePartitionFlags(Register):
    """HV_PARTITION_CREATION_FLAGS; a bit outside the named ones is INVALID_PARAMETER."""

    smt_enabled_guest = bits(0)
    nested_virtualization_capable = bits(1)
    gpa_super_pages_enabled = bits(4)
    exo_partition = bits(8)
    vtl1_override = bits(9)
    vtl2_override = bits(10)
    lapic_enabled = bits(13)
    perfmon_pmu = bits(15)
    lbr = bits(16)
    intercept_message_page = bits(19)
    hypercall_doorbell_page = bits(20)
    x2apic_capable = bits(22)


class HvMapGpaFlags(Flags):
    """HV_MAP_GPA_FLAGS. A page without READ but with WRITE or EXECUTE is refused; none of them is "inaccessible"."""

    READABLE = 0x1
    WRITABLE = 0x2
    KERNEL_EXECUTABLE = 0x4
    USER_EXECUTABLE = 0x8
    EXECUTABLE = 0xC
    SUPERVISOR_SHADOW_STACK = 0x10
    PAGING_WRITABILITY = 0x20
    VERIFY_PAGING_WRITABILITY = 0x40
    ADJUSTABLE = 0x8000
    NO_ACCESS = 0x10000
    NO_OVERLAY = 0x100000
    NOT_CACHED = 0x200000
    LARGE_PAGE = 0x80000000


class HvUnmapGpaFlags(Flags):
    """HV_UNMAP_GPA_FLAGS."""

    KEEP_PRECOMMITTED = 0x1
    LARGE_PAGE = 0x2
