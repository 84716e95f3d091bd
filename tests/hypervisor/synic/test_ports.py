"""Ports and connections, messages and events between partitions: every status of their calls."""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.hypercalls.registry import HYPERCALLS
from hv.hypervisor.synic import connections, ports
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl
from hv.spec.hypercalls.messages import PostMessageInput, SignalEventDirectOutput
from hv.spec.hypercalls.ports import GetPortPropertyOutput
from hv.spec.msrs import Msr
from hv.spec.partition import ANY_VP, PARTITION_ID_SELF
from hv.spec.synic import HvConnectionInfo, HvMessage, HvMessageHeader, HvPortInfo, HvPortProperty, PortType
from tests.hypervisor.fakes import Machine
from tests.hypervisor.synic.test_synic import SIEF, VECTOR, empty_slot, slot, with_synic

C, S = HypercallCode, HvStatus


@pytest.fixture
def machine():
    return Machine()


def pair(machine, kind=PortType.MESSAGE, target_vp=0, count=8):
    """A port of the second child, connected from the first."""
    sender, receiver = machine.child(), machine.child()
    flags = {"base_flag_number": 16, "flag_count": count} if kind == PortType.EVENT else {}
    info = HvPortInfo(port_type=kind, target_sint=2, target_vp=target_vp, **flags)
    ports.create_port(receiver, 0x111, sender, info)
    connections.connect_port(sender, 0x222, receiver, 0x111, HvConnectionInfo(port_type=kind))
    return sender, receiver


def post(machine, sender, connection=0x222, kind=5, size=3, payload=b"abc", **fields):
    data = PostMessageInput(connection_id=connection, message_type=kind, payload_size=size, payload=payload, **fields)
    sender.space.write(0x1000, data.pack())
    return HvStatus(hypercall(machine.hypervisor, sender.vps[0], HypercallCode.POST_MESSAGE, 0x1000, 0) & 0xFFFF)


def signal(machine, sender, flag=3, connection=0x222):
    word = HypercallControl(call_code=HypercallCode.SIGNAL_EVENT, fast=1).raw
    return HvStatus(hypercall(machine.hypervisor, sender.vps[0], word, flag << 32 | connection, 0) & 0xFFFF)


def test_a_message_goes_from_one_child_to_the_other(machine):
    sender, receiver = pair(machine)
    vp = with_synic(receiver.vps[0])
    assert post(machine, sender) == HvStatus.SUCCESS
    assert (slot(vp).header.message_type, slot(vp).header.sender, slot(vp).payload[:4]) == (5, 0x111, b"abc\0")


POSTS = [
    ("connection-too-wide", {"connection": 0x1000222}, HvStatus.INVALID_CONNECTION_ID),
    ("no-connection", {"connection": 0x223}, HvStatus.INVALID_CONNECTION_ID),
    ("type-0", {"kind": 0}, HvStatus.INVALID_PARAMETER),
    ("type-of-the-hypervisor", {"kind": 0x80000001}, HvStatus.INVALID_PARAMETER),
    ("too-long", {"size": 241}, HvStatus.INVALID_PARAMETER), ("reserved", {"reserved": 1}, HvStatus.INVALID_PARAMETER),
]


@pytest.mark.parametrize(("fields", "status"), [row[1:] for row in POSTS], ids=[row[0] for row in POSTS])
def test_a_post_is_refused(machine, fields, status):
    """TLFS "HvCallPostMessage"."""
    sender, receiver = pair(machine)
    with_synic(receiver.vps[0])
    assert post(machine, sender, **fields) == status


def test_a_post_to_a_synic_that_is_off(machine):
    sender, _ = pair(machine)
    assert post(machine, sender) == HvStatus.INVALID_SYNIC_STATE


def test_a_post_to_any_vp_takes_the_first_that_listens(machine):
    sender, receiver = pair(machine, target_vp=ANY_VP)
    second = with_synic(machine.hypervisor.create_vp(receiver, 1))
    assert post(machine, sender) == HvStatus.SUCCESS
    assert slot(second).header.message_type == 5


def test_a_post_to_a_vp_that_is_gone(machine):
    sender, receiver = pair(machine)
    machine.hypervisor.delete_vp(receiver, 0)
    assert post(machine, sender) == HvStatus.INVALID_VP_INDEX


