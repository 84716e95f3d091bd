"""property, protect: what a parent has decided about the partition looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hv.debug.commands.changing import in_width
from hv.debug.commands.memory import rights_text
from hv.debug.completion import Word
from hv.debug.conditions import closest
from hv.debug.errors import DebugError
from hv.debug.registry import command
from hv.debug.render import Changed
from hv.debug.session import Session
from hv.hypervisor.hypercalls.properties import PROPERTIES
from hv.hypervisor.partitions.partition import Partition
from hv.replay.changes import ParentCall
from hv.spec.cpuid import HvPrivilege
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.memory import GpaPageNumber, SparseGpaPagesInput
from hv.spec.hypercalls.partitions import SetPartitionPropertyInput
from hv.spec.partition import HvMapGpaFlags, HvPartitionProperty
from hv.spec.x86 import PAGE_SHIFT

_RIGHTS = {"r": HvMapGpaFlags.READABLE, "w": HvMapGpaFlags.WRITABLE, "x": HvMapGpaFlags.EXECUTABLE}
_MOST_PAGES = 512


def ask_parent(session: Session, partition: Partition, code: HypercallCode, data: bytes,
               elements: bytes = b"") -> None:
    """The parent of *partition* makes the hypercall *code*; DebugError when there is none, or it is refused."""
    parent = partition.parent
    if parent is None:
        raise DebugError("root has no parent that could do this", "`set` and `wrmsr` change its VPs")
    session.change(ParentCall(parent.id, code.name, data, elements))


def _properties(session: Session, typed: str) -> Iterator[Word]:
    yield from (Word(HvPartitionProperty(code).name, "" if known.set else "only read")
                for code, known in PROPERTIES.items())


@command("property", name=_properties)
def property_(session: Session, name: str = "", value: int | None = None) -> dict[str, Any] | Changed:
    """Show the properties of the partition looked at, or one; with a value, set it as HvCallSetPartitionProperty does.

    What a guest was told at its start, such as its privileges, cannot be changed any more: the call refuses it.

    Example: `property`, `property PRIVILEGE_FLAGS`, `property CPU_CAP 0x8000`
    """
    partition = session.vp.partition
    if not name:
        return {HvPartitionProperty(code).name: known.get(partition) for code, known in PROPERTIES.items()}
    code = _property(name)
    before = PROPERTIES[code].get(partition)
    if value is None:
        return {code.name: before, **_meanings(code, before)}
    number = in_width(session, str(value), code.name, 64)
    ask_parent(session, partition, HypercallCode.SET_PARTITION_PROPERTY, SetPartitionPropertyInput(
        partition_id=partition.id, property_code=code, property_value=number).pack())
    return Changed(code.name, before, PROPERTIES[code].get(partition))


def _property(name: str) -> HvPartitionProperty:
    known = {HvPartitionProperty(code).name: HvPartitionProperty(code) for code in PROPERTIES}
    if name.upper() not in known:
        near = closest(name, known)
        raise DebugError(f"`{name}` is no property that is built", f"near: {', '.join(near)}" if near else
                         "`property` lists them")
    return known[name.upper()]


def _meanings(code: HvPartitionProperty, value: int) -> dict[str, str]:
    if code is not HvPartitionProperty.PRIVILEGE_FLAGS:
        return {}
    return {"has": " ".join(flag.name or "" for flag in HvPrivilege if value & flag),
            "has not": " ".join(flag.name or "" for flag in HvPrivilege if not value & flag)}


@command("protect")
def protect(session: Session, address: int, rights: str, n: int = 1) -> Changed:
    """Change the EPT's rights of *n* pages from a guest-physical address on, as HvCallModifySparseGpaPages does.

    Rights are `rwx`, `r-x`, `r--` ..., or `---`: any access is an EPT violation then.

    Example: `protect 0x50000 r-x`, `protect 0x50000 rwx 2`
    """
    partition, first = session.vp.partition, address >> PAGE_SHIFT
    wanted = [letter for letter in rights if letter != "-"]
    if len(rights) != 3 or any(letter not in (named, "-") for letter, named in zip(rights, "rwx", strict=True)):
        raise DebugError(f"`{rights}` are no rights", "write three letters: rwx, r-x, r--, ---")
    if not 1 <= n <= _MOST_PAGES:
        raise DebugError(f"{n} pages are out of range 1..{_MOST_PAGES}")
    before = _standing(partition, range(first, first + n))
    flags = sum(int(_RIGHTS[letter]) for letter in wanted)
    ask_parent(session, partition, HypercallCode.MODIFY_SPARSE_GPA_PAGES,
                SparseGpaPagesInput(target_partition_id=partition.id, map_flags=flags).pack(),
                b"".join(GpaPageNumber(page_number=page).pack() for page in range(first, first + n)))
    covered = any(partition.space.overlay_at(page) for page in range(first, first + n))
    return Changed(f"gpa {first << PAGE_SHIFT:#x}, {n} page{'s' if n > 1 else ''}", before,
                   _standing(partition, range(first, first + n)),
                   ("an overlay lies over it, which has rights of its own",) if covered else ())


def _standing(partition: Partition, pages: range) -> str:
    """The rights of *pages*, all alike or not; DebugError where nothing stands."""
    found = []
    for page in pages:
        mapping = partition.space.mapping(page)
        if mapping is None:
            raise DebugError(f"guest-physical {page << PAGE_SHIFT:#x} is not mapped", "`map` shows what is there")
        found.append(rights_text(mapping.rights))
    return " ".join(dict.fromkeys(found))
