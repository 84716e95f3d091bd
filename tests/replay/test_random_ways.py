"""Random ways through random guests: a place is the same state at each visit, and another machine comes there too."""

import random

import pytest

from hv.commands.building import build_any
from hv.commands.description import read, root, single
from hv.commands.files import find_guest
from hv.replay.changes import ChangeRefused, SetMemory, SetRegister
from hv.replay.fingerprint import fingerprint
from hv.replay.position import Position, PositionError
from hv.replay.timeline import Timeline
from hv.replay.walk import Point, forget
from hv.vmx.exit import VmExit

GUESTS = [("hello", 1, False), ("timer", 1, False), ("stimer", 1, False), ("two_vps", 2, False), ("smp", 4, False),
          ("guests/synic.toml", 0, False), ("dma", 1, True), ("tlb_flush", 2, False), ("crash", 1, False),
          ("root_child", 0, False), ("long_mode", 1, False)]


def made(guest):
    name, vps, device = guest
    place = find_guest(name)
    if name == "root_child":
        return build_any(root(place, name))
    return build_any(read(place) if place.suffix == ".toml" else single(place, name, 16, vps, device))


def done_again(guest, acts):
    machine, _ = made(guest)
    machine.factory.keeps_engines = True
    try:
        forget(machine)
        for act in acts:
            act.do(machine)
            forget(machine)
        return fingerprint(machine)
    finally:
        machine.close()


class Wanderer:
    """Goes somewhere, again and again, and remembers what was there."""

    def __init__(self, seed):
        self.chosen = random.Random(seed)
        self.guest = self.chosen.choice(GUESTS)
        self.machine, self.vms = made(self.guest)
        self.timeline = Timeline(self.machine, self.chosen.choice((200, 1000, 35_000)))
        self.seen, self.said = {}, [self.guest[0]]

    def wander(self, moves):
        ways = (self.anywhere, self.steps, self.events, self.breakpoint, self.another_future, self.record)
        self.timeline.record(self.machine.clock.tsc + self.chosen.choice((20_000, 200_000, 2_000_000)))
        for _ in range(moves):
            way = self.chosen.choice(ways)
            self.said.append(way.__name__)
            way()
            self.look()

    def look(self):
        key, state = (self.timeline.position, self.timeline.live), fingerprint(self.machine)
        assert self.seen.setdefault(key, state) == state, (key, self.said)

    def anywhere(self):
        chosen, last = self.chosen, self.timeline.end.exits
        place = Position(chosen.randrange(last + 1), *chosen.choice(((0, 0), (chosen.randrange(1, 9), 0), (0, 1))))
        try:
            self.timeline.go(place)
        except PositionError:
            return

    def steps(self):
        n = self.chosen.randrange(1, 30)
        self.chosen.choice((self.timeline.step, self.timeline.step_back))(n)

    def events(self):
        way = self.chosen.choice((self.timeline.forward, self.timeline.backward))
        way(lambda record: (type(record.event) is VmExit) is bool(self.chosen.randrange(2)))

    def breakpoint(self):
        partition = self.machine.hypervisor.partitions.get(self.chosen.choice(self.vms).partition_id)
        if partition is not None and partition.vps:
            vp = partition.vps[min(partition.vps)]
            way = self.chosen.choice((self.timeline.forward, self.timeline.backward))
            way(lambda record: False, [Point(vp.vcpu.engine, vp.regs.linear_rip)])

    def another_future(self):
        self.timeline.take_up()
        self.seen.clear()
        vm = self.chosen.choice(self.vms).partition_id
        change = self.chosen.choice((SetMemory(vm, self.chosen.randrange(0x200000, 0x210000), b"\xee" * 4),
                                     SetRegister(vm, 0, "R15", self.chosen.getrandbits(64))))
        try:
            self.timeline.change(change)
        except ChangeRefused:
            return

    def record(self):
        self.timeline.record(self.machine.clock.tsc + self.chosen.choice((1000, 100_000)))
        self.seen.clear()       # a place at the old end, where time had not gone on, is one in the middle now


@pytest.mark.parametrize("seed", range(24))
def test_each_place_is_the_same_however_one_comes_there(seed):
    wanderer = Wanderer(seed)
    try:
        wanderer.wander(8)
        wanderer.timeline.go_to_end()
        end = fingerprint(wanderer.machine)
        assert done_again(wanderer.guest, wanderer.timeline.acts) == end, wanderer.said
        for (place, live), state in wanderer.seen.items():
            if not live:
                wanderer.timeline.go(place)
                assert fingerprint(wanderer.machine) == state, (place, wanderer.said)
    finally:
        wanderer.machine.close()
