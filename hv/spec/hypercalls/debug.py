"""The debugging calls and the registers of the synthetic debugger; TLFS "Debugging", with the layouts of KVM's."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, Register, bits, raw, u32, u64
from hv.spec.numbering import Flags

MAX_DEBUG_DATA = 4088               # bytes of one call


class DebugPostOptions(Flags):
    """What HvCallPostDebugData may be asked for."""

    LOOP = 1 << 0                   # wait until all is posted


class DebugRetrieveOptions(Flags):
    """What HvCallRetrieveDebugData may be asked for."""

    LOOP = 1 << 0                   # wait for data
    TEST_ACTIVITY = 1 << 1          # only look whether there are any


class DebugResetOptions(Flags):
    """What HvCallResetDebugSession throws away."""

    PURGE_INCOMING = 1 << 0
    PURGE_OUTGOING = 1 << 1


class PostDebugDataInput(Layout):
    """HvCallPostDebugData. It fills a page."""

    count: u32                      # bytes, at most MAX_DEBUG_DATA
    options: u32                    # DebugPostOptions
    data: raw[4088]


class PostDebugDataOutput(Layout):
    """HvCallPostDebugData."""

    pending_count: u32              # bytes for which there was no room


class RetrieveDebugDataInput(Layout):
    """HvCallRetrieveDebugData."""

    count: u32                      # bytes at most
    options: u32                    # DebugRetrieveOptions
    timeout: u64


class RetrieveDebugDataOutput(Layout):
    """HvCallRetrieveDebugData. It fills a page."""

    retrieved_count: u32
    remaining_count: u32            # bytes that still wait
    data: raw[4088]


class ResetDebugSessionInput(Layout):
    """HvCallResetDebugSession."""

    options: u32                    # DebugResetOptions


class OutputDebugCharacterInput(Layout):
    """HvCallOutputDebugCharacter."""

    character: u32                  # 0..255


class HvSyndbgControl(Register):
    """HV_X64_MSR_SYNDBG_CONTROL: writing it is the request."""

    send = bits(0)
    receive = bits(1)
    size = bits(31, 16)             # bytes to send


class HvSyndbgStatus(Register):
    """HV_X64_MSR_SYNDBG_STATUS: what became of the last request; 0 = it was refused."""

    sent = bits(0)
    received = bits(2)
    reset = bits(3)
    size = bits(31, 16)             # bytes received
