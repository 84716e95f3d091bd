"""The partitions with their VPs, devices and interrupt routes at one place of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hv.debug.commands.registers import condition


class VpState(NamedTuple):
    """VP *number*: what it does, and what its virtual APIC has requested (IRR) and in service (ISR)."""

    number: int
    does: str
    irr: tuple[int, ...]
    isr: tuple[int, ...]
    priority: int               # PPR: what is below waits
    enabled: bool               # the APIC is, by software


class RouteState(NamedTuple):
    """A device's interrupt: physical *vector* becomes *guest_vector* of VPs *vps* of *partition*."""

    vector: int
    source_id: int
    partition: int
    vps: tuple[int, ...]
    guest_vector: int


class PartitionState(NamedTuple):
    """A partition: its name, its state in the hypervisor's words, its VPs and the devices that it has."""

    number: int
    name: str
    state: str
    vps: tuple[VpState, ...]
    devices: tuple[str, ...]


class World(NamedTuple):
    """All partitions, the devices that nobody has, the routes, and the APIC of the logical processor."""

    partitions: tuple[PartitionState, ...]
    free_devices: int
    routes: tuple[RouteState, ...]
    physical: VpState


def world_of(machine: Any, names: Mapping[int, str]) -> World:
    """What there is now."""
    hypervisor = machine.hypervisor
    partitions = tuple(_partition(partition, names.get(number, f"partition {number}"))
                       for number, partition in sorted(hypervisor.partitions.items()))
    owned = {source for partition in hypervisor.partitions.values() for source in partition.devices.values()}
    routes = tuple(RouteState(int(vector, 16), one["source_id"], one["partition"], tuple(one["vps"]), one["vector"])
                   for vector, one in hypervisor.interrupts.inspect().items())
    free = sum(device.rid not in owned for device in machine.devices)
    return World(partitions, free, routes, _vp(machine.processor.apic, 0, "runs"))


def _partition(partition: Any, name: str) -> PartitionState:
    vps = tuple(_vp(vp.apic, index, condition(None, vp)) for index, vp in sorted(partition.vps.items()))
    devices = tuple(device_name(source) for source in sorted(partition.devices.values()))
    return PartitionState(partition.id, name, partition.state.value, vps, devices)


def _vp(apic: Any, index: int, does: str) -> VpState:
    return VpState(index, does, _vectors(apic.irr), _vectors(apic.isr), apic.ppr, bool(apic.is_enabled))


def _vectors(bits: int) -> tuple[int, ...]:
    """A register of 256 bits, as the numbers of those that are set."""
    found = []
    while bits:
        found.append((bits & -bits).bit_length() - 1)
        bits &= bits - 1
    return tuple(found)


def device_name(source_id: int) -> str:
    """`00:02.0`, as PCI writes bus, device and function."""
    return f"{source_id >> 8:02x}:{source_id >> 3 & 31:02x}.{source_id & 7}"
