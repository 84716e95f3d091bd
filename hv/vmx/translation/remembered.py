"""Linear memory that remembers where page walks led.

Delivering one interrupt translates the same three addresses as the last one. A walk's result holds as long as every
entry it used has the value it had, so those are read again, straight from RAM, and nothing else is: a guest that
changes a page table is noticed at once, without a word to this object, and cannot tell that it is there.
"""

from __future__ import annotations

import struct

from hv.machine.linear import LinearMemory
from hv.machine.paging import PagingMode, walk
from hv.machine.registers import Registers
from hv.vmx.translation.second_level import SecondLevel

_U64 = struct.Struct("<Q")
_PAGE = 0xFFF
_READ = 1
_ENTRY_SIZE = 8                 # of PAE and 4-level paging; 32-bit paging walks each time
_MOST = 64                      # translations kept

Chain = tuple[tuple[int, int], ...]     # (spa of an entry, its value) for each level


class RememberingMemory(LinearMemory):
    """`LinearMemory` over *second_level*, with the same answers and exceptions."""

    def __init__(self, registers: Registers, second_level: SecondLevel) -> None:
        super().__init__(registers, second_level.load, second_level.store)
        self.load_entry, self.load_code = second_level.load_entry, second_level.fetch
        self._second_level, self._cached, self._ram = second_level, second_level.cached, second_level.memory.view
        self._known: dict[tuple[int, int, bool, bool], tuple[int, Chain]] = {}
        self._known_for: list[object] = [None, 0]       # the paging mode and the generation of what is cached

    def gpa_of(self, mode: PagingMode, gva: int, access: int, cpl: int, implicit: bool) -> int:
        if mode.entry_size != _ENTRY_SIZE:
            return super().gpa_of(mode, gva, access, cpl, implicit)
        if self._known_for[0] is not mode or self._known_for[1] != self._cached.generation:
            self._known.clear()
            self._known_for[:] = mode, self._cached.generation
        key = (gva >> 12, access, cpl == 3, implicit)
        found = self._known.get(key)
        if found is not None:
            read, ram = _U64.unpack_from, self._ram
            for spa, raw in found[1]:
                if read(ram, spa)[0] != raw:
                    break
            else:
                return found[0] | gva & _PAGE
        return self._walk_and_remember(key, mode, gva, access, cpl, implicit)

    def _walk_and_remember(self, key: tuple[int, int, bool, bool], mode: PagingMode, gva: int, access: int, cpl: int,
                           implicit: bool) -> int:
        found = walk(mode, gva, access, cpl, self.load_entry, self.store, implicit)
        chain = tuple((self._second_level.translate(level.gpa, _READ), level.raw) for level in found.levels)
        if all(spa + _ENTRY_SIZE <= self._second_level.memory.size for spa, _ in chain):
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = found.gpa & ~_PAGE, chain
        return found.gpa
