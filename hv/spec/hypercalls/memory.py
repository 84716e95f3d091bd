"""Inputs and outputs of the memory calls; TLFS "Guest Physical Address Spaces", "Memory Management"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, Register, bits, raw, u8, u16, u32, u64
from hv.spec.numbering import Numbering


class GpaPageNumber(Layout):
    """An element: the number of one guest-physical page of the caller."""

    page_number: u64


class DepositMemoryInput(Layout):
    """HvCallDepositMemory; the elements are `GpaPageNumber`."""

    partition_id: u64


class WithdrawMemoryInput(Layout):
    """HvCallWithdrawMemory; the output elements are `GpaPageNumber`."""

    partition_id: u64
    proximity_domain_info: u64


class GetMemoryBalanceOutput(Layout):
    """HvCallGetMemoryBalance, in pages."""

    pages_available: u64
    pages_in_use: u64


class MapGpaPagesInput(Layout):
    """HvCallMapGpaPages; the elements are `GpaPageNumber`s of the caller, mapped at consecutive target pages."""

    target_partition_id: u64
    target_gpa_base: u64                # a page number
    map_flags: u32                      # HvMapGpaFlags
    padding: u32


class UnmapGpaPagesInput(Layout):
    """HvCallUnmapGpaPages; the rep count is the number of pages, there is no list."""

    target_partition_id: u64
    target_gpa_base: u64
    unmap_flags: u32
    padding: u32


class SparseGpaPagesInput(Layout):
    """HvCallMapSparseGpaPages, elements `GpaMapping`; HvCallModifySparseGpaPages, elements `GpaPageNumber`."""

    target_partition_id: u64
    map_flags: u32
    padding: u32


class GpaMapping(Layout):
    """One page of HvCallMapSparseGpaPages."""

    target_gpa_page: u64
    source_gpa_page: u64                # of the caller


class TranslateVirtualAddressInput(Layout):
    """HvCallTranslateVirtualAddress."""

    partition_id: u64
    vp_index: u32
    padding: u32
    control_flags: u64                  # TranslateGvaFlags
    gva_page: u64


class TranslateVirtualAddressOutput(Layout):
    """HvCallTranslateVirtualAddress. The call succeeds when the translation does not."""

    result_code: u32                    # TranslateGvaResult
    cache_type: u8
    overlay_page: u8
    padding: u16
    gpa_page: u64


class TranslateVirtualAddressExOutput(Layout):
    """HvCallTranslateVirtualAddressEx; the event is that of result INTERCEPT."""

    result_code: u32
    cache_type: u8
    overlay_page: u8
    padding: u16
    reserved0: u64
    event_info: raw[32]
    gpa_page: u64
    reserved1: u64


class TranslateGvaFlags(Register):
    """HV_TRANSLATE_GVA_CONTROL_FLAGS."""

    validate_read = bits(0)
    validate_write = bits(1)
    validate_execute = bits(2)
    privilege_exempt = bits(3)
    set_page_table_bits = bits(4)
    tlb_flush_inhibit = bits(5)
    supervisor_access = bits(6)
    user_access = bits(7)
    enforce_smap = bits(8)              # as for the processor's own accesses: RFLAGS.AC excuses nothing
    override_smap = bits(9)
    shadow_stack = bits(10)
    input_vtl = bits(63, 56)            # HvInputVtl


class TranslateGvaResult(Numbering):
    """HV_TRANSLATE_GVA_RESULT_CODE."""

    SUCCESS = 0
    PAGE_NOT_PRESENT = 1
    PRIVILEGE_VIOLATION = 2
    INVALID_PAGE_TABLE_FLAGS = 3
    GPA_UNMAPPED = 4
    GPA_NO_READ_ACCESS = 5
    GPA_NO_WRITE_ACCESS = 6
    GPA_ILLEGAL_OVERLAY_ACCESS = 7
    INTERCEPT = 8


class ReadGpaInput(Layout):
    """HvCallReadGpa: at most 16 bytes, within one page."""

    partition_id: u64
    vp_index: u32
    byte_count: u32
    base_gpa: u64                       # a byte address
    control_flags: u64                  # bits 7..0: cache type


class ReadGpaOutput(Layout):
    """HvCallReadGpa."""

    access_result: u64                  # AccessGpaResult
    data: raw[16]


class WriteGpaInput(Layout):
    """HvCallWriteGpa: at most 16 bytes, within one page."""

    partition_id: u64
    vp_index: u32
    byte_count: u32
    base_gpa: u64
    control_flags: u64
    data: raw[16]


class WriteGpaOutput(Layout):
    """HvCallWriteGpa."""

    access_result: u64


class AccessGpaResult(Numbering):
    """HV_ACCESS_GPA_RESULT_CODE."""

    SUCCESS = 0
    UNMAPPED = 1
    READ_INTERCEPT = 2
    WRITE_INTERCEPT = 3
    ILLEGAL_OVERLAY_ACCESS = 4
