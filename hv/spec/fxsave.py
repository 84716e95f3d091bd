"""The image that FXSAVE writes, the first 512 bytes of any XSAVE area; SDM "Layout of the 64-Bit Mode FXSAVE64 Map".

The x87 registers stand there as ST(0) to ST(7), from the top of the stack on; the tag byte goes by their numbers, and
bit n says that register n is in use.
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, array, raw, u8, u16, u32, u64

MXCSR_MASK = 0xFFFF             # the bits of MXCSR that may be set
MXCSR_RESET, FCW_RESET = 0x1F80, 0x0040
FCW_INIT = 0x037F               # after FNINIT


class X87Register(Layout):
    """One of ST(0) to ST(7): 80 bits, and padding."""

    mantissa: u64
    sign_exponent: u16
    padding: raw[6]


class FxSaveImage(Layout):
    """512 bytes."""

    control: u16
    status: u16                 # TOP in bits 13:11
    tag: u8                     # abridged
    reserved: u8
    opcode: u16                 # of the last x87 instruction; 11 bits
    instruction_pointer: u64
    data_pointer: u64
    mxcsr: u32
    mxcsr_mask: u32
    st: array[X87Register, 8]
    xmm: array["u64", 32]       # noqa: UP037  low and high half of each
    unused: raw[96]
