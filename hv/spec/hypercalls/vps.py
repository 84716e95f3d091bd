"""Inputs of the calls that make, end and hint about virtual processors; TLFS "Virtual Processor Management"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, raw, u8, u32, u64


class CreateVpInput(Layout):
    """HvCallCreateVp."""

    partition_id: u64
    vp_index: u32
    padding: raw[3]
    subnode_type: u8
    subnode_id: u64
    proximity_domain_info: u64
    flags: u64


class DeleteVpInput(Layout):
    """HvCallDeleteVp."""

    partition_id: u64
    vp_index: u32
    padding: u32


class NotifyLongSpinWaitInput(Layout):
    """HvCallNotifyLongSpinWait."""

    spin_count: u32
    unused: u32                         # not checked: the call always succeeds
