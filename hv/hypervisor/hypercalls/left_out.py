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
    **dict.fromkeys((C.FLUSH_GUEST_PHYSICAL_ADDRESS_SPACE, C.FLUSH_GUEST_PHYSICAL_ADDRESS_LIST), _NOT_NESTED),
}


def reason(code: HypercallCode) -> str:
    """Why the call *code* is not built."""
    return LEFT_OUT.get(code, "not built yet")
