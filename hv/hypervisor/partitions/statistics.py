"""Statistics: what the hypervisor counts anyway, in pages that a partition may map and read.

TLFS "Statistics". A page is one of the pool of the partition that looks, laid over its GPA space without the right to
write. Its counters are brought up to date whenever a VP is about to run: a guest sees what was true when its turn
began. As long as nobody has mapped a page, nothing is done for it at all.
# Simplified: the internal pages have this hypervisor's own numbers: the exits by their basic reason.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.memory.gpa_space import Overlay
from hv.hypervisor.partitions.partition import Partition, PartitionState
from hv.machine.clock import EXIT_TICKS, TICKS_PER_100NS
from hv.machine.faults import Access
from hv.spec.exits import ExitReason as R
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.statistics import HypervisorCounter, PartitionCounter, ProcessorCounter, VpCounter
from hv.spec.x86 import PAGE_SHIFT
from hv.trace.events import OverlayMoved

if TYPE_CHECKING:
    from hv.hypervisor.hypervisor import Hypervisor
    from hv.hypervisor.vps.vp import VirtualProcessor

_NAME = "statistics page"
_U64 = (1 << 64) - 1
_COUNTED: dict[int, VpCounter] = {
    R.VMCALL: VpCounter.HYPERCALLS_COUNT, R.INVLPG: VpCounter.PAGE_INVALIDATIONS_COUNT,
    R.CR_ACCESS: VpCounter.CONTROL_REGISTER_ACCESSES_COUNT, R.IO_INSTRUCTION: VpCounter.IO_INSTRUCTIONS_COUNT,
    R.HLT: VpCounter.HLT_INSTRUCTIONS_COUNT, R.CPUID: VpCounter.CPUID_INSTRUCTIONS_COUNT,
    R.RDMSR: VpCounter.MSR_ACCESSES_COUNT, R.WRMSR: VpCounter.MSR_ACCESSES_COUNT,
    R.EXTERNAL_INTERRUPT: VpCounter.EXTERNAL_INTERRUPTS_COUNT, R.INTERRUPT_WINDOW: VpCounter.PENDING_INTERRUPTS_COUNT,
    R.MOV_DR: VpCounter.DEBUG_REGISTER_ACCESSES_COUNT, R.EPT_VIOLATION: VpCounter.NESTED_PAGE_FAULT_INTERCEPTS_COUNT,
}
# Naming a member costs a call: plain places, by basic exit reason, for what is done before every run.
_PLACES = tuple(_COUNTED.get(reason, VpCounter.OTHER_INTERCEPTS_COUNT).value for reason in range(128))
_RUN_TIME, _HYPERVISOR_TIME = VpCounter.TOTAL_RUN_TIME.value, VpCounter.HYPERVISOR_RUN_TIME.value
_CALLS_TIME = VpCounter.HYPERCALLS_COUNT.value + 1
Counters = Mapping[int, int]
Count = Callable[[], Counters]


class Shown(NamedTuple):
    """A page of counters that *viewer* sees at gpa page *page*."""

    viewer: Partition
    page: int
    overlay: Overlay
    counters: Count


class Statistics:
    """All pages of counters that are mapped, and the work of VPs that are no more."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._shown: dict[tuple[int, Hashable], Shown] = {}
        self.msrs: dict[tuple[int, Hashable], int] = {}     # HV_X64_MSR_STATS_*, by partition and key
        self._past_run_ticks = self._past_hypervisor_ticks = self._past_interrupts = 0

    def show(self, viewer: Partition, key: Hashable, count: Count, page: int | None = None) -> int:
        """Map the counters of *key* at gpa page *page*, or where the page itself is; where it is then.

        It stays where it is mapped already. INVALID_PARAMETER outside the GPA space; INSUFFICIENT_MEMORY.
        """
        shown = self._shown.get((viewer.id, key))
        if shown is not None:
            return shown.page
        spa = viewer.pool.allocate()
        try:
            shown = self._cover(viewer, spa, spa >> PAGE_SHIFT if page is None else page, count)
        except HypercallError:
            viewer.pool.free(spa)
            raise
        self._shown[viewer.id, key] = shown
        self._hypervisor.before_run = self.refresh
        self.refresh()
        _announce(viewer, shown.page << PAGE_SHIFT)
        return shown.page

    @staticmethod
    def _cover(viewer: Partition, spa: int, page: int, count: Count) -> Shown:
        if page >= viewer.space.page_limit:
            raise HypercallError(HvStatus.INVALID_PARAMETER, f"gpa page {page:#x} is outside the GPA space")
        shown = Shown(viewer, page, Overlay(_NAME, spa, Access.READ), count)
        viewer.space.cover(page, shown.overlay)
        return shown

    def hide(self, viewer: Partition, key: Hashable) -> None:
        """Unmap it, and free the page; INVALID_PARAMETER when it is not mapped."""
        shown = self._shown.pop((viewer.id, key), None)
        if shown is None:
            raise HypercallError(HvStatus.INVALID_PARAMETER, "these statistics are not mapped")
        viewer.space.uncover(shown.page, shown.overlay)
        viewer.pool.free(shown.overlay.spa)
        _announce(viewer, None)
        if not self._shown:
            self._hypervisor.before_run = do_nothing

    def place_of(self, viewer: Partition, key: Hashable) -> int | None:
        """The gpa page where *viewer* sees the counters of *key*."""
        shown = self._shown.get((viewer.id, key))
        return shown.page if shown else None

    def release(self, viewer: Partition) -> None:
        """*viewer* is finalized, or has reset itself: it sees no counters any more."""
        for viewer_id, key in list(self._shown):
            if viewer_id == viewer.id:
                self.hide(viewer, key)
        self._forget_msrs(viewer.id, lambda key: True)

    def vp_deleted(self, vp: VirtualProcessor) -> None:
        """What it did stays done; what it saw by its own MSRs goes."""
        self._past_run_ticks += vp.runtime_100ns * TICKS_PER_100NS
        self._past_hypervisor_ticks += hypervisor_ticks(vp)
        self._past_interrupts += vp.exit_counts[R.EXTERNAL_INTERRUPT]
        for viewer_id, key in list(self._shown):
            if viewer_id == vp.partition.id and _is_of_vp(key, vp.index):
                self.hide(vp.partition, key)
        self._forget_msrs(vp.partition.id, lambda key: _is_of_vp(key, vp.index))

    def _forget_msrs(self, viewer_id: int, gone: Callable[[Hashable], bool]) -> None:
        for owner, key in list(self.msrs):
            if owner == viewer_id and gone(key):
                del self.msrs[owner, key]

    def refresh(self) -> None:
        """Bring every mapped page up to date."""
        for shown in self._shown.values():
            counters = shown.counters()
            if counters:
                words = [0] * (max(counters) + 1)
                for place, value in counters.items():
                    words[place] = value & _U64
                self._hypervisor.memory.write(shown.overlay.spa, struct.pack(f"<{len(words)}Q", *words))

    # --- what is counted ---------------------------------------------------------------------------------

    @property
    def run_ticks(self) -> int:
        """Ticks in which VPs ran."""
        return self._past_run_ticks + sum(vp.runtime_100ns * TICKS_PER_100NS for vp in self._vps())

    @property
    def hypervisor_ticks(self) -> int:
        """Ticks spent in the hypervisor."""
        return self._past_hypervisor_ticks + sum(map(hypervisor_ticks, self._vps()))

    def _vps(self) -> Iterable[VirtualProcessor]:
        return (vp for partition in self._hypervisor.partitions.values() for vp in partition.vps.values())

    def of_hypervisor(self) -> Counters:
        """`HypervisorCounter`."""
        C, (first, end) = HypervisorCounter, self._hypervisor.region
        return {C.LOGICAL_PROCESSORS: 1, C.PARTITIONS: len(self._hypervisor.partitions),
                C.TOTAL_PAGES: end - first >> PAGE_SHIFT, C.VIRTUAL_PROCESSORS: sum(1 for _ in self._vps())}

    def of_processor(self) -> Counters:
        """`ProcessorCounter`, of the one there is."""
        C, clock = ProcessorCounter, self._hypervisor.clock
        interrupts = self._past_interrupts + sum(vp.exit_counts[R.EXTERNAL_INTERRUPT] for vp in self._vps())
        return {C.GLOBAL_TIME: clock.time_100ns, C.TOTAL_RUN_TIME: self.run_ticks // TICKS_PER_100NS,
                C.HYPERVISOR_RUN_TIME: self.hypervisor_ticks // TICKS_PER_100NS, C.HARDWARE_INTERRUPTS: interrupts,
                C.GLOBAL_TSC_COUNT: clock.tsc}


