"""Memory as the guest's instructions see it: linear addresses, translated page by page.

A whole access is translated, and so checked, before any byte of it is read or written; SDM "Paging" and, for accesses
that cross pages, "Exceptions and Interrupts". Segmentation is not here: callers add bases and check limits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from copy import copy
from typing import TypeVar

from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.paging import (
    LINEAR_32,
    LINEAR_64,
    PHYSICAL_BITS,
    Load,
    PagingFormat,
    PagingMode,
    Store,
    Walk,
    translate,
    walk,
)
from hv.machine.ram import pages_of
from hv.machine.registers import Registers
from hv.spec.x86 import PAGE_SIZE

_OFFSET = PAGE_SIZE - 1
_READ, _WRITE = Access.READ.value, Access.WRITE.value
T = TypeVar("T")


class LinearMemory:
    """The linear address space that *registers* select, over guest-physical *load* and *store*.

    Every method translates anew, so a change of CR3 or of a page table needs no word to this object. GuestFault (#PF,
    or NonCanonical) says that paging refuses, NestedFault that the second level does; its `gva` is always set.
    """

    def __init__(self, registers: Registers, load: Load, store: Store, physical_bits: int = PHYSICAL_BITS) -> None:
        self.registers, self.load, self.store, self.physical_bits = registers, load, store, physical_bits
        self.load_entry = self.load_code = load         # for paging-structure entries, and for instructions
        self.fixed_mode: PagingMode | None = None       # of what `fixed` gives
        self._fixed: LinearMemory | None = None         # what `fixed` gave last, and the registers it was for
        self._fixed_for: tuple[int, ...] = ()

    def fixed(self) -> LinearMemory:
        """The same memory for as long as CR0, CR3, CR4, EFER and RFLAGS.AC stay as they are: they are read once."""
        registers, fixed = self.registers.paging_registers, self._fixed
        if fixed is None or registers != self._fixed_for:
            fixed, self._fixed_for = copy(self), registers
            fixed.fixed_mode, fixed._fixed = self.mode, None
            self._fixed = fixed
        return fixed

    def gpa_of(self, mode: PagingMode, gva: int, access: int, cpl: int, implicit: bool) -> int:
        """Where *gva* leads, checked and marked as used; every translation of this object comes through here."""
        return translate(mode, gva, access, cpl, self.load_entry, self.store, implicit)

    def walk(self, gva: int, access: Access = Access.READ, cpl: int | None = None, implicit: bool = False) -> Walk:
        """Translate one address, setting accessed and dirty flags; *cpl* is the processor's unless given."""
        return walk(self.mode, gva, access, self._cpl(cpl), self.load_entry, self.store, implicit)

    def read(self, gva: int, size: int, access: Access = Access.READ, cpl: int | None = None,
             implicit: bool = False) -> bytes:
        """*size* bytes at *gva*."""
        parts: list[bytes] = []
        load = self.load_code if access is Access.EXECUTE else self.load
        for gpa, count in self._translate(gva, size, access, self._cpl(cpl), implicit):
            try:
                parts.append(load(gpa, count).to_bytes(count, "little"))
            except NestedFault as fault:
                fault.gva, fault.access = self._wrapped(gva), access
                raise
            gva += count
        return b"".join(parts)

    def read_integer(self, gva: int, size: int, access: Access = Access.READ, cpl: int | None = None) -> int:
        """The little-endian integer of *size* bytes at *gva*."""
        return int.from_bytes(self.read(gva, size, access, cpl), "little")

    def read_system(self, gva: int, size: int) -> int:
        """What the processor reads of its own accord from GDT, LDT, IDT or TSS: at privilege 0, SMAP in force."""
        if (gva & _OFFSET) + size > PAGE_SIZE:
            return int.from_bytes(self.read(gva, size, Access.READ, 0, implicit=True), "little")
        mode = self.fixed_mode or self.mode
        wrapped = gva & (LINEAR_64 if mode.format is PagingFormat.LONG else LINEAR_32)
        gpa = self.gpa_of(mode, wrapped, _READ, 0, True)
        try:
            return self.load(gpa, size)
        except NestedFault as fault:
            fault.gva = wrapped
            raise

    def remember(self, key: Hashable, find: Callable[[], T]) -> T:
        """What *find* answers. It reads by `read_system` only, and what it knows of the registers is in *key*; so
        whoever knows that nothing changed which it read may give the answer of last time.
        """
        return find()

    def write(self, gva: int, data: bytes, cpl: int | None = None, implicit: bool = False) -> None:
        """Store *data* at *gva*; nothing is stored when paging refuses any byte of it.

        # Simplified: when the second level refuses the second page, the bytes of the first are already stored; the
        # access is then repeated from its beginning, so the guest does not see it.
        """
        done, size = 0, len(data)
        if (gva & _OFFSET) + size <= PAGE_SIZE and size:        # the usual, as `_translate` would do it
            mode = self.fixed_mode or self.mode
            wrapped = gva & (LINEAR_64 if mode.format is PagingFormat.LONG else LINEAR_32)
            pieces = [(self.gpa_of(mode, wrapped, _WRITE, self.registers.cpl if cpl is None else cpl, implicit), size)]
        else:
            pieces = self._translate(gva, size, Access.WRITE, self._cpl(cpl), implicit)
        for gpa, count in pieces:
            try:
                self.store(gpa, int.from_bytes(data[done : done + count], "little"), count)
            except NestedFault as fault:
                fault.gva = self._wrapped(gva + done)
                raise
            done += count

    def _wrapped(self, gva: int) -> int:
        """*gva* as the mode has it: it comes again at its end from 0 on."""
        mode = self.fixed_mode or self.mode
        return gva & (LINEAR_64 if mode.format is PagingFormat.LONG else LINEAR_32)

    def check(self, gva: int, size: int, access: Access, cpl: int | None = None, implicit: bool = False) -> None:
        """Raise what `read` or `write` would raise for paging's sake, and touch no data."""
        self._translate(gva, size, access, self._cpl(cpl), implicit)

    def fetch(self, gva: int, size: int) -> bytes:
        """Up to *size* bytes of instructions at *gva*; fewer when a later page refuses, a fault when the first does."""
        size_first = min(size, PAGE_SIZE - (gva & _OFFSET))
        code = self.read(gva, size_first, Access.EXECUTE)
        if size_first < size:
            try:
                code += self.fetch(gva + size_first, size - size_first)
            except (GuestFault, NestedFault):
                return code
        return code

    def _translate(self, gva: int, size: int, access: Access, cpl: int, implicit: bool) -> list[tuple[int, int]]:
        """(gpa, bytes) of each page's part, in order."""
        mode = self.fixed_mode or self.mode
        wrap = LINEAR_64 if mode.format is PagingFormat.LONG else LINEAR_32
        if (gva & _OFFSET) + size <= PAGE_SIZE and size:
            return [(self.gpa_of(mode, gva & wrap, int(access), cpl, implicit), size)]
        return [(self.gpa_of(mode, at & wrap, int(access), cpl, implicit), count) for at, count in pages_of(gva, size)]

    @property
    def mode(self) -> PagingMode:
        """How addresses are translated now."""
        return self.fixed_mode or PagingMode.of(self.registers, self.physical_bits)

    def _cpl(self, cpl: int | None) -> int:
        return self.registers.cpl if cpl is None else cpl
