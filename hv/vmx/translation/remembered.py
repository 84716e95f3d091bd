"""Linear memory that remembers where page walks led, and what was found in system tables.

Delivering one interrupt translates the same three addresses as the last one, and checks the same gate and the same code
segment. A walk's result holds as long as every entry it used has the value it had, and what was found in tables as long
as that is so of all words it was made of. So those are read again, straight from RAM, and nothing else is: a guest that
changes a page table or a gate is noticed at once, without a word to this object, and cannot tell that it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from hv.machine.linear import LinearMemory, T
from hv.machine.paging import PagingMode, walk
from hv.machine.registers import Registers
from hv.vmx.translation.second_level import SecondLevel

_PAGE = 0xFFF
_READ = 1
_ENTRY_SIZE = _WORD = 8         # of PAE and 4-level paging; 32-bit paging walks each time
_U64_MASK = (1 << 64) - 1
_MOST = 64                      # translations kept

Chain = tuple[tuple[int, int], ...]     # of words of RAM: (number, value), the number being a spa divided by 8


class RememberingMemory(LinearMemory):
    """`LinearMemory` over *second_level*, with the same answers and exceptions."""

    def __init__(self, registers: Registers, second_level: SecondLevel) -> None:
        super().__init__(registers, second_level.load, second_level.store)
        self.load_entry, self.load_code = second_level.load_entry, second_level.fetch
        self.store_bytes = second_level.store_bytes
        self._second_level, self.cached, self.words = second_level, second_level.cached, second_level.memory.words
        self._known: dict[tuple[int, int, bool, bool], tuple[int, Chain]] = {}
        self._found: dict[Hashable, tuple[Any, Chain]] = {}         # what `remember` was asked, and the words behind it
        self._known_for: list[object] = [None, 0]       # the paging mode and the generation of what is cached
        self._noted: dict[int, int] | None = None       # those being found out; None: not wanted

    def gpa_of(self, mode: PagingMode, gva: int, access: int, cpl: int, implicit: bool) -> int:
        if mode.entry_size != _ENTRY_SIZE:
            return super().gpa_of(mode, gva, access, cpl, implicit)
        if self._known_for[0] is not mode or self._known_for[1] != self.cached.generation:
            self._forget(mode)
        key = (gva >> 12, access, cpl == 3, implicit)
        found = self._known.get(key)
        if found is not None:
            words = self.words
            for number, raw in found[1]:
                if words[number] != raw:
                    break
            else:
                if self._noted is not None:
                    self._noted.update(found[1])
                return found[0] | gva & _PAGE
        return self._walk_and_remember(key, mode, gva, access, cpl, implicit)

    def known_page(self, gva: int, access: int) -> tuple[int, Chain] | None:
        """The guest-physical page that the last *access* of privilege level 0 to that of *gva* led to, with the entries
        that say so; None: not kept."""
        return self._known.get((gva >> 12, access, False, False))

    def _walk_and_remember(self, key: tuple[int, int, bool, bool], mode: PagingMode, gva: int, access: int, cpl: int,
                           implicit: bool) -> int:
        found = walk(mode, gva, access, cpl, self.load_entry, self.store, implicit)
        chain = tuple((self._second_level.translate(level.gpa, _READ) // _WORD, level.raw) for level in found.levels)
        if all(number < len(self.words) for number, _ in chain):
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = found.gpa & ~_PAGE, chain
            if self._noted is not None:
                self._noted.update(chain)
        else:
            self._noted = None
        return found.gpa

    def _forget(self, mode: PagingMode) -> None:
        self._known.clear()
        self._found.clear()
        self._known_for[:] = mode, self.cached.generation

    # --- what was found in tables ---------------------------------------------------------------------------

    def remember(self, key: Hashable, find: Callable[[], T]) -> T:
        """What *find* answers, or answered when all that it read was as it is now."""
        mode = self.fixed_mode or self.mode
        if self._known_for[0] is not mode or self._known_for[1] != self.cached.generation:
            self._forget(mode)
        known = self._found.get(key)
        if known is not None:
            words = self.words
            for number, raw in known[1]:
                if words[number] != raw:
                    break
            else:
                answer: T = known[0]
                return answer
        return self._find_and_remember(key, find)

    def remembered(self, key: Hashable) -> tuple[Any, Chain] | None:
        """What the last `remember` of *key* answered, with all words it was made of; None: not kept."""
        return self._found.get(key)

    def _find_and_remember(self, key: Hashable, find: Callable[[], T]) -> T:
        self._noted = {} if self.mode.entry_size == _ENTRY_SIZE else None
        try:
            answer = find()
            if self._noted is not None and self._known_for[1] == self.cached.generation:
                if len(self._found) >= _MOST:
                    self._found.clear()
                self._found[key] = answer, tuple(self._noted.items())
        finally:
            self._noted = None
        return answer

    def read_system(self, gva: int, size: int) -> int:
        """As `LinearMemory.read_system`; what `remember` wants to know is noted."""
        value = super().read_system(gva, size)
        if self._noted is not None:
            self._note(gva, size, value)
        return value

    def _note(self, gva: int, size: int, value: int) -> None:
        """The words that were read; what is none in its place, in one page of RAM, is not remembered."""
        spa = self._second_level.translate(self.gpa_of(self.mode, gva, _READ, 0, True), _READ)
        beyond = spa + size > self._second_level.memory.size
        if size % _WORD or spa % _WORD or (gva & _PAGE) + size > _PAGE + 1 or beyond:
            self._noted = None
        elif self._noted is not None:
            for n in range(size // _WORD):
                self._noted[spa // _WORD + n] = value >> 64 * n & _U64_MASK
