"""Inputs of the calls for ports, connections, messages and events; TLFS "Inter-Partition Communication"."""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Layout, raw, u8, u16, u32, u64
from hv.spec.synic import HvConnectionInfo, HvPortInfo


class CreatePortInput(Layout):
    """HvCallCreatePort."""

    port_partition: u64
    port_id: u32                        # 24 bits
    port_vtl: u8
    min_connection_vtl: u8
    padding: u16
    connection_partition: u64           # who may connect
    port_info: HvPortInfo
    proximity_domain_info: u64


class DeletePortInput(Layout):
    """HvCallDeletePort."""

    port_partition: u64
    port_id: u32
    reserved: u32


class ConnectPortInput(Layout):
    """HvCallConnectPort."""

    connection_partition: u64
    connection_id: u32                  # 24 bits
    connection_vtl: u8
    padding: raw[3]
    port_partition: u64
    port_id: u32
    reserved: u32
    connection_info: HvConnectionInfo
    proximity_domain_info: u64


class DisconnectPortInput(Layout):
    """HvCallDisconnectPort."""

    connection_partition: u64
    connection_id: u32
    is_doorbell: u8
    padding: raw[3]


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
