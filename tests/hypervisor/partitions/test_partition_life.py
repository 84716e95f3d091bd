"""Partitions in any order of calls: whatever root tries, the books are exact, and all of it is root's in the end."""

from __future__ import annotations

import random

import pytest

from hv.hypervisor.partitions.partition import PartitionState
from hv.root.winhv import HvError, OutOfPages
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.partitions import PartitionInput
from hv.spec.intercepts import HvInterceptType
from hv.spec.partition import HvMapGpaFlags, HvPartitionProperty, HvUnmapGpaFlags
from hv.spec.synic import PortType
from tests.hypervisor.random_calls import World

LARGE = 512
NOBODY = 77                             # no partition's id


class Life:
    """One seed's choices; each act is a sentence about a partition that may or may not be there, or able."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.chance = world, random.Random(seed)
        self.winhv, self.memory = world.machine.root.winhv, world.machine.root.memory
        self.ram = self.memory.allocate(40)
        self.acts = (self.create, self.initialize, self.deposit, self.withdraw, self.map, self.map, self.map_large,
                     self.map_sparse, self.unmap, self.modify, self.create_vp, self.delete_vp, self.registers,
                     self.port, self.connect, self.close_port, self.intercept, self.suspend, self.freeze,
                     self.finalize, self.delete)

    def act(self) -> HvStatus:
        """Do something; what it came to. A pool is never filled by itself, so calls do run out of pages."""
        try:
            self.chance.choice(self.acts)(self._one())
        except HvError as error:
            return error.status
        except OutOfPages:
            return HvStatus.INSUFFICIENT_MEMORY
        return HvStatus.SUCCESS

    def _one(self, or_root: bool = False) -> int:
        known = [each for each in sorted(self.world.hypervisor.partitions) if each != 1 or or_root]
        return self.chance.choice([*known, *known, *known, NOBODY])

    def _alone(self, code: HypercallCode, partition: int) -> None:
        """A call that does not deposit and try again."""
        self.winhv._call(code, PartitionInput(partition_id=partition))

    def create(self, partition: int) -> None:
        if len(self.world.hypervisor.partitions) < 4:
            made = self.winhv.create_partition()
            if self.chance.random() < 0.7:
                self.winhv.initialize_partition(made)

    def initialize(self, partition: int) -> None:
        self._alone(HypercallCode.INITIALIZE_PARTITION, partition)

    def deposit(self, partition: int) -> None:
        pages = self.memory.allocate(self.chance.randrange(1, 6))
        try:
            self.winhv.deposit_memory(partition, pages)
        except HvError:
            self.memory.free(pages)
            raise

    def withdraw(self, partition: int) -> None:
        self.winhv.withdraw_memory(partition, self.chance.randrange(1, 9))

    def _pages(self) -> list[int]:
        """Of root's, lent or not; seldom one that is not root's."""
        return [self.chance.choice((*self.ram, 0x3F0, 1 << 30)) for _ in range(self.chance.randrange(1, 4))]

    def _flags(self) -> int:
        return self.chance.choice((0, 1, 3, 13, 15))

    def map(self, partition: int) -> None:
        self.winhv.map_gpa_pages(partition, self.chance.randrange(0x7FE), self._pages(), self._flags())

    def map_large(self, partition: int) -> None:
        source = self.chance.choice((0, LARGE, 3 * LARGE, 5))
        self.winhv.map_gpa_pages(partition, self.chance.choice((0, LARGE, 2 * LARGE)), [source],
                                 self._flags() | HvMapGpaFlags.LARGE_PAGE)

    def map_sparse(self, partition: int) -> None:
        self.winhv.map_sparse_gpa_pages(partition, {self.chance.randrange(1 << 28): page for page in self._pages()},
                                        self._flags())

    def unmap(self, partition: int) -> None:
        if self.chance.random() < 0.5:
            self.winhv.unmap_gpa_pages(partition, self.chance.choice((0, LARGE)), 2, HvUnmapGpaFlags.LARGE_PAGE)
        else:
            self.winhv.unmap_gpa_pages(partition, self.chance.randrange(0x7FE), self.chance.randrange(1, 40))

    def modify(self, partition: int) -> None:
        self.winhv.modify_sparse_gpa_pages(partition, [self.chance.randrange(0x400) for _ in range(2)], self._flags())

    def create_vp(self, partition: int) -> None:
        self.winhv.create_vp(partition, self.chance.choice((0, 0, 1, 2, 64)))

    def delete_vp(self, partition: int) -> None:
        self.winhv.delete_vp(partition, self.chance.choice((0, 1, 2)))

    def registers(self, partition: int) -> None:
        """An overlay, and a VP that runs on whatever stands in its memory."""
        name = self.chance.choice((N.SIMP, N.SIEFP, N.VP_ASSIST_PAGE, N.EXPLICIT_SUSPEND))
        value = 0 if name == N.EXPLICIT_SUSPEND else self.chance.randrange(0x500) << 12 | 1
        self.winhv.set_vp_registers(partition, 0, {name: value})

    def port(self, partition: int) -> None:
        make = self.chance.choice((self.winhv.create_message_port, self.winhv.create_event_port))
        make(partition, self.chance.randrange(1, 5), self._one(or_root=True), 2)

    def connect(self, partition: int) -> None:
        self.winhv.connect_port(self._one(or_root=True), self.chance.randrange(1, 5), partition,
                                self.chance.randrange(1, 5), self.chance.choice((PortType.MESSAGE, PortType.EVENT)))

    def close_port(self, partition: int) -> None:
        close = self.chance.choice((self.winhv.delete_port, self.winhv.disconnect_port))
        close(partition, self.chance.randrange(1, 5))

    def intercept(self, partition: int) -> None:
        kind, parameter, access = self.chance.choice((
            (HvInterceptType.IO_PORT_RANGE, 0xFFFF << 16, 3), (HvInterceptType.IO_PORT, 0x60, 3),
            (HvInterceptType.MSR, self.chance.randrange(1 << 32), 3), (HvInterceptType.CPUID, 1, 4),
            (HvInterceptType.EXCEPTION, 14, 4)))
        self.winhv.install_intercept(partition, kind, parameter, self.chance.choice((0, access, access)))

    def suspend(self, partition: int) -> None:
        self.winhv.set_partition_property(partition, HvPartitionProperty.SUSPEND, self.chance.randrange(2))

    def freeze(self, partition: int) -> None:
        self.winhv.set_partition_property(partition, HvPartitionProperty.TIME_FREEZE, self.chance.randrange(2))

    def finalize(self, partition: int) -> None:
        if self.chance.random() < 0.3:
            self.winhv.finalize_partition(partition)

    def delete(self, partition: int) -> None:
        self.winhv.delete_partition(partition)

    def end_all(self) -> None:
        """What a management stack does for each that is left."""
        for partition_id in self.winhv.children():
            partition = self.world.hypervisor.partitions[partition_id]
            if partition.state is not PartitionState.FINALIZED:
                self.winhv.finalize_partition(partition_id)
            for index in list(partition.vps):
                self.winhv.delete_vp(partition_id, index)
            assert partition.pool.in_use == 0
            self.winhv.withdraw_memory(partition_id)
            self.winhv.delete_partition(partition_id)
        for port_id in list(self.world.hypervisor.root.ports):
            self.winhv.delete_port(1, port_id)
        for connection_id in list(self.world.hypervisor.root.connections):
            self.winhv.disconnect_port(1, connection_id)
        self.winhv.withdraw_memory(1)
        self.memory.free(self.ram)


def whose(world: World) -> tuple[object, ...]:
    hypervisor = world.hypervisor
    return hypervisor.owners.inspect(), hypervisor.root.pool.inspect(), world.machine.root.memory.free_count


@pytest.mark.parametrize("seed", range(20))
def test_partitions_live_in_any_order_and_leave_nothing(seed: int) -> None:
    with World() as world:
        Life(world, seed).end_all()         # the two children it begins with; their memory stays allocated
        before, statuses = whose(world), set()
        life = Life(world, seed)
        for number in range(150):
            statuses.add(life.act())
            world.check_books()
            if number % 10 == 9:
                world.machine.run(world.machine.clock.tsc + 20_000)
        assert len(statuses) >= 6           # not everything was refused, and not for one reason
        life.end_all()
        world.check_books()
        assert whose(world) == before
