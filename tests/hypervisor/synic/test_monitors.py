"""Monitor pages: shared by two partitions, looked at by the hypervisor, events after the latency."""

import pytest

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.synic import connections, port_properties, ports
from hv.hypervisor.synic.monitors import LONGEST_POLL, SHORTEST_POLL
from hv.machine.clock import TICKS_PER_100NS, VirtualClock
from hv.spec.cpuid import HvPrivilege
from hv.spec.monitor import HvMonitorPage, HvMonitorParameter, HvMonitorTriggerState
from hv.spec.synic import HvConnectionInfo, HvMonitorPortInfo, HvPortInfo, HvPortProperty, PortType
from hv.trace.events import EventDelivered, MonitorTriggered
from tests.hypervisor.fakes import Machine
from tests.hypervisor.synic.test_synic import VECTOR, with_synic

HERE, THERE = 0x8000, 0x9000            # of the receiver, and of the sender
LATENCY = 1000


class Monitored(Machine):
    """A sender and a receiver with an event connection 7 (flags 0..15) and a monitor page."""

    def __init__(self):
        super().__init__()
        self.sender, self.receiver = self.child(), self.child()
        self.vp = with_synic(self.receiver.vps[0])
        event = HvPortInfo(port_type=PortType.EVENT, target_sint=2, flag_count=16)
        ports.create_port(self.receiver, 1, self.sender, event)
        connections.connect_port(self.sender, 7, self.receiver, 1, HvConnectionInfo(port_type=PortType.EVENT))
        ports.create_port(self.receiver, 2, self.sender, monitor_port(HERE))
        connections.connect_port(self.sender, 8, self.receiver, 2, monitor_connection(THERE))
        self.sender.vps[0].runnable = True

    def put(self, field, data, index=0, size=4):
        self.sender.space.write(THERE + HvMonitorPage.offset_of(field) + index * size, data)

    def describe(self, trigger, flag, latency=LATENCY, connection=7, enable=0xF):
        self.put("latency", latency.to_bytes(2, "little"), trigger, 2)
        self.put("parameters", HvMonitorParameter(connection_id=connection, flag_number=flag).pack(), trigger, 8)
        self.put("trigger_state", enable.to_bytes(4, "little"))

    def set(self, trigger):
        """What a sender does: set pending, clear armed."""
        pending, armed = self.group(trigger // 32)
        bit = 1 << trigger % 32
        self.put("trigger_groups", (pending | bit | (armed & ~bit) << 32).to_bytes(8, "little"), trigger // 32, 8)

    def group(self, number):
        at = HERE + HvMonitorPage.offset_of("trigger_groups") + 8 * number
        words = self.receiver.space.read(at, 8)
        return int.from_bytes(words[:4], "little"), int.from_bytes(words[4:], "little")

    def wait(self, time_100ns):
        """Let time pass in small steps, as a running guest does."""
        for _ in range(time_100ns // 50):
            self.clock.advance(50 * TICKS_PER_100NS)
            self.clock.run_due()

    def flags(self):
        return [event.flag for event in self.events(EventDelivered)]


def monitor_port(gpa, **fields):
    info = HvMonitorPortInfo(port_type=PortType.MONITOR, monitor_address=gpa, **fields)
    return HvPortInfo.parse(info.pack())


def monitor_connection(gpa, **fields):
    return HvConnectionInfo(port_type=PortType.MONITOR, gpa=gpa, **fields)


@pytest.fixture
def machine():
    return Monitored()


def test_the_page_has_the_layout_of_the_document():
    offsets = {"trigger_groups": 8, "next_check_time": 0x40, "latency": 0x240, "parameters": 0x440, "reserved3": 0x840}
    assert {name: HvMonitorPage.offset_of(name) for name in offsets} == offsets
    assert (HvMonitorPage.SIZE, HvMonitorParameter.SIZE) == (4096, 8)


def test_both_partitions_see_one_empty_page_over_their_own(machine):
    machine.sender.space.write(THERE + 0x100, b"shared")
    assert machine.receiver.space.read(HERE + 0x100, 6) == b"shared"
    assert machine.receiver.space.read(HERE, 0x100) == bytes(0x100)
    connections.disconnect_port(machine.sender, 8)
    assert machine.sender.space.read(THERE + 0x100, 6) == bytes(6)
    assert machine.receiver.space.read(HERE + 0x100, 6) == b"shared"
    assert port_properties.get_property(machine.receiver.ports[2], HvPortProperty.MONITOR_ADDRESS) == HERE


@pytest.mark.parametrize("trigger", [0, 31, 32, 127])
def test_a_trigger_is_an_event_after_its_latency(machine, trigger):
    """TLFS "Monitored Notifications": never before, and not much later."""
    machine.describe(trigger, 5)
    machine.wait(LONGEST_POLL)
    machine.set(trigger)
    machine.wait(LATENCY - 50)
    assert machine.flags() == []
    machine.wait(LATENCY + 100)
    assert machine.flags() == [5]
    assert machine.vp.apic.irr == 1 << VECTOR
    assert machine.group(trigger // 32) == (0, 0)
    assert machine.events(MonitorTriggered) == [MonitorTriggered(trigger, 7, 5)]
    machine.wait(10 * LATENCY)
    assert machine.flags() == [5]


def test_a_trigger_that_is_seen_is_armed_and_says_when_it_is_looked_at_again(machine):
    machine.describe(3, 5, latency=5000)
    machine.wait(LONGEST_POLL)
    machine.set(3)
    machine.wait(5000)
    assert machine.group(0) == (8, 8)
    at = THERE + HvMonitorPage.offset_of("next_check_time") + 4 * 3
    due = int.from_bytes(machine.sender.space.read(at, 4), "little")
    assert 0 < due - machine.clock.time_100ns <= 5000


def test_a_trigger_that_is_set_again_is_deferred_again(machine):
    """Who sets a pending bit clears the armed one: the latency begins anew."""
    machine.describe(0, 5, latency=2000)
    machine.wait(LONGEST_POLL)
    machine.set(0)
    for _ in range(5):
        machine.wait(1500)
        machine.set(0)
    assert machine.flags() == []
    machine.wait(5000)
    assert machine.flags() == [5]


def test_the_triggers_of_one_look_are_signalled_in_order(machine):
    for trigger, flag in ((40, 9), (2, 4), (1, 6)):
        machine.describe(trigger, flag)
        machine.set(trigger)
    machine.wait(LONGEST_POLL + 2 * LATENCY)
    assert machine.flags() == [6, 4, 9]


def test_the_page_goes_by_the_clock_that_its_sender_has_now(machine):
    """With `--parallel` a partition gets one of its own with its first VP, maybe after it was connected."""
    machine.describe(0, 5)
    machine.wait(LONGEST_POLL)
    clock = VirtualClock()
    clock.advance(machine.clock.tsc)
    machine.sender.use_clock(clock)
    machine.set(0)
    machine.wait(LONGEST_POLL)              # the look that was under way arms the trigger
    assert machine.flags() == []
    for _ in range(2 * LONGEST_POLL // 50):
        clock.advance(50 * TICKS_PER_100NS)
        clock.run_due()
    assert machine.flags() == [5]


@pytest.mark.parametrize("state", [0xE, HvMonitorTriggerState(group_enable=0xF, monitor_disabled=1).raw, 0],
                         ids=["another-group", "disabled", "none"])
def test_a_group_that_is_not_enabled_waits(machine, state):
    machine.describe(0, 5, enable=state)
    machine.set(0)
    machine.wait(3 * LONGEST_POLL)
    assert (machine.flags(), machine.group(0)) == ([], (1, 0))
    machine.put("trigger_state", (1).to_bytes(4, "little"))
    machine.wait(LONGEST_POLL + 2 * LATENCY)
    assert machine.flags() == [5]


@pytest.mark.parametrize("wrong", [{"connection": 99}, {"connection": 8}, {"flag": 16}], ids=["none", "type", "flag"])
def test_what_is_wrong_with_a_parameter_is_told_to_nobody(machine, wrong):
    machine.describe(0, **{"flag": 5} | wrong)
    machine.set(0)
    machine.wait(LONGEST_POLL + 2 * LATENCY)
    assert (machine.flags(), machine.group(0)) == ([], (0, 0))


def test_a_sender_without_the_privilege_to_signal_signals_nothing(machine):
    machine.sender.set_privileges(machine.sender.privileges & ~int(HvPrivilege.SIGNAL_EVENTS))
    machine.describe(0, 5)
    machine.set(0)
    machine.wait(LONGEST_POLL + 2 * LATENCY)
    assert machine.flags() == []


def test_a_page_full_of_noise_breaks_nothing(machine):
    machine.sender.space.write(THERE, b"\xff" * 4096)
    machine.put("trigger_state", (0xF).to_bytes(4, "little"))
    machine.wait(100_000)
    assert machine.group(3) == (0, 0)


def test_nobody_looks_while_no_vp_of_the_sender_can_run(machine):
    """An idle machine has no deadline; whoever is woken next has the page looked at again."""
    machine.describe(0, 5)
    machine.wait(LONGEST_POLL)
    machine.sender.vps[0].runnable = False
    machine.wait(2 * LATENCY)
    assert machine.clock.next_deadline() is None
    woken = []
    before = machine.hypervisor.monitors._on_wake
    machine.hypervisor.monitors._on_wake = woken.append
    machine.set(0)
    machine.sender.vps[0].runnable = True
    machine.hypervisor.on_wake(machine.vp)
    assert woken == [machine.vp]
    machine.hypervisor.on_wake = before
    machine.wait(3 * LATENCY)
    assert machine.flags() == [5]


def test_an_armed_trigger_is_signalled_though_its_sender_sleeps(machine):
    machine.describe(0, 5)
    machine.set(0)
    machine.wait(LONGEST_POLL)
    machine.set(0)
    machine.wait(LATENCY)
    machine.sender.vps[0].runnable = False
    machine.wait(2 * LATENCY)
    assert machine.flags() == [5]
    assert machine.clock.next_deadline() is None


@pytest.mark.parametrize(("latency", "interval"), [(1, SHORTEST_POLL), (LATENCY, LATENCY), (65535, LONGEST_POLL),
                                                   (0, LONGEST_POLL)])
def test_it_is_looked_at_as_often_as_the_lowest_latency_says(machine, latency, interval):
    machine.describe(0, 5, latency=latency)
    machine.describe(1, 5, latency=0)
    machine.clock.advance(2 * LONGEST_POLL * TICKS_PER_100NS)
    machine.clock.run_due()
    assert machine.clock.next_deadline() == machine.clock.tsc + interval * TICKS_PER_100NS


WRONG = [
    ("port-inside-a-page", HERE + 8, "INVALID_ALIGNMENT"), ("port-outside", 1 << 45, "INVALID_PARAMETER"),
]


@pytest.mark.parametrize(("gpa", "status"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_monitor_page_has_a_page_of_its_partitions(machine, gpa, status):
    before = machine.receiver.pool.inspect(), machine.sender.pool.inspect()
    with pytest.raises(HypercallError, match=f"^{status}"):
        ports.create_port(machine.receiver, 3, machine.sender, monitor_port(gpa))
    with pytest.raises(HypercallError, match=f"^{status}"):
        connections.connect_port(machine.sender, 9, machine.receiver, 2, monitor_connection(gpa))
    assert before == (machine.receiver.pool.inspect(), machine.sender.pool.inspect())


def test_reserved_fields_of_a_monitor_are_zero(machine):
    with pytest.raises(HypercallError, match=r"^INVALID_PARAMETER"):
        ports.create_port(machine.receiver, 3, machine.sender, monitor_port(HERE, reserved=1))
    with pytest.raises(HypercallError, match=r"^INVALID_PARAMETER"):
        connections.connect_port(machine.sender, 9, machine.receiver, 2, monitor_connection(THERE, trigger_value=1))


@pytest.mark.parametrize("free", [0, 1])
def test_a_monitor_port_that_cannot_be_paid_is_not_made(free):
    machine = Machine()
    sender, receiver = machine.child(), machine.child()
    pages = [receiver.pool.allocate() for _ in range(receiver.pool.available)]
    for page in pages[:free]:
        receiver.pool.free(page)
    before = receiver.pool.inspect()
    with pytest.raises(HypercallError, match=r"^INSUFFICIENT_MEMORY"):
        ports.create_port(receiver, 3, sender, monitor_port(HERE))
    assert (receiver.pool.inspect(), receiver.ports) == (before, {})


@pytest.mark.parametrize("end", ["delete", "finalize owner", "finalize sender", "disconnect"])
def test_every_end_takes_the_page_away_and_gives_back_what_it_cost(end):
    machine = Machine()
    sender, receiver = machine.child(), machine.child()
    # tables and records of the first time stay out of the balance
    before = sender.pool.in_use, receiver.pool.in_use
    ports.create_port(receiver, 2, sender, monitor_port(HERE))
    connections.connect_port(sender, 8, receiver, 2, monitor_connection(THERE))
    if end == "finalize owner":
        machine.hypervisor.finalize_partition(receiver)
        connections.disconnect_port(sender, 8)
        assert sender.pool.in_use == before[0]
    elif end == "finalize sender":
        machine.hypervisor.finalize_partition(sender)
        ports.delete_port(receiver, 2)
        assert receiver.pool.in_use == before[1]
    else:
        if end == "delete":
            ports.delete_port(receiver, 2)
            assert sender.space.overlay_at(THERE >> 12) is None
            connections.disconnect_port(sender, 8)
        else:
            connections.disconnect_port(sender, 8)
            ports.delete_port(receiver, 2)
        assert (sender.pool.in_use, receiver.pool.in_use) == before
    assert machine.clock.next_deadline() is None
