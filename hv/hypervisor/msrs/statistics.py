"""A partition's own counters, where its guest wants them; TLFS "Statistics". Counted in `partitions/statistics.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.msrs.registry import provide, refuse
from hv.hypervisor.partitions import statistics
from hv.hypervisor.partitions.statistics import Counters, msr_key
from hv.spec.cpuid import HvPrivilege
from hv.spec.msrs import HvStatsPage, Msr

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

_OF_VP = (Msr.HV_STATS_VP_RETAIL_PAGE, Msr.HV_STATS_VP_INTERNAL_PAGE)


def _read(vp: VirtualProcessor, index: int) -> int:
    return vp.partition.statistics.msrs.get((vp.partition.id, msr_key(vp, index, index in _OF_VP)), 0)


def _write(vp: VirtualProcessor, index: int, value: int) -> None:
    """#GP, and nothing done, outside the GPA space; #GP, and no page any more, when there is no memory for it."""
    partition, counted, new = vp.partition, vp.partition.statistics, HvStatsPage(value)
    key = msr_key(vp, index, index in _OF_VP)
    place = counted.place_of(partition, key)
    if new.enable and new.gpfn >= partition.space.page_limit:
        raise refuse()
    if place is not None and place != (new.gpfn if new.enable else None):
        counted.hide(partition, key)
        counted.msrs[partition.id, key] = HvStatsPage(gpfn=place).raw
    if new.enable:
        try:
            counted.show(partition, key, lambda: _count(vp, index), new.gpfn)
        except HypercallError as error:
            raise refuse() from error       # Simplified: Hyper-V asks the parent for more.
    counted.msrs[partition.id, key] = value


def _count(vp: VirtualProcessor, index: int) -> Counters:
    if index == Msr.HV_STATS_VP_RETAIL_PAGE:
        return statistics.of_vp(vp)
    if index == Msr.HV_STATS_VP_INTERNAL_PAGE:
        return statistics.exits_of([vp])
    if index == Msr.HV_STATS_PARTITION_RETAIL_PAGE:
        return statistics.of_partition(vp.partition)
    return statistics.exits_of(vp.partition.vps.values())


for _index in range(Msr.HV_STATS_PARTITION_RETAIL_PAGE, Msr.HV_STATS_VP_INTERNAL_PAGE + 1):
    provide(_index, _read, _write, privilege=HvPrivilege.ACCESS_STATS_REG)
