"""Inputs of the calls that send an interrupt to many virtual processors; TLFS "Virtual Interrupt Controller"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, u8, u16, u32, u64
from hv.spec.vp_set import HvVpSet


class SendSyntheticClusterIpiInput(Layout):
    """HvCallSendSyntheticClusterIpi."""

    vector: u32                         # 16..255
    target_vtl: u8                      # HvInputVtl
    flags: u8                           # none is defined
    reserved: u16
    processor_mask: u64                 # bit n: VP n, 0..63


class SendSyntheticClusterIpiExInput(Layout):
    """HvCallSendSyntheticClusterIpiEx; the banks of the set follow as its variable header."""

    vector: u32
    target_vtl: u8
    flags: u8
    reserved: u16
    processor_set: HvVpSet
