"""Statistics pages by hypercall, and a processor's run time; TLFS "Statistics". See `partitions/statistics.py`."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

from hv.hypervisor.hypercalls.registry import Call, hypercall, require
from hv.hypervisor.partitions import statistics
from hv.hypervisor.partitions.statistics import Count, Counters
from hv.machine.clock import TICKS_PER_100NS
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.statistics import (
    GetLogicalProcessorRunTimeInput,
    GetLogicalProcessorRunTimeOutput,
    HvStatsIdentity,
    HvStatsObjectType,
    MapStatsPage2Input,
    MapStatsPageInput,
    MapStatsPageOutput,
)

_T = HvStatsObjectType


@hypercall(HypercallCode.MAP_STATS_PAGE, input=MapStatsPageInput, output=MapStatsPageOutput,
           privilege=HvPrivilege.ACCESS_STATS)
def map_stats_page(call: Call, input: MapStatsPageInput) -> MapStatsPageOutput:
    """The counters' page stands where it is in the machine; for root, whose addresses are the machine's."""
    require(call.partition.is_root, "only root has the machine's addresses", HvStatus.OPERATION_DENIED)
    key, count = _object(call, input)
    return MapStatsPageOutput(map_location=call.hypervisor.statistics.show(call.partition, key, count))


@hypercall(HypercallCode.MAP_STATS_PAGE2, input=MapStatsPage2Input, privilege=HvPrivilege.ACCESS_STATS)
def map_stats_page2(call: Call, input: MapStatsPage2Input) -> None:
    """The counters' page stands where the caller says; OBJECT_IN_USE when it stands elsewhere already."""
    key, count = _object(call, input)
    page = call.hypervisor.statistics.show(call.partition, key, count, input.map_location)
    require(page == input.map_location, f"mapped at gpa page {page:#x}", HvStatus.OBJECT_IN_USE)


@hypercall(HypercallCode.UNMAP_STATS_PAGE, input=MapStatsPageInput, privilege=HvPrivilege.ACCESS_STATS)
def unmap_stats_page(call: Call, input: MapStatsPageInput) -> None:
    """What was mapped is gone. The object may be gone before."""
    call.hypervisor.statistics.hide(call.partition, _key(call, input))


@hypercall(HypercallCode.GET_LOGICAL_PROCESSOR_RUN_TIME, input=GetLogicalProcessorRunTimeInput,
           output=GetLogicalProcessorRunTimeOutput, privilege=HvPrivilege.CPU_MANAGEMENT)
def get_logical_processor_run_time(call: Call, input: GetLogicalProcessorRunTimeInput,
                                   ) -> GetLogicalProcessorRunTimeOutput:
    """How the one processor spent its time; its group is itself."""
    require(input.lp_index == 0, f"no logical processor {input.lp_index}", HvStatus.INVALID_LP_INDEX)
    counted = call.hypervisor.statistics
    ran = counted.run_ticks // TICKS_PER_100NS
    return GetLogicalProcessorRunTimeOutput(
        global_time=call.hypervisor.clock.time_100ns, local_run_time=ran, group_run_time=ran,
        hypervisor_time=counted.hypervisor_ticks // TICKS_PER_100NS)


def _key(call: Call, input: Any) -> Hashable:
    """(type, partition or processor, VP), with the caller's own id for SELF; INVALID_PARAMETER."""
    identity: HvStatsIdentity = input.identity
    kind = input.object_type
    require(kind in list(_T), f"no statistics of type {kind:#x}")
    require(not identity.area_type, f"statistics area {identity.area_type}")
    require(kind == _T.VP or not identity.vp_index, f"vp {identity.vp_index} of an object that has none")
    if kind not in (_T.PARTITION, _T.VP):
        require(not identity.partition_id, f"no {_T(kind).name} {identity.partition_id}",
                HvStatus.INVALID_LP_INDEX if kind == _T.LOGICAL_PROCESSOR else HvStatus.INVALID_PARAMETER)
        return int(kind), 0, 0
    own = identity.partition_id in (call.partition.id, (1 << 64) - 1)
    return int(kind), call.partition.id if own else identity.partition_id, identity.vp_index


def _object(call: Call, input: Any) -> tuple[Hashable, Count]:
    """What is named, and how to count it; the hypervisor and its processor are root's to look at."""
    key, counted = _key(call, input), call.hypervisor.statistics
    if input.object_type in (_T.HYPERVISOR, _T.LOGICAL_PROCESSOR):
        require(call.partition.is_root, "only root sees the whole machine", HvStatus.ACCESS_DENIED)
        return key, counted.of_hypervisor if input.object_type == _T.HYPERVISOR else counted.of_processor
    partition = call.find(input.identity.partition_id)
    if input.object_type == _T.VP:
        partition.vp(input.identity.vp_index)
    return key, partial(_count, call, partition.id, input.identity.vp_index if input.object_type == _T.VP else None)


def _count(call: Call, partition_id: int, vp_index: int | None) -> Counters:
    """Nothing new when the object is gone: the page keeps what stands there."""
    partition = call.hypervisor.partitions.get(partition_id)
    if partition is None:
        return {}
    if vp_index is None:
        return statistics.of_partition(partition)
    return statistics.of_vp(partition.vps[vp_index]) if vp_index in partition.vps else {}
