"""Inputs and outputs of HvCallGetVpRegisters and HvCallSetVpRegisters."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, raw, u8, u32, u64


class VpRegistersInput(Layout):
    """The header of GetVpRegisters (elements: `RegisterName`) and SetVpRegisters (elements: `RegisterAssoc`)."""

    partition_id: u64
    vp_index: u32
    input_vtl: u8                       # HvInputVtl
    padding: raw[3]


class RegisterName(Layout):
    """An input element of GetVpRegisters."""

    name: u32                           # HvRegisterName


class RegisterValue(Layout):
    """An output element of GetVpRegisters; HV_REGISTER_VALUE."""

    value: raw[16]


class RegisterAssoc(Layout):
    """An element of SetVpRegisters; HV_REGISTER_ASSOC."""

    name: u32
    padding: raw[12]
    value: raw[16]
