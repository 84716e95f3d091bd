"""partitions, inspect: the machine from above, and any object in it by path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hv.debug.completion import Word
from hv.debug.conditions import closest
from hv.debug.errors import DebugError
from hv.debug.registry import command
from hv.debug.render import outline
from hv.debug.session import Session


@command("partitions", "p")
def partitions(session: Session) -> list[str]:
    """List the partitions: id, name, state, number of VPs.

    Example: `partitions`
    """
    names = {vm.partition_id: vm.name for vm in session.guests}
    lines = []
    for number, partition in sorted(session.machine.hypervisor.partitions.items()):
        name = "root" if partition.is_root else names.get(number, "?")
        ended = next((f", {vm.ended}" for vm in session.vms if vm.partition_id == number and vm.ended), "")
        lines.append(f"{number}  {name:<12} {partition.state.value}{ended}  vps {len(partition.vps)}")
    return lines


def _paths(session: Session, typed: str) -> Iterator[Word]:
    """The paths that go on from *typed* by one part."""
    above = typed.strip().rpartition("/")[0]
    try:
        tree = reached(session, above)
    except DebugError:
        return
    data = tree.inspect() if hasattr(tree, "inspect") else tree
    names = [*data, *(["vp"] if isinstance(tree, Vm) else [])] if isinstance(data, Mapping) else \
        range(len(data)) if isinstance(data, list) else []
    for name in names:
        yield Word(f"{above}/{name}".lstrip("/"))


@command("inspect", "i", path=_paths)
def inspect(session: Session, path: str = "") -> Any:
    """Show an object by its path: `inspect vm/timer/synic/sint2`, `inspect root`; without one, what there is.

    A path with points or brackets is one of live objects, as Python would write it: `inspect vm.vps[0].apic`.
    Under vm/NAME are the partition's own data, vp/0, vp/1 ...; what is not found there is looked for in vp/0.

    Example: `inspect`, `inspect vm/1/synic/sint2`, `inspect vm.vps[0].apic`
    """
    return outline(reached(session, path))


def reached(session: Session, path: str) -> Any:
    """The object at *path*; DebugError says what there is instead."""
    if re.search(r"[.\[]", path) and "/" not in path:
        return live(session, path)
    machine = session.machine
    hypervisor = machine.hypervisor
    tree: Any = {"vm": {vm.name: Vm(vm) for vm in session.guests}, "root": hypervisor.root,
                 "partition": {str(number): partition for number, partition in sorted(hypervisor.partitions.items())},
                 "iommu": machine.iommu, "routes": hypervisor.interrupts,
                 "device": {f"{device.rid:#x}": device for device in machine.devices}}
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

    def __init__(self, vm: Any) -> None:
        self.vm = vm

    def find(self, part: str) -> Any:
        """The partition's own data first, then its first VP's; None."""
        partition = self.vm.partition
        if part == "vp":
            return {str(index): vp for index, vp in sorted(partition.vps.items())}
        own = partition.inspect()
        if part in own:
            return own[part]
        return partition.vps[0].inspect().get(part) if 0 in partition.vps else None

    def inspect(self) -> dict[str, Any]:
        """The partition's own data."""
        shown: dict[str, Any] = self.vm.partition.inspect()
        return shown


def child(tree: Any, part: str, session: Session, seen: str) -> Any:
    """What *part* names in *tree*; DebugError lists what there is."""
    if seen == "vm":
        return Vm(session.vm_called(part))
    if isinstance(tree, Vm):
        found = tree.find(part)
        if found is not None:
            return found
    data = tree.inspect() if hasattr(tree, "inspect") else tree
    if isinstance(data, Mapping):
        for key, value in data.items():
            if str(key) == part:
                return value
        raise DebugError(f"there is no `{part}` in {seen or 'the machine'}", f"there are {', '.join(map(str, data))}")
    if isinstance(data, list) and part in map(str, range(len(data))):
        return data[int(part)]
    raise DebugError(f"{seen} has no parts", "it is a plain value")
