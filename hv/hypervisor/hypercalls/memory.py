"""The GPA map of a child: pages of root's that stand in it; TLFS "Guest Physical Address Spaces".

A page that root names as a source is its own gpa, which is the spa.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import Call, Reps, hypercall, require
from hv.hypervisor.memory.gpa_space import GPA_SPACE_PAGES
from hv.hypervisor.partitions.partition import Partition, PartitionState
from hv.machine.faults import Access
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.memory import (
    GpaMapping,
    GpaPageNumber,
    MapGpaPagesInput,
    SparseGpaPagesInput,
    UnmapGpaPagesInput,
)
from hv.spec.partition import HvMapGpaFlags, HvUnmapGpaFlags
from hv.spec.x86 import LARGE_PAGES
from hv.trace.events import PagesMapped, PagesUnmapped

_F = HvMapGpaFlags
_LARGE = int(_F.LARGE_PAGE)
_ACCEPTED = int(_F.READABLE | _F.WRITABLE | _F.EXECUTABLE | _F.ADJUSTABLE | _F.NO_ACCESS | _F.NOT_CACHED | _LARGE)
_LARGE_WEIGHT = 32              # usual reps: so much work are 512 pages that change at once
_UNMAP_LARGE = int(HvUnmapGpaFlags.LARGE_PAGE)
_UNMAP_ACCEPTED = _UNMAP_LARGE | int(HvUnmapGpaFlags.KEEP_PRECOMMITTED)


@hypercall(HypercallCode.MAP_GPA_PAGES, input=MapGpaPagesInput, rep_input=GpaPageNumber)
def map_gpa_pages(call: Call, input: MapGpaPagesInput, reps: Reps) -> None:
    """Pages of the caller stand at consecutive pages of a child from *target_gpa_base* on; with LARGE_PAGE each rep is
    2 MiB, and all addresses are multiples of that."""
    partition = call.find_child(input.target_partition_id)
    partition.require_state(PartitionState.ACTIVE)
    rights, unit = _rights(input.map_flags), _unit(input.map_flags & _LARGE)
    _check_range(input.target_gpa_base, reps.count * unit, unit)
    with _changes(call, partition, reps, input.target_gpa_base, unit, rights):
        for n, element in enumerate(reps, reps.start):
            _map(call, partition, reps, input.target_gpa_base + n * unit, element.page_number, rights, unit)


@hypercall(HypercallCode.UNMAP_GPA_PAGES, input=UnmapGpaPagesInput, rep=True)
def unmap_gpa_pages(call: Call, input: UnmapGpaPagesInput, reps: Reps) -> None:
    """Nothing stands at *rep count* pages of a child any more, of 2 MiB with LARGE_PAGE; a page where nothing stood is
    no error, and so in a finalized partition none is."""
    partition = call.find_child(input.target_partition_id)
    partition.require_state(PartitionState.ACTIVE, PartitionState.FINALIZED)
    require(not input.unmap_flags & ~_UNMAP_ACCEPTED, f"unmap flags {input.unmap_flags:#x}")
    unit = _unit(input.unmap_flags & _UNMAP_LARGE)
    _check_range(input.target_gpa_base, reps.count * unit, unit)
    with _changes(call, partition, reps, input.target_gpa_base, unit, None):
        for n in reps:
            _unmap(partition, reps, input.target_gpa_base + n * unit, unit)


@hypercall(HypercallCode.MAP_SPARSE_GPA_PAGES, input=SparseGpaPagesInput, rep_input=GpaMapping)
def map_sparse_gpa_pages(call: Call, input: SparseGpaPagesInput, reps: Reps) -> None:
    """Like MapGpaPages, with a target of its own for each page."""
    partition = call.find_child(input.target_partition_id)
    partition.require_state(PartitionState.ACTIVE)
    rights, unit = _rights(input.map_flags), _unit(input.map_flags & _LARGE)
    try:
        for element in reps:
            _check_range(element.target_gpa_page, unit, unit)
            _map(call, partition, reps, element.target_gpa_page, element.source_gpa_page, rights, unit)
            call.emit(PagesMapped(partition.id, element.target_gpa_page << 12, unit, int(rights)))
    finally:
        partition.space.invept()


@hypercall(HypercallCode.MODIFY_SPARSE_GPA_PAGES, input=SparseGpaPagesInput, rep_input=GpaPageNumber)
def modify_sparse_gpa_pages(call: Call, input: SparseGpaPagesInput, reps: Reps) -> None:
    """Pages that stand in a child have other rights; INVALID_PARAMETER where nothing stands, and for LARGE_PAGE."""
    partition = call.find_child(input.target_partition_id)
    partition.require_state(PartitionState.ACTIVE)
    rights = _rights(input.map_flags)
    require(not input.map_flags & _LARGE, "rights are changed page by page")
    try:
        for element in reps:
            page = element.page_number
            standing = partition.space.mapping(page)
            if standing is None:
                raise HypercallError(HvStatus.INVALID_PARAMETER, f"nothing stands at gpa page {page:#x}")
            partition.space.map(page, standing.spa >> 12, rights)
            call.emit(PagesMapped(partition.id, page << 12, 1, int(rights)))
    finally:
        partition.space.invept()


@contextmanager
def _changes(call: Call, partition: Partition, reps: Reps, base: int, unit: int,
             rights: Access | None) -> Iterator[None]:
    """However the reps inside end, the processors know of what they did, and the trace too."""
    try:
        yield
    finally:
        if partition.state is PartitionState.ACTIVE:
            partition.space.invept()
        first, count = (base + reps.start * unit) << 12, (reps.done - reps.start) * unit
        if count:
            call.emit(PagesUnmapped(partition.id, first, count) if rights is None else
                      PagesMapped(partition.id, first, count, int(rights)))


def _map(call: Call, partition: Partition, reps: Reps, target: int, source: int, rights: Access, unit: int) -> None:
    mapping = call.partition.space.mapping(source)
    if mapping is None:
        raise HypercallError(HvStatus.OPERATION_DENIED, f"page {source:#x} is not the caller's")
    if source % unit:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"page {source:#x} is no multiple of {unit}")
    if unit == 1:
        partition.space.map(target, mapping.spa >> 12, rights)
    else:
        _weigh(reps, partition.space.map_large(target, mapping.spa >> 12, rights))


def _unmap(partition: Partition, reps: Reps, page: int, unit: int) -> None:
    if partition.state is not PartitionState.ACTIVE:
        return
    if unit == 1:
        partition.space.unmap(page)
    else:
        _weigh(reps, partition.space.unmap_large(page))


def _weigh(reps: Reps, page_by_page: bool) -> None:
    reps.weigh(LARGE_PAGES if page_by_page else _LARGE_WEIGHT)


def _unit(large: int) -> int:
    """How many pages of 4 KiB one rep is."""
    return LARGE_PAGES if large else 1


def _check_range(first: int, count: int, unit: int) -> None:
    require(not first % unit, f"gpa page {first:#x} is no multiple of {unit}")
    require(first + count <= GPA_SPACE_PAGES, f"pages {first:#x}+{count:#x} exceed the GPA space")


def _rights(flags: int) -> Access:
    """The rights of HV_MAP_GPA_FLAGS; INVALID_PARAMETER for write or execute without read, and for unknown flags.

    # Simplified: without mode-based execute control a page is executable for user and kernel, or for neither.
    """
    require(not flags & ~_ACCEPTED, f"map flags {flags & ~_ACCEPTED:#x} are unknown or not built")
    rights = Access(0)
    if flags & _F.READABLE:
        rights |= Access.READ
    if flags & _F.WRITABLE:
        rights |= Access.WRITE
    if flags & _F.EXECUTABLE:
        require(flags & _F.EXECUTABLE == _F.EXECUTABLE, f"map flags {flags:#x}: execute for user or kernel alone")
        rights |= Access.EXECUTE
    require(rights & Access.READ or not rights, f"map flags {flags:#x}: write or execute needs read")
    require(not rights or not flags & _F.NO_ACCESS, f"map flags {flags:#x}: rights of an inaccessible page")
    return rights
