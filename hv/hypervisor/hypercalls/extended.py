"""Extended hypercalls: so far the one by which a guest asks which others there are.

TLFS "Extended Hypercall Interface". A call whose capability is not offered is INVALID_HYPERCALL_CODE, which the door
says; ACCESS_DENIED comes first for a partition without EnableExtendedHypercalls.
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.registry import HYPERCALLS, Call, hypercall
from hv.spec.cpuid import HvPrivilege
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.extended import HvExtCapability, QueryCapabilitiesOutput

_OFFERED_WITH = {
    C.EXT_CALL_GET_BOOT_ZEROED_MEMORY: HvExtCapability.GET_BOOT_ZEROED_MEMORY,
    C.EXT_CALL_MEMORY_HEAT_HINT: HvExtCapability.MEMORY_HEAT_HINT,
    C.EXT_CALL_EPF_SETUP: HvExtCapability.EPF_SETUP,
    C.EXT_CALL_MEMORY_HEAT_HINT_ASYNC: HvExtCapability.MEMORY_HEAT_HINT_ASYNC,
}


@hypercall(C.EXT_CALL_QUERY_CAPABILITIES, output=QueryCapabilitiesOutput,
           privilege=HvPrivilege.ENABLE_EXTENDED_HYPERCALLS)
def query_capabilities(call: Call) -> QueryCapabilitiesOutput:
    """The extended calls that are built."""
    offered = sum(bit.value for code, bit in _OFFERED_WITH.items() if int(code) in HYPERCALLS)
    return QueryCapabilitiesOutput(capabilities=offered)
