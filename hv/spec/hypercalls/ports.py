"""Inputs of the calls for ports and connections; TLFS "Ports", "Connections"."""

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


class ConnectPortV1Input(Layout):
    """HvCallConnectPort as it was (0x59): the description of the connection has no room for a doorbell."""

    connection_partition: u64
    connection_id: u32
    reserved1: u32
    port_partition: u64
    port_id: u32
    reserved2: u32
    port_type: u32                      # of HV_CONNECTION_INFO, like the next two
    padding: u32
    gpa: u64
    proximity_domain_info: u64


class DisconnectPortInput(Layout):
    """HvCallDisconnectPort."""

    connection_partition: u64
    connection_id: u32
    is_doorbell: u8
    padding: raw[3]


class GetPortPropertyInput(Layout):
    """HvCallGetPortProperty."""

    port_partition: u64
    port_id: u32
    reserved: u32
    property_code: u32                  # HvPortProperty
    padding: u32


class GetPortPropertyOutput(Layout):
    """HvCallGetPortProperty."""

    property_value: u64


class SetPortPropertyInput(Layout):
    """HvCallSetPortProperty."""

    port_partition: u64
    port_id: u32
    reserved: u32
    property_code: u32
    padding: u32
    property_value: u64
