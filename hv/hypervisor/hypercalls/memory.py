"""Memory: pools, the GPA map, access to a child's memory; TLFS "Guest Physical Address Spaces".

Only root has memory to give: a page it names is its own gpa, which is the spa, and no child's call ever names one.
"""

from __future__ import annotations

from typing import Any

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.gpa_space import GPA_SPACE_PAGES
from hv.hypervisor.hypercalls.registry import Call, Reps, hypercall, require, require_any_node
from hv.hypervisor.pages import PageOwners
from hv.hypervisor.partition import Partition, PartitionState
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.paging import PagingMode, walk
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.memory import (
    AccessGpaResult,
    DepositMemoryInput,
    GetMemoryBalanceOutput,
    GpaPageNumber,
    MapGpaPagesInput,
    ReadGpaInput,
    ReadGpaOutput,
    TranslateGvaFlags,
    TranslateGvaResult,
    TranslateVirtualAddressInput,
    TranslateVirtualAddressOutput,
    UnmapGpaPagesInput,
    WithdrawMemoryInput,
    WriteGpaInput,
    WriteGpaOutput,
)
from hv.spec.partition import HvMapGpaFlags, HvUnmapGpaFlags
from hv.spec.x86 import LARGE_PAGES, PAGE_SIZE, PageFaultError, Vector
from hv.trace.events import MemoryDeposited, PagesMapped, PagesUnmapped

MAX_TRANSFER = 16               # bytes of one ReadGpa or WriteGpa
CACHE_WRITE_BACK = 6
_CACHE_TYPE = 0xFF
_F = HvMapGpaFlags
_ACCEPTED = int(_F.READABLE | _F.WRITABLE | _F.EXECUTABLE | _F.ADJUSTABLE | _F.NO_ACCESS | _F.NOT_CACHED
                | _F.LARGE_PAGE)
_U64 = (1 << 64) - 1


@hypercall(HypercallCode.DEPOSIT_MEMORY, input=DepositMemoryInput, rep_input=GpaPageNumber,
           privilege=HvPrivilege.ACCESS_MEMORY_POOL)
def deposit_memory(call: Call, input: DepositMemoryInput, reps: Reps) -> None:
    """Pages of the caller go into a pool; it cannot reach them until it withdraws them."""
    partition = call.find(input.partition_id)
    partition.require_state(PartitionState.CREATED, PartitionState.ACTIVE)
    owners = call.hypervisor.owners
    require(call.partition.is_root, "only root has pages of its own", HvStatus.OPERATION_DENIED)
    try:
        for element in reps:
            require(owners.is_root(element.page_number), f"page {element.page_number:#x} is not the caller's")
            _deposit(owners, partition, element.page_number)
    finally:
        call.partition.space.invept()
        _announce_deposit(call, partition, reps.done - reps.start)


def _deposit(owners: PageOwners, partition: Partition, page: int) -> None:
    """A page that root gives itself when it has no other may become the table of root's that says it is gone."""
    pool = partition.pool
    pays_for_itself = partition.is_root and not pool.available
    if pays_for_itself:
        pool.deposit(page << 12)
    try:
        owners.take(page)
    except HypercallError:
        if pays_for_itself:
            pool.take_back(page << 12)
        raise
    if not pays_for_itself:
        pool.deposit(page << 12)


@hypercall(HypercallCode.WITHDRAW_MEMORY, input=WithdrawMemoryInput, rep_output=GpaPageNumber,
           privilege=HvPrivilege.ACCESS_MEMORY_POOL)
def withdraw_memory(call: Call, input: WithdrawMemoryInput, reps: Reps) -> None:
    """Unused pages of a pool come back, wiped; NO_RESOURCES ends the list when there are no more."""
    partition = call.find(input.partition_id)
    require(call.partition.is_root, "only root has pages of its own", HvStatus.OPERATION_DENIED)
    require_any_node(input.proximity_domain_info)
    try:
        for _ in reps:
            page = partition.pool.withdraw() >> 12
            _give_back(call.hypervisor.owners, partition, page)
            reps.answer(GpaPageNumber(page_number=page))
    finally:
        call.partition.space.invept()
        _announce_deposit(call, partition, reps.start - reps.done)


def _give_back(owners: PageOwners, partition: Partition, page: int) -> None:
    try:
        owners.give_back(page)
    except HypercallError:
        partition.pool.deposit(page << 12)
        raise


def _announce_deposit(call: Call, partition: Partition, count: int) -> None:
    if count:
        call.emit(MemoryDeposited(partition.id, count))