def test_a_post_through_an_orphan_or_to_a_finalized_partition(machine):
    sender, receiver = pair(machine)
    ports.delete_port(receiver, 0x111)
    assert post(machine, sender) == HvStatus.INVALID_PORT_ID
    sender, receiver = pair(machine)
    machine.hypervisor.finalize_partition(receiver)
    assert post(machine, sender) == HvStatus.INVALID_PORT_ID


def test_a_post_to_an_event_port_and_a_signal_to_a_message_port(machine):
    sender, _ = pair(machine, PortType.EVENT)
    assert post(machine, sender) == HvStatus.INVALID_PORT_ID
    sender, _ = pair(machine, PortType.MESSAGE)
    assert signal(machine, sender) == HvStatus.INVALID_PORT_ID


def test_a_port_has_sixteen_buffers(machine):
    """TLFS "Message Buffers": 16 wait besides the one in the slot; a delivered message frees its buffer."""
    sender, receiver = pair(machine)
    vp = with_synic(receiver.vps[0])
    assert [post(machine, sender) for _ in range(17)] == [HvStatus.SUCCESS] * 17
    assert post(machine, sender) == HvStatus.INSUFFICIENT_BUFFERS
    empty_slot(vp)
    vp.synic.write_msr(Msr.HV_EOM, 0)
    assert post(machine, sender) == HvStatus.SUCCESS


def test_a_signal_sets_the_flag_of_the_ports_range(machine):
    sender, receiver = pair(machine, PortType.EVENT)
    vp = with_synic(receiver.vps[0])
    assert signal(machine, sender, flag=3) == HvStatus.SUCCESS
    assert vp.partition.space.read(SIEF + 2 * 256 + 2, 1) == b"\x08"       # 16 + 3


@pytest.mark.parametrize(("setup", "flag", "connection", "status"), [
    ({}, 8, 0x222, HvStatus.INVALID_PARAMETER), ({}, 0, 0x333, HvStatus.INVALID_CONNECTION_ID),
    ({"masked": 1}, 0, 0x222, HvStatus.INVALID_SYNIC_STATE)], ids=["flag-beyond-count", "no-connection", "masked"])
def test_a_signal_is_refused(machine, setup, flag, connection, status):
    """TLFS "HvCallSignalEvent"."""
    sender, receiver = pair(machine, PortType.EVENT)
    with_synic(receiver.vps[0], **setup)
    assert signal(machine, sender, flag, connection) == status


INFO = {"port_type": PortType.MESSAGE, "target_sint": 2, "target_vp": 0}
PORTS = [
    ("id-too-wide", 1 << 24, INFO, HvStatus.INVALID_PORT_ID), ("id-in-use", 0x111, INFO, HvStatus.INVALID_PORT_ID),
    ("sint-16", 5, {**INFO, "target_sint": 16}, HvStatus.INVALID_PARAMETER),
    ("no-vp", 5, {**INFO, "target_vp": 9}, HvStatus.INVALID_VP_INDEX),
    ("sint-0", 5, {**INFO, "target_sint": 0}, HvStatus.INVALID_PARAMETER),
    ("no-type", 5, {**INFO, "port_type": 0}, HvStatus.INVALID_PARAMETER),
    ("doorbell", 5, {**INFO, "port_type": PortType.DOORBELL}, HvStatus.INVALID_PARAMETER),
    ("flags-of-a-message-port", 5, {**INFO, "flag_count": 1}, HvStatus.INVALID_PARAMETER),
    ("no-flags", 5, {**INFO, "port_type": PortType.EVENT}, HvStatus.INVALID_PARAMETER),
    ("flags-beyond-2048", 5, {**INFO, "port_type": PortType.EVENT, "base_flag_number": 2040, "flag_count": 9},
     HvStatus.INVALID_PARAMETER),
]


@pytest.mark.parametrize(("port_id", "info", "status"), [row[1:] for row in PORTS], ids=[row[0] for row in PORTS])
def test_a_port_is_refused(machine, port_id, info, status):
    """TLFS "HvCallCreatePort"."""
    sender, receiver = pair(machine)
    with pytest.raises(HypercallError, match=f"^{status.name}"):
        ports.create_port(receiver, port_id, sender, HvPortInfo(**info))


def test_only_the_named_partition_connects_to_a_port(machine):
    _, receiver = pair(machine)
    stranger = machine.child()
    with pytest.raises(HypercallError, match=r"^ACCESS_DENIED"):
        connections.connect_port(stranger, 1, receiver, 0x111, HvConnectionInfo(port_type=PortType.MESSAGE))


