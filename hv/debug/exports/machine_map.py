"""The map of a machine as a Mermaid flowchart: who is there, what each sees of memory, and who can reach whom.

Partitions are boxes with their VPs, mapped memory, overlays and ports; arrows lead from memory to RAM, from connections
to ports and VPs, and from devices through the IOMMU's domains and the routes of interrupts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hv.debug.commands.memory import rights_text
from hv.hypervisor.partitions.partition import Partition
from hv.machine.faults import Access
from hv.printable import printable
from hv.spec.partition import ANY_VP

MOST_RUNS = 8                   # of memory, in one box


def mermaid(machine: Any, names: Mapping[int, str]) -> str:
    """The flowchart; *names* are those of partitions by id."""
    partitions = sorted(machine.hypervisor.partitions.items())
    lines = ["flowchart LR"]
    for number, partition in partitions:
        lines += _box(partition, names.get(number, "root" if partition.is_root else "child"))
    lines.append(f"  RAM[({_quoted(f'RAM, {machine.memory.size >> 20} MiB')})]")
    for _, partition in partitions:
        lines += _memory_arrows(partition, machine)
        lines += _connections(partition)
    lines += _devices(machine)
    return "\n".join(lines) + "\n"


def markdown(machine: Any, names: Mapping[int, str], title: str) -> str:
    """The same in a page of Markdown, as many sites draw it."""
    heading = re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", title)
    return f"# {heading}\n\n```mermaid\n{mermaid(machine, names)}```\n"


def _quoted(text: str) -> str:
    """A label: whatever may mean something to Mermaid is written by its number."""
    safe = re.sub(r"[^\w .,:;()+/=-]", lambda found: f"#{ord(found[0])};", printable(text))
    return f'"{safe}"'


# --- a partition ---------------------------------------------------------------------------------------------


def _box(partition: Partition, name: str) -> Iterator[str]:
    at = f"P{partition.id}"
    yield f"  subgraph {at}[{_quoted(f'{name}: partition {partition.id}, {partition.state.value}')}]"
    for index in sorted(partition.vps):
        yield f"    {at}V{index}[{_quoted(f'VP {index}')}]"
    for number, text in enumerate(_memory(partition)):
        yield f"    {at}M{number}[{_quoted(text)}]"
    for number, overlay in enumerate(_overlays(partition)):
        yield f"    {at}O{number}[{_quoted(overlay)}]"
    for number, port in sorted(partition.ports.items()):
        yield f"    {at}S{number}([{_quoted(f'port {number:#x}: {port.kind.name}')}])"
    yield "  end"


def _runs(partition: Partition) -> list[tuple[int, int, int, Access]]:
    """(first gpa page, pages, first spa page, rights) of what stands side by side."""
    runs: list[tuple[int, int, int, Access]] = []
    for page, mapping in partition.space.mappings():
        spa_page = mapping.spa >> 12
        if runs:
            first, count, spa, rights = runs[-1]
            if (page, spa_page, mapping.rights) == (first + count, spa + count, rights):
                runs[-1] = first, count + 1, spa, rights
                continue
        runs.append((page, 1, spa_page, mapping.rights))
    return runs


def _shows_memory(partition: Partition) -> bool:
    """Root has the machine's own memory, and one that is not active none."""
    return partition.state.value == "active" and not partition.space.identity


def _memory(partition: Partition) -> list[str]:
    """The text of each run that is shown."""
    if not _shows_memory(partition):
        return ["all memory but the hypervisor's"] if partition.is_root else []
    runs = _runs(partition)
    shown = [f"gpa {first << 12:#x}..{(first + count << 12) - 1:#x} {rights_text(rights)}"
             for first, count, _, rights in runs[:MOST_RUNS]]
    return shown + ([f"and {len(runs) - MOST_RUNS} runs more"] if len(runs) > MOST_RUNS else [])


def _overlays(partition: Partition) -> list[str]:
    if partition.state.value != "active":
        return []
    return [f"{overlay['name']} over gpa {overlay['gpa']:#x}" for overlay in partition.space.inspect()["overlays"]]


def _memory_arrows(partition: Partition, machine: Any) -> Iterator[str]:
    """To RAM, or to the device whose registers stand there."""
    if not _shows_memory(partition):
        if partition.is_root:
            yield f"  P{partition.id}M0 --> RAM"
        return
    for number, (_, _, spa, _) in enumerate(_runs(partition)[:MOST_RUNS]):
        device = None if spa << 12 < machine.memory.size else machine.pci.function_at(spa << 12)
        to = "RAM" if device is None else f"D{device.rid}"
        yield f"  P{partition.id}M{number} -->|{_quoted(f'spa {spa << 12:#x}')}| {to}"


# --- between partitions --------------------------------------------------------------------------------------


def _connections(partition: Partition) -> Iterator[str]:
    """Each way out to its port, and each port to the VP that hears."""
    for number, connection in sorted(partition.connections.items()):
        port = connection.port
        if not port.deleted:
            label = _quoted(f"connection {number:#x}")
            yield f"  P{partition.id} ==>|{label}| P{port.owner.id}S{port.port_id}"
    for number, port in sorted(partition.ports.items()):
        sint, target = getattr(port, "sint", None), getattr(port, "target_vp", None)
        if sint is not None and (target == ANY_VP or target in partition.vps):
            to = f"P{partition.id}" if target == ANY_VP else f"P{partition.id}V{target}"
            yield f"  P{partition.id}S{number} -->|{_quoted(f'SINT {sint}')}| {to}"


def _devices(machine: Any) -> Iterator[str]:
    """Assigned devices: their domain of the IOMMU, and the routes of their interrupts."""
    hypervisor = machine.hypervisor
    owners = {rid: partition for _, partition in sorted(hypervisor.partitions.items())
              for rid in partition.devices.values()}
    for device in machine.devices:
        rid = device.rid
        name = f"device {rid >> 8:02x}:{rid >> 3 & 0x1F:02x}.{rid & 7}"
        if rid not in owners:
            yield f"  D{rid}{{{{{_quoted(f'{name}, nobody has it')}}}}}"
            continue
        yield f"  D{rid}{{{{{_quoted(name)}}}}}"
        yield from _device_arrows(hypervisor, rid, owners[rid])


def _device_arrows(hypervisor: Any, rid: int, owner: Partition) -> Iterator[str]:
    domain = hypervisor.iommu.driver.domain_of(rid)
    if domain is not None:
        yield f"  IOMMU{domain.id}[/{_quoted(f'IOMMU domain {domain.id}')}/]"
        yield f"  D{rid} -->|{_quoted('DMA')}| IOMMU{domain.id} --> P{owner.id}"
    for route in hypervisor.interrupts.of_device(rid):
        if route.asked is not None:
            label = _quoted(f"vector {route.vector:#x} is by a table of the guest")
            yield f"  D{rid} -.->|{label}| P{route.partition.id}"
        for vp in route.receivers:
            label = _quoted(f"vector {route.vector:#x} is {route.guest_vector:#x}")
            yield f"  D{rid} -.->|{label}| P{route.partition.id}V{vp.index}"
