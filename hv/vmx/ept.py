"""Extended page tables: real tables of the VT-x format in physical RAM, and what a processor makes of them.

SDM "The Extended Page Table Mechanism (EPT)". Four levels, pages of 4 KiB and 2 MiB, write-back memory. The processor
modelled has neither execute-only entries nor 1 GiB pages, so both are misconfigurations here. Left out: accessed and
dirty flags, mode-based execute control, sub-page permissions.

Nothing is visible to the engine before `invept`: it counts a generation and hands the changed pages to `on_invept`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from hv.machine.faults import Access, NestedFault
from hv.machine.ram import PhysicalMemory
from hv.spec.ept import (
    ENTRIES_PER_TABLE,
    GPA_BITS,
    WALK_LEVELS,
    EptEntry,
    EptMemoryType,
    Eptp,
    EptViolationQualification,
)
from hv.spec.x86 import LARGE_PAGE_SIZE, PAGE_SIZE

PHYSICAL_BITS = 46              # MAXPHYADDR of the processor; address bits above are reserved

# Plain integers: a walk is on the way of every nested fault.
_FRAME = int(EptEntry(frame=(1 << 40) - 1))
_READ = int(Access.READ)
_RIGHTS = int(Access.READ | Access.WRITE | Access.EXECUTE)
_LARGE = int(EptEntry(large=1))
_LEAF = int(EptEntry(memory_type=EptMemoryType.WB))
_TYPE = int(EptEntry(memory_type=7))
_IGNORE_PAT = int(EptEntry(ignore_pat=1))
_TABLE_RIGHTS = _RIGHTS                             # a table entry allows all, the leaf decides
_RESERVED_ADDRESS = _FRAME & ~((1 << PHYSICAL_BITS) - 1)
_RESERVED_LARGE_ADDRESS = LARGE_PAGE_SIZE - PAGE_SIZE
_BAD_TYPES = frozenset(range(8)) - frozenset(EptMemoryType)
_EMPTY_TABLE = bytes(PAGE_SIZE)


class EptWalkEntry(NamedTuple):
    """One entry a walk used: *level* 4 is the PML4E, 1 the PTE; *spa* is where the entry itself lies."""

    level: int
    spa: int
    entry: EptEntry


@dataclass(frozen=True, slots=True)
class EptWalk:
    """What the tables say of one address.

    *spa* is None when nothing is mapped, or when the walk stopped at a misconfiguration (*misconfigured* says which).
    *rights* is the AND over all entries used, empty when one was not present. *page_size* is 4 KiB or 2 MiB.
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


def misconfiguration(entry: int, level: int) -> str:
    """Why *entry* of *level* is misconfigured, or "" when it is not; SDM "EPT Misconfigurations"."""
    if not entry & _RIGHTS:
        return ""
    if not entry & _READ:
        return "write or execute without read"
    leaf = level == 1 or (level < WALK_LEVELS and bool(entry & _LARGE))
    if entry & _RESERVED_ADDRESS:
        return f"address bits above {PHYSICAL_BITS - 1} are reserved"
    if entry & _LARGE and level >= 3:
        return "bit 7 of a PML4E or PDPTE is reserved: no 1 GiB pages"
    if leaf and (entry & _TYPE) >> 3 in _BAD_TYPES:
        return f"memory type {(entry & _TYPE) >> 3} is reserved"
    if leaf and level == 2 and entry & _RESERVED_LARGE_ADDRESS:
        return "address bits 20..12 of a 2 MiB page are reserved"
    if not leaf and entry & (_TYPE | _IGNORE_PAT):
        return "bits 6..3 of a table entry are reserved"
    return ""


def violation_qualification(walk: EptWalk, access: Access, linear: bool, final: bool) -> EptViolationQualification:
    """The exit qualification of an EPT violation; SDM "Exit Qualification for EPT Violations".

    *linear*: a guest linear address is known. *final*: the access was to the page, not to a guest paging structure.
    """
    return EptViolationQualification(int(access) & _RIGHTS | (int(walk.rights) & _RIGHTS) << 3,
                                     linear_valid=int(linear), final=int(linear and final))


