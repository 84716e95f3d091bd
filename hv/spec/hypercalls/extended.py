"""Extended hypercalls, codes from 0x8000 up; TLFS "Extended Hypercall Interface"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, u64
from hv.spec.numbering import Flags


class HvExtCapability(Flags):
    """What HvExtCallQueryCapabilities answers: the extended calls that are there."""

    GET_BOOT_ZEROED_MEMORY = 1 << 0
    MEMORY_HEAT_HINT = 1 << 1
    EPF_SETUP = 1 << 2
    SCHEDULER_ASSIST = 1 << 3
    MEMORY_HEAT_HINT_ASYNC = 1 << 4


class QueryCapabilitiesOutput(Layout):
    """HvExtCallQueryCapabilities."""

    capabilities: u64                   # HvExtCapability
