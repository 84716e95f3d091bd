"""Connections: the ways out of a partition, each to one port of another; TLFS "Connections".

A connection is paid by the partition that sends. When its port is deleted it stays, as an orphan that leads nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hv.hypervisor.errors import CallIntercepted, HypercallError
from hv.hypervisor.synic.ports import EventPort, MessagePort, Port, delete_port, find_port
from hv.spec.hv_status import HvStatus
from hv.spec.intercepts import HvInterceptAccess, HvInterceptType
from hv.spec.synic import PORT_ID_LIMIT, HvConnectionInfo, PortType

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition

CONNECTION_SIZE = 64                    # bytes of a pool


@dataclass
class Connection:
    """A way out of *owner*, to *port*."""

    connection_id: int
    owner: Partition
    port: Port = field(repr=False)
    info: HvConnectionInfo

    def message_port(self) -> MessagePort:
        """The port, for HvPostMessage; INVALID_PORT_ID when it is gone or takes no messages."""
        port = self.port
        if port.deleted or not isinstance(port, MessagePort):
            raise port.refuse(PortType.MESSAGE)
        return port

    def event_port(self) -> EventPort:
        """The port, for HvSignalEvent; INVALID_PORT_ID when it is gone or takes no events."""
        port = self.port
        if port.deleted or not isinstance(port, EventPort):
            raise port.refuse(PortType.EVENT)
        return port

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"port": self.port.port_id, "partition": self.port.owner.id, "orphan": self.port.deleted}


def connect_port(owner: Partition, connection_id: int, port_owner: Partition, port_id: int,
                 info: HvConnectionInfo) -> Connection:
    """A new connection of *owner*.

    INVALID_CONNECTION_ID, INVALID_PORT_ID, ACCESS_DENIED, INVALID_PARAMETER, INSUFFICIENT_MEMORY; and what the port
    itself finds wrong with it.
    """
    if not 0 <= connection_id < PORT_ID_LIMIT or connection_id in owner.connections:
        raise HypercallError(HvStatus.INVALID_CONNECTION_ID, f"connection id {connection_id:#x} is in use or too wide")
    port = find_port(port_owner, port_id)
    if port.connector is not owner:
        raise HypercallError(HvStatus.ACCESS_DENIED, f"port {port_id:#x} is for partition {port.connector.id}")
    if info.port_type != port.kind:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"connection type {info.port_type}, port type {port.kind}")
    connection = Connection(connection_id, owner, port, info)
    owner.pool.records("connection", CONNECTION_SIZE).take()
    try:
        port.connect(connection)
    except HypercallError:
        owner.pool.records("connection", CONNECTION_SIZE).give_back()
        raise
    owner.connections[connection_id] = connection
    return connection


def disconnect_port(owner: Partition, connection_id: int) -> None:
    """Remove connection *connection_id*; what was sent through it is not affected. INVALID_CONNECTION_ID."""
    connection = find_connection(owner, connection_id)
    connection.port.disconnect(connection)
    del owner.connections[connection_id]
    owner.pool.records("connection", CONNECTION_SIZE).give_back()


def find_connection(owner: Partition, connection_id: int) -> Connection:
    """The connection *connection_id* of *owner*; INVALID_CONNECTION_ID."""
    found = owner.connections.get(connection_id)
    if found is None:
        raise HypercallError(HvStatus.INVALID_CONNECTION_ID, f"no connection {connection_id:#x}")
    return found


def find_to_send(owner: Partition, connection_id: int) -> Connection:
    """The same, for who sends through it: a parent may want to do that itself, and then CallIntercepted is raised."""
    found = owner.connections.get(connection_id)
    if found is None:
        if owner.intercepts.wants(HvInterceptType.UNKNOWN_SYNIC_CONNECTION, 0, HvInterceptAccess.EXECUTE.value):
            raise CallIntercepted
        raise HypercallError(HvStatus.INVALID_CONNECTION_ID, f"no connection {connection_id:#x}")
    return found


def close_all(owner: Partition) -> None:
    """*owner* is finalized: it has neither ports nor connections any more."""
    for port_id in sorted(owner.ports):
        delete_port(owner, port_id)
    for connection_id in sorted(owner.connections):
        disconnect_port(owner, connection_id)
