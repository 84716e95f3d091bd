"""Ports and connections: who may send messages or events to which SINT of whom; TLFS "Inter-Partition Communication".

A port belongs to the receiving partition, a connection to the sending one; root makes both. Ids are 24 bits wide and
each partition has its own. A partition's pool pays for its ports, with the buffers of their messages, and for its
connections. Message and event ports are built; monitor and doorbell ports are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.synic.synic import QueuedMessage
from hv.spec.hv_status import HvStatus
from hv.spec.msrs import SINT_COUNT
from hv.spec.partition import ANY_VP
from hv.spec.synic import EVENT_FLAGS_COUNT, MESSAGE_BUFFERS_PER_PORT, MESSAGE_SIZE, PORT_ID_LIMIT, HvPortInfo, PortType

if TYPE_CHECKING:
    from hv.hypervisor.partition import Partition
    from hv.hypervisor.vp import VirtualProcessor

PORT_SIZE, CONNECTION_SIZE = 128, 64    # bytes of a pool


@dataclass
class Port:
    """A way into *owner*; only *connector* may connect to it. It has 16 buffers for messages under way."""

    port_id: int
    owner: Partition
    connector: Partition
    info: HvPortInfo
    deleted: bool = False
    buffers_in_use: int = 0

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        info = self.info
        return {"connector": self.connector.id, "type": PortType(info.port_type).name, "sint": info.target_sint,
                "vp": info.target_vp, "buffers_in_use": self.buffers_in_use}

    def pay(self) -> None:
        """Take what it needs from its owner's pool: itself, and its message buffers. INSUFFICIENT_MEMORY."""
        pool = self.owner.pool
        pool.records("port", PORT_SIZE).take()
        if self.info.port_type == PortType.MESSAGE:
            try:
                pool.records("message buffer", MESSAGE_SIZE).take(MESSAGE_BUFFERS_PER_PORT)
            except HypercallError:
                pool.records("port", PORT_SIZE).give_back()
                raise

    def close(self) -> None:
        """It is gone, with the buffers that are free; one with a message under way goes when that is delivered."""
        self.deleted = True
        self.owner.pool.records("port", PORT_SIZE).give_back()
        if self.info.port_type == PortType.MESSAGE:
            self._free_buffers(MESSAGE_BUFFERS_PER_PORT - self.buffers_in_use)

    def _free_buffers(self, count: int) -> None:
        self.owner.pool.records("message buffer", MESSAGE_SIZE).give_back(count)

    def check_open(self, kind: PortType) -> None:
        """INVALID_PORT_ID when it is gone, its owner is not active, or it is of another type."""
        if self.deleted or self.owner.state.value != "active" or self.info.port_type != kind:
            raise HypercallError(HvStatus.INVALID_PORT_ID, f"port {self.port_id:#x} is no open {kind.name} port")

    def post(self, message_type: int, payload: bytes) -> None:
        """Send a message to the first target VP that takes one.

        INVALID_VP_INDEX, INVALID_SYNIC_STATE when none takes messages, INSUFFICIENT_BUFFERS.
        """
        self.check_open(PortType.MESSAGE)
        ready = [vp for vp in self.owner.target_vps(self.info.target_vp) if vp.synic.accepts_messages]
        if not ready:
            raise HypercallError(HvStatus.INVALID_SYNIC_STATE, f"no vp of partition {self.owner.id} takes messages")
        if self.buffers_in_use >= MESSAGE_BUFFERS_PER_PORT:
            raise HypercallError(HvStatus.INSUFFICIENT_BUFFERS, f"{MESSAGE_BUFFERS_PER_PORT} messages wait already")
        self.buffers_in_use += 1
        message = QueuedMessage(message_type, payload, self.port_id, self._buffer_freed)
        ready[0].synic.post(self.info.target_sint, message)

    def _buffer_freed(self) -> None:
        self.buffers_in_use -= 1
        if self.deleted:
            self._free_buffers(1)

    def signal(self, flag: int) -> int:
        """Set event *flag* of the port's range; returns the flag's number in the SINT.

        INVALID_PARAMETER beyond the range, INVALID_VP_INDEX, INVALID_SYNIC_STATE.
        """
        self.check_open(PortType.EVENT)
        if flag >= self.info.flag_count:
            raise HypercallError(HvStatus.INVALID_PARAMETER, f"flag {flag} of {self.info.flag_count} flags")
        number = self.info.base_flag_number + flag
        self._event_target().synic.signal(self.info.target_sint, number)
        return number

    def _event_target(self) -> VirtualProcessor:
        """ANY_VP means the first VP whose SynIC is on, or the first."""
        candidates = self.owner.target_vps(self.info.target_vp)
        return next((vp for vp in candidates if vp.synic.scontrol.enable), candidates[0])