@pytest.mark.parametrize(("connection", "port", "kind", "status"), [
    (1 << 24, 0x111, 1, HvStatus.INVALID_CONNECTION_ID), (0x222, 0x111, 1, HvStatus.INVALID_CONNECTION_ID),
    (1, 0x112, 1, HvStatus.INVALID_PORT_ID), (1, 0x111, 2, HvStatus.INVALID_PARAMETER)])
def test_a_connection_is_refused(machine, connection, port, kind, status):
    """TLFS "HvCallConnectPort"."""
    sender, receiver = pair(machine)
    with pytest.raises(HypercallError, match=f"^{status.name}"):
        connections.connect_port(sender, connection, receiver, port, HvConnectionInfo(port_type=kind))


def test_a_deleted_port_loses_what_waits_and_its_buffers(machine):
    """TLFS "HvCallDeletePort": undelivered messages are lost; what is in the slot stays."""
    sender, receiver = pair(machine)
    before = receiver.pool.inspect()
    vp = with_synic(receiver.vps[0])
    assert [post(machine, sender, payload=text) for text in (b"one", b"two", b"six")] == [S.SUCCESS] * 3
    vp.synic.post(2, note := ports.QueuedMessage(9, b"other", 0))
    ports.delete_port(receiver, 0x111)
    assert list(vp.synic.queues[2]) == [note]
    assert slot(vp).payload[:3] == b"one"
    assert before["records"] == {"message buffer": 16, "port": 1}
    assert "records" not in receiver.pool.inspect()


def test_a_disconnected_sender_has_sent_what_it_sent(machine):
    """TLFS "HvCallDisconnectPort": messages in the queue are not affected."""
    sender, receiver = pair(machine)
    vp = with_synic(receiver.vps[0])
    post(machine, sender, payload=b"one")
    post(machine, sender, payload=b"two")
    connections.disconnect_port(sender, 0x222)
    assert post(machine, sender) == S.INVALID_CONNECTION_ID
    empty_slot(vp)
    vp.synic.write_msr(Msr.HV_EOM, 0)
    assert slot(vp).payload[:3] == b"two"


def test_buffers_are_of_the_port_and_not_of_the_queue(machine):
    """A timer's message waits in a buffer of its own, as another port's does; TLFS "Message Buffers"."""
    sender, receiver = pair(machine)
    with_synic(receiver.vps[0])
    ports.create_port(receiver, 0x112, sender, HvPortInfo(port_type=PortType.MESSAGE, target_sint=2))
    connections.connect_port(sender, 0x223, receiver, 0x112, HvConnectionInfo(port_type=PortType.MESSAGE))
    receiver.vps[0].synic.post(2, ports.QueuedMessage(0x80000010, b"", 0))
    assert [post(machine, sender) for _ in range(17)] == [S.SUCCESS] * 16 + [S.INSUFFICIENT_BUFFERS]
    assert post(machine, sender, connection=0x223) == S.SUCCESS


def test_a_message_to_a_masked_sint_is_sent(machine):
    """The guest polls: only events are refused. TLFS "HvCallPostMessage"."""
    sender, receiver = pair(machine)
    vp = with_synic(receiver.vps[0], masked=1)
    assert post(machine, sender) == S.SUCCESS
    assert slot(vp).header.message_type == 5


def test_the_checks_of_a_post_come_in_their_order(machine):
    """Privilege, connection, port, parameters, VP, SynIC, buffers: everything is wrong at first."""
    sender, receiver = pair(machine)
    privileges = sender.privileges
    sender.set_privileges(privileges & ~int(HvPrivilege.POST_MESSAGES))
    wrong = {"connection": 0x300, "kind": 0}
    assert post(machine, sender, **wrong) == S.ACCESS_DENIED
    sender.set_privileges(privileges)
    assert post(machine, sender, **wrong) == S.INVALID_CONNECTION_ID
    ports.create_port(receiver, 0x300, sender, HvPortInfo(port_type=PortType.EVENT, target_sint=2, flag_count=1))
    connections.connect_port(sender, 0x300, receiver, 0x300, HvConnectionInfo(port_type=PortType.EVENT))
    assert post(machine, sender, **wrong) == S.INVALID_PORT_ID
    machine.hypervisor.create_vp(receiver, 1)
    machine.hypervisor.delete_vp(receiver, 0)
    assert post(machine, sender, kind=0) == S.INVALID_PARAMETER
    assert post(machine, sender) == S.INVALID_VP_INDEX
    machine.hypervisor.create_vp(receiver, 0)
    receiver.ports[0x111].buffers_in_use = 16
    assert post(machine, sender) == S.INVALID_SYNIC_STATE
    with_synic(receiver.vps[0])
    assert post(machine, sender) == S.INSUFFICIENT_BUFFERS


