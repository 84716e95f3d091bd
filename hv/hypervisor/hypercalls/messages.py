"""Messages and events: through a connection, or from a parent right into its child; TLFS "Inter-Partition
Communication".

A partition that has a connection posts and signals through it, and names nothing else.
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.registry import Call, hypercall, require
from hv.hypervisor.partitions.partition import PartitionState
from hv.hypervisor.synic.connections import find_to_send
from hv.hypervisor.synic.synic import QueuedMessage, Synic
from hv.spec.cpuid import HvPrivilege
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.messages import (
    PostMessageDirectInput,
    PostMessageInput,
    SignalEventDirectInput,
    SignalEventDirectOutput,
    SignalEventInput,
)
from hv.spec.msrs import SINT_COUNT
from hv.spec.synic import EVENT_FLAGS_COUNT, HYPERVISOR_MESSAGE, MESSAGE_PAYLOAD_SIZE
from hv.trace.events import EventSignaled, MessagePosted

_TYPE_LIMIT = int(HYPERVISOR_MESSAGE)


@hypercall(HypercallCode.POST_MESSAGE, input=PostMessageInput, privilege=HvPrivilege.POST_MESSAGES)
def post_message(call: Call, input: PostMessageInput) -> None:
    """Send up to 240 bytes; the type is the sender's, but not 0 and without bit 31."""
    port = find_to_send(call.partition, input.connection_id).message_port()
    message_type, size = input.message_type, input.payload_size
    if not 0 < message_type < _TYPE_LIMIT or size > MESSAGE_PAYLOAD_SIZE:
        require(False, f"message type {message_type:#x}, payload of {size} bytes; at most 240")
    if call.hypervisor.trace.listening:
        call.emit(MessagePosted(input.connection_id, message_type, size))
    port.post(message_type, input.payload[:size])


@hypercall(HypercallCode.SIGNAL_EVENT, input=SignalEventInput, privilege=HvPrivilege.SIGNAL_EVENTS)
def signal_event(call: Call, input: SignalEventInput) -> None:
    """Set one event flag of the port; the receiver is interrupted if it was clear."""
    port = find_to_send(call.partition, input.connection_id).event_port()
    if call.hypervisor.trace.listening:
        call.emit(EventSignaled(input.connection_id, input.flag_number))
    port.signal(input.flag_number)


@hypercall(HypercallCode.POST_MESSAGE_DIRECT, input=PostMessageDirectInput)
def post_message_direct(call: Call, input: PostMessageDirectInput) -> None:
    """A parent puts a message, of any type but 0, into a slot that is empty. It is queued nowhere: OBJECT_IN_USE."""
    synic = _synic_of_child(call, input.partition_id, input.vp_index, input.vtl, input.sint)
    header = input.message.header
    require(header.message_type, "message type 0 means an empty slot")
    require(header.payload_size <= MESSAGE_PAYLOAD_SIZE, f"payload of {header.payload_size} bytes; at most 240")
    payload = input.message.payload[: header.payload_size]
    synic.post_direct(input.sint, QueuedMessage(header.message_type, payload, header.sender))


@hypercall(HypercallCode.SIGNAL_EVENT_DIRECT, input=SignalEventDirectInput, output=SignalEventDirectOutput)
def signal_event_direct(call: Call, input: SignalEventDirectInput) -> SignalEventDirectOutput:
    """A parent sets an event flag of its child's; *newly_signaled* says whether it was clear."""
    synic = _synic_of_child(call, input.partition_id, input.vp_index, input.vtl, input.sint)
    require(input.flag_number < EVENT_FLAGS_COUNT, f"flag {input.flag_number} of {EVENT_FLAGS_COUNT}")
    return SignalEventDirectOutput(newly_signaled=int(synic.signal(input.sint, input.flag_number)))


def _synic_of_child(call: Call, partition_id: int, vp_index: int, vtl: int, sint: int) -> Synic:
    """INVALID_PARTITION_ID, ACCESS_DENIED, INVALID_PARTITION_STATE, INVALID_VP_INDEX, INVALID_PARAMETER."""
    partition = call.find_child(partition_id)
    partition.require_state(PartitionState.ACTIVE)
    vp = call.find_vp(partition, vp_index)
    require(not vtl, "only VTL 0 exists")
    require(sint < SINT_COUNT, f"sint {sint} is out of range 0..15")
    return vp.synic
