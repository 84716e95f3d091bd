"""The state of a VP as it is saved and restored, one layout for each kind; TLFS "HvCallGetVpState".

The manual names the kinds and leaves the layouts to the version; these are those of Hyper-V's own headers.
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, array, u32, u64


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
