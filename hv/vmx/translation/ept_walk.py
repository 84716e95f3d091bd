"""What a processor makes of extended page tables: a walk needs memory, an EPT pointer, and what the processor offers.

SDM "The Extended Page Table Mechanism (EPT)". Who built the tables does not matter, and nothing that stands in memory
can make a walk fail: a table outside RAM reads as ones, which is a misconfiguration. Left out: mode-based execute
control, sub-page permissions, supervisor shadow-stack pages, memory types.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from hv.machine.faults import Access
from hv.machine.paging import Walk
from hv.machine.ram import PhysicalMemory
from hv.spec.ept import (
    ENTRIES_PER_TABLE,
    GPA_BITS,
    WALK_LEVELS,
    EptEntry,
    EptMemoryType,
    Eptp,
    EptViolationQualification,
    EptVpidCap,
)
from hv.spec.x86 import PAGE_SIZE
from hv.vmx.capabilities import PROCESSOR, Capabilities

# Plain integers: a walk is on the way of every nested fault.
_FRAME = int(EptEntry(frame=(1 << 40) - 1))
_READ, _EXECUTE = int(Access.READ), int(Access.EXECUTE)
_RIGHTS = int(Access.READ | Access.WRITE | Access.EXECUTE)
_LARGE = int(EptEntry(large=1))
_TYPE = int(EptEntry(memory_type=7))
_TABLE_RESERVED = _TYPE | int(EptEntry(ignore_pat=1))
_ACCESSED, _DIRTY = int(EptEntry(accessed=1)), int(EptEntry(dirty=1))
_BAD_TYPES = frozenset(range(8)) - frozenset(EptMemoryType)
_KEEPS_FLAGS = int(Eptp(accessed_dirty=1))
_EPTP_DEFINED = int(Eptp(memory_type=7, walk_length=7, accessed_dirty=1, shadow_stack=1, root=(1 << 40) - 1))
_OPEN_BUS = (1 << 64) - 1


class EptWalkEntry(NamedTuple):
    """One entry a walk used: *level* 4 is the PML4E, 1 the PTE; *spa* is where the entry itself lies."""

    level: int
    spa: int
    entry: EptEntry


class EptWalk(NamedTuple):
    """What the tables say of one address.

    *spa* is None when nothing is mapped, or when the walk stopped at a misconfiguration (*misconfigured* says which).
    *rights* is the AND over all entries used, empty when one was not present. *page_size* is 4 KiB, 2 MiB or 1 GiB.
    """

    gpa: int
    spa: int | None
    rights: Access
    entries: tuple[EptWalkEntry, ...]
    misconfigured: str
    page_size: int

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        steps = [{"level": step.level, "at": step.spa, "entry": step.entry.inspect()} for step in self.entries]
        return {"gpa": self.gpa, "spa": self.spa, "rights": int(self.rights), "entries": steps,
                "misconfigured": self.misconfigured, "page_size": self.page_size}


def is_leaf(entry: int, level: int) -> bool:
    """*entry*, which is present, maps a page itself."""
    return level == 1 or (level < WALK_LEVELS and bool(entry & _LARGE))


def is_valid_eptp(eptp: int, capabilities: Capabilities = PROCESSOR) -> bool:
    """VM entry would take *eptp*; SDM "Extended-Page-Table Pointer (EPTP)", "VM-Execution Control Fields"."""
    fields, offered = Eptp(eptp), capabilities.ept_vpid
    types = {int(EptMemoryType.UC): offered.memory_type_uc, int(EptMemoryType.WB): offered.memory_type_wb}
    lengths = {3: offered.walk_length_4, 4: offered.walk_length_5}
    return bool(types.get(fields.memory_type) and lengths.get(fields.walk_length)
                and fields.accessed_dirty <= offered.accessed_dirty and fields.shadow_stack <= offered.shadow_stack
                and not eptp & ~_EPTP_DEFINED and not fields.ep4ta >> capabilities.physical_bits)


class _Rules(NamedTuple):
    """What of an entry depends on the processor."""

    execute_only: bool
    large_levels: frozenset[int]
    physical_bits: int
    reserved_address: int


@lru_cache(maxsize=16)
def _rules_of(ept_vpid: int, physical_bits: int) -> _Rules:
    offered = EptVpidCap(ept_vpid)
    levels = {level for level, bit in ((2, offered.page_2m), (3, offered.page_1g)) if bit}
    return _Rules(bool(offered.execute_only), frozenset(levels), physical_bits, _FRAME & ~((1 << physical_bits) - 1))


def misconfiguration(entry: int, level: int, capabilities: Capabilities = PROCESSOR) -> str:
    """Why *entry* of *level* is misconfigured, or "" when it is not; SDM "EPT Misconfigurations"."""
    return _misconfiguration(entry, level, _rules_of(capabilities.ept_vpid.raw, capabilities.physical_bits))


def _misconfiguration(entry: int, level: int, rules: _Rules) -> str:
    rights = entry & _RIGHTS
    if not rights:
        return ""
    if not rights & _READ and (rights != _EXECUTE or not rules.execute_only):
        return "execute-only, which this processor does not offer" if rights == _EXECUTE else "write without read"
    if entry & rules.reserved_address:
        return f"address bits above {rules.physical_bits - 1} are reserved"
    if level > 1 and entry & _LARGE and level not in rules.large_levels:
        return f"bit 7 of a {_NAMES[level]} is reserved"
    if not is_leaf(entry, level):
        return "bits 6..3 of a table entry are reserved" if entry & _TABLE_RESERVED else ""
    if (entry & _TYPE) >> 3 in _BAD_TYPES:
        return f"memory type {(entry & _TYPE) >> 3} is reserved"
    shift = 12 + 9 * (level - 1)
    if entry & (1 << shift) - PAGE_SIZE:
        return f"address bits {shift - 1}..12 of a {_SIZES[level]} page are reserved"
    return ""


_NAMES = {4: "PML4E", 3: "PDPTE", 2: "PDE", 1: "PTE"}
_SIZES = {3: "1 GiB", 2: "2 MiB"}


def walk(memory: PhysicalMemory, eptp: int, gpa: int, capabilities: Capabilities = PROCESSOR) -> EptWalk:
    """Follow the tables of *eptp* as the processor does, and keep every entry used. Nothing is marked as used."""
    rules = _rules_of(capabilities.ept_vpid.raw, capabilities.physical_bits)
    table, rights, steps = eptp & _FRAME, _RIGHTS, []
    if gpa >> GPA_BITS:
        return EptWalk(gpa, None, Access(0), (), "", PAGE_SIZE)
    for level in range(WALK_LEVELS, 0, -1):
        shift = 12 + 9 * (level - 1)
        at = table + 8 * (gpa >> shift & ENTRIES_PER_TABLE - 1)
        raw = memory.read_u64(at) if at + 8 <= memory.size else _OPEN_BUS
        steps.append(EptWalkEntry(level, at, EptEntry(raw)))
        rights &= raw
        wrong = _misconfiguration(raw, level, rules)
        if wrong or not raw & _RIGHTS:
            return EptWalk(gpa, None, Access(0), tuple(steps), wrong, PAGE_SIZE)
        if is_leaf(raw, level):
            break
        table = raw & _FRAME
    size = 1 << shift
    return EptWalk(gpa, raw & _FRAME & -size | gpa & size - 1, Access(rights), tuple(steps), "", size)


def keeps_flags(eptp: int) -> bool:
    """Accessed and dirty flags are kept in the tables of *eptp*."""
    return bool(eptp & _KEEPS_FLAGS)


def is_dirty(found: EptWalk) -> bool:
    """The page has been written to since its flag was cleared."""
    return bool(found.entries[-1].entry.raw & _DIRTY)


def mark_used(memory: PhysicalMemory, found: EptWalk, write: bool) -> None:
    """Set accessed in every entry that was used and, for a write, dirty in the leaf; SDM "Accessed and Dirty Flags"."""
    for step in found.entries:
        raw = step.entry.raw
        used = raw | _ACCESSED | (_DIRTY if write and step is found.entries[-1] else 0)
        if used != raw:
            memory.write_u64(step.spa, used)


def violation_qualification(found: EptWalk, access: Access, linear: bool, final: bool,
                            guest: Walk | None = None) -> EptViolationQualification:
    """The exit qualification of an EPT violation; SDM "Exit Qualification for EPT Violations".

    *linear*: a guest linear address is known. *final*: the access was to the page, not to a guest paging structure;
    then *guest* is what the guest's own tables say of the address.
    """
    final = linear and final
    said = EptViolationQualification(int(access) & _RIGHTS | (int(found.rights) & _RIGHTS) << 3,
                                     linear_valid=int(linear), final=int(final))
    if final and guest is not None:
        said.linear_user, said.linear_writable = int(guest.user), int(guest.writable)
        said.linear_no_execute = int(not guest.executable)
    return said