def _announce(viewer: Partition, gpa: int | None) -> None:
    if viewer.trace.listening:
        viewer.trace.emit(OverlayMoved(_NAME, gpa))


def msr_key(vp: VirtualProcessor, msr: int, of_vp: bool) -> Hashable:
    """What a page is called that a guest maps by MSR."""
    return "msr", msr, vp.index if of_vp else None


def _is_of_vp(key: Hashable, index: int) -> bool:
    return isinstance(key, tuple) and key[0] == "msr" and key[2] == index


def do_nothing() -> None:
    """What is done before a VP runs while no counters are mapped."""


def hypervisor_ticks(vp: VirtualProcessor) -> int:
    """Ticks that the hypervisor spent on *vp*: an exit takes EXIT_TICKS, a rep of a call what it takes."""
    return sum(vp.exit_counts) * EXIT_TICKS + (vp.caller.rep_ticks if vp.caller else 0)


def of_partition(partition: Partition) -> Counters:
    """`PartitionCounter`."""
    C, pool = PartitionCounter, partition.pool
    gpa_pages = partition.space.mapped_count if partition.state is PartitionState.ACTIVE else 0
    return {C.VIRTUAL_PROCESSORS: len(partition.vps), C.DEPOSITED_PAGES: pool.available + pool.in_use,
            C.GPA_PAGES: gpa_pages, C.ATTACHED_DEVICES: len(partition.devices),
            C.PARTITION_ID: partition.id, C.ACTIVE_CHILD_PARTITIONS: len(partition.children)}


def of_vp(vp: VirtualProcessor) -> Counters:
    """`VpCounter`."""
    counters = {_RUN_TIME: vp.runtime_100ns, _HYPERVISOR_TIME: hypervisor_ticks(vp) // TICKS_PER_100NS,
                _CALLS_TIME: 0}
    for reason, times in enumerate(vp.exit_counts):
        if times:                       # of a few reasons: this is done before every run of a VP
            place = _PLACES[reason]
            counters[place] = counters.get(place, 0) + times
            counters[place + 1] = counters[place] * EXIT_TICKS // TICKS_PER_100NS
    if vp.caller is not None:
        counters[_CALLS_TIME] += vp.caller.rep_ticks // TICKS_PER_100NS
    return counters


def exits_of(vps: Iterable[VirtualProcessor]) -> Counters:
    """How often each basic exit reason came."""
    return dict(enumerate(map(sum, zip(*(vp.exit_counts for vp in vps), strict=True))))
