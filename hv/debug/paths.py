"""Paths to the objects of a machine: `vm/timer/synic/sint2`, and `vm.vps[0].apic` as Python sees them.

An object tells of itself by `inspect()`, in plain data; a path goes down through that, and through the objects that it
has beside what it tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hv.debug.conditions import closest
from hv.debug.errors import DebugError
from hv.hypervisor.errors import HypercallError
from hv.hypervisor.partitions.partition import Partition
from hv.machine.faults import GuestFault

if TYPE_CHECKING:
    from hv.debug.session import Session


def reached(session: Session, path: str) -> Any:
    """The object at *path*; DebugError says what there is instead."""
    if re.search(r"[.\[]", path) and "/" not in path:
        return live(session, path)
    machine = session.machine
    hypervisor = machine.hypervisor
    there = [vm for vm in session.guests if vm.partition_id in hypervisor.partitions]
    tree: Any = {"vm": {vm.name: Vm(vm, hypervisor.partitions) for vm in there}, "root": hypervisor.root,
                 "partition": {str(number): partition for number, partition in sorted(hypervisor.partitions.items())},
                 "iommu": machine.iommu, "routes": hypervisor.interrupts,
                 "device": {f"{device.rid:#x}": device for device in machine.devices},
                 "hypervisor": hypervisor, "processor": {"apic": machine.processor.apic}, "mmio": machine.mmio,
                 "clock": {"tsc": machine.clock.tsc, "next_deadline": machine.clock.next_deadline()}}
    seen = ""
    for part in path.strip("/").split("/") if path.strip("/") else []:
        tree = child(tree, part, session, seen)
        seen = f"{seen}/{part}".strip("/")
    return tree


_PART = re.compile(r"\.?([A-Za-z]\w*)|\[(\d{1,9})\]|\[(['\"])(.*?)\3\]")


def live(session: Session, path: str) -> Any:
    """The object that Python would find at *path*, by names and indexes alone; DebugError says how far it came.

    A VM passes on what only its partition has: `vm.vps`.
    """
    found: Any = session.namespace()
    at = 0
    while at < len(path):
        match = _PART.match(path, at)
        if match is None:
            raise DebugError(f"`{path[at:]}` is no part of a path", "write vm.vps[0].apic, or vm/timer/apic")
        seen, at = path[:at], match.end()
        name, index, key = match[1], match[2], match[4]
        try:
            found = _attribute(found, name) if name else found[int(index) if index else key]
        except (AttributeError, KeyError, IndexError, TypeError):
            names = [part for part in _parts(found) if str(part)[:1] != "_"]
            near = closest(name, map(str, names)) if name else list(map(str, names))[:8]
            raise DebugError(f"there is no `{match[0].lstrip('.')}` in {seen or 'the session'}",
                             f"near: {', '.join(near)}" if near else "`inspect` shows what there is") from None
    return found


def _parts(of: Any) -> list[Any]:
    return list(of) if isinstance(of, Mapping) else [*dir(of), *dir(getattr(of, "partition", None))]


def _attribute(of: Any, name: str) -> Any:
    if isinstance(of, Mapping):
        return of[name]
    if not hasattr(of, name) and hasattr(of, "partition"):
        return getattr(of.partition, name)
    return getattr(of, name)


class Vm:
    """A VM as a place in the tree."""

    def __init__(self, vm: Any, partitions: Mapping[int, Partition]) -> None:
        self.vm, self._partitions = vm, partitions

    @property
    def partition(self) -> Partition:
        """Its partition; DebugError when it is gone."""
        found = self._partitions.get(self.vm.partition_id)
        if found is None:
            raise DebugError(f"the partition of {self.vm.name} is gone", "`partitions` shows what is there")
        return found

    def find(self, part: str) -> Any:
        """The partition's own data first, then its first VP's; None."""
        partition = self.partition
        if part == "vp":
            return {str(index): vp for index, vp in sorted(partition.vps.items())}
        own = partition.inspect()
        if part in own:
            return own[part]
        return partition.vps[0].inspect().get(part) if 0 in partition.vps else None

    def inspect(self) -> dict[str, Any]:
        """The partition's own data."""
        shown: dict[str, Any] = self.partition.inspect()
        return shown


def child(tree: Any, part: str, session: Session, seen: str) -> Any:
    """What *part* names in *tree*; DebugError lists what there is."""
    if seen == "vm":
        return Vm(session.vm_called(part), session.machine.hypervisor.partitions)
    if isinstance(tree, Vm):
        found = tree.find(part)
        if found is not None:
            return found
    data = _data(tree)
    if isinstance(data, Mapping):
        for key, value in data.items():
            if part in (str(key), _one_word(key)):
                return value
    elif isinstance(data, list) and part in map(str, range(len(data))):
        return data[int(part)]
    found = objects_in(tree).get(part)
    if found is None:
        names = parts_of(tree)
        raise DebugError(f"there is no `{part}` in {seen or 'the machine'}" if names else f"{seen} has no parts",
                         f"there are {', '.join(names)}" if names else "it is a plain value")
    return found


def parts_of(tree: Any) -> list[str]:
    """The names of what can follow in a path behind *tree*."""
    data = _data(tree)
    own = [_one_word(key) for key in data] if isinstance(data, Mapping) else \
        [str(number) for number in range(len(data))] if isinstance(data, list) else []
    more = ["vp"] if isinstance(tree, Vm) else []
    return list(dict.fromkeys([*own, *more, *objects_in(tree)]))


def objects_in(tree: Any) -> dict[str, Any]:
    """The objects that *tree* has as attributes, and that tell something of themselves; *tree*'s own data need not."""
    if isinstance(tree, Vm):
        return _objects(tree.vm) | _objects(tree.partition)
    return _objects(tree) if _is_object(tree) else {}


def _objects(tree: Any) -> dict[str, Any]:
    found = {name: _attribute_of(tree, name) for name in dir(tree) if not name.startswith("_")}
    return {name: value for name, value in found.items() if _is_object(value)}


def _is_object(value: Any) -> bool:
    return callable(getattr(value, "inspect", None)) and not isinstance(value, type)


def _attribute_of(of: Any, name: str) -> Any:
    """An attribute; None for a property that has no answer now."""
    try:
        return getattr(of, name, None)
    except (HypercallError, GuestFault):
        return None


def _data(tree: Any) -> Any:
    return tree.inspect() if hasattr(tree, "inspect") else tree


def _one_word(key: Any) -> str:
    """A key as a part of a path, which has no blanks."""
    return str(key).replace(" ", "_")