@hypercall(HypercallCode.GET_MEMORY_BALANCE, input=WithdrawMemoryInput, output=GetMemoryBalanceOutput,
           privilege=HvPrivilege.ACCESS_MEMORY_POOL)
def get_memory_balance(call: Call, input: WithdrawMemoryInput) -> GetMemoryBalanceOutput:
    """What a pool has, and what of it is used."""
    require_any_node(input.proximity_domain_info)
    pool = call.find(input.partition_id).pool
    return GetMemoryBalanceOutput(pages_available=pool.available, pages_in_use=pool.in_use)


@hypercall(HypercallCode.MAP_GPA_PAGES, input=MapGpaPagesInput, rep_input=GpaPageNumber)
def map_gpa_pages(call: Call, input: MapGpaPagesInput, reps: Reps) -> None:
    """Pages of the caller stand at consecutive pages of a child from *target_gpa_base* on; with LARGE_PAGE each rep is
    2 MiB, and all addresses are multiples of that."""
    partition = call.find_child(input.target_partition_id)
    space, rights = partition.space, _rights(input.map_flags)
    large = bool(input.map_flags & _F.LARGE_PAGE)
    unit = LARGE_PAGES if large else 1
    require(not input.target_gpa_base % unit, f"gpa page {input.target_gpa_base:#x} is no multiple of {unit}")
    _check_range(input.target_gpa_base, reps.count * unit)
    target = input.target_gpa_base + reps.start * unit
    try:
        for element in reps:
            source = call.partition.space.mapping(element.page_number)
            if source is None:
                raise HypercallError(HvStatus.OPERATION_DENIED, f"page {element.page_number:#x} is not the caller's")
            if element.page_number % unit:
                text = f"page {element.page_number:#x} is no multiple of {unit}"
                raise HypercallError(HvStatus.INVALID_PARAMETER, text)
            (space.map_large if large else space.map)(target, source.spa >> 12, rights)
            target += unit
    finally:
        space.invept()
        if reps.done > reps.start:
            first = input.target_gpa_base + reps.start * unit
            call.emit(PagesMapped(partition.id, first << 12, (reps.done - reps.start) * unit, int(rights)))


@hypercall(HypercallCode.UNMAP_GPA_PAGES, input=UnmapGpaPagesInput, rep=True)
def unmap_gpa_pages(call: Call, input: UnmapGpaPagesInput, reps: Reps) -> None:
    """Nothing stands at *rep count* pages of a child any more; a page where nothing stood is no error."""
    partition = call.find_child(input.target_partition_id)
    space = partition.space
    require(not input.unmap_flags & ~int(HvUnmapGpaFlags.KEEP_PRECOMMITTED), f"unmap flags {input.unmap_flags:#x}")
    _check_range(input.target_gpa_base, reps.count)
    try:
        for n in reps:
            space.unmap(input.target_gpa_base + n)
    finally:
        space.invept()
        if reps.done > reps.start:
            first = input.target_gpa_base + reps.start
            call.emit(PagesUnmapped(partition.id, first << 12, reps.done - reps.start))


def _check_range(first: int, count: int) -> None:
    require(first + count <= GPA_SPACE_PAGES, f"pages {first:#x}+{count:#x} exceed the GPA space")


def _rights(flags: int) -> Access:
    """The rights of HV_MAP_GPA_FLAGS; INVALID_PARAMETER for write or execute without read, and for unknown flags.

    # Simplified: user and kernel execute are one right.
    """
    require(not flags & ~_ACCEPTED, f"map flags {flags & ~_ACCEPTED:#x} are unknown or not built")
    rights = Access(0)
    if flags & _F.READABLE:
        rights |= Access.READ
    if flags & _F.WRITABLE:
        rights |= Access.WRITE
    if flags & _F.EXECUTABLE:
        rights |= Access.EXECUTE
    require(rights & Access.READ or not rights, f"map flags {flags:#x}: write or execute needs read")
    require(not rights or not flags & _F.NO_ACCESS, f"map flags {flags:#x}: rights of an inaccessible page")
    return rights


@hypercall(HypercallCode.READ_GPA, input=ReadGpaInput, output=ReadGpaOutput)
def read_gpa(call: Call, input: ReadGpaInput) -> ReadGpaOutput:
    """Up to 16 bytes of a child's memory, with the child's rights."""
    partition = _accessed(call, input)
    try:
        data = partition.space.read(input.base_gpa, input.byte_count)
    except NestedFault:
        return ReadGpaOutput(access_result=_refusal(partition, input.base_gpa, AccessGpaResult.READ_INTERCEPT))
    return ReadGpaOutput(access_result=AccessGpaResult.SUCCESS, data=data.ljust(MAX_TRANSFER, b"\0"))