def test_an_event_for_any_vp_goes_to_one_that_can_take_it(machine):
    sender, receiver = pair(machine, PortType.EVENT, target_vp=ANY_VP)
    second = machine.hypervisor.create_vp(receiver, 1)
    assert signal(machine, sender) == S.INVALID_SYNIC_STATE
    with_synic(receiver.vps[0], masked=1)
    with_synic(second)
    assert signal(machine, sender) == S.SUCCESS
    assert (receiver.vps[0].apic.irr, second.apic.irr) == (0, 1 << VECTOR)


# By hypercall of root's.

def call(machine, code, vp=None, **fields):
    """Status of the call; its output is at 0x5000."""
    vp = vp or machine.root_vp
    vp.partition.space.write(0x4000, HYPERCALLS[code].input(**fields).pack())
    return S(hypercall(machine.hypervisor, vp, code, 0x4000, 0x5000) & 0xFFFF)


def create_fields(receiver, sender, **fields):
    return {"port_partition": receiver.id, "port_id": 5, "connection_partition": sender.id,
            "port_info": HvPortInfo(port_type=PortType.MESSAGE, target_sint=2), **fields}


def test_the_older_calls_make_the_same_port_and_connection(machine):
    sender, receiver = machine.child(), machine.child()
    vp = with_synic(receiver.vps[0])
    assert call(machine, C.CREATE_PORT_V1, **create_fields(receiver, sender)) == S.SUCCESS
    fields = {"connection_partition": sender.id, "connection_id": 0x222, "port_partition": receiver.id, "port_id": 5}
    assert call(machine, C.CONNECT_PORT_V1, **fields, port_type=PortType.EVENT) == S.INVALID_PARAMETER
    assert call(machine, C.CONNECT_PORT_V1, **fields, port_type=PortType.MESSAGE) == S.SUCCESS
    assert post(machine, sender) == S.SUCCESS
    assert slot(vp).header.sender == 5


CALLS = {
    C.CREATE_PORT: {"port_id": 5, "port_info": HvPortInfo(port_type=PortType.MESSAGE, target_sint=2)},
    C.DELETE_PORT: {"port_id": 0x111},
    C.GET_PORT_PROPERTY: {"port_id": 0x111}, C.SET_PORT_PROPERTY: {"port_id": 0x111},
}


@pytest.mark.parametrize("code", CALLS)
def test_a_port_belongs_to_an_active_partition_that_the_caller_may_name(machine, code):
    """TLFS "HvCallCreatePort" and its like."""
    sender, receiver = pair(machine)
    fields = CALLS[code] | ({"connection_partition": sender.id} if code == C.CREATE_PORT else {})
    assert call(machine, code, port_partition=77, **fields) == S.INVALID_PARTITION_ID
    assert call(machine, code, vp=sender.vps[0], port_partition=receiver.id, **fields) == S.ACCESS_DENIED
    machine.hypervisor.finalize_partition(receiver)
    assert call(machine, code, port_partition=receiver.id, **fields) == S.INVALID_PARTITION_STATE


def test_a_connection_joins_two_active_partitions(machine):
    sender, receiver = pair(machine)
    fields = {"connection_partition": sender.id, "connection_id": 1, "port_partition": receiver.id, "port_id": 0x111,
              "connection_info": HvConnectionInfo(port_type=PortType.MESSAGE)}
    assert call(machine, C.CONNECT_PORT, **fields | {"connection_partition": 77}) == S.INVALID_PARTITION_ID
    assert call(machine, C.CONNECT_PORT, **fields | {"port_partition": 77}) == S.INVALID_PARTITION_ID
    machine.hypervisor.finalize_partition(receiver)
    assert call(machine, C.CONNECT_PORT, **fields) == S.INVALID_PARTITION_STATE
    assert call(machine, C.DISCONNECT_PORT, connection_partition=sender.id, connection_id=0x222) == S.SUCCESS
    machine.hypervisor.finalize_partition(sender)
    assert call(machine, C.DISCONNECT_PORT, connection_partition=sender.id,
                connection_id=0x222) == S.INVALID_PARTITION_STATE


