"""A child's memory as its VPs see it: read, write, and what its page tables make of an address.

TLFS "HvCallReadGpa", "HvCallWriteGpa", "HvCallTranslateVirtualAddress".
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hv.hypervisor.hypercalls.registry import Call, hypercall, require, require_vtl0
from hv.hypervisor.memory.gpa_space import GpaSpace
from hv.hypervisor.partitions.partition import Partition
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.paging import PagingMode, walk
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.memory import (
    AccessGpaResult,
    ReadGpaInput,
    ReadGpaOutput,
    TranslateGvaFlags,
    TranslateGvaResult,
    TranslateVirtualAddressExOutput,
    TranslateVirtualAddressInput,
    TranslateVirtualAddressOutput,
    WriteGpaInput,
    WriteGpaOutput,
)
from hv.spec.x86 import PAGE_SIZE, PageFaultError, Vector

MAX_TRANSFER = 16               # bytes of one ReadGpa or WriteGpa
CACHE_WRITE_BACK = 6
_CACHE_TYPE = 0xFF
_U64 = (1 << 64) - 1


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


class _Found(NamedTuple):
    """What became of a translation. *page* is the gpa page it came to, where there is one."""

    result: TranslateGvaResult
    page: int = 0


@hypercall(HypercallCode.TRANSLATE_VIRTUAL_ADDRESS, input=TranslateVirtualAddressInput,
           output=TranslateVirtualAddressOutput)
def translate_virtual_address(call: Call, input: TranslateVirtualAddressInput) -> TranslateVirtualAddressOutput:
    """Walk a VP's own page tables. The call succeeds even if the translation does not: look at the result code."""
    partition, (result, page) = _translate(call, input)
    return TranslateVirtualAddressOutput(result_code=result, cache_type=_cache_type(result),
                                         overlay_page=_is_overlay(partition, page), gpa_page=page)


@hypercall(HypercallCode.TRANSLATE_VIRTUAL_ADDRESS_EX, input=TranslateVirtualAddressInput,
           output=TranslateVirtualAddressExOutput)
def translate_virtual_address_ex(call: Call, input: TranslateVirtualAddressInput) -> TranslateVirtualAddressExOutput:
    """The same, for the parent. No result here is INTERCEPT, so none has an event."""
    call.find_child(input.partition_id)
    partition, (result, page) = _translate(call, input)
    return TranslateVirtualAddressExOutput(result_code=result, cache_type=_cache_type(result),
                                           overlay_page=_is_overlay(partition, page), gpa_page=page)


def _cache_type(result: TranslateGvaResult) -> int:
    return CACHE_WRITE_BACK if result == TranslateGvaResult.SUCCESS else 0


def _is_overlay(partition: Partition, page: int) -> int:
    return int(partition.space.overlay_at(page) is not None)


def _translate(call: Call, input: TranslateVirtualAddressInput) -> tuple[Partition, _Found]:
    """INVALID_PARAMETER unless some access is validated, and for what is reserved or asks for shadow stacks."""
    partition, flags = call.find(input.partition_id), TranslateGvaFlags(input.control_flags)
    vp = call.find_vp(partition, input.vp_index)
    access = Access(flags.raw & 7)
    require(access and not flags.raw & TranslateGvaFlags.RESERVED, f"translate flags {flags.raw:#x}")
    require(not flags.shadow_stack, "shadow stacks are not built")
    require_vtl0(flags.input_vtl)
    return partition, _walk(vp, partition.space, input.gva_page << 12 & _U64, access, flags)


def _walk(vp: VirtualProcessor, space: GpaSpace, gva: int, access: Access, flags: TranslateGvaFlags) -> _Found:
    """The guest's tables first, then the rights of the page that they name."""
    def load(gpa: int, size: int) -> int:
        return int.from_bytes(space.read(gpa, size), "little")

    def store(gpa: int, value: int, size: int) -> None:
        space.write(gpa, value.to_bytes(size, "little"))

    cpl = 0 if flags.privilege_exempt or flags.supervisor_access else 3 if flags.user_access else vp.regs.cpl
    try:
        found = walk(_mode(vp, flags), gva, access, cpl, load, store if flags.set_page_table_bits else None,
                     implicit=bool(flags.enforce_smap))
    except GuestFault as fault:
        return _Found(_fault_result(fault))
    except NestedFault as fault:
        return _Found(_gpa_result(space, fault.gpa >> 12, fault.access), fault.gpa >> 12)
    return _Found(_gpa_result(space, found.gpa >> 12, access), found.gpa >> 12)


def _mode(vp: VirtualProcessor, flags: TranslateGvaFlags) -> PagingMode:
    """How the VP translates now; who is exempt from privileges meets neither SMAP nor SMEP."""
    mode = PagingMode.of(vp.regs)
    if flags.privilege_exempt:
        return mode._replace(smap=False, smep=False)
    return mode._replace(smap=False) if flags.override_smap else mode


def _fault_result(fault: GuestFault) -> TranslateGvaResult:
    code = PageFaultError(fault.error_code or 0)
    if fault.vector != Vector.PF or not code & PageFaultError.PRESENT:
        return TranslateGvaResult.PAGE_NOT_PRESENT
    if code & PageFaultError.RESERVED:
        return TranslateGvaResult.INVALID_PAGE_TABLE_FLAGS
    return TranslateGvaResult.PRIVILEGE_VIOLATION


def _gpa_result(space: GpaSpace, page: int, access: Access) -> TranslateGvaResult:
    mapping = space.visible(page)
    if mapping is None:
        return TranslateGvaResult.GPA_UNMAPPED
    missing = access & ~mapping.rights
    if missing and space.overlay_at(page):
        return TranslateGvaResult.GPA_ILLEGAL_OVERLAY_ACCESS
    if missing & Access.WRITE and mapping.rights & Access.READ:
        return TranslateGvaResult.GPA_NO_WRITE_ACCESS
    return TranslateGvaResult.GPA_NO_READ_ACCESS if missing else TranslateGvaResult.SUCCESS
