"""Whatever two partitions do to each other's SynIC, in whatever order: no message is lost, doubled or overtaken."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.synic import connections, ports
from hv.hypervisor.synic.synic import QueuedMessage
from hv.spec.hv_status import HvStatus
from hv.spec.msrs import HvSynicSint, Msr
from hv.spec.synic import HvConnectionInfo, HvMessage, HvPortInfo, PortType
from tests.hypervisor.fakes import Machine

VPS, SINTS = 2, (2, 3)
PORTS = {1: (0, 2), 2: (0, 2), 3: (0, 3), 4: (1, 2)}           # id -> VP and SINT: two share one
SIMP, SIEFP = (0x3000, 0x4000), (0x5000, 0x6000)
TIMER = 0x80000010
EVENTS = 9                                                      # the event port: VP 0, SINT 2, flags 0..7


class World:
    """A sender and a receiver, and beside them what must be true of every message: a number, sent once."""

    def __init__(self):
        self.machine = Machine()
        self.sender, self.receiver = self.machine.child(), self.machine.child(vps=VPS)
        self.before = [each.pool.inspect() for each in (self.sender, self.receiver)]
        for number in PORTS:
            self.make_port(number)
        info = HvPortInfo(port_type=PortType.EVENT, target_sint=2, flag_count=8)
        ports.create_port(self.receiver, EVENTS, self.sender, info)
        connections.connect_port(self.sender, EVENTS, self.receiver, EVENTS, HvConnectionInfo(port_type=PortType.EVENT))
        self.next = 1
        self.on_their_way = defaultdict(list)           # VP and SINT -> (number, port or 0), in order; with the slot
        self.on = {(vp, what): False for vp in range(VPS) for what in ("synic", "simp", "siefp")}
        self.masked = {(vp, sint): True for vp in range(VPS) for sint in SINTS}
        self.flags = set()

    def make_port(self, number):
        vp, sint = PORTS[number]
        info = HvPortInfo(port_type=PortType.MESSAGE, target_sint=sint, target_vp=vp)
        ports.create_port(self.receiver, number, self.sender, info)
        connections.connect_port(self.sender, number, self.receiver, number,
                                 HvConnectionInfo(port_type=PortType.MESSAGE))

    def vp(self, index):
        return self.receiver.vps[index]

    def slot(self, vp, sint):
        return self.machine.memory.read(self.vp(vp).synic.message_page + 256 * sint, 256)

    def waiting(self, vp, sint):
        """How many are queued behind the slot."""
        full = self.slot(vp, sint)[:4] != bytes(4)
        return len(self.on_their_way[vp, sint]) - full

    # --- what may happen; *n* chooses among what it may happen to ----------------------------------------

    def post(self, n):
        number = sorted(PORTS)[n % len(PORTS)]
        place = PORTS[number]
        port = connections.find_connection(self.sender, number).message_port()
        way, waiting = self.on_their_way[place], self.waiting(*place)
        under_way = [owner for _, owner in way[len(way) - waiting :]]
        expected = HvStatus.INVALID_SYNIC_STATE if not (self.on[place[0], "synic"] and self.on[place[0], "simp"]) else \
            HvStatus.INSUFFICIENT_BUFFERS if under_way.count(number) == 16 else HvStatus.SUCCESS
        assert self.status(lambda: port.post(1, self.next.to_bytes(4, "little"))) == expected
        if expected == HvStatus.SUCCESS:
            register = self.vp(place[0]).synic.sints[place[1]]
            if not way and not register.masked and not register.polling:
                assert self.vp(place[0]).apic.irr >> register.vector & 1
            way.append((self.next, number))
            self.next += 1

    def timer(self, n):
        place = n % VPS, SINTS[n // VPS % len(SINTS)]
        self.vp(place[0]).synic.post(place[1], QueuedMessage(TIMER, self.next.to_bytes(4, "little"), 0))
        self.on_their_way[place].append((self.next, 0))
        self.next += 1

    def take(self, n):
        """What a guest does with its slot; one of four forgets EOM."""
        vp, sint = n % VPS, SINTS[n // VPS % len(SINTS)]
        slot = HvMessage.parse(self.slot(vp, sint))
        if slot.header.message_type == 0:
            return
        number, owner = self.on_their_way[vp, sint].pop(0)
        assert int.from_bytes(slot.payload[:4], "little") == number
        assert (slot.header.message_type, slot.header.sender) == ((1, owner) if owner else (TIMER, 0))
        page = self.vp(vp).synic.message_page + 256 * sint
        self.machine.memory.write(page, bytes(4))
        if self.machine.memory.read(page + 5, 1)[0] & 1 and n % 4:
            self.eom(vp)
            if self.on[vp, "synic"] and self.on[vp, "simp"] and self.on_their_way[vp, sint]:
                assert self.slot(vp, sint)[:4] != bytes(4)

    def eom(self, n):
        self.vp(n % VPS).synic.write_msr(Msr.HV_EOM, n)

    def interrupt(self, n):
        """Take an interrupt and end it."""
        apic = self.vp(n % VPS).apic
        if apic.deliverable() is not None:
            apic.acknowledge()
            apic.eoi()

    def sint(self, n):
        vp, sint = n % VPS, SINTS[n // VPS % len(SINTS)]
        register = HvSynicSint(vector=0x40 + n % 5, masked=n >> 3 & 1, polling=n >> 4 & 1, auto_eoi=n >> 5 & 1)
        self.vp(vp).synic.write_msr(Msr.HV_SINT0 + sint, register.raw)
        self.masked[vp, sint] = bool(register.masked)

    def switch(self, n):
        """SynIC or a page on or off, or somewhere else."""
        vp, value = n % VPS, n >> 3 & 1
        what = ("synic", "simp", "siefp")[n >> 4 & 3 if n >> 4 & 3 < 3 else 0]
        page = {"simp": SIMP, "siefp": SIEFP}.get(what, (0, 0))[n & 1]
        msr = {"synic": Msr.HV_SCONTROL, "simp": Msr.HV_SIMP, "siefp": Msr.HV_SIEFP}[what]
        self.vp(vp).synic.write_msr(msr, value | page + 0x4000 * (n >> 6 & 1) if page else value)
        self.on[vp, what] = bool(value)

    def signal(self, n):
        port, flag = connections.find_connection(self.sender, EVENTS).event_port(), n % 10
        ready = self.on[0, "synic"] and self.on[0, "siefp"] and not self.masked[0, 2]
        expected = HvStatus.INVALID_PARAMETER if flag > 7 else \
            HvStatus.SUCCESS if ready else HvStatus.INVALID_SYNIC_STATE
        assert self.status(lambda: port.signal(flag)) == expected
        if expected == HvStatus.SUCCESS:
            self.flags.add(flag)

    def clear(self, n):
        spa = self.vp(0).synic.event_page + 256 * 2
        self.machine.memory.write(spa, bytes((self.machine.memory.read(spa, 1)[0] & ~(1 << n % 8),)))
        self.flags.discard(n % 8)

    def renew_port(self, n):
        """Delete a port, with what waits in its buffers, and make it again."""
        number = sorted(PORTS)[n % len(PORTS)]
        place, kept = PORTS[number], len(self.on_their_way[PORTS[number]]) - self.waiting(*PORTS[number])
        ports.delete_port(self.receiver, number)
        connections.disconnect_port(self.sender, number)
        way = self.on_their_way[place]
        self.on_their_way[place] = way[:kept] + [each for each in way[kept:] if each[1] != number]
        self.make_port(number)

    def reset(self, n):
        vp = n % VPS
        if n % 5:
            return
        self.vp(vp).synic.reset()
        for sint in SINTS:
            self.on_their_way[vp, sint], self.masked[vp, sint] = [], True
        for what in ("synic", "simp", "siefp"):
            self.on[vp, what] = False
        if vp == 0:
            self.flags.clear()

    # --- what is always true -----------------------------------------------------------------------------

    @staticmethod
    def status(what):
        try:
            what()
        except HypercallError as error:
            return error.status
        return HvStatus.SUCCESS

    def check(self):
        in_use = defaultdict(int)
        for vp in range(VPS):
            synic = self.vp(vp).synic
            for sint in SINTS:
                queue, way = synic.queues[sint], self.on_their_way[vp, sint]
                slot = self.slot(vp, sint)
                numbers = [int.from_bytes(message.payload, "little") for message in queue]
                if slot[:4] != bytes(4):
                    numbers.insert(0, int.from_bytes(slot[16:20], "little"))
                    assert not (queue and synic.accepts_messages) or slot[5] & 1, "MessagePending says that one waits"
                assert numbers == [number for number, _ in way]
                for message in queue:
                    in_use[message.sender] += 1
        for number in PORTS:
            assert self.receiver.ports[number].buffers_in_use == in_use[number]
        flags = self.machine.memory.read(self.vp(0).synic.event_page + 256 * 2, 1)[0]
        assert {n for n in range(8) if flags >> n & 1} == self.flags

    def end(self):
        """Everything arrives, and everything is given back."""
        for vp in range(VPS):
            for msr, value in ((Msr.HV_SCONTROL, 1), (Msr.HV_SIMP, SIMP[vp] | 1)):
                self.vp(vp).synic.write_msr(msr, value)
            self.on[vp, "synic"] = self.on[vp, "simp"] = True
            for n in (vp, vp + VPS):
                while self.on_their_way[vp, SINTS[n // VPS]]:
                    self.eom(vp)
                    self.take(n)
                    self.check()
        assert not any(port.buffers_in_use for port in self.receiver.ports.values() if port.kind == PortType.MESSAGE)
        for number in (*PORTS, EVENTS):
            ports.delete_port(self.receiver, number)
            connections.disconnect_port(self.sender, number)
        for vp in range(VPS):
            self.vp(vp).synic.reset()
        assert [each.pool.inspect().get("records") for each in (self.sender, self.receiver)] == [
            each.get("records") for each in self.before]


DOES = (*["post"] * 3, "timer", *["take"] * 3, "eom", "interrupt", "sint", "switch", "signal", "clear", "renew_port",
        "reset")


def run(steps):
    world = World()
    for vp in range(VPS):           # begin with all of it on
        world.switch(vp | 1 << 3)
        world.switch(vp | 1 << 3 | 1 << 4)
        world.switch(vp | 1 << 3 | 2 << 4)
    for name, n in steps:
        getattr(world, name)(n)
        world.check()
    world.end()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(DOES), st.integers(0, 127)), max_size=60))
def test_no_message_is_lost_doubled_or_overtaken(steps):
    run(steps)


@pytest.mark.parametrize("seed", range(8))
def test_nor_in_a_long_run(seed):
    chance = random.Random(seed)
    run([(chance.choice(DOES), chance.randrange(128)) for _ in range(600)])