@pytest.mark.parametrize("field", ["gpa", "trigger_value", "trigger_flags"])
@pytest.mark.parametrize("kind", [PortType.MESSAGE, PortType.EVENT])
def test_the_rest_of_a_connections_description_is_reserved(machine, kind, field):
    sender, receiver = pair(machine, kind)
    with pytest.raises(HypercallError, match=r"^INVALID_PARAMETER"):
        connections.connect_port(sender, 1, receiver, 0x111, HvConnectionInfo(port_type=kind, **{field: 1}))
    assert 1 not in sender.connections
    assert sender.pool.inspect()["records"] == {"connection": 1}


# Port properties.

def get_property(machine, receiver, code, port_id=0x111):
    status = call(machine, C.GET_PORT_PROPERTY, port_partition=receiver.id, port_id=port_id, property_code=code)
    if status != S.SUCCESS:
        return status.name
    return GetPortPropertyOutput.parse(machine.memory.read(0x5000, 8)).property_value


def set_property(machine, receiver, code, value, port_id=0x111):
    return call(machine, C.SET_PORT_PROPERTY, port_partition=receiver.id, port_id=port_id, property_code=code,
                property_value=value).name


P = HvPortProperty


def test_a_port_counts_what_was_sent_with_success(machine):
    sender, receiver = pair(machine)
    assert post(machine, sender) == S.INVALID_SYNIC_STATE
    with_synic(receiver.vps[0])
    for _ in range(20):
        post(machine, sender)
    assert get_property(machine, receiver, P.POST_COUNT) == 17
    assert get_property(machine, receiver, P.SIGNAL_COUNT) == "UNKNOWN_PROPERTY"
    assert set_property(machine, receiver, P.POST_COUNT, 0) == "OPERATION_DENIED"
    sender, receiver = pair(machine, PortType.EVENT)
    with_synic(receiver.vps[0])
    for _ in range(2):
        signal(machine, sender)
    assert get_property(machine, receiver, P.SIGNAL_COUNT) == 2
    assert get_property(machine, receiver, P.POST_COUNT) == "UNKNOWN_PROPERTY"


def test_a_port_is_sent_to_another_vp(machine):
    sender, receiver = pair(machine)
    with_synic(receiver.vps[0])
    second = with_synic(machine.hypervisor.create_vp(receiver, 1))
    assert set_property(machine, receiver, P.TARGET_VP, 2) == "INVALID_VP_INDEX"
    assert set_property(machine, receiver, P.PREFERRED_TARGET_VP, 1) == "INVALID_PARAMETER"     # it has a target
    assert set_property(machine, receiver, P.TARGET_VP, 1) == "SUCCESS"
    assert get_property(machine, receiver, P.TARGET_VP) == 1
    post(machine, sender)
    assert slot(second).header.message_type == 5


def test_a_port_for_any_vp_prefers_one_that_can_take_it(machine):
    sender, receiver = pair(machine, target_vp=ANY_VP)
    first, second = with_synic(receiver.vps[0]), with_synic(machine.hypervisor.create_vp(receiver, 1))
    assert get_property(machine, receiver, P.PREFERRED_TARGET_VP) == ANY_VP
    assert set_property(machine, receiver, P.PREFERRED_TARGET_VP, 1) == "SUCCESS"
    post(machine, sender)
    second.synic.write_msr(Msr.HV_SCONTROL, 0)
    post(machine, sender)
    assert second.partition.space.read(SIEF - 0x1000 + 2 * 256, 1) == b"\5"
    assert slot(first).header.message_type == 5
    machine.hypervisor.delete_vp(receiver, 1)
    assert post(machine, sender) == S.SUCCESS


@pytest.mark.parametrize("code", [P.MONITOR_ADDRESS, P.USE_RING_BUFFER, P.PENDING_RING, 10, 0xFFFF_FFFF])
def test_a_property_that_a_port_does_not_have(machine, code):
    _, receiver = pair(machine)
    assert get_property(machine, receiver, code) == "UNKNOWN_PROPERTY"
    assert set_property(machine, receiver, code, 0) == "UNKNOWN_PROPERTY"
    assert get_property(machine, receiver, P.TARGET_VP, port_id=0x112) == "INVALID_PORT_ID"


