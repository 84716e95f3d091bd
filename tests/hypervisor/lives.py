"""Partitions that root makes and unmakes while everything else goes on, and the end of all of them.

Each step is one that a parent would take next, or should not take yet: what is too early is refused. `wind_up` takes
every child down, and then nothing may be left of any.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

from hv.platform import DEVICE_RID
from hv.root.winhv import HvError, OutOfPages, WinHv
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hypercalls.statistics import HvStatsObjectType
from hv.spec.intercepts import HvInterceptType
from hv.spec.partition import HvPartitionProperty
from hv.spec.vtd import RootEntry
from hv.spec.x86 import PAGE_SIZE
from tests.hypervisor.near import BORN, CALLER, PEER
from tests.hypervisor.random_calls import World

_STATISTICS = (N.STATS_PARTITION_RETAIL, N.STATS_PARTITION_INTERNAL, N.STATS_VP_RETAIL, N.STATS_VP_INTERNAL)
Step = Callable[[WinHv, int, random.Random], object]
STEPS: tuple[Step, ...] = (
    lambda root, it, chance: root.create_partition(),
    lambda root, it, chance: root.deposit_memory(it, root.memory.allocate(chance.choice((1, 4, 16)))),
    lambda root, it, chance: root.initialize_partition(it),
    lambda root, it, chance: root.initialize_partition(it),
    lambda root, it, chance: root.map_gpa_pages(it, chance.randrange(16), root.memory.allocate(4), 0xF),
    lambda root, it, chance: root.create_vp(it, chance.randrange(3)),
    lambda root, it, chance: root.create_vp(it, chance.randrange(3)),
    lambda root, it, chance: root.set_vp_registers(it, 0, {N.EXPLICIT_SUSPEND: chance.randrange(2)}),
    lambda root, it, chance: root.set_vp_registers(it, 0, {N.SCONTROL: 1, N.SIMP: 0x4001, N.SIEFP: 0x5001,
                                                           N.SINT2: 0x52}),
    lambda root, it, chance: root.map_register_page(it, chance.randrange(3)),
    lambda root, it, chance: root.map_stats_page(HvStatsObjectType.VP, it, chance.randrange(3)),
    lambda root, it, chance: root.create_message_port(it, chance.randrange(9), CALLER, 2),
    lambda root, it, chance: root.create_monitor_port(it, chance.randrange(9), CALLER, 0x7000),
    lambda root, it, chance: root.connect_port(CALLER, chance.randrange(9), it, chance.randrange(9)),
    lambda root, it, chance: root.create_event_port(CALLER, chance.randrange(9), it, 2),
    lambda root, it, chance: root.create_message_port(PEER, chance.randrange(9), CALLER, chance.choice((2, 3))),
    lambda root, it, chance: root.connect_port(CALLER, chance.randrange(9), PEER, chance.randrange(9)),
    lambda root, it, chance: root.delete_port(chance.choice((CALLER, PEER)), chance.randrange(9)),
    lambda root, it, chance: root.connect_port(it, chance.randrange(9), CALLER, chance.randrange(9)),
    lambda root, it, chance: root.install_intercept(it, HvInterceptType.IO_PORT_RANGE, 0x500 | 0x7FF << 16, 3),
    lambda root, it, chance: root.set_partition_property(it, HvPartitionProperty.DEBUG_CHANNEL_ID, 2),
    lambda root, it, chance: root.set_partition_property(it, HvPartitionProperty.TIME_FREEZE, chance.randrange(2)),
    lambda root, it, chance: root.attach_device(it, DEVICE_RID + chance.randrange(2), chance.randrange(2)),
    lambda root, it, chance: root.map_device_interrupt(it, DEVICE_RID + chance.randrange(2), 0, 0x52),
    lambda root, it, chance: root.delete_vp(it, chance.randrange(3)),
    lambda root, it, chance: root.withdraw_memory(it),
    lambda root, it, chance: root.finalize_partition(it),
    lambda root, it, chance: root.delete_partition(it),
)


def live(world: World, chance: random.Random) -> None:
    """Some steps in the life of one of the partitions that were made after the others."""
    root, it = world.machine.root.winhv, chance.choice(BORN)
    for _ in range(8):
        with suppress(HvError, OutOfPages):     # too early, too late, or too much
            chance.choice(STEPS)(root, it, chance)


def wind_up(world: World) -> None:
    """Take every child down in the order of the TLFS; what each had is root's again, and nothing is left."""
    root, hypervisor = world.machine.root.winhv, world.hypervisor
    for it in root.children():
        end(world, it)
    _roots_own(world)
    world.check_books()
    assert list(hypervisor.partitions) == [hypervisor.root.id]
    assert hypervisor.owners.inspect()["lent"] == 0, "a page is still lent"
    kept = world.pages_of_root + _context_tables(world)
    assert hypervisor.root.pool.in_use == kept, f"root's pool shall use {kept} pages: {hypervisor.root.pool.inspect()}"
    assert not hypervisor.interrupts.inspect(), "a device interrupt is still mapped"


def _context_tables(world: World) -> int:
    """Pages of the IOMMU for buses that ever had an assigned device: the machine's, and there for good."""
    spa = world.hypervisor.iommu.driver.root.spa
    entries = world.machine.memory.read(spa, PAGE_SIZE)
    return sum(RootEntry(int.from_bytes(entries[at : at + 16], "little")).present for at in range(0, PAGE_SIZE, 16))


def _roots_own(world: World) -> None:
    """Root gives up what it has for itself."""
    root, hypervisor = world.machine.root.winhv, world.hypervisor
    own = hypervisor.root.id
    root.set_vp_registers(own, 0, dict.fromkeys(_STATISTICS, 0))
    for _, (kind, *of) in sorted(key for key in hypervisor.statistics._shown if key[0] == own):
        root.unmap_stats_page(HvStatsObjectType(kind), *of)
    root.set_partition_property(own, HvPartitionProperty.DEBUG_CHANNEL_ID, 0)
    for connection_id in sorted(hypervisor.root.connections):
        root.disconnect_port(own, connection_id)
    for port_id in sorted(hypervisor.root.ports):
        root.delete_port(own, port_id)


def end(world: World, it: int) -> None:
    """Take partition *it* down in the order of the TLFS; nothing of it is left."""
    root, partition = world.machine.root.winhv, world.hypervisor.partitions[it]
    if partition.state.value != "finalized":
        root.finalize_partition(it)
    for index in sorted(partition.vps):
        root.delete_vp(it, index)
    assert not partition.pool.in_use, f"partition {it} still uses {partition.pool.inspect()}"
    root.withdraw_memory(it)
    root.delete_partition(it)
