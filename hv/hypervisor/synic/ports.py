"""Ports: the ways into a partition, by which others may send it messages or events; TLFS "Ports".

A port belongs to the receiving partition and names one other that may connect to it (`connections.py`); the parent
makes both. Ids are 24 bits wide and each partition has its own. The owner's pool pays for a port, with the buffers of
its messages. Doorbell ports are not built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.synic.synic import QueuedMessage
from hv.spec.hv_status import HvStatus
from hv.spec.msrs import SINT_COUNT
from hv.spec.partition import ANY_VP
from hv.spec.synic import (
    EVENT_FLAGS_COUNT,
    MESSAGE_BUFFERS_PER_PORT,
    MESSAGE_SIZE,
    PORT_ID_LIMIT,
    SINT_INTERCEPT,
    HvPortInfo,
    PortType,
)

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.synic.connections import Connection
    from hv.hypervisor.vps.vp import VirtualProcessor

PORT_SIZE = 128                         # bytes of a pool
_LIMIT = MESSAGE_BUFFERS_PER_PORT
_STATE = HvStatus.INVALID_SYNIC_STATE   # naming a member of an enumeration costs a call


class Port:
    """A way into *owner*; only *connector* may connect to it."""

    kind: PortType

    def __init__(self, port_id: int, owner: Partition, connector: Partition, info: HvPortInfo) -> None:
        self.port_id, self.owner, self.connector, self.info = port_id, owner, connector, info
        self.deleted = False
        self.sent = 0                   # messages posted, or events signalled, with success

    def open(self) -> None:
        """Take what it needs from its owner's pool; INSUFFICIENT_MEMORY, and nothing taken."""
        self.owner.pool.records("port", PORT_SIZE).take()

    def close(self) -> None:
        """It is gone, and gives back what it took."""
        self.deleted = True
        self.owner.pool.records("port", PORT_SIZE).give_back()

    def connect(self, connection: Connection) -> None:
        """*connection* leads here from now on; INVALID_PARAMETER when its description has what is of other types."""
        _require_zero(connection.info.gpa, connection.info.trigger_value, connection.info.trigger_flags)

    def disconnect(self, connection: Connection) -> None:
        """*connection* is gone."""

    def refuse(self, kind: PortType) -> HypercallError:
        """What a sender through *kind* of a connection gets, when the port is gone or of another type."""
        return HypercallError(HvStatus.INVALID_PORT_ID, f"port {self.port_id:#x} is no open {kind.name} port")

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"connector": self.connector.id, "type": self.kind.name, "sent": self.sent}


class SintPort(Port):
    """A port into a SINT of one VP, or of any."""

    def __init__(self, port_id: int, owner: Partition, connector: Partition, info: HvPortInfo) -> None:
        super().__init__(port_id, owner, connector, info)
        self.sint, self.target_vp = info.target_sint, info.target_vp
        self.preferred_vp = ANY_VP
        if not SINT_INTERCEPT < self.sint < SINT_COUNT:
            raise HypercallError(HvStatus.INVALID_PARAMETER, f"sint {self.sint} is out of range 1..15")
        self.check_vp(self.target_vp)

    def check_vp(self, index: int) -> None:
        """INVALID_VP_INDEX unless *index* is a VP of the owner, or ANY_VP."""
        if index != ANY_VP:
            self.owner.vp(index)

    def candidates(self) -> list[VirtualProcessor]:
        """The VPs that may get what is sent, in order: the preferred one, then by number. INVALID_VP_INDEX."""
        vps = self.owner.target_vps(self.target_vp)
        preferred = self.owner.vps.get(self.preferred_vp)
        return [preferred, *vps] if preferred is not None and self.target_vp == ANY_VP else vps

    def target(self, ready: Callable[[VirtualProcessor], bool]) -> VirtualProcessor:
        """The first VP that is *ready*; INVALID_VP_INDEX, INVALID_SYNIC_STATE."""
        for vp in self.candidates():
            if ready(vp):
                return vp
        raise HypercallError(_STATE, f"no vp of partition {self.owner.id} is ready for port {self.port_id:#x}")

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return super().inspect() | {"sint": self.sint, "vp": self.target_vp}


def _takes_messages(vp: VirtualProcessor) -> bool:
    return vp.synic.accepts_messages


