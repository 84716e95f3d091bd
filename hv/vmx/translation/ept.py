"""Extended page tables as a hypervisor builds them: real tables of the VT-x format in physical RAM.

SDM "The Extended Page Table Mechanism (EPT)". Four levels, pages of 4 KiB, 2 MiB and 1 GiB, write-back memory. What a
processor makes of them is in `ept_walk.py`; it knows no `EptTables`, only the pointer in a VMCS.

Nothing changes for a guest that has used a translation before `invept`: it counts a generation and calls `on_invept`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hv.machine.faults import Access, NestedFault
from hv.machine.ram import PhysicalMemory
from hv.spec.ept import ENTRIES_PER_TABLE, GPA_BITS, WALK_LEVELS, EptEntry, EptMemoryType, Eptp
from hv.spec.x86 import LARGE_PAGE_SIZE, PAGE_SIZE
from hv.vmx.translation.ept_walk import EptWalk, is_leaf, walk

GIGABYTE = 1 << 30
LEVEL_OF_SIZE = {PAGE_SIZE: 1, LARGE_PAGE_SIZE: 2, GIGABYTE: 3}

_FRAME = int(EptEntry(frame=(1 << 40) - 1))
_READ, _EXECUTE = int(Access.READ), int(Access.EXECUTE)
_RIGHTS = int(Access.READ | Access.WRITE | Access.EXECUTE)
_LARGE = int(EptEntry(large=1))
_LEAF = int(EptEntry(memory_type=EptMemoryType.WB))
_TABLE_RIGHTS = _RIGHTS                             # a table entry allows all, the leaf decides
_EMPTY_TABLE = bytes(PAGE_SIZE)


class EptTables:
    """One hierarchy of tables. *allocate_page* gives a page's spa or raises; each page goes back by *free_page*.

    With *accessed_dirty* the pointer asks the processor to keep accessed and dirty flags.
    """

    def __init__(self, memory: PhysicalMemory, allocate_page: Callable[[], int],
                 free_page: Callable[[int], None], accessed_dirty: bool = False) -> None:
        self.memory = memory
        self._allocate_page, self._free_page = allocate_page, free_page
        self.table_pages = 0
        self.root = self._new_table()
        self.eptp = Eptp(memory_type=EptMemoryType.WB, walk_length=WALK_LEVELS - 1, root=self.root >> 12,
                         accessed_dirty=int(accessed_dirty))
        self.generation = 0
        self.on_invept: Callable[[], object] = lambda: None
        self._changed = False
        self._leaf_table: tuple[int, int] = (-1, 0)     # (gpa >> 21, spa of its page table): runs of pages are common

    def map(self, gpa: int, spa: int, rights: Access, page_size: int = PAGE_SIZE) -> None:
        """Let the page at *gpa* be the page at *spa* with *rights*; replaces what was there.

        Both are multiples of *page_size* (4 KiB, 2 MiB, 1 GiB); *rights* include READ, or are EXECUTE alone. With no
        rights at all the entry, of a 4 KiB page, is not present, and still holds the place of the page in its table.
        Raises what *allocate_page* raises, and then maps nothing.
        """
        assert not (gpa | spa) % page_size, f"gpa {gpa:#x} or spa {spa:#x} is no multiple of {page_size:#x}"
        assert not gpa >> GPA_BITS, f"gpa {gpa:#x} exceeds {GPA_BITS} bits"
        bits = int(rights)              # plain integers: `&` with an IntFlag would build an enum member each time
        level = LEVEL_OF_SIZE[page_size]
        assert bits & _READ or bits == _EXECUTE or (level == 1 and not bits), f"{rights!r}: misconfigured"
        at = self._entry_address(gpa, level)
        if level > 1:
            self._free_below(at, level)
        self.memory.write_u64(at, spa | bits | _LEAF | (_LARGE if level > 1 else 0))
        self._changed = True

    def unmap(self, gpa: int, page_size: int = PAGE_SIZE) -> bool:
        """Nothing is in the *page_size* bytes around *gpa* any more; tables that became empty are freed.

        A larger page is split first; raises what *allocate_page* raises, and then nothing is changed. False when
        nothing was mapped there.
        """
        level, found = LEVEL_OF_SIZE[page_size], self.walk(gpa)
        if found.spa is None and len(found.entries) <= WALK_LEVELS - level + 1 and not found.entries[-1].entry.raw:
            return False
        at = self._entry_address(gpa, level)
        if level > 1:
            self._free_below(at, level)
        self.memory.write_u64(at, 0)
        self._changed = True
        self._prune(self.walk(gpa))
        return True

    def protect(self, gpa: int, rights: Access) -> bool:
        """Change the rights of the 4 KiB page of *gpa*, splitting a larger one; False when nothing is mapped."""
        found = self.walk(gpa)
        if found.spa is None:
            return False
        self.map(gpa & -PAGE_SIZE, found.spa & -PAGE_SIZE, rights)
        return True

    def invept(self) -> None:
        """Make all changes visible to the processors; SDM "INVEPT"."""
        if self._changed:
            self._changed = False
            self.generation += 1
            self.on_invept()

    def walk(self, gpa: int) -> EptWalk:
        """Follow the tables as the processor does, and keep every entry used."""
        return walk(self.memory, self.eptp.raw, gpa)

    def translate(self, gpa: int, access: Access, gva: int | None = None, during_walk: bool = False) -> int:
        """The spa behind *gpa*, or NestedFault when *access* is refused."""
        found = self.walk(gpa)
        if found.spa is None or int(access) & ~int(found.rights):
            raise NestedFault(gpa, access, gva, during_walk)
        return found.spa

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
        """Where the leaf entry of *gpa* lies; missing tables are made and larger pages split, or nothing is changed."""
        if leaf_level == 1 and self._leaf_table[0] == gpa >> 21:
            return self._leaf_table[1] + 8 * (gpa >> 12 & ENTRIES_PER_TABLE - 1)
        table = self.root
        made: list[tuple[int, int, int]] = []
        for level in range(WALK_LEVELS, leaf_level, -1):
            at = table + 8 * (gpa >> 12 + 9 * (level - 1) & ENTRIES_PER_TABLE - 1)
            raw = self.memory.read_u64(at)
            if not raw & _RIGHTS or is_leaf(raw, level):
                try:
                    below = self._split(raw, level) if raw & _RIGHTS else self._new_table()
                except Exception:
                    self._undo(made)
                    raise
                made.append((at, raw, below))
                raw = below | _TABLE_RIGHTS
                self.memory.write_u64(at, raw)
            table = raw & _FRAME
        if leaf_level == 1:
            self._leaf_table = (gpa >> 21, table)
        return table + 8 * (gpa >> 12 + 9 * (leaf_level - 1) & ENTRIES_PER_TABLE - 1)

    def _undo(self, made: list[tuple[int, int, int]]) -> None:
        for at, before, table in reversed(made):
            self.memory.write_u64(at, before)
            self._drop_table(table)

    def _split(self, raw: int, level: int) -> int:
        """A table of pages of the next smaller size that says what the large page *raw* of *level* says."""
        table, size = self._new_table(), 1 << 12 + 9 * (level - 2)
        smaller = raw & ~_LARGE if level == 2 else raw
        for n in range(ENTRIES_PER_TABLE):
            self.memory.write_u64(table + 8 * n, smaller + n * size)
        return table

    def _free_below(self, at: int, level: int) -> None:
        """Free the tables under the entry at *at*, which is about to be a leaf or nothing."""
        raw = self.memory.read_u64(at)
        if raw & _RIGHTS and not is_leaf(raw, level):
            self.memory.write_u64(at, 0)
            self._free_table(raw & _FRAME, level - 1)

    def _prune(self, found: EptWalk) -> None:
        for step, above in zip(reversed(found.entries), reversed(found.entries[:-1]), strict=False):
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
            if is_leaf(raw, level):
                yield gpa, raw & _FRAME, Access(rights & raw), 1 << shift
            else:
                yield from self._leaves(raw & _FRAME, level - 1, gpa, rights & raw)

    def _free_table(self, table: int, level: int) -> None:
        if level > 1:
            for n in range(ENTRIES_PER_TABLE):
                raw = self.memory.read_u64(table + 8 * n)
                if raw & _RIGHTS and not is_leaf(raw, level):
                    self._free_table(raw & _FRAME, level - 1)
        self._drop_table(table)