@dataclass
class Connection:
    """A way out of *owner*, to *port*."""

    connection_id: int
    owner: Partition
    port: Port = field(repr=False)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"port": self.port.port_id, "partition": self.port.owner.id, "orphan": self.port.deleted}


def create_port(owner: Partition, port_id: int, connector: Partition, info: HvPortInfo) -> Port:
    """A new port of *owner*; INVALID_PORT_ID, INVALID_PARAMETER, INVALID_VP_INDEX, INSUFFICIENT_MEMORY."""
    if not 0 <= port_id < PORT_ID_LIMIT or port_id in owner.ports:
        raise HypercallError(HvStatus.INVALID_PORT_ID, f"port id {port_id:#x} is in use or wider than 24 bits")
    if info.port_type not in (PortType.MESSAGE, PortType.EVENT):
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"port type {info.port_type} is not message or event")
    if info.target_sint >= SINT_COUNT:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"sint {info.target_sint} is out of range 0..15")
    if info.port_type == PortType.EVENT and not 0 < info.flag_count <= EVENT_FLAGS_COUNT - info.base_flag_number:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"flags {info.base_flag_number}+{info.flag_count} exceed 2048")
    if info.target_vp != ANY_VP:
        owner.vp(info.target_vp)
    port = Port(port_id, owner, connector, info)
    port.pay()
    owner.ports[port_id] = port
    return port


def delete_port(owner: Partition, port_id: int) -> None:
    """Close port *port_id*; connections to it become orphans. INVALID_PORT_ID."""
    port = owner.ports.pop(port_id, None)
    if port is None:
        raise HypercallError(HvStatus.INVALID_PORT_ID, f"partition {owner.id} has no port {port_id:#x}")
    port.close()


def connect_port(owner: Partition, connection_id: int, port_owner: Partition, port_id: int, kind: int) -> Connection:
    """A new connection of *owner*.

    INVALID_CONNECTION_ID, INVALID_PORT_ID, ACCESS_DENIED, INVALID_PARAMETER, INSUFFICIENT_MEMORY.
    """
    if not 0 <= connection_id < PORT_ID_LIMIT or connection_id in owner.connections:
        raise HypercallError(HvStatus.INVALID_CONNECTION_ID, f"connection id {connection_id:#x} is in use or too wide")
    port = port_owner.ports.get(port_id)
    if port is None:
        raise HypercallError(HvStatus.INVALID_PORT_ID, f"partition {port_owner.id} has no port {port_id:#x}")
    if port.connector is not owner:
        raise HypercallError(HvStatus.ACCESS_DENIED, f"port {port_id:#x} is for partition {port.connector.id}")
    if kind != port.info.port_type:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"connection type {kind}, port type {port.info.port_type}")
    owner.pool.records("connection", CONNECTION_SIZE).take()
    owner.connections[connection_id] = Connection(connection_id, owner, port)
    return owner.connections[connection_id]


def disconnect_port(owner: Partition, connection_id: int) -> None:
    """Remove connection *connection_id*; INVALID_CONNECTION_ID."""
    if owner.connections.pop(connection_id, None) is None:
        raise HypercallError(HvStatus.INVALID_CONNECTION_ID, f"no connection {connection_id:#x}")
    owner.pool.records("connection", CONNECTION_SIZE).give_back()


def close_all(owner: Partition) -> None:
    """*owner* is finalized: it has neither ports nor connections any more."""
    for port_id in sorted(owner.ports):
        delete_port(owner, port_id)
    for connection_id in sorted(owner.connections):
        disconnect_port(owner, connection_id)


def find_connection(owner: Partition, connection_id: int) -> Connection:
    """The connection *connection_id* of *owner*; INVALID_CONNECTION_ID."""
    found = owner.connections.get(connection_id)
    if found is None:
        raise HypercallError(HvStatus.INVALID_CONNECTION_ID, f"no connection {connection_id:#x}")
    return found