class MessagePort(SintPort):
    """A port for messages, with 16 buffers for those under way."""

    kind = PortType.MESSAGE

    def __init__(self, port_id: int, owner: Partition, connector: Partition, info: HvPortInfo) -> None:
        super().__init__(port_id, owner, connector, info)
        _require_zero(info.base_flag_number, info.flag_count)
        self.buffers_in_use = 0

    def open(self) -> None:
        """It pays for its buffers too."""
        super().open()
        try:
            self.owner.pool.records("message buffer", MESSAGE_SIZE).take(_LIMIT)
        except HypercallError:
            super().close()
            raise

    def close(self) -> None:
        """Messages that wait for their slot are lost; TLFS "HvCallDeletePort"."""
        super().close()
        for vp in self.owner.vps.values():
            vp.synic.drop(self)
        self.owner.pool.records("message buffer", MESSAGE_SIZE).give_back(_LIMIT)

    def post(self, message_type: int, payload: bytes) -> None:
        """Send a message to the first target VP that takes one.

        INVALID_VP_INDEX, INVALID_SYNIC_STATE when none takes messages, INSUFFICIENT_BUFFERS.
        """
        vp = self.owner.vps.get(self.target_vp)     # the usual: one VP, and it is ready
        if vp is None or not vp.synic.accepts_messages:
            vp = self.target(_takes_messages)
        if self.buffers_in_use >= _LIMIT:
            raise HypercallError(HvStatus.INSUFFICIENT_BUFFERS, f"{_LIMIT} messages wait already")
        self.sent += 1
        if not vp.synic.post_now(self.sint, message_type, payload, self.port_id):
            self.buffers_in_use += 1
            vp.synic.post(self.sint, QueuedMessage(message_type, payload, self.port_id, self._buffer_freed, self))

    def _buffer_freed(self) -> None:
        self.buffers_in_use -= 1

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return super().inspect() | {"buffers_in_use": self.buffers_in_use}


class EventPort(SintPort):
    """A port for events: a range of the SINT's 2048 flags."""

    kind = PortType.EVENT

    def __init__(self, port_id: int, owner: Partition, connector: Partition, info: HvPortInfo) -> None:
        super().__init__(port_id, owner, connector, info)
        self.base, self.count = info.base_flag_number, info.flag_count
        if not 0 < self.count <= EVENT_FLAGS_COUNT - self.base:
            raise HypercallError(HvStatus.INVALID_PARAMETER, f"flags {self.base}+{self.count} of {EVENT_FLAGS_COUNT}")

    def signal(self, flag: int) -> int:
        """Set event *flag* of the port's range; returns the flag's number in the SINT.

        INVALID_PARAMETER beyond the range, INVALID_VP_INDEX, INVALID_SYNIC_STATE.
        """
        if flag >= self.count:
            raise HypercallError(HvStatus.INVALID_PARAMETER, f"flag {flag} of {self.count} flags")
        number, sint = self.base + flag, self.sint
        vp = self.owner.vps.get(self.target_vp)
        if vp is None or not vp.synic.accepts_events[sint]:
            vp = self.target(lambda vp: vp.synic.accepts_events[sint])
        vp.synic.signal(sint, number)
        self.sent += 1
        return number

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return super().inspect() | {"base_flag": self.base, "flag_count": self.count}


PORT_CLASSES: dict[int, type[Port]] = {MessagePort.kind: MessagePort, EventPort.kind: EventPort}


def create_port(owner: Partition, port_id: int, connector: Partition, info: HvPortInfo) -> Port:
    """A new port of *owner*; INVALID_PORT_ID, INVALID_PARAMETER, INVALID_VP_INDEX, INSUFFICIENT_MEMORY."""
    if not 0 <= port_id < PORT_ID_LIMIT or port_id in owner.ports:
        raise HypercallError(HvStatus.INVALID_PORT_ID, f"port id {port_id:#x} is in use or wider than 24 bits")
    port_class = PORT_CLASSES.get(info.port_type)
    if port_class is None:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"there is no port of type {info.port_type}")
    port = port_class(port_id, owner, connector, info)
    port.open()
    owner.ports[port_id] = port
    return port


def find_port(owner: Partition, port_id: int) -> Port:
    """The port *port_id* of *owner*; INVALID_PORT_ID."""
    port = owner.ports.get(port_id)
    if port is None:
        raise HypercallError(HvStatus.INVALID_PORT_ID, f"partition {owner.id} has no port {port_id:#x}")
    return port


def delete_port(owner: Partition, port_id: int) -> None:
    """Close port *port_id*; connections to it become orphans. INVALID_PORT_ID."""
    find_port(owner, port_id).close()
    del owner.ports[port_id]


def _require_zero(*fields: int) -> None:
    if any(fields):
        raise HypercallError(HvStatus.INVALID_PARAMETER, "a field that is reserved for this type is not zero")
