"""Sets of virtual processors, as hypercalls name them; TLFS "Virtual Processor Sets"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, u64
from hv.spec.numbering import Numbering

VPS_PER_BANK = 64


class HvGenericSetFormat(Numbering):
    """HV_GENERIC_SET_FORMAT."""

    SPARSE_4K = 0
    ALL = 1


class HvVpSet(Layout):
    """HV_VP_SET without its banks: one u64 follows for each bit of the mask, in ascending order."""

    format: u64                         # HvGenericSetFormat
    valid_bank_mask: u64                # bit b: a bank for the VPs 64 b .. 64 b + 63 follows
