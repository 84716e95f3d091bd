"""The state of a VP as it is saved and restored, one layout for each kind; TLFS "HvCallGetVpState".

The manual names the kinds and leaves the layouts to the version; these are those of Hyper-V's own headers.
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.fxsave import FxSaveImage
from hv.spec.layout import Layout, Register, array, bits, raw, u8, u16, u32, u64
from hv.spec.numbering import Numbering
from hv.spec.synic import HvSegmentRegister


class StimerState(Layout):
    """HV_STIMER_STATE: one synthetic timer."""

    undelivered_message_pending: u32    # 1 = it has expired, and the message waits
    reserved: u32
    config: u64                         # HvStimerConfig
    count: u64                          # 100 ns
    adjustment: u64                     # of a periodic timer
    undelivered_expiration_time: u64    # 100 ns


class SyntheticTimersState(Layout):
    """HV_SYNTHETIC_TIMERS_STATE: all of one VP."""

    timers: array[StimerState, 4]
    reserved: array["u64", 5]  # noqa: UP037


class HvGetSetVpStateType(Numbering):
    """Which state. Bit 31: it is in pages that the caller names, not in the parameters themselves."""

    LAPIC_STATE = 0x80000000            # LocalApicState
    XSAVE = 0x80000001                  # XsaveArea
    SIM_PAGE = 0x80000002
    SIEF_PAGE = 0x80000003
    SYNTHETIC_TIMERS = 4                # SyntheticTimersState


class LocalApicState(Layout):
    """HV_X64_LOCAL_INTERRUPT_CONTROLLER_STATE. TPR is not in it: CR8 and the register of its name are."""

    apic_id: u32                        # as its register reads
    version: u32
    ldr: u32
    dfr: u32
    spurious: u32
    isr: array["u32", 8]  # noqa: UP037
    tmr: array["u32", 8]  # noqa: UP037
    irr: array["u32", 8]  # noqa: UP037
    esr: u32
    icr_high: u32
    icr_low: u32
    lvt_timer: u32
    lvt_thermal: u32
    lvt_perfmon: u32
    lvt_lint0: u32
    lvt_lint1: u32
    lvt_error: u32
    lvt_cmci: u32
    error_status: u32                   # what the next write of ESR will show
    initial_count: u32
    counter_value: u32
    divide_configuration: u32
    remote_read: u32


class XsaveArea(Layout):
    """An XSAVE area of the standard form with x87 and SSE, the only components there are; SDM "XSAVE Area"."""

    legacy: FxSaveImage
    components: u64                     # XSTATE_BV: bit 0 x87, bit 1 SSE; 0 = as after reset
    compaction: u64                     # XCOMP_BV
    reserved: raw[48]


class HvVpStatePageType(Numbering):
    """HV_VP_STATE_PAGE_TYPE."""

    REGISTERS = 0
    INTERCEPT_MESSAGE = 1
    GHCB = 2


class HvRegisterPageDirtyFlags(Register):
    """Which registers of the page its reader has changed."""

    WIDTH = 32
    general_purpose = bits(0)
    instruction_pointer = bits(1)
    xmm = bits(2)
    segments = bits(3)
    flags = bits(4)


class HvRegisterPage(Layout):
    """HV_VP_REGISTER_PAGE: the registers of a VP that waits for its parent; what its end is not about is not in it."""

    version: u16
    is_valid: u8
    rsvd_vtl: u8                        # 0
    dirty: u32                          # HvRegisterPageDirtyFlags
    gp_registers: array["u64", 16]  # noqa: UP037
    rip: u64
    rflags: u64
    reserved1: u64
    xmm: array["u64", 12]  # noqa: UP037
    segments: array[HvSegmentRegister, 6]
    cr0: u64
    cr3: u64
    cr4: u64
    cr8: u64
    efer: u64
    dr7: u64
    pending_interruption: u64
    interrupt_state: u64
    instruction_emulation_hints: u64
