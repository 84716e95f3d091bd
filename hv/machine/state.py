"""One virtual processor's registers, read and written in place in its engine context.

`ProcessorState` is what the rooms above see of a processor: plain attributes in the manual's names. Behind each is a
word of the context (`context.py`), so reading one costs a lookup and nothing is copied. The engine keeps derived bits
beside the architectural ones ("hidden flags": CPL, code size, address size ...); they are recomputed here whenever a
register they depend on is written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, MutableMapping
from operator import itemgetter
from typing import Any

from hv.machine import context as at
from hv.machine.floating_point import FloatingPoint
from hv.machine.registers import Segment, Table
from hv.machine.svm import LOAD_TABLES, STORE_TABLES, Intercept
from hv.machine.watched import CONTROL_REGISTERS, Watched
from hv.spec.msrs import Msr
from hv.spec.x86 import Cr0, Cr4, Efer, Rflags

_U64 = (1 << 64) - 1
_ARITHMETIC = 0x8D5             # CF PF AF ZF SF OF
FLAGS_KEPT = 0x3F_7300 | 2     # what the engine keeps beside the arithmetic flags and DF
_DF = Rflags.DF.value
# Plain integers: `&` with an IntFlag would build an enum member every time.
_EFER_LMA, _CR4_OSFXSR, _CR4_SMAP, _VM = Efer.LMA.value, Cr4.OSFXSR.value, Cr4.SMAP.value, Rflags.VM.value
_AC = Rflags.AC.value
_IF, _SVME_BIT, _IRET = Rflags.IF.value, Efer.SVME.value, Intercept.IRET.value
_TR = 7                         # place of TR among the segments
_BUSY = 2                       # type bit of a TSS
_TF, _RF = Rflags.TF.value, Rflags.RF.value

# Hidden flags of the engine.
_INHIBIT = 1 << 3
_CS32, _SS32, _ADDSEG = 1 << 4, 1 << 5, 1 << 6
_PE, _LMA, _CS64, _OSFXSR, _SMAP = 1 << 7, at.HFLAG_LMA, at.HFLAG_CS64, 1 << 22, 1 << 23
_SVME, _GUEST = 1 << 20, 1 << 21
_CODE_MODE = 3 | _CS32 | _PE | _CS64        # CPL, code size, CR0.PE
_CR_ALWAYS = 1 << 8 | (1 << 0 | 1 << 4 | 1 << 8) << 16      # CR8; writes of CR0 and CR4, for their rules
_WATCHED_CR, _WRITE_CR3 = CONTROL_REGISTERS.value, Watched.WRITE_CR3.value
_PG, _PAE = Cr0.PG.value, Cr4.PAE.value
_PAGING_CR0, _PAGING_CR4 = int(Cr0.PE | Cr0.WP | Cr0.PG), int(Cr4.PSE | Cr4.PAE | Cr4.PGE | Cr4.SMEP | Cr4.SMAP)
_PAGING_EFER = int(Efer.LME | Efer.LMA | Efer.NXE)
_SWITCHES = ((Watched.INVLPG.value, Intercept.INVLPG.value),
             (Watched.STORE_TABLES.value, STORE_TABLES.value), (Watched.LOAD_TABLES.value, LOAD_TABLES.value))
_SIZES = 1 << 21 | 1 << 22      # L and D/B, on which hidden flags depend
_RIGHTS = 0xF0FF                # rights bits the engine keeps, 8 to the left

# Places in a context as 64-bit words, then as 32-bit ones. Looked up once: every exit needs them.
_RSP = at.REGS // 8 + 4
_RIP, _EFLAGS, _CC_SRC, _CR0, _EFER = at.RIP // 8, at.EFLAGS // 8, at.CC_SRC // 8, at.CR // 8, at.EFER // 8
_CR3, _CR4, _INTERCEPT = _CR0 + 3, _CR0 + 4, at.INTERCEPT // 8
_CR_SWITCHES = at.INTERCEPT_CR_READ // 4     # reads in the low half, writes in the high one
_CC_OP, _DF_WORD, _HFLAGS = at.CC_OP // 4, at.DF // 4, at.HFLAGS // 4
_ES_BASE, _CS_BASE, _SS_BASE, _DS_BASE = ((at.SEGMENTS + 24 * n + 8) // 8 for n in range(4))
_FS_BASE, _GS_BASE = at.SEGMENTS // 8 + 13, at.SEGMENTS // 8 + 16
_CS_FLAGS, _SS_FLAGS = (at.SEGMENTS + 24 + 20) // 4, (at.SEGMENTS + 48 + 20) // 4
_CS, _GDTR, _IDTR = ((at.SEGMENTS + 24 * n) // 8 for n in (1, 8, 9))
_CS_MATTERS = _U64 & ~(0xF01 << 40)     # limit and flags, without what the engine keeps, or not, in their unused bits
_GDTR_LIMIT, _IDTR_LIMIT, _RSP = 2 * _GDTR + 4, 2 * _IDTR + 4, at.REGS // 8 + 4
_DR7, _SHOWN_XMM = at.DR // 8 + 7, 6        # as many as a hypercall's parameters are in
_FLAGS_OF_BASE = {int(Msr.FS_BASE): _CS_FLAGS + 18, int(Msr.GS_BASE): _CS_FLAGS + 24}
_DPL, _PRESENT = 3 << 13, 1 << 15
ADDRESSING = itemgetter(_RIP, _CR3, at.HFLAGS // 8, _CR0, _CR4, _EFER, _EFLAGS, _CS_BASE)      # one call for all
_CS_SELECTOR, _SS_SELECTOR = (at.SEGMENTS + 24) // 4, (at.SEGMENTS + 48) // 4


def _word(offset: int) -> Any:
    """A 64-bit register at *offset*."""
    index = offset // 8

    def get(self: ProcessorState) -> int:
        return self.words[index]

    def put(self: ProcessorState, value: int) -> None:
        self.words[index] = value & _U64

    return property(get, put)


def _low(offset: int) -> Any:
    """The low half of a 64-bit register; writing clears the high half, as in 64-bit mode."""
    index = offset // 8

    def get(self: ProcessorState) -> int:
        return self.words[index] & 0xFFFF_FFFF

    def put(self: ProcessorState, value: int) -> None:
        self.words[index] = value & 0xFFFF_FFFF

    return property(get, put)


def _flagged(offset: int) -> Any:
    """A control register on which hidden flags depend."""
    index = offset // 8

    def get(self: ProcessorState) -> int:
        return self.words[index]

    def put(self: ProcessorState, value: int) -> None:
        self.words[index] = value & _U64
        self.refresh_hidden_flags()
        self.translation_changed()

    return property(get, put)


def _segment(number: int) -> Any:
    start = at.SEGMENTS + 24 * number
    selector, base, limit, flags = start // 4, (start + 8) // 8, (start + 16) // 4, (start + 20) // 4
    # The engine ends the process when it looks for a stack in a TSS marked busy: it never sees the mark.
    busy = _BUSY if number == _TR else 0
    accessed = 1 if number < 6 else 0       # which the engine forgets to set when a guest loads a segment

    def get(self: ProcessorState) -> Segment:
        dwords = self.dwords
        kept = dwords[flags]
        rights = kept >> 8 & _RIGHTS | busy | (accessed if kept & 0x8000 else 1 << 16)
        return Segment(dwords[selector] & 0xFFFF, self.words[base], dwords[limit], rights)

    def put(self: ProcessorState, value: Segment) -> None:
        dwords, rights = self.dwords, value.rights
        before = dwords[flags], self.words[base]
        dwords[selector] = value.selector & 0xFFFF
        self.words[base] = value.base & _U64
        dwords[limit] = value.limit & 0xFFFF_FFFF
        dwords[flags] = (rights & 0x60 if rights & 1 << 16 else rights & _RIGHTS & ~busy) << 8
        if number == 2:
            self.cpl = rights >> 5 & 3              # CPL is the DPL of SS
        if number < 6 and ((dwords[flags] ^ before[0]) & _SIZES or self.words[base] != before[1]):
            self.refresh_hidden_flags()

    return property(get, put)


def _table(number: int) -> Any:
    start = at.SEGMENTS + 24 * number
    base, limit = (start + 8) // 8, (start + 16) // 4

    def get(self: ProcessorState) -> Table:
        return Table(self.words[base], self.dwords[limit])

    def put(self: ProcessorState, value: Table) -> None:
        self.words[base] = value.base & _U64
        self.dwords[limit] = value.limit & 0xFFFF_FFFF

    return property(get, put)


_MSR_WORDS = {
    Msr.STAR: at.STAR, Msr.LSTAR: at.LSTAR, Msr.CSTAR: at.CSTAR, Msr.SFMASK: at.FMASK,
    Msr.KERNEL_GS_BASE: at.KERNEL_GS_BASE, Msr.SYSENTER_CS: at.SYSENTER_CS, Msr.SYSENTER_ESP: at.SYSENTER_ESP,
    Msr.SYSENTER_EIP: at.SYSENTER_EIP, Msr.PAT: at.PAT, Msr.TSC_AUX: at.TSC_AUX,
    Msr.FS_BASE: at.SEGMENTS + 4 * 24 + 8, Msr.GS_BASE: at.SEGMENTS + 5 * 24 + 8,
}
_MSR_WIDTH = {Msr.SYSENTER_CS: 0xFFFF_FFFF}


class ProcessorMsrs(MutableMapping[int, int]):
    """The MSRs that the engine itself works with, by number. Nothing is checked here."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def __getitem__(self, index: int) -> int:
        value: int = self._words[_MSR_WORDS[index] // 8] & _MSR_WIDTH.get(index, _U64)  # type: ignore[index, call-overload]
        return value

    def __setitem__(self, index: int, value: int) -> None:
        self._words[_MSR_WORDS[index] // 8] = value & _MSR_WIDTH.get(index, _U64)  # type: ignore[index, call-overload]

    def __delitem__(self, index: int) -> None:
        raise TypeError("a processor's MSRs cannot be removed")

    def __iter__(self) -> Iterator[int]:
        return iter(_MSR_WORDS)

    def __len__(self) -> int:
        return len(_MSR_WORDS)

    def __contains__(self, index: object) -> bool:
        return index in _MSR_WORDS


class ProcessorState:
    """The registers of one virtual processor; `docs/architecture.md` says what rooms promise.

    *resolve_flags* gives the arithmetic flags of RFLAGS when they still stand in the engine's lazy form;
    *translation_changed* is called when what the engine cached about address translation may be stale.
    """

    def __init__(self, context: ctypes.c_void_p, resolve_flags: Callable[[ctypes.c_void_p], int],
                 translation_changed: Callable[[], None]) -> None:
        self.context = context
        view = at.view(context)
        self.words = view.cast("Q")
        self.dwords = view.cast("I")
        self.gpr = self.words[at.REGS // 8 : at.REGS // 8 + 16]     # RAX RCX RDX RBX RSP RBP RSI RDI R8..R15
        self._tables = self.words[at.SEGMENTS // 8 + 18 : at.SEGMENTS // 8 + 30]     # LDTR, TR, GDTR, IDTR
        self._general = self.words[at.REGS // 8 : _RIP + 1]
        self._mode, self._xmm = view[at.HFLAGS : at.EFER + 8], view[at.XMM : at.XMM + 64 * _SHOWN_XMM]
        self.msrs = ProcessorMsrs(self.words)
        self.fp = FloatingPoint(view, context)
        self.debugctl = 0           # IA32_DEBUGCTL: the engine has none
        self.kept_msrs: dict[int, int] = {}     # MSRs that are nothing but their value; not there: as after RESET
        self._resolve_flags = resolve_flags
        self.translation_changed = translation_changed
        self._iret_watched = False
        self.watch(0)

    rax, rcx, rdx, rbx = (_word(at.REGS + 8 * n) for n in range(4))
    rsp, rbp, rsi, rdi = (_word(at.REGS + 8 * n) for n in range(4, 8))
    r8, r9, r10, r11 = (_word(at.REGS + 8 * n) for n in range(8, 12))
    r12, r13, r14, r15 = (_word(at.REGS + 8 * n) for n in range(12, 16))
    eax, ecx, edx, ebx = (_low(at.REGS + 8 * n) for n in range(4))
    rip = _word(at.RIP)
    cr0, cr4, efer_raw = _flagged(at.CR), _flagged(at.CR + 32), _flagged(at.EFER)
    cr2 = _word(at.CR + 16)
    dr0, dr1, dr2, dr3 = (_word(at.DR + 8 * n) for n in range(4))
    # The engine sets BS in its own DR6 before anybody knows whether there will be a #DB: the guest's has DR4's place.
    dr6, dr7 = _word(at.DR + 32), _word(at.DR + 56)
    es, cs, ss, ds, fs, gs = (_segment(n) for n in range(6))
    ldtr, tr = _segment(6), _segment(7)
    gdtr, idtr = _table(8), _table(9)

    @property
    def cr3(self) -> int:
        return int(self.words[_CR3])

    @cr3.setter
    def cr3(self, value: int) -> None:
        self.words[_CR3] = value & _U64
        self.translation_changed()

    @property
    def linear_rip(self) -> int:
        """The linear address of the instruction at CS:RIP: the base of CS counts outside 64-bit mode."""
        if self.dwords[_HFLAGS] & _CS64:
            return int(self.words[_RIP])
        return self.words[_CS_BASE] + self.words[_RIP] & 0xFFFF_FFFF

    @property
    def override_bases(self) -> tuple[int, int]:
        """The bases of FS and GS, which count in 64-bit code too."""
        return self.words[_FS_BASE], self.words[_GS_BASE]

    def keep_base(self, index: int) -> None:
        """IA32_FS_BASE or IA32_GS_BASE, *index*, was written by software, and an IRET to user code is to keep it.

        # Simplified: the engine clears the base of a segment whose DPL is below the new CPL, where a processor makes
        it unusable and no more. So the segment has DPL 3 from here on: nobody but that IRET looks at it.
        """
        flags = _FLAGS_OF_BASE[index]
        if self.dwords[flags] & _PRESENT:
            self.dwords[flags] |= _DPL

    @property
    def location(self) -> tuple[int, int, int]:
        """Where code is fetched from, and as what: RIP, CR3, and CPL with the code size; not the base of CS."""
        words = self.words
        return words[_RIP], words[_CR3], self.dwords[_HFLAGS] & _CODE_MODE

    @property
    def interrupted(self) -> tuple[int, int, int, int, int]:
        """RIP, CS, RFLAGS, RSP and SS (the selectors of the two), which every event pushes in long mode."""
        words, dwords = self.words, self.dwords
        return (words[_RIP], dwords[_CS_SELECTOR] & 0xFFFF, self.rflags, words[_RSP], dwords[_SS_SELECTOR] & 0xFFFF)

    def continue_at(self, rip: int, rflags: int, rsp: int) -> None:
        """A handler begins: RIP, RFLAGS and RSP are these, and no shadow of STI or MOV SS is left."""
        words, dwords = self.words, self.dwords
        self.rflags = rflags
        words[_RSP], words[_RIP] = rsp & _U64, rip & _U64
        dwords[_HFLAGS] &= ~_INHIBIT

    @property
    def addressing(self) -> tuple[int, ...]:
        """RIP, and all that the instruction there and its addresses go by in flat code (`is_flat`), but for general
        registers and memory: paging, CPL and mode; every flag of RFLAGS that is not arithmetic makes a difference, and
        the shadow of STI or MOV SS.
        """
        answer: tuple[int, ...] = ADDRESSING(self.words)
        return answer

    @property
    def is_flat(self) -> bool:
        """64-bit code, or 32-bit code whose segments begin at 0, but for FS and GS."""
        hidden = self.dwords[_HFLAGS]
        return bool(hidden & _CS64) or (hidden & (_PE | _CS32 | _ADDSEG) == _PE | _CS32 and not self.words[_CS_BASE])

    @property
    def descriptor_tables(self) -> bytes:
        """Differs when LDTR, GDTR or IDTR does."""
        return self._tables.tobytes()

    @property
    def general(self) -> bytes:
        """RAX RCX RDX RBX RSP RBP RSI RDI R8..R15, then RIP: 64 bits each."""
        return self._general.tobytes()

    @property
    def settings(self) -> tuple[bytes, bytes, int]:
        """Differs when anything else does that a parent is shown of its child: segments, control registers, mode, DR7,
        the shadow of STI or MOV SS, and the first XMM registers; not RFLAGS."""
        return self._mode.tobytes(), self._xmm.tobytes(), self.words[_DR7]

    @property
    def delivery_registers(self) -> tuple[int, ...]:
        """All that the delivery of an event goes by, but for what it pushes: CS, GDTR, IDTR, paging, CPL and mode."""
        words, dwords = self.words, self.dwords
        return (words[_CS], words[_CS + 1], words[_CS + 2] & _CS_MATTERS, words[_GDTR + 1], dwords[_GDTR_LIMIT],
                words[_IDTR + 1], dwords[_IDTR_LIMIT], words[_CR0], words[_CR3], words[_CR4], words[_EFER],
                words[_EFLAGS] & _AC, dwords[_HFLAGS] & ~_INHIBIT)

    def enter_handler(self, rip: int, rsp: int, rflags: int) -> None:
        """Go on at *rip* with the segments as they are; *rflags* are those there were, with some of them cleared."""
        words, dwords = self.words, self.dwords
        words[_RIP], words[_RSP], words[_EFLAGS] = rip, rsp, rflags & FLAGS_KEPT | 2
        words[_CC_SRC], dwords[_CC_OP] = rflags & _ARITHMETIC, at.CC_OP_EFLAGS
        dwords[_HFLAGS] &= ~_INHIBIT

    @property
    def paging_registers(self) -> tuple[int, int, int, int, int]:
        """CR0, CR3, CR4, EFER and RFLAGS.AC in its place: all that address translation depends on."""
        words = self.words
        efer = words[_EFER] & ~(_SVME_BIT | _EFER_LMA)      # `efer`, without its call
        if self.dwords[_HFLAGS] & _LMA:
            efer |= _EFER_LMA
        return words[_CR0], words[_CR3], words[_CR4], efer, words[_EFLAGS] & _AC

    def translates_like(self, other: ProcessorState) -> bool:
        """Linear addresses mean the same to both, but for the rights that RFLAGS.AC and CPL give."""
        mine, others = self.words, other.words
        return not (mine[_CR3] ^ others[_CR3] | (mine[_CR0] ^ others[_CR0]) & _PAGING_CR0
                    | (mine[_CR4] ^ others[_CR4]) & _PAGING_CR4 | (mine[_EFER] ^ others[_EFER]) & _PAGING_EFER)

    @property
    def efer(self) -> int:
        """IA32_EFER as a guest sees it: the engine's own SVME bit is not shown and stays set.

        LMA is kept in the hidden flags: `refresh_hidden_flags` says what it means in the engine's EFER.
        """
        shown: int = self.words[_EFER] & ~(_SVME_BIT | _EFER_LMA)
        return shown | _EFER_LMA if self.dwords[_HFLAGS] & _LMA else shown

    @efer.setter
    def efer(self, value: int) -> None:
        hidden = self.dwords[_HFLAGS]
        self.dwords[_HFLAGS] = hidden | _LMA if value & _EFER_LMA else hidden & ~_LMA
        self.efer_raw = value | _SVME_BIT

    @property
    def rflags(self) -> int:
        if self.dwords[_CC_OP] != at.CC_OP_EFLAGS:
            self.words[_CC_SRC] = self._resolve_flags(self.context) & _ARITHMETIC
            self.dwords[_CC_OP] = at.CC_OP_EFLAGS
        kept = self.words[_EFLAGS] & FLAGS_KEPT | self.words[_CC_SRC] & _ARITHMETIC
        return int(kept | (_DF if self.dwords[_DF_WORD] != 1 else 0))

    @rflags.setter
    def rflags(self, value: int) -> None:
        self.words[_CC_SRC] = value & _ARITHMETIC
        self.dwords[_CC_OP] = at.CC_OP_EFLAGS
        self.dwords[_DF_WORD] = 0xFFFF_FFFF if value & _DF else 1
        changed = self.words[_EFLAGS] ^ value
        self.words[_EFLAGS] = value & FLAGS_KEPT | 2
        if changed & _VM:
            self.refresh_hidden_flags()

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF, without computing the arithmetic flags."""
        return bool(self.words[_EFLAGS] & _IF)

    @property
    def takes_interrupts(self) -> bool:
        """RFLAGS.IF, and no shadow of STI or MOV SS."""
        return bool(self.words[_EFLAGS] & _IF) and not self.dwords[_HFLAGS] & _INHIBIT

    @property
    def cpl(self) -> int:
        """The current privilege level, 0..3: the DPL of SS."""
        return int(self.dwords[_HFLAGS] & 3)

    @cpl.setter
    def cpl(self, value: int) -> None:
        self.dwords[_HFLAGS] = self.dwords[_HFLAGS] & ~3 | value

    @property
    def interrupt_shadow(self) -> bool:
        """STI or MOV SS blocks interrupts until the next instruction has run."""
        return bool(self.dwords[_HFLAGS] & _INHIBIT)

    @interrupt_shadow.setter
    def interrupt_shadow(self, value: bool) -> None:
        hidden = self.dwords[_HFLAGS]
        self.dwords[_HFLAGS] = hidden | _INHIBIT if value else hidden & ~_INHIBIT

    def read_xmm(self, number: int) -> bytes:
        """The 16 bytes of XMM*number*, 0..15."""
        return self.fp.xmm(number)

    def write_xmm(self, number: int, value: bytes) -> None:
        """Store 16 bytes into XMM*number*, 0..15."""
        self.fp.set_xmm(number, value)

    @property
    def is_kernel_64(self) -> bool:
        """64-bit code at privilege level 0 is running."""
        return bool(self.dwords[_HFLAGS] & (3 | _CS64) == _CS64)

    def complete_instruction(self, length: int) -> int:
        """The instruction of *length* bytes at RIP is done: RIP moves on, and a shadow of STI or MOV SS ends.

        Not 0 when it was single-stepped: its #DB comes now.
        """
        words, dwords = self.words, self.dwords
        words[_RIP] = words[_RIP] + length & _U64
        if dwords[_HFLAGS] & _INHIBIT:
            dwords[_HFLAGS] &= ~_INHIBIT
        return words[_EFLAGS] & _TF

    @property
    def single_stepping(self) -> bool:
        """RFLAGS.TF, without computing the arithmetic flags."""
        return bool(self.words[_EFLAGS] & _TF)

    @property
    def bits(self) -> int:
        """The mode that code at RIP is decoded in: 16, 32 or 64."""
        hidden = self.dwords[_HFLAGS]
        return 64 if hidden & _CS64 else 32 if hidden & _CS32 else 16

    def watch(self, instructions: int) -> None:
        """Let *instructions*, a sum of `Watched`, leave the guest from now on, and no others of them."""
        self.watched = int(instructions)
        self._watch_control_registers()
        intercepts = self.words[_INTERCEPT]
        for watched, switch in _SWITCHES:
            intercepts = intercepts | switch if instructions & watched else intercepts & ~switch
        self.words[_INTERCEPT] = intercepts

    def _watch_control_registers(self) -> None:
        """With PAE paging a load of CR3 has more to do than the engine does."""
        pae = self.words[_CR0] & _PG and self.words[_CR4] & _PAE and not self.dwords[_HFLAGS] & _LMA
        self.dwords[_CR_SWITCHES] = _CR_ALWAYS | self.watched & _WATCHED_CR | (_WRITE_CR3 if pae else 0)

    def refresh_hidden_flags(self) -> None:
        """Recompute the engine's derived bits from CR0, CR4, VM, CS, SS, DS and ES. CPL and LMA stay as they are.

        In protected mode outside IA-32e mode the engine is kept from switching tasks, for which it has no intercept:
        IRET is intercepted there (but for virtual-8086 mode, which has its own), and EFER.LMA is set. That is of no
        consequence but that a far JMP or CALL to a TSS or task gate is #GP, and to a call gate too, unless it and its
        code segment could be of 64-bit code. `far_transfer.py` does what was refused.
        """
        words, dwords = self.words, self.dwords
        cr0, cr4 = words[_CR0], words[_CR4]
        cs, ss = dwords[_CS_FLAGS], dwords[_SS_FLAGS]
        lma = dwords[_HFLAGS] & _LMA
        hidden = dwords[_HFLAGS] & (3 | _INHIBIT) | _GUEST | _SVME
        hidden |= (cr0 & 1) << 7 | (cr0 & 0xE) << 8
        hidden |= lma | (_OSFXSR if cr4 & _CR4_OSFXSR else 0) | (_SMAP if cr4 & _CR4_SMAP else 0)
        if lma and cs & 1 << 21:
            hidden |= _CS64 | _CS32 | _SS32
        else:
            hidden |= (_CS32 if cs & 1 << 22 else 0) | (_SS32 if ss & 1 << 22 else 0)
            hidden |= _ADDSEG if self._segment_bases_matter(hidden) else 0
        dwords[_HFLAGS] = hidden
        self._watch_control_registers()
        efer, intercepts = words[_EFER] & ~_EFER_LMA, words[_INTERCEPT] & ~_IRET
        in_software = hidden & (_PE | _LMA) == _PE
        words[_EFER] = efer | _EFER_LMA if in_software or lma else efer
        words[_INTERCEPT] = intercepts | _IRET if self.transfers_in_software or self._iret_watched else intercepts

    def watch_iret(self, wanted: bool) -> None:
        """IRET is to trap, whatever the mode."""
        if wanted is not self._iret_watched:
            self._iret_watched = wanted
            self.refresh_hidden_flags()

    def set_resume_flag(self) -> None:
        """RFLAGS.RF is 1, without computing the arithmetic flags."""
        self.words[_EFLAGS] |= _RF

    def clear_resume_flag(self) -> None:
        """RFLAGS.RF is 0, likewise."""
        self.words[_EFLAGS] &= ~_RF

    def ignore_code_base(self) -> bool:
        """In 64-bit mode the base of CS is nothing, but the engine would add it: True when it was there, and is 0 now.

        SDM "Segmentation in IA-32e Mode".
        """
        if self.words[_CS_BASE] and self.dwords[_HFLAGS] & _CS64:
            self.words[_CS_BASE] = 0
            return True
        return False

    def _segment_bases_matter(self, hidden: int) -> bool:
        words = self.words
        if not hidden & _PE or words[_EFLAGS] & _VM or not hidden & _CS32:
            return True
        return bool(words[_ES_BASE] | words[_SS_BASE] | words[_DS_BASE])

    def forget(self) -> None:
        """The context is about to go: from now on reading or writing a register is a ValueError."""
        for view in (self.gpr, self._tables, self._general, self._mode, self._xmm, self.words, self.dwords):
            view.release()
        self.fp.forget()

    @property
    def in_long_mode(self) -> bool:
        """EFER.LMA."""
        return bool(self.dwords[_HFLAGS] & _LMA)

    @property
    def virtual_8086(self) -> bool:
        """RFLAGS.VM."""
        return bool(self.words[_EFLAGS] & _VM)

    @property
    def transfers_in_software(self) -> bool:
        """Protected mode outside IA-32e and virtual-8086 mode: `far_transfer.py` does what the engine refuses."""
        return self.dwords[_HFLAGS] & (_PE | _LMA) == _PE and not self.virtual_8086

    @property
    def protected(self) -> bool:
        """CR0.PE."""
        return bool(self.words[_CR0] & 1)
