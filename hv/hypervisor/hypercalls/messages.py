"""Ports, connections, messages and events between partitions; TLFS "Inter-Partition Communication".

Root makes ports and connects them; a child that has a connection posts and signals through it, and names nothing else.
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.registry import Call, hypercall, require, require_any_node
from hv.hypervisor.partition import PartitionState
from hv.hypervisor.synic import ports
from hv.spec.cpuid import HvPrivilege
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.messages import (
    ConnectPortInput,
    CreatePortInput,
    DeletePortInput,
    DisconnectPortInput,
    PostMessageInput,
    SignalEventInput,
)
from hv.spec.synic import HYPERVISOR_MESSAGE, MESSAGE_PAYLOAD_SIZE, PortType
from hv.trace.events import EventSignaled, MessagePosted

_PAYLOAD = PostMessageInput.offset_of("payload")


@hypercall(HypercallCode.CREATE_PORT, input=CreatePortInput, privilege=HvPrivilege.CREATE_PORT)
def create_port(call: Call, input: CreatePortInput) -> None:
    """A port of *port_partition* to which *connection_partition* may connect."""
    owner, connector = call.find(input.port_partition), call.find(input.connection_partition)
    owner.require_state(PartitionState.ACTIVE)
    require(not input.port_vtl and not input.min_connection_vtl, "only VTL 0 exists")
    require_any_node(input.proximity_domain_info)
    ports.create_port(owner, input.port_id, connector, input.port_info)


@hypercall(HypercallCode.DELETE_PORT, input=DeletePortInput, privilege=HvPrivilege.CREATE_PORT)
def delete_port(call: Call, input: DeletePortInput) -> None:
    """The port is gone; posting through a connection to it is INVALID_PORT_ID from now on."""
    ports.delete_port(call.find(input.port_partition), input.port_id)


@hypercall(HypercallCode.CONNECT_PORT, input=ConnectPortInput, privilege=HvPrivilege.CONNECT_PORT)
def connect_port(call: Call, input: ConnectPortInput) -> None:
    """*connection_partition* may send to the port, by *connection_id*."""
    owner, port_owner = call.find(input.connection_partition), call.find(input.port_partition)
    owner.require_state(PartitionState.ACTIVE)
    require(not input.connection_vtl, "only VTL 0 exists")
    require_any_node(input.proximity_domain_info)
    ports.connect_port(owner, input.connection_id, port_owner, input.port_id, input.connection_info.port_type)


@hypercall(HypercallCode.DISCONNECT_PORT, input=DisconnectPortInput, privilege=HvPrivilege.CONNECT_PORT)
def disconnect_port(call: Call, input: DisconnectPortInput) -> None:
    """The connection is gone."""
    require(not input.is_doorbell, "doorbells are not built")
    ports.disconnect_port(call.find(input.connection_partition), input.connection_id)


@hypercall(HypercallCode.POST_MESSAGE, input=PostMessageInput, privilege=HvPrivilege.POST_MESSAGES)
def post_message(call: Call, input: PostMessageInput) -> None:
    """Send up to 240 bytes; the type is the sender's, but not 0 and without bit 31."""
    port = ports.find_connection(call.partition, input.connection_id).port
    port.check_open(PortType.MESSAGE)
    require(0 < input.message_type < HYPERVISOR_MESSAGE, f"message type {input.message_type:#x}")
    require(input.payload_size <= MESSAGE_PAYLOAD_SIZE, f"payload of {input.payload_size} bytes; at most 240")
    payload = input.pack()[_PAYLOAD : _PAYLOAD + input.payload_size]
    call.emit(MessagePosted(input.connection_id, input.message_type, input.payload_size))
    port.post(input.message_type, payload)


@hypercall(HypercallCode.SIGNAL_EVENT, input=SignalEventInput, privilege=HvPrivilege.SIGNAL_EVENTS)
def signal_event(call: Call, input: SignalEventInput) -> None:
    """Set one event flag of the port; the receiver is interrupted if it was clear."""
    port = ports.find_connection(call.partition, input.connection_id).port
    call.emit(EventSignaled(input.connection_id, input.flag_number))
    port.signal(input.flag_number)
