"""What is true while a call is made: the things of a partition, by the names that inputs of hypercalls have for them.

A port is {port_id, port_type, ...}, the interrupt of a device {device_id, address, data}. A caller that has read the
hypervisor's books names things that are there. Which ones a call is about is seen from the fields of its input.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.partitions.partition import Partition
from hv.hypervisor.synic.connections import Connection
from hv.hypervisor.synic.ports import EventPort, MessagePort
from hv.root import boot
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hypercalls.codes import HypercallCode as C
from hv.spec.hypercalls.devices import HvDeviceDomainId, HvDeviceId
from hv.spec.hypercalls.interrupts import INTERRUPT_SOURCE_MSI
from hv.spec.hypercalls.vps import HvInitialVpContext
from hv.spec.intercepts import HvInterceptType
from hv.spec.layout import Layout
from hv.spec.synic import PortType
from hv.spec.x86 import PAT_RESET
from tests.hypervisor.script_guest import VPS, image

Fact = Mapping[str, int | Layout]
_PCI = 1                                # HvDeviceId.device_type


class Kind(NamedTuple):
    """Things of one kind, which a call is about when its input has all of *fields*, unless it makes one."""

    fields: frozenset[str]
    things: Callable[[Hypervisor, Partition], Iterator[Fact]]
    made_by: tuple[C, ...] = ()


def _vps(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    for index in sorted(it.vps):
        yield {"vp_index": index}


def _targets(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    for index in sorted(it.vps):
        yield {"target_vp": index, "target_vp_mask": 1 << index}


def _waiting(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    waiting = [index for index, vp in sorted(it.vps.items()) if vp.wait_for_sipi]
    for index in waiting or range(1, VPS):      # an INIT may come before
        yield {"vp_index": index, "context": context()}


def _ports(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    for port_id, port in sorted(it.ports.items()):
        yield {"port_id": port_id, "connection_partition": port.connector.id, "port_type": int(port.kind),
               "gpa": 0x62000 if port.kind is PortType.MONITOR else 0}


def _connections(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    for connection_id in sorted(it.connections):
        yield {"connection_id": connection_id, "connection_partition": it.id}


def _open(it: Partition) -> Iterator[tuple[int, Connection]]:
    return ((id, made) for id, made in sorted(it.connections.items()) if not made.port.deleted)


def _for_messages(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    return ({"connection_id": id} for id, made in _open(it) if isinstance(made.port, MessagePort))


def _for_events(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    return ({"connection_id": id, "flag_number": made.port.count - 1} for id, made in _open(it)
            if isinstance(made.port, EventPort))


def _devices(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    for logical_id, source_id in sorted(it.devices.items()):
        yield {"logical_device_id": logical_id, "device_id": HvDeviceId(rid=source_id, device_type=_PCI).raw}
        yield {"logical_device_id": logical_id, "device_id": logical_id}


def _interrupts(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    for source_id in sorted(it.devices.values()):
        for route in hypervisor.interrupts.of_device(source_id):
            address, data = route.message
            yield {"device_id": HvDeviceId(rid=source_id, device_type=_PCI).raw, "address": address, "data": data,
                   "source": INTERRUPT_SOURCE_MSI}


def _domains(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    explicit = getattr(hypervisor.iommu, "_explicit", {})
    return ({"domain_id": HvDeviceDomainId(id=number).raw} for owner, number in sorted(explicit) if owner == it.id)


def _results(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    for index, leaf, subleaf in it.cpuid_results._results:
        yield {"intercept_type": int(HvInterceptType.CPUID), "vp_index": index, "eax": leaf, "ecx": subleaf or 0,
               "subleaf_specific": int(subleaf is not None), "always_override": 0}


def _state_pages(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    for index, vp in sorted(it.vps.items()):
        for page_type, page in enumerate((vp.register_page, vp.message_page)):
            if page is not None:
                yield {"vp_index": index, "page_type": page_type}


def _statistics(hypervisor: Hypervisor, it: Partition) -> Iterator[Fact]:
    for viewer, key in hypervisor.statistics._shown:
        if viewer == it.id and isinstance(key, tuple) and isinstance(key[0], int):     # not by an MSR
            yield dict(zip(("object_type", "partition_id", "vp_index"), key, strict=True))


# What a row of `near.py` may say better, and what it may not. Of two that fit, the later one is right.
GENERAL = (
    Kind(frozenset({"vp_index"}), _vps, (C.CREATE_VP,)),
    Kind(frozenset({"target_vp"}), _targets), Kind(frozenset({"target_vp_mask"}), _targets),
)
PARTICULAR = (
    Kind(frozenset({"vp_index", "context"}), _waiting),
    Kind(frozenset({"connection_id", "connection_partition"}), _connections, (C.CONNECT_PORT, C.CONNECT_PORT_V1)),
    Kind(frozenset({"port_id"}), _ports, (C.CREATE_PORT, C.CREATE_PORT_V1)),
    Kind(frozenset({"connection_id", "message_type"}), _for_messages),
    Kind(frozenset({"connection_id", "flag_number"}), _for_events),
    Kind(frozenset({"device_id"}), _devices, (C.ATTACH_DEVICE,)),
    Kind(frozenset({"logical_device_id"}), _devices, (C.ATTACH_DEVICE,)),
    Kind(frozenset({"device_id", "address", "data"}), _interrupts, (C.MAP_DEVICE_INTERRUPT,)),
    Kind(frozenset({"domain_id"}), _domains, (C.CREATE_DEVICE_DOMAIN,)),
    Kind(frozenset({"intercept_type", "eax", "subleaf_specific"}), _results, (C.REGISTER_INTERCEPT_RESULT,)),
    Kind(frozenset({"vp_index", "page_type"}), _state_pages, (C.MAP_VP_STATE_PAGE,)),
    Kind(frozenset({"object_type", "vp_index"}), _statistics, (C.MAP_STATS_PAGE, C.MAP_STATS_PAGE2)),
)


@cache
def fields_of(layout: type[Layout]) -> frozenset[str]:
    """The names of the fields of *layout* and of those inside it."""
    inner = [fields_of(kind.layout) for kind in (kind for _, kind in layout.FIELDS.values()) if kind.layout is not None]
    return frozenset(layout.FIELDS).union(*inner)


def of_input(chance: random.Random, hypervisor: Hypervisor, code: int, layout: type[Layout], it: Partition,
             kinds: tuple[Kind, ...]) -> Fact:
    """What of *kinds* is in *it* that a call of *code* may be about: values for fields of its input."""
    fields, known = fields_of(layout), dict[str, int | Layout]()
    for kind in kinds:
        if kind.fields <= fields and code not in kind.made_by:
            things = list(kind.things(hypervisor, it))
            known |= chance.choice(things) if things else {}
    return known


@cache
def context() -> HvInitialVpContext:
    """A VP begins in the script guest, where all of them wait for their scripts."""
    program = image()
    registers = boot.initial_registers(program, 0, 0)
    given = {name: registers[HvRegisterName[name.upper()]] for name in HvInitialVpContext.FIELDS
             if HvRegisterName.__members__.get(name.upper()) in registers}
    return HvInitialVpContext(**given | {"rip": program.symbols["wait"], "pat": PAT_RESET})
