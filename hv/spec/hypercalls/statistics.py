"""Statistics: pages of counters and the run time of a processor; TLFS "Statistics". The counters' places in a page are
those that Linux's root partition drivers know; what is not named here stays 0."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, u8, u16, u32, u64
from hv.spec.numbering import Numbering


class HvStatsObjectType(Numbering):
    """HV_STATS_OBJECT_TYPE."""

    HYPERVISOR = 0x00000001
    LOGICAL_PROCESSOR = 0x00000002
    PARTITION = 0x00010001
    VP = 0x00010002


class HvStatsIdentity(Layout):
    """HV_STATS_OBJECT_IDENTITY: zeros for the hypervisor; a processor's index stands where partition_id does."""

    partition_id: u64
    vp_index: u32                       # of a VP only
    reserved: u16
    reserved1: u8
    area_type: u8                       # 0: the object's own counters


class MapStatsPageInput(Layout):
    """HvCallMapStatsPage, HvCallUnmapStatsPage."""

    object_type: u32                    # HvStatsObjectType
    reserved: u32
    identity: HvStatsIdentity


class MapStatsPageOutput(Layout):
    """HvCallMapStatsPage."""

    map_location: u64                   # page number in the caller's GPA space


class MapStatsPage2Input(Layout):
    """HvCallMapStatsPage2: the caller says where."""

    object_type: u32
    reserved: u32
    identity: HvStatsIdentity
    map_location: u64


class GetLogicalProcessorRunTimeInput(Layout):
    """HvCallGetLogicalProcessorRunTime."""

    lp_index: u32


class GetLogicalProcessorRunTimeOutput(Layout):
    """HvCallGetLogicalProcessorRunTime, in units of 100 ns."""

    global_time: u64                    # that has passed
    local_run_time: u64                 # in which the processor ran a VP
    group_run_time: u64                 # in which any processor of its group did
    hypervisor_time: u64                # spent in the hypervisor


class HypervisorCounter(Numbering):
    """Places of u64 in the page of the hypervisor."""

    LOGICAL_PROCESSORS = 1
    PARTITIONS = 2
    TOTAL_PAGES = 3
    VIRTUAL_PROCESSORS = 4


class ProcessorCounter(Numbering):
    """Places of u64 in the page of a logical processor; times in units of 100 ns."""

    GLOBAL_TIME = 1
    TOTAL_RUN_TIME = 2
    HYPERVISOR_RUN_TIME = 3
    HARDWARE_INTERRUPTS = 4
    GLOBAL_TSC_COUNT = 21


class PartitionCounter(Numbering):
    """Places of u64 in the page of a partition."""

    VIRTUAL_PROCESSORS = 1
    DEPOSITED_PAGES = 5
    GPA_PAGES = 6
    ATTACHED_DEVICES = 18
    PARTITION_ID = 26
    ACTIVE_CHILD_PARTITIONS = 46


class VpCounter(Numbering):
    """Places of u64 in the page of a VP; times in units of 100 ns. Behind each COUNT stands the time of the same."""

    TOTAL_RUN_TIME = 1
    HYPERVISOR_RUN_TIME = 2
    HYPERCALLS_COUNT = 7
    PAGE_INVALIDATIONS_COUNT = 9
    CONTROL_REGISTER_ACCESSES_COUNT = 11
    IO_INSTRUCTIONS_COUNT = 13
    HLT_INSTRUCTIONS_COUNT = 15
    CPUID_INSTRUCTIONS_COUNT = 19
    MSR_ACCESSES_COUNT = 21
    OTHER_INTERCEPTS_COUNT = 23
    EXTERNAL_INTERRUPTS_COUNT = 25
    PENDING_INTERRUPTS_COUNT = 27
    DEBUG_REGISTER_ACCESSES_COUNT = 31
    NESTED_PAGE_FAULT_INTERCEPTS_COUNT = 71
