"""Inputs of the calls about translation caches; TLFS "Virtual MMU" (of the virtual TLB)."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, Register, bits, u64
from hv.spec.numbering import Flags
from hv.spec.vp_set import HvVpSet


class HvFlushFlags(Flags):
    """Flags of the flush calls; TLFS "HvCallFlushVirtualAddressSpace"."""

    ALL_PROCESSORS = 1 << 0                 # the mask or set of VPs is ignored
    ALL_VIRTUAL_ADDRESS_SPACES = 1 << 1     # so is the address space
    NON_GLOBAL_MAPPINGS_ONLY = 1 << 2       # of a space, not of a list
    USE_EXTENDED_RANGE_FORMAT = 1 << 3      # in a list
    USE_TARGET_VTL = 1 << 4


class SwitchVirtualAddressSpaceInput(Layout):
    """HvCallSwitchVirtualAddressSpace."""

    address_space: u64                  # a value for CR3


class FlushVirtualAddressInput(Layout):
    """HvCallFlushVirtualAddressSpace, and the header of HvCallFlushVirtualAddressList."""

    address_space: u64                  # a value of CR3
    flags: u64                          # HvFlushFlags
    processor_mask: u64                 # bit n: VP n, 0..63


class FlushVirtualAddressExInput(Layout):
    """The same with a set of VPs, whose banks follow: HvCallFlushVirtualAddressSpaceEx, ...ListEx."""

    address_space: u64
    flags: u64
    processor_set: HvVpSet


class HvGvaRange(Register):
    """HV_GVA_RANGE: pages from *gva_page* on; an element of a flush list."""

    additional_pages = bits(11, 0)
    gva_page = bits(63, 12)


class HvExtendedGvaRange(Register):
    """HV_GVA_RANGE in the extended format: *page* is one of 4 KiB, or with *large_page* its bits 63:21 are meant."""

    additional_pages = bits(10, 0)
    large_page = bits(11)
    page_size_1g = bits(12)             # only with large_page: 0 = 2 MiB, 1 = 1 GiB
    large_reserved = bits(20, 13)       # only with large_page
    large_page_number = bits(63, 21)


class GvaRange(Layout):
    """An element of a flush list."""

    gva_range: u64                      # HvGvaRange or HvExtendedGvaRange