class EptTables:
    """One hierarchy of tables. *allocate_page* gives a page's spa or raises; each page goes back by *free_page*."""

    def __init__(self, memory: PhysicalMemory, allocate_page: Callable[[], int],
                 free_page: Callable[[int], None]) -> None:
        self.memory = memory
        self._allocate_page, self._free_page = allocate_page, free_page
        self.table_pages = 0
        self.root = self._new_table()
        self.eptp = Eptp(memory_type=EptMemoryType.WB, walk_length=WALK_LEVELS - 1, root=self.root >> 12)
        self.generation = 0
        self.on_invept: Callable[[frozenset[int]], None] = lambda changed_pages: None
        self._changed: set[int] = set()
        self._leaf_table: tuple[int, int] = (-1, 0)     # (gpa >> 21, spa of its page table): runs of pages are common

    def map(self, gpa: int, spa: int, rights: Access, large: bool = False) -> None:
        """Let the page at *gpa* be the page at *spa* with *rights*; replaces what was there.

        Both are multiples of the page size; *rights* include READ (an entry without rights is one that is not there).
        Raises what *allocate_page* raises, and then maps nothing.
        """
        size = LARGE_PAGE_SIZE if large else PAGE_SIZE
        assert not (gpa | spa) % size, f"gpa {gpa:#x} or spa {spa:#x} is no multiple of {size:#x}"
        assert not gpa >> GPA_BITS, f"gpa {gpa:#x} exceeds {GPA_BITS} bits"
        bits = int(rights)              # plain integers: `&` with an IntFlag would build an enum member each time
        assert bits & _READ, f"{rights!r}: an entry without read is not present or misconfigured"
        if large:
            self._drop_below(gpa)
            at = self._entry_address(gpa, 2)
            self.memory.write_u64(at, spa | bits | _LEAF | _LARGE)
            self._changed.update(range(gpa >> 12, (gpa >> 12) + ENTRIES_PER_TABLE))
        else:
            at = self._entry_address(gpa, 1)
            self.memory.write_u64(at, spa | bits | _LEAF)
            self._changed.add(gpa >> 12)

    def unmap(self, gpa: int) -> bool:
        """Nothing is at the page of *gpa* any more; tables that became empty are freed. False when nothing was."""
        walk = self.walk(gpa)
        if walk.spa is None:
            return False
        if walk.page_size == LARGE_PAGE_SIZE:
            self._split(gpa)
            walk = self.walk(gpa)
        self.memory.write_u64(walk.entries[-1].spa, 0)
        self._changed.add(gpa >> 12)
        self._prune(walk)
        return True

    def protect(self, gpa: int, rights: Access) -> bool:
        """Change the rights of the mapped page of *gpa*; a 2 MiB page is split first. False when nothing is mapped."""
        walk = self.walk(gpa)
        if walk.spa is None:
            return False
        self.map(gpa & -PAGE_SIZE, walk.spa & -PAGE_SIZE, rights)
        return True

    def invept(self) -> None:
        """Make all changes visible to the engine; SDM "INVEPT"."""
        if self._changed:
            changed, self._changed = frozenset(self._changed), set()
            self.generation += 1
            self.on_invept(changed)

    def walk(self, gpa: int) -> EptWalk:
        """Follow the tables as the processor does, and keep every entry used."""
        table, rights, steps = self.root, _RIGHTS, []
        if gpa >> GPA_BITS:
            return EptWalk(gpa, None, Access(0), (), "", PAGE_SIZE)
        for level in range(WALK_LEVELS, 0, -1):
            shift = 12 + 9 * (level - 1)
            at = table + 8 * (gpa >> shift & ENTRIES_PER_TABLE - 1)
            raw = self.memory.read_u64(at)
            steps.append(EptWalkEntry(level, at, EptEntry(raw)))
            rights &= raw
            wrong = misconfiguration(raw, level)
            if wrong or not raw & _RIGHTS:
                return EptWalk(gpa, None, Access(0), tuple(steps), wrong, PAGE_SIZE)
            if level == 1 or (level == 2 and raw & _LARGE):
                offset = gpa & (1 << shift) - 1
                return EptWalk(gpa, raw & _FRAME | offset, Access(rights), tuple(steps), "", 1 << shift)
            table = raw & _FRAME
        raise AssertionError("a walk ends at level 1")

    def translate(self, gpa: int, access: Access, gva: int | None = None, during_walk: bool = False) -> int:
        """The spa behind *gpa*, or NestedFault when *access* is refused."""
        walk = self.walk(gpa)
        if walk.spa is None or int(access) & ~int(walk.rights):
            raise NestedFault(gpa, access, gva, during_walk)
        return walk.spa

    def mappings(self) -> Iterator[tuple[int, int, Access, int]]:
        """(gpa, spa, rights, page size) of every mapped page, in order of gpa."""
        yield from self._leaves(self.root, WALK_LEVELS, 0, _RIGHTS)

    def free(self) -> None:
        """Give every table back; the object must not be used afterwards."""
        self._free_table(self.root, WALK_LEVELS)

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        pages = [{"gpa": gpa, "spa": spa, "rights": int(rights), "size": size}
                 for gpa, spa, rights, size in self.mappings()]
        return {"eptp": self.eptp.inspect(), "tables": self.table_pages, "generation": self.generation, "pages": pages}

    def _new_table(self) -> int:
        spa = self._allocate_page()
        self.memory.write(spa, _EMPTY_TABLE)
        self.table_pages += 1
        return spa

    def _drop_table(self, spa: int) -> None:
        self.table_pages -= 1
        self._leaf_table = (-1, 0)
        self._free_page(spa)

    def _entry_address(self, gpa: int, leaf_level: int) -> int:
        """Where the leaf entry of *gpa* lies; missing tables are made, none is left behind when that fails."""
        if leaf_level == 1 and self._leaf_table[0] == gpa >> 21:
            return self._leaf_table[1] + 8 * (gpa >> 12 & ENTRIES_PER_TABLE - 1)
        table = self.root
        made: list[tuple[int, int]] = []
        for level in range(WALK_LEVELS, leaf_level, -1):
            at = table + 8 * (gpa >> 12 + 9 * (level - 1) & ENTRIES_PER_TABLE - 1)
            raw = self.memory.read_u64(at)
            if raw & _RIGHTS and level == 2 and raw & _LARGE:
                self._split(gpa)
                raw = self.memory.read_u64(at)
            if not raw & _RIGHTS:
                try:
                    raw = self._new_table() | _TABLE_RIGHTS
                except Exception:
                    self._undo(made)
                    raise
                self.memory.write_u64(at, raw)
                made.append((at, raw & _FRAME))
            table = raw & _FRAME
        if leaf_level == 1:
            self._leaf_table = (gpa >> 21, table)
        return table + 8 * (gpa >> 12 + 9 * (leaf_level - 1) & ENTRIES_PER_TABLE - 1)

    def _undo(self, made: list[tuple[int, int]]) -> None:
        for at, table in reversed(made):
            self.memory.write_u64(at, 0)
            self._drop_table(table)

    def _split(self, gpa: int) -> None:
        """Replace the 2 MiB page of *gpa* by a table of 4 KiB pages with the same rights."""
        at = self.walk(gpa).entries[-1].spa
        raw = self.memory.read_u64(at)
        table = self._new_table()
        for n in range(ENTRIES_PER_TABLE):
            self.memory.write_u64(table + 8 * n, (raw & ~_LARGE) + n * PAGE_SIZE)
        self.memory.write_u64(at, table | _TABLE_RIGHTS)

    def _drop_below(self, gpa: int) -> None:
        """Free the table of 4 KiB pages that a 2 MiB page is about to replace."""
        walk = self.walk(gpa)
        if len(walk.entries) == WALK_LEVELS:
            step = walk.entries[2]
            self.memory.write_u64(step.spa, 0)
            self._drop_table(step.entry.address)

    def _prune(self, walk: EptWalk) -> None:
        for step, above in zip(reversed(walk.entries), reversed(walk.entries[:-1]), strict=False):
            table = step.spa & -PAGE_SIZE
            if self.memory.read(table, PAGE_SIZE) != _EMPTY_TABLE:
                return
            self.memory.write_u64(above.spa, 0)
            self._drop_table(table)

    def _leaves(self, table: int, level: int, base: int, rights: int) -> Iterator[tuple[int, int, Access, int]]:
        shift = 12 + 9 * (level - 1)
        for n in range(ENTRIES_PER_TABLE):
            raw = self.memory.read_u64(table + 8 * n)
            gpa = base | n << shift
            if not raw & _RIGHTS:
                continue
            if level == 1 or (level == 2 and raw & _LARGE):
                yield gpa, raw & _FRAME, Access(rights & raw), 1 << shift
            else:
                yield from self._leaves(raw & _FRAME, level - 1, gpa, rights & raw)

    def _free_table(self, table: int, level: int) -> None:
        if level > 1:
            for n in range(ENTRIES_PER_TABLE):
                raw = self.memory.read_u64(table + 8 * n)
                if raw & _RIGHTS and not (level == 2 and raw & _LARGE):
                    self._free_table(raw & _FRAME, level - 1)
        self._drop_table(table)
