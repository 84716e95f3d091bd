"""Inputs and outputs of the calls that save and restore a VP, and of those that ask what a VP is to its guest.

TLFS "HvCallGetVpState", "HvCallSetVpState", "HvCallGetVpCpuidValues", "HvCallGetVpSetFromMda".
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, Register, array, bits, raw, u8, u16, u32, u64


class VpStateInput(Layout):
    """HvCallGetVpState and HvCallSetVpState. Page numbers follow, or (of a set) the data itself, as the type says."""

    partition_id: u64
    vp_index: u32
    input_vtl: u8                       # HvInputVtl
    padding: raw[3]
    state_type: u32                     # HvGetSetVpStateType
    reserved: u32
    xsave_flags: u64
    xsave_states: u64                   # components that are meant; of XSAVE only


class GetVpCpuidValuesFlags(Register):
    """HV_GET_VP_CPUID_VALUES_FLAGS."""

    WIDTH = 32
    use_vp_xfem_xss = bits(0)           # instead of those of the element
    apply_registered_values = bits(1)   # of HvCallRegisterInterceptResult


class GetVpCpuidValuesInput(Layout):
    """The header of HvCallGetVpCpuidValues; its elements are `CpuidLeafInfo`."""

    partition_id: u64
    vp_index: u32
    flags: u32                          # GetVpCpuidValuesFlags
    reserved: u32
    padding: u32


class CpuidLeafInfo(Layout):
    """HV_CPUID_LEAF_INFO: what is asked."""

    eax: u32
    ecx: u32
    xfem: u64
    xss: u64


class CpuidValues(Layout):
    """What is answered."""

    eax: u32
    ebx: u32
    ecx: u32
    edx: u32


class GetVpSetFromMdaInput(Layout):
    """HvCallGetVpSetFromMda: whom a message destination address means."""

    partition_id: u64
    destination_address: u64
    input_vtl: u8
    destination_mode_logical: u8
    reserved: raw[6]


class GetVpSetFromMdaOutput(Layout):
    """HV_VP_SET of the sparse form, with room for every bank."""

    format: u64
    valid_bank_mask: u64
    banks: array["u64", 64]  # noqa: UP037


class MapVpStatePageInput(Layout):
    """HvCallMapVpStatePage."""

    partition_id: u64
    vp_index: u32
    page_type: u16                      # HvVpStatePageType
    input_vtl: u8
    flags: u8                           # bit 0: the location is given
    requested_map_location: u64         # page number, in the caller's GPA space


class MapVpStatePageOutput(Layout):
    """Where the caller finds the page."""

    map_location: u64                   # page number


class UnmapVpStatePageInput(Layout):
    """HvCallUnmapVpStatePage."""

    partition_id: u64
    vp_index: u32
    page_type: u16
    input_vtl: u8
    reserved: u8