# A parent needs neither port nor connection.

def direct(machine, receiver, code=C.POST_MESSAGE_DIRECT, vp=None, **fields):
    fields = {"partition_id": receiver.id, "sint": 2, **fields}
    if code == C.POST_MESSAGE_DIRECT:
        header = {"message_type": 0x80000001, "payload_size": 5, "sender": 0x77} | fields.pop("header", {})
        fields["message"] = HvMessage(header=HvMessageHeader(**header), payload=b"hello".ljust(240, b"\0"))
    return call(machine, code, vp, **fields)


def test_a_parent_puts_a_message_into_an_empty_slot_or_nowhere(machine):
    receiver = machine.child()
    vp = receiver.vps[0]
    assert direct(machine, receiver) == S.INVALID_SYNIC_STATE
    with_synic(vp)
    assert direct(machine, receiver) == S.SUCCESS
    header = slot(vp).header
    assert (header.message_type, header.sender, slot(vp).payload[:6]) == (0x80000001, 0x77, b"hello\0")
    assert vp.apic.irr == 1 << VECTOR
    assert direct(machine, receiver) == S.OBJECT_IN_USE
    vp.synic.post(2, ports.QueuedMessage(1, b"queued", 0))
    empty_slot(vp)
    assert direct(machine, receiver) == S.OBJECT_IN_USE         # it would overtake
    vp.synic.write_msr(Msr.HV_SINT2, 0x10052)
    assert direct(machine, receiver) == S.INVALID_SYNIC_STATE


def test_a_parent_signals_an_event(machine):
    receiver = machine.child()
    fields = {"code": C.SIGNAL_EVENT_DIRECT, "flag_number": 2047}
    assert direct(machine, receiver, **fields) == S.INVALID_SYNIC_STATE
    with_synic(receiver.vps[0])
    answers = []
    for _ in range(2):
        assert direct(machine, receiver, **fields) == S.SUCCESS
        answers.append(SignalEventDirectOutput.parse(machine.memory.read(0x5000, 8)).newly_signaled)
    assert answers == [1, 0]
    assert receiver.space.read(SIEF + 2 * 256 + 255, 1) == b"\x80"


REFUSED = [
    ("itself", {"partition_id": PARTITION_ID_SELF}, S.ACCESS_DENIED),
    ("nobody", {"partition_id": 77}, S.INVALID_PARTITION_ID),
    ("no-vp", {"vp_index": 1}, S.INVALID_VP_INDEX), ("another-vtl", {"vtl": 1}, S.INVALID_PARAMETER),
    ("sint-16", {"sint": 16}, S.INVALID_PARAMETER),
]


@pytest.mark.parametrize(("fields", "status"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
@pytest.mark.parametrize("code", [C.POST_MESSAGE_DIRECT, C.SIGNAL_EVENT_DIRECT])
def test_a_direct_call_is_refused(machine, code, fields, status):
    receiver = machine.child()
    with_synic(receiver.vps[0])
    assert direct(machine, receiver, code, **fields) == status


@pytest.mark.parametrize("header", [{"message_type": 0}, {"payload_size": 241}, {"reserved": 1}],
                         ids=["no-type", "too-long", "reserved"])
def test_a_direct_message_is_refused(machine, header):
    receiver = machine.child()
    with_synic(receiver.vps[0])
    assert direct(machine, receiver, header=header) == S.INVALID_PARAMETER


def test_a_flag_number_beyond_2047_is_refused(machine):
    receiver = machine.child()
    with_synic(receiver.vps[0])
    assert direct(machine, receiver, C.SIGNAL_EVENT_DIRECT, flag_number=2048) == S.INVALID_PARAMETER


def test_a_child_may_not_send_directly_to_anybody(machine):
    one, other = machine.child(), machine.child()
    for code in (C.POST_MESSAGE_DIRECT, C.SIGNAL_EVENT_DIRECT):
        assert direct(machine, other, code, one.vps[0]) == S.ACCESS_DENIED
    machine.hypervisor.finalize_partition(other)
    for code in (C.POST_MESSAGE_DIRECT, C.SIGNAL_EVENT_DIRECT):
        assert direct(machine, other, code) == S.INVALID_PARTITION_STATE
