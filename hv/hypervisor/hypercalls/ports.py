"""Ports and connections between partitions; TLFS "Inter-Partition Communication".

A parent makes ports for its children and connects them; a partition with the privileges may do so for itself. Whose
ports and connections change must be active.
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.registry import Call, hypercall, require, require_any_node
from hv.hypervisor.partitions.partition import Partition, PartitionState
from hv.hypervisor.synic import connections, port_properties, ports
from hv.spec.cpuid import HvPrivilege
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.ports import (
    ConnectPortInput,
    ConnectPortV1Input,
    CreatePortInput,
    DeletePortInput,
    DisconnectPortInput,
    GetPortPropertyInput,
    GetPortPropertyOutput,
    SetPortPropertyInput,
)
from hv.spec.synic import HvConnectionInfo

_CREATE, _CONNECT = HvPrivilege.CREATE_PORT, HvPrivilege.CONNECT_PORT
_ACTIVE = PartitionState.ACTIVE


def _find_active(call: Call, partition_id: int) -> Partition:
    """The caller or a child of its, which is active; INVALID_PARTITION_ID, ACCESS_DENIED, INVALID_PARTITION_STATE."""
    found = call.find(partition_id)
    found.require_state(_ACTIVE)
    return found


@hypercall(HypercallCode.CREATE_PORT_V1, input=CreatePortInput, privilege=_CREATE)
@hypercall(HypercallCode.CREATE_PORT, input=CreatePortInput, privilege=_CREATE)
def create_port(call: Call, input: CreatePortInput) -> None:
    """A port of *port_partition* to which *connection_partition* may connect. The older code has padding for VTLs."""
    owner, connector = _find_active(call, input.port_partition), call.find(input.connection_partition)
    require(not input.port_vtl and not input.min_connection_vtl, "only VTL 0 exists")
    require_any_node(input.proximity_domain_info)
    ports.create_port(owner, input.port_id, connector, input.port_info)


@hypercall(HypercallCode.DELETE_PORT, input=DeletePortInput, privilege=_CREATE)
def delete_port(call: Call, input: DeletePortInput) -> None:
    """The port is gone, with the messages that wait in its buffers; sending to it is INVALID_PORT_ID from now on."""
    ports.delete_port(_find_active(call, input.port_partition), input.port_id)


@hypercall(HypercallCode.CONNECT_PORT, input=ConnectPortInput, privilege=_CONNECT)
def connect_port(call: Call, input: ConnectPortInput) -> None:
    """*connection_partition* may send to the port, by *connection_id*."""
    owner, port_owner = _find_active(call, input.connection_partition), _find_active(call, input.port_partition)
    require(not input.connection_vtl, "only VTL 0 exists")
    require_any_node(input.proximity_domain_info)
    connections.connect_port(owner, input.connection_id, port_owner, input.port_id, input.connection_info)


@hypercall(HypercallCode.CONNECT_PORT_V1, input=ConnectPortV1Input, privilege=_CONNECT)
def connect_port_v1(call: Call, input: ConnectPortV1Input) -> None:
    """The same, by the older code."""
    owner, port_owner = _find_active(call, input.connection_partition), _find_active(call, input.port_partition)
    require_any_node(input.proximity_domain_info)
    info = HvConnectionInfo(port_type=input.port_type, gpa=input.gpa)
    connections.connect_port(owner, input.connection_id, port_owner, input.port_id, info)


@hypercall(HypercallCode.DISCONNECT_PORT, input=DisconnectPortInput, privilege=_CONNECT)
def disconnect_port(call: Call, input: DisconnectPortInput) -> None:
    """The connection is gone; what was sent through it arrives."""
    require(not input.is_doorbell, "doorbells are not built")
    connections.disconnect_port(_find_active(call, input.connection_partition), input.connection_id)


@hypercall(HypercallCode.GET_PORT_PROPERTY, input=GetPortPropertyInput, output=GetPortPropertyOutput,
           privilege=_CREATE)
def get_port_property(call: Call, input: GetPortPropertyInput) -> GetPortPropertyOutput:
    """What was sent to a port so far, or which VP it goes to."""
    port = ports.find_port(_find_active(call, input.port_partition), input.port_id)
    return GetPortPropertyOutput(property_value=port_properties.get_property(port, input.property_code))


@hypercall(HypercallCode.SET_PORT_PROPERTY, input=SetPortPropertyInput, privilege=_CREATE)
def set_port_property(call: Call, input: SetPortPropertyInput) -> None:
    """Send to another VP from now on."""
    port = ports.find_port(_find_active(call, input.port_partition), input.port_id)
    port_properties.set_property(port, input.property_code, input.property_value)
