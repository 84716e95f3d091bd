"""Inputs of the calls for messages and events; TLFS "Inter-Partition Communication"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, raw, u8, u16, u32, u64
from hv.spec.synic import HvMessage


class PostMessageInput(Layout):
    """HvCallPostMessage."""

    connection_id: u32
    reserved: u32
    message_type: u32
    payload_size: u32                   # bytes, 0..240
    payload: raw[240]


class SignalEventInput(Layout):
    """HvCallSignalEvent."""

    connection_id: u32
    flag_number: u16
    reserved: u16


class PostMessageDirectInput(Layout):
    """HvCallPostMessageDirect."""

    partition_id: u64
    vp_index: u32
    vtl: u8
    padding: raw[3]
    sint: u8
    padding1: raw[3]
    message: HvMessage
    padding2: u32


class SignalEventDirectInput(Layout):
    """HvCallSignalEventDirect."""

    partition_id: u64
    vp_index: u32
    vtl: u8
    sint: u8
    flag_number: u16                    # of the SINT's 2048


class SignalEventDirectOutput(Layout):
    """HvCallSignalEventDirect."""

    newly_signaled: u8                  # 1: the flag was clear
    reserved: raw[7]
