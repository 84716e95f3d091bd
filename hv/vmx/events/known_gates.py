"""Interrupts of 64-bit kernels, delivered by what the last one through the same gate found.

`hv/machine/idt.py` delivers events of any kind in any mode, and `translation/remembered.py` knows of which words of
memory its last answer was made. While those and the registers are the same, so is what they lead to: that is compared
here at once, for the kind of interrupt that an idle kernel gets, and then there is nothing left but to push the frame.
Another privilege level or stack, or a fault, is left to the long way.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.idt import gate_key, same_level_entry
from hv.machine.paging import PagingMode
from hv.machine.state import ProcessorState
from hv.spec.x86 import PAGE_SIZE
from hv.vmx.translation.remembered import Chain, RememberingMemory

_NO_RF = ~(1 << 16)                 # the instruction before is done
_FRAME = struct.Struct("<5Q")       # RIP CS RFLAGS RSP SS, from below
_ROOM = PAGE_SIZE - _FRAME.size
_WRITE = Access.WRITE.value
_LOCAL = 4                          # of a selector: in the LDT, whose register is not compared


class _Gate(NamedTuple):
    """One gate, that leads to the code segment in use and to no other stack."""

    registers: tuple[int, ...]      # `ProcessorState.delivery_registers`
    generation: int                 # of what is cached of the second level
    words: Chain                    # of page tables, IDT and GDT
    stack: tuple[int, int]          # linear page and gpa of the page where the frame was pushed
    mode: PagingMode
    rip: int
    kept: int                       # of RFLAGS


class KnownGates:
    """Those of one virtual processor, by vector."""

    def __init__(self, state: ProcessorState, memory: RememberingMemory) -> None:
        self._state, self._memory = state, memory
        self._words, self._cached = memory.words, memory.cached
        self._gates: dict[int, _Gate] = {}

    def enter(self, vector: int) -> bool:
        """Deliver external interrupt *vector*; False, and nothing done, when that is not as simple as the last time."""
        gate, state = self._gates.get(vector), self._state
        if gate is None or gate.registers != state.delivery_registers or gate.generation != self._cached.generation:
            return False
        words = self._words
        for number, value in gate.words:
            if words[number] != value:
                del self._gates[vector]
                return False
        return self._push_and_enter(gate)

    def _push_and_enter(self, gate: _Gate) -> bool:
        state, memory = self._state, self._memory
        rip, cs, rflags, old_rsp, ss = state.interrupted
        rflags &= _NO_RF
        rsp = (old_rsp & -16) - _FRAME.size
        if rsp < 0 or rsp & PAGE_SIZE - 1 > _ROOM:
            return False
        frame = _FRAME.pack(rip, cs, rflags, old_rsp, ss)
        try:
            page, gpa = gate.stack
            gpa = gpa | rsp & PAGE_SIZE - 1 if page == rsp >> 12 else memory.gpa_of(gate.mode, rsp, _WRITE, 0, False)
            memory.store_bytes(gpa, frame)
        except (GuestFault, NestedFault):
            return False                # the long way meets it again
        state.enter_handler(gate.rip, rsp, rflags & gate.kept)
        return True

    def learn(self, vector: int) -> None:
        """*vector* was delivered the long way, and no instruction has run since."""
        state, generation, known = self._state, self._cached.generation, self._gates.get(vector)
        if state.cpl or not state.is_kernel_64:
            return
        registers = state.delivery_registers
        if known is not None and known.registers == registers and known.generation == generation:
            return
        found = self._memory.remembered(gate_key(state, vector, 1, 0))
        stack = self._memory.known_page(state.rsp, _WRITE)
        if found is None or stack is None:
            return
        entry, words = same_level_entry(found[0], 0), tuple(dict(found[1] + stack[1]).items())
        if entry is not None and entry.cs == state.cs and not entry.cs.selector & _LOCAL:
            self._gates[vector] = _Gate(registers, generation, words, (state.rsp >> 12, stack[0]), self._memory.mode,
                                        entry.rip, entry.kept_flags)
