"""The calls that are not built, each with the reason; a test sees that every code is built or stands here."""

from __future__ import annotations

from hv.spec.hypercalls.codes import HypercallCode

C = HypercallCode
_NO_VSM = "virtual secure mode (VTLs) is not built"
_NOT_NESTED = "a guest is offered no virtualization of its own"
_ONE_PROCESSOR = "the machine's one logical processor comes and goes with it"
_NO_LAYOUT = "no public document gives its layout"
_NO_PASID = "the IOMMU has no PASIDs"

LEFT_OUT: dict[HypercallCode, str] = {
    **dict.fromkeys((C.MODIFY_VTL_PROTECTION_MASK, C.ENABLE_PARTITION_VTL, C.DISABLE_PARTITION_VTL, C.ENABLE_VP_VTL,
                     C.DISABLE_VP_VTL, C.VTL_CALL, C.VTL_RETURN), _NO_VSM),
    **dict.fromkeys((C.CHECK_SPARSE_GPA_PAGE_VTL_ACCESS, C.QUERY_VTL_PROTECTION_MASK_RANGE,
                     C.MODIFY_VTL_PROTECTION_MASK_RANGE), _NO_VSM),
    **dict.fromkeys((C.ACCEPT_GPA_PAGES, C.UNACCEPT_GPA_PAGES, C.MODIFY_SPARSE_GPA_PAGE_HOST_VISIBILITY,
                     C.QUERY_SPARSE_GPA_PAGE_HOST_VISIBILITY, C.ACQUIRE_SPARSE_GPA_PAGE_HOST_ACCESS,
                     C.RELEASE_SPARSE_GPA_PAGE_HOST_ACCESS, C.ACQUIRE_SPARSE_SPA_PAGE_HOST_ACCESS,
                     C.RELEASE_SPARSE_SPA_PAGE_HOST_ACCESS), "isolated partitions are not built"),
    **dict.fromkeys((C.GET_SPA_PAGE_LIST, C.SET_GPA_PAGE_ATTRIBUTES, C.PRECOMMIT_GPA_PAGES, C.UNCOMMIT_GPA_PAGES,
                     C.GET_SYSTEM_PROPERTY, C.SET_SYSTEM_PROPERTY, C.GET_LOGICAL_PROCESSOR_PROPERTY,
                     C.SET_LOGICAL_PROCESSOR_PROPERTY, C.QUERY_NUMA_DISTANCE), _NO_LAYOUT),
    **dict.fromkeys((C.PIN_GPA_PAGE_RANGES, C.UNPIN_GPA_PAGE_RANGES, C.MEMORY_MAPPED_IO_READ,
                     C.MEMORY_MAPPED_IO_WRITE), "no public document says what it does beyond its layout"),
    **dict.fromkeys((C.GET_GPA_PAGES_ACCESS_STATE, C.GET_SPARSE_GPA_PAGES_ACCESS_STATE),
                    "the tables of a child keep no accessed and dirty flags"),
    **dict.fromkeys((C.FLUSH_GUEST_PHYSICAL_ADDRESS_SPACE, C.FLUSH_GUEST_PHYSICAL_ADDRESS_LIST), _NOT_NESTED),
}


def reason(code: HypercallCode) -> str:
    """Why the call *code* is not built."""
    return LEFT_OUT.get(code, "not built yet")
