"""Moves to and from the registers of devices, met again at the same instruction as the last time.

`memory.py` and `apic_access.py` find out what a guest did whose access was refused: they fetch and decode its
instruction, and translate its operand by the guest's tables. A driver does the same a thousand times. So what they
found is kept, with every word of RAM that it was made of (the instruction, and the entries that led to it and to the
operand, of the guest's tables and of EPT). While those are the same, and so are the registers that give them their
meaning, the answer is the same too, and what is left is the move.

Only what is usual is kept: flat 32-bit and 64-bit code, MOV, MOVZX and MOVSX of one general register or constant,
without a single step, a shadow of STI or MOV SS, or anything that is watched for. All else goes the long way, and
`tests/vmx/test_known_accesses.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from hv.instructions.moves import Move, move_of
from hv.machine.clock import EXIT_TICKS
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.paging import LINEAR_32, LINEAR_64, walk
from hv.machine.state import ADDRESSING
from hv.spec.exits import ApicAccessQualification, ApicAccessType, ExitReason
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH, PAGE_SIZE
from hv.vmx.apic.access_page import written
from hv.vmx.apic.interrupts import behind_instruction
from hv.vmx.apic.virtual_apic import VirtualApic
from hv.vmx.exit import VmExit

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_OFFSET = PAGE_SIZE - 1
_READ, _WRITE, _EXECUTE = Access.READ.value, Access.WRITE.value, Access.EXECUTE.value
_BOTH = _READ | _WRITE
_STORE, _KIND = 2, 0x12         # of the engine's error code: a write; that, or a fetch
_WORD, _MOST = 8, 256
_APIC_ACCESS, _VIOLATION = ExitReason.APIC_ACCESS, ExitReason.EPT_VIOLATION
_LINEAR_READ = ApicAccessQualification(type=ApicAccessType.LINEAR_READ).raw
_LINEAR_WRITE = ApicAccessQualification(type=ApicAccessType.LINEAR_WRITE).raw


class _Known(NamedTuple):
    """A move at one place, to or from one page."""

    generation: int             # of what is cached of the second level
    kind: int                   # of the engine's error code: 0 for a load, _STORE
    gva: int                    # of the operand's page
    gpa: int
    move: Move
    qualification: int          # of the EPT violation; -1 on the APIC-access page
    look: Callable[[memoryview], object]    # at the words of RAM
    found: object               # what is there


class KnownAccesses:
    """Those of one virtual processor, by where it is and how it translates."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu, self._state, self._registers = vcpu, vcpu.state, vcpu.state.gpr
        self._words, self._cached = vcpu.memory.words, vcpu.memory.cached
        self._known: dict[tuple[int, ...], _Known] = {}

    def again(self, gpa: int, code: int) -> bool | None:
        """The engine was refused *gpa*, with *code* for an error code: what the trap handler would answer; None, and
        nothing done, when that has to be found out."""
        state = self._state
        where = ADDRESSING(state.words)         # `addressing`, without its call
        known = self._known.get(where)
        if known is None:
            return None
        vcpu = self._vcpu
        generation, kind, gva_page, gpa_page, move, qualification, look, found = known
        gva, offset = move.address(self._registers, where[0]), gpa & _OFFSET
        if (gva != gva_page | offset or gpa != gpa_page | offset or code & _KIND != kind
                or generation != self._cached.generation or offset + move.size > PAGE_SIZE
                or vcpu.engine.on_trap is not vcpu.trap_handler or vcpu.non_register.pending_debug):
            return None
        if look(self._words) != found:
            del self._known[where]
            return None
        if qualification < 0:                   # the APIC-access page
            controls, register = vcpu.apic, offset & ~3
            apic = controls.virtual
            if apic is not None and register in (controls.writable if kind else controls.readable) \
                    and (offset & 0xF) + move.size <= 4:
                return self._virtualize(apic, offset, move)
            exit = VmExit(_APIC_ACCESS, offset | (_LINEAR_WRITE if kind else _LINEAR_READ), move.length)
        elif vcpu.violations_convert:
            return None
        else:
            exit = VmExit(_VIOLATION, qualification)
            exit.guest_physical_address, exit.guest_linear_address = gpa, gva
        exit.move = move
        state.set_resume_flag()
        vcpu.vmcs.last_exit = exit              # `Vcpu.exit` of one that is not watched and has a VPID
        vcpu.exits[exit.reason] += 1
        vcpu.work[0] += EXIT_TICKS
        return vcpu.on_exit(exit)

    def _virtualize(self, apic: VirtualApic, offset: int, move: Move) -> bool:
        """*move* is done on the virtual-APIC page."""
        vcpu, dwords, place, shift = self._vcpu, apic.page.dwords, offset >> 2, (offset & 3) << 3
        self._state.complete_instruction(move.length)
        if move.load is not None:
            move.load(self._registers, dwords[place] >> shift)
            return vcpu.time_is_left()
        assert move.value is not None, "a move is a load or a store"
        mask = (1 << 8 * move.size) - 1 << shift
        dwords[place] = dwords[place] & ~mask | move.value(self._registers) << shift
        vcpu.trap_like = written(apic, offset)
        return behind_instruction(vcpu) and vcpu.time_is_left()

    # --- learning ------------------------------------------------------------------------------------------

    def learn(self, where: tuple[int, ...], gpa: int, access: int, violation: VmExit | None = None) -> None:
        """The instruction at *where* (`addressing`), which is not done yet, was refused *access* at *gpa*: by
        *violation*, or because that is on the APIC-access page. If it is a usual move, the next one goes the short way.
        """
        vcpu, state = self._vcpu, self._state
        code = vcpu.engine.known_code()
        if len(code) < MAX_INSTRUCTION_LENGTH or not state.is_flat or vcpu.watchful or not vcpu.second_level.vpid:
            return
        move = move_of(code, state.bits)
        if move is None or move.segment in ("fs", "gs") or state.single_stepping or state.interrupt_shadow:
            return
        try:
            known = self._look(gpa, access, move, violation)
        except (GuestFault, NestedFault):
            return
        if known is not None:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[where] = known

    def _look(self, gpa: int, access: int, move: Move, violation: VmExit | None) -> _Known | None:
        """What there is to know; None where that is not as usual. A fault on the way is the guest's or the parent's."""
        state, second_level = self._state, self._vcpu.second_level
        wrap = LINEAR_64 if state.bits == 64 else LINEAR_32
        gva, wanted = move.address(self._registers, state.rip) & wrap, _READ if move.value is None else _WRITE
        if violation is None:
            if (second_level.access_rights(gpa) or 0) & _BOTH != _BOTH:
                return None
        elif violation.reason is not _VIOLATION or violation.guest_linear_address != gva:
            return None
        if access != wanted or second_level.keeps_flags:
            return None
        at, words = state.linear_rip, set[int]()
        first = self._translated(at, _EXECUTE, words)
        operand = self._translated(gva, wanted, words)
        code = second_level.translate(first, _EXECUTE)
        words.update(range(code // _WORD, (code + len(move.code) - 1) // _WORD + 1))
        if violation is not None:
            words.update(level.spa // _WORD for level in second_level.walk(gpa).entries)
        if operand != gpa or max(words) >= len(self._words):
            return None
        look = itemgetter(*sorted(words))
        kind, qualification = 0 if wanted == _READ else _STORE, -1 if violation is None else violation.qualification
        return _Known(self._cached.generation, kind, gva & -PAGE_SIZE, gpa & -PAGE_SIZE, move, qualification, look,
                      look(self._words))

    def _translated(self, gva: int, access: int, words: set[int]) -> int:
        """Where *gva* leads; the words of the guest's tables that say so are added to *words*."""
        memory, cpl = self._vcpu.memory, self._state.cpl
        found = walk(memory.mode, gva, access, cpl, memory.load_entry, memory.store)
        for level in found.levels:
            words.add(self._vcpu.second_level.translate(level.gpa, _READ) // _WORD)
        return found.gpa


__all__ = ["KnownAccesses"]
