"""The local APIC of a VP whose registers are those of its virtual-APIC page.

IRR, ISR, TMR, TPR and ICR *are* the page's (and RVI and SVI the processor's), whether the processor works with them or
this model does. Of the other registers the page has a copy, for a guest that reads it without an exit.
`docs/decisions/0007-the-page-is-the-apic.md` says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.machine import apic_registers
from hv.machine.apic import LocalApic
from hv.machine.clock import VirtualClock
from hv.spec.apic import LOWEST_LEGAL_VECTOR, LVT_WRITABLE, ApicRegister, Icr
from hv.spec.msrs import X2APIC_MSRS, Msr
from hv.vmx.apic.virtual_apic import VIRR, VISR, VTMR, VirtualApic

R = ApicRegister
_TPR, _PPR, _ICR_LOW, _ICR_HIGH = R.TPR >> 2, R.PPR >> 2, R.ICR_LOW >> 2, R.ICR_HIGH >> 2
_ICR = R.ICR_LOW.value
_VECTOR_AND_LEVEL = Icr(vector=0xFF, level=1).raw       # fixed, physical, no shorthand: nothing else is set
_ICR_HIGH_X2APIC = _ICR_LOW + 1         # the MSR's upper half
_COPIED = (R.ID, R.VERSION, R.LDR, R.DFR, R.SVR, R.ESR, R.TIMER_INITIAL, R.TIMER_DIVIDE, *LVT_WRITABLE)


class VpApic(LocalApic):
    """*virtual* is the page with RVI and SVI; *show_eoi_exits* takes the EOI-exit bitmap (bit n is vector n)."""

    def __init__(self, apic_id: int, clock: VirtualClock, bsp: bool, virtual: VirtualApic,
                 show_eoi_exits: Callable[[int], None]) -> None:
        self.virtual, self._page, self._dwords = virtual, virtual.page, virtual.page.dwords
        self._show_eoi_exits = show_eoi_exits
        self._eoi_exits = 0
        self.on_mode: Callable[[], None] = lambda: None     # it was switched on or off, or is reached another way
        super().__init__(apic_id, clock, bsp)

    # --- the registers that are the page's -------------------------------------------------------------

    @property
    def irr(self) -> int:
        return self._page.vectors(VIRR)

    @irr.setter
    def irr(self, vectors: int) -> None:
        self._page.set_vectors(VIRR, vectors)
        self.virtual.rvi = self._page.highest(VIRR)

    @property
    def isr(self) -> int:
        return self._page.vectors(VISR)

    @isr.setter
    def isr(self, vectors: int) -> None:
        self._page.set_vectors(VISR, vectors)
        self.virtual.svi = self._page.highest(VISR)
        self.virtual.virtualize_ppr()

    @property
    def tmr(self) -> int:
        return self._page.vectors(VTMR)

    @tmr.setter
    def tmr(self, vectors: int) -> None:
        self._page.set_vectors(VTMR, vectors)
        self._let_exit(self._eoi_exits | vectors)

    @property
    def tpr(self) -> int:
        return self._dwords[_TPR] & 0xFF

    @tpr.setter
    def tpr(self, value: int) -> None:
        self._dwords[_TPR] = value
        self.virtual.virtualize_ppr()

    @property
    def icr(self) -> Icr:
        return Icr(self._dwords[self._icr_high] << 32 | self._dwords[_ICR_LOW])

    @icr.setter
    def icr(self, value: Icr) -> None:
        self._dwords[_ICR_LOW], self._dwords[self._icr_high] = value.raw & 0xFFFF_FFFF, value.raw >> 32

    @property
    def _icr_high(self) -> int:
        return _ICR_HIGH_X2APIC if self.base.extended else _ICR_HIGH

    # --- the model's steps, on the page ----------------------------------------------------------------

    @property
    def ppr(self) -> int:
        """Processor priority; the page has it after each change of TPR or ISR."""
        return self._dwords[_PPR]

    def deliverable(self) -> int | None:
        """The vector the processor may take now, or None."""
        vector = self.virtual.rvi
        return vector if vector & 0xF0 > self._dwords[_PPR] & 0xF0 else None

    def recheck(self) -> None:
        """Something pending may have become deliverable: say so."""
        if self.virtual.rvi:
            self.on_pending()

    def accept(self, vector: int, level: bool = False) -> bool:
        """Latch a fixed interrupt; the usual, edge-triggered and legal, without a question to anybody."""
        if level or vector < LOWEST_LEGAL_VECTOR or not self.is_enabled:
            return super().accept(vector, level)
        dwords, place, bit, virtual = self._dwords, vector >> 5 << 2, 1 << (vector & 31), self.virtual
        dwords[VIRR + place] |= bit
        if vector > virtual.rvi:
            virtual.rvi = vector
        if dwords[VTMR + place] & bit:
            self._page.remove(VTMR, vector)
        self.on_pending()
        return True

    def _request(self, vector: int, level: bool) -> None:
        self.virtual.request(vector)
        if level:
            self._page.insert(VTMR, vector)
            self.hear_eoi(vector)
        elif self._page.holds(VTMR, vector):
            self._page.remove(VTMR, vector)

    def _serve(self, vector: int) -> None:
        self.virtual.deliver()

    def _end(self) -> int:
        virtual, vector = self.virtual, self.virtual.svi
        self._page.remove(VISR, vector)
        virtual.svi = self._page.highest(VISR)
        virtual.virtualize_ppr()
        return vector

    # --- what the processor did by itself --------------------------------------------------------------

    def ended(self, vector: int) -> None:
        """*vector* was in service until now. Who still wants to hear of the next time says so again."""
        if not self._page.holds(VTMR, vector):
            self._let_exit(self._eoi_exits & ~(1 << vector))
        super().ended(vector)

    def hear_eoi(self, vector: int) -> None:
        """The next EOI of *vector* exits."""
        self._let_exit(self._eoi_exits | 1 << vector)

    def _let_exit(self, vectors: int) -> None:
        if vectors != self._eoi_exits:
            self._eoi_exits = vectors
            self._show_eoi_exits(vectors)

    def written(self, offset: int) -> None:
        """The guest has written the page at *offset*, and the processor leaves it to us to act on it."""
        register = offset & ~3
        if register == _ICR:
            command = self._dwords[_ICR_LOW]
            if command & ~_VECTOR_AND_LEVEL or self.is_x2apic or not self.send_fixed(
                    command & 0xFF, self._dwords[_ICR_HIGH] >> 24):
                apic_registers.send(self, self.icr.raw)
        elif register == R.SELF_IPI:
            apic_registers.SETTERS[R.SELF_IPI](self, self._dwords[register >> 2])
        else:
            self.write(register, self._dwords[register >> 2])

    # --- the copies ------------------------------------------------------------------------------------

    def init(self) -> None:
        """Every register as after INIT."""
        super().init()
        self._publish()
        self.on_mode()

    def write(self, offset: int, value: int) -> None:
        """Store a dword as software does, by the page."""
        super().write(offset, value)
        self._follow_write(offset)

    def write_msr(self, index: int, value: int) -> None:
        """Store as software does, by MSR."""
        super().write_msr(index, value)
        if index == Msr.APIC_BASE:
            self._publish()
            self.on_mode()
        elif index in X2APIC_MSRS:
            self._follow_write((index & 0xFF) << 4)

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `save` gave."""
        super().restore(state)
        self._publish()
        self.on_mode()

    def _follow_write(self, offset: int) -> None:
        if offset == R.SVR:                 # masks the local vector table
            self._publish()
            self.on_mode()
        elif offset in _COPIED:
            self._publish_one(offset)

    def _publish(self) -> None:
        for register in _COPIED:
            self._publish_one(register)

    def _publish_one(self, offset: int) -> None:
        register = R(offset)
        value = self.lvt[register] if register in self.lvt else apic_registers.GETTERS[register](self)
        self._dwords[offset >> 2] = value

    def inspect(self) -> dict[str, Any]:
        """Plain data: what the processor has of the APIC, then the registers."""
        virtual = self.virtual
        return {
            "virtual": {"page": self._page.spa, "delivers": virtual.delivers, "rvi": virtual.rvi, "svi": virtual.svi,
                        "recognized": virtual.recognized,
                        "eoi_exits": [vector for vector in range(256) if self._eoi_exits >> vector & 1]},
            **super().inspect(),
        }
