"""partitions, inspect: the machine from above, and any object in it by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hv.debug.completion import Word
from hv.debug.errors import DebugError
from hv.debug.paths import parts_of, reached
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
        names = parts_of(reached(session, above))
    except DebugError:
        return
    for name in names:
        yield Word(f"{above}/{name}".lstrip("/"))


@command("inspect", "i", path=_paths)
def inspect(session: Session, path: str = "") -> Any:
    """Show an object by its path: `inspect vm/timer/synic/sint2`, `inspect root`; without one, what there is.

    A path with points or brackets is one of live objects, as Python would write it: `inspect vm.vps[0].apic`.
    Under vm/NAME are the partition's own data, vp/0, vp/1 ...; what is not found there is looked for in vp/0. Objects
    that another one does not tell of answer too: `inspect hypervisor/owners`, and vm/NAME/worker/motherboard.

    Example: `inspect`, `inspect vm/1/synic/sint2`, `inspect vm.vps[0].apic`, `inspect partition/2/intercepts`
    """
    found = reached(session, path)
    return outline(found) if path.strip("/") else dict(_places(found))


def _places(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The paths that one begins with, and what follows behind each."""
    for name, place in tree.items():
        inner = place if isinstance(place, Mapping) else {}
        for key, part in inner.items():
            yield f"{name}/{key}", "/ " + " ".join(parts_of(part))
        if not inner:
            yield name, "/ " + " ".join(parts_of(place))