@hypercall(HypercallCode.WRITE_GPA, input=WriteGpaInput, output=WriteGpaOutput)
def write_gpa(call: Call, input: WriteGpaInput) -> WriteGpaOutput:
    """Up to 16 bytes into a child's memory, with the child's rights."""
    partition, data = _accessed(call, input), bytes(memoryview(input.pack())[-MAX_TRANSFER:])
    try:
        partition.space.write(input.base_gpa, data[: input.byte_count])
    except NestedFault:
        return WriteGpaOutput(access_result=_refusal(partition, input.base_gpa, AccessGpaResult.WRITE_INTERCEPT))
    return WriteGpaOutput(access_result=AccessGpaResult.SUCCESS)


def _accessed(call: Call, input: Any) -> Partition:
    partition = call.find_child(input.partition_id)
    partition.vp(input.vp_index)
    require(input.byte_count <= MAX_TRANSFER, f"{input.byte_count} bytes; at most {MAX_TRANSFER}")
    require((input.base_gpa & PAGE_SIZE - 1) + input.byte_count <= PAGE_SIZE, f"{input.base_gpa:#x} spans pages")
    require(not input.control_flags & ~_CACHE_TYPE, f"reserved control flags {input.control_flags:#x}")
    return partition


def _refusal(partition: Partition, gpa: int, forbidden: AccessGpaResult) -> AccessGpaResult:
    page = gpa >> 12
    if partition.space.visible(page) is None:
        return AccessGpaResult.UNMAPPED
    return AccessGpaResult.ILLEGAL_OVERLAY_ACCESS if partition.space.overlay_at(page) else forbidden


@hypercall(HypercallCode.TRANSLATE_VIRTUAL_ADDRESS, input=TranslateVirtualAddressInput,
           output=TranslateVirtualAddressOutput)
def translate_virtual_address(call: Call, input: TranslateVirtualAddressInput) -> TranslateVirtualAddressOutput:
    """Walk a VP's own page tables. The call succeeds even if the translation does not: look at the result code."""
    partition, flags = call.find(input.partition_id), TranslateGvaFlags(input.control_flags)
    vp = call.find_vp(partition, input.vp_index)
    access = Access(flags.raw & 7)
    require(access and not flags.raw & TranslateGvaFlags.RESERVED, f"translate flags {flags.raw:#x}")
    space, gva = partition.space, input.gva_page << 12 & _U64
    cpl = 0 if flags.privilege_exempt or flags.supervisor_access else 3 if flags.user_access else vp.regs.cpl
    try:
        found = walk(PagingMode.of(vp.regs), gva, access, cpl,
                     lambda gpa, size: int.from_bytes(space.read(gpa, size), "little"))
    except GuestFault as fault:
        return TranslateVirtualAddressOutput(result_code=_fault_result(fault))
    except NestedFault:
        return TranslateVirtualAddressOutput(result_code=TranslateGvaResult.GPA_UNMAPPED)
    page = found.gpa >> 12
    return TranslateVirtualAddressOutput(result_code=_gpa_result(partition, page, access), cache_type=CACHE_WRITE_BACK,
                                         overlay_page=int(space.overlay_at(page) is not None), gpa_page=page)


def _fault_result(fault: GuestFault) -> TranslateGvaResult:
    code = PageFaultError(fault.error_code or 0)
    if fault.vector != Vector.PF or not code & PageFaultError.PRESENT:
        return TranslateGvaResult.PAGE_NOT_PRESENT
    if code & PageFaultError.RESERVED:
        return TranslateGvaResult.INVALID_PAGE_TABLE_FLAGS
    return TranslateGvaResult.PRIVILEGE_VIOLATION


def _gpa_result(partition: Partition, page: int, access: Access) -> TranslateGvaResult:
    mapping = partition.space.visible(page)
    if mapping is None:
        return TranslateGvaResult.GPA_UNMAPPED
    missing = access & ~mapping.rights
    if missing and partition.space.overlay_at(page):
        return TranslateGvaResult.GPA_ILLEGAL_OVERLAY_ACCESS
    if missing & Access.WRITE and mapping.rights & Access.READ:
        return TranslateGvaResult.GPA_NO_WRITE_ACCESS
    return TranslateGvaResult.GPA_NO_READ_ACCESS if missing else TranslateGvaResult.SUCCESS
