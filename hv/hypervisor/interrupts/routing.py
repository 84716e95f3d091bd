"""The way of a physical interrupt: which device raised the vector, and whose virtual APIC gets it.

An assigned device's interrupt is remapped to a physical vector that belongs to it alone. Whoever runs when the vector
arrives takes an external-interrupt exit; `route` then finds the *owner* partition and puts the guest's own vector
into the virtual APICs of the VPs it named. Nobody else hears of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.memory.pages import Records
from hv.spec.hv_status import HvStatus
from hv.trace.bus import Trace
from hv.trace.events import InterruptRouted

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.vps.vp import VirtualProcessor

DEVICE_VECTORS = range(0x30, 0xF0)      # physical vectors for devices; below and above are the hypervisor's own
ROUTE_SIZE = 64                         # bytes of a pool


class InterruptRemapper(Protocol):
    """The part of the IOMMU's driver that is needed to give a vector up."""

    def unmap_interrupt(self, source_id: int, vector: int) -> None: ...


@dataclass(slots=True)
class Route:
    """Physical *vector* of device *source_id* is *guest_vector* of *vps*, in order of index: all, or one of them.

    *message* is the MSI (address, data) of it. With *asked*, the message that the guest has written into its device,
    the remapping unit of the guest's own says each time which vector of whom it is.
    """

    vector: int
    source_id: int
    partition: Partition
    vps: tuple[VirtualProcessor, ...]
    guest_vector: int
    level: bool = False
    multicast: bool = False
    lowest_priority: bool = False
    message: tuple[int, int] = (0, 0)
    asked: tuple[int, int] | None = None

    @property
    def receivers(self) -> tuple[VirtualProcessor, ...]:
        """The VPs that the next interrupt goes to. SDM "Lowest Priority Delivery Mode": of those that take any."""
        if self.multicast:
            return self.vps
        if not self.lowest_priority or len(self.vps) == 1:
            return self.vps[:1]
        return (min(self.vps, key=lambda vp: (not vp.apic.is_enabled, vp.apic.ppr, vp.index)),)


class InterruptRouting:
    """The table of physical vectors in use."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._routes: dict[int, Route] = {}
        self.own: dict[int, Callable[[], None]] = {}    # the hypervisor's own vectors
        self.spurious = 0               # vectors that arrived and belong to nobody

    def allocate(self, source_id: int, partition: Partition, vps: Sequence[VirtualProcessor],
                 guest_vector: int, level: bool = False, asked: tuple[int, int] | None = None) -> Route:
        """A physical vector of its own for an interrupt of the device; the partition pays for the entry.

        The first of *vps* gets it, until the route is told otherwise. NO_RESOURCES when no vector is free,
        INSUFFICIENT_MEMORY.
        """
        vector = next((vector for vector in DEVICE_VECTORS if vector not in self._routes), None)
        if vector is None:
            raise HypercallError(HvStatus.NO_RESOURCES, f"all {len(DEVICE_VECTORS)} device vectors are in use")
        _entries(partition).take()
        self._routes[vector] = Route(vector, source_id, partition, tuple(vps), guest_vector, level, asked=asked)
        return self._routes[vector]

    def at(self, vector: int) -> Route | None:
        """The route of a physical vector."""
        return self._routes.get(vector)

    def find(self, source_id: int, message: tuple[int, int]) -> Route | None:
        """The route of a device's MSI (address, data)."""
        return next((route for route in self.of_device(source_id) if route.message == message), None)

    def of_device(self, source_id: int) -> list[Route]:
        """All routes of a device, in order of vector."""
        return [route for _, route in sorted(self._routes.items()) if route.source_id == source_id]

    def free(self, route: Route, remapper: InterruptRemapper | None) -> None:
        """Forget *route*; its vector may be given to another device."""
        del self._routes[route.vector]
        _entries(route.partition).give_back()
        if remapper is not None and route.message != (0, 0):
            remapper.unmap_interrupt(route.source_id, route.vector)

    def free_all(self, partition: Partition, remapper: InterruptRemapper | None) -> None:
        """Forget every route of *partition*."""
        for route in [route for route in self._routes.values() if route.partition is partition]:
            self.free(route, remapper)

    def free_vp(self, vp: VirtualProcessor, remapper: InterruptRemapper | None) -> None:
        """No route leads to *vp* any more; one that led nowhere else is forgotten."""
        for route in [route for route in self._routes.values() if vp in route.vps]:
            route.vps = tuple(other for other in route.vps if other is not vp)
            if not route.vps:
                self.free(route, remapper)

    def route(self, vector: int) -> Route | None:
        """Physical *vector* has arrived: hand it to its owner's virtual APIC. None when it is nobody's."""
        route = self._routes.get(vector)
        if route is None:
            if vector in self.own:
                self.own[vector]()
            else:
                self.spurious += 1
            return None
        if route.asked is not None:
            unit = route.partition.virtual_iommu
            assert unit is not None, "a partition keeps its unit"
            unit.pass_on(route.source_id, *route.asked)
            return route
        for vp in route.receivers:
            vp.apic.accept(route.guest_vector, route.level)
            if self.trace.listening:
                self.trace.emit(InterruptRouted(route.source_id, route.guest_vector, route.partition.id, vp.index))
        return route

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {f"{vector:#x}": {"source_id": route.source_id, "partition": route.partition.id,
                                 "vps": [vp.index for vp in route.vps], "vector": route.guest_vector,
                                 "multicast": route.multicast, "asked": route.asked}
                for vector, route in sorted(self._routes.items())}


def _entries(partition: Partition) -> Records:
    return partition.pool.records("device interrupt", ROUTE_SIZE)
