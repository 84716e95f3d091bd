"""The local APIC, one model for the physical one and for the virtual one of a VP.

It has three faces: software's (the xAPIC page, the x2APIC MSRs, IA32_APIC_BASE), the wires' (`accept`, `take` and the
`Interconnect`), and the processor's (`deliverable`, `acknowledge`, `eoi`). IRR, ISR and TMR are one 256-bit integer
each, so the highest pending vector is its `bit_length`. SDM "Advanced Programmable Interrupt Controller (APIC)".

Whoever owns the processor hears of things by four callbacks: `on_pending()`, something may have become deliverable;
`on_nmi()`, `on_init()`, `on_sipi(vector)`. Only the owner knows if the processor waits for a SIPI, or if an INIT must
exit instead; one that takes the INIT calls `init()` (the default of `on_init` is just that). `on_eoi(vector)` hears
every EOI, `on_broadcast_eoi(vector)` those an I/O APIC would hear, `on_ipi(icr)` what is sent.
"""

# Simplified: the LINT pins, like all local sources, are edges; SMI is not delivered; ExtINT is no message, but a line
# of the owner's, who asks `takes_external`; `base.page` is kept, but whoever decodes addresses has to follow it; an
# access to the page is one aligned dword, or it is refused.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.machine import apic_registers
from hv.machine.apic_registers import READERS
from hv.machine.apic_timer import ApicTimer
from hv.machine.clock import VirtualClock
from hv.machine.faults import GuestFault
from hv.machine.interconnect import FIXED_OR_LOWEST, Interconnect, Message
from hv.spec.apic import (
    BROADCAST_XAPIC,
    DEFAULT_BASE,
    LOWEST_LEGAL_VECTOR,
    LVT_MASKED,
    LVT_WRITABLE,
    ApicBase,
    ApicRegister,
    DeliveryMode,
    Esr,
    Icr,
    Lvt,
    Svr,
    TimerMode,
)
from hv.spec.x86 import Vector

__all__ = ["Interconnect", "LocalApic"]

RESET_DFR = 0xFFFFFFFF
TRANSITIONS = {(0, 2), (2, 3), (2, 0), (3, 0)}          # of EN:EXTD; SDM "x2APIC State Transitions"


def _nothing() -> None:
    """A callback nobody set."""


def _nothing_of(what: object) -> None:
    """A callback nobody set."""


class LocalApic:
    """The APIC with id *apic_id* (xAPIC shows its low byte), enabled in xAPIC mode, software-disabled."""

    apic_id: int
    timer: ApicTimer
    irr: int                    # bit n is vector n, as in isr and tmr
    isr: int
    tmr: int                    # 1 = level
    tpr: int
    ldr: int                    # software's; see logical_id
    dfr: int
    svr: Svr
    icr: Icr
    esr: int                    # what software reads; later errors wait for the next write
    lvt: dict[ApicRegister, int]
    is_present: bool            # IA32_APIC_BASE.EN
    is_x2apic: bool
    is_enabled: bool            # and SVR: fixed interrupts are accepted

    def __init__(self, apic_id: int, clock: VirtualClock, bsp: bool = False, address_bits: int = 40) -> None:
        self.apic_id, self.bsp = apic_id, bsp
        self.base = ApicBase(DEFAULT_BASE, bsp=int(bsp), enabled=1)
        self._base_reserved = ApicBase.RESERVED | ((1 << 52) - (1 << address_bits))
        self.timer = ApicTimer(clock, lambda: self.raise_local(ApicRegister.LVT_TIMER))
        self.on_pending: Callable[[], None] = _nothing
        self.on_nmi: Callable[[], None] = _nothing
        self.on_init: Callable[[], None] = self.init
        self.on_sipi: Callable[[int], None] = _nothing_of
        self.on_ipi: Callable[[Icr], None] = _nothing_of
        self.on_eoi: Callable[[int], None] = _nothing_of
        self.on_broadcast_eoi: Callable[[int], None] = _nothing_of
        self.init()
        self.interconnect = Interconnect()
        self.interconnect.add(self)

    def init(self) -> None:
        """Every register as after INIT, but id and IA32_APIC_BASE.

        SDM "Local APIC State After It Receives an INIT Reset".
        """
        self.irr = self.isr = self.tmr = 0
        self.tpr = self.ldr = 0
        self.dfr, self.svr, self.icr = RESET_DFR, Svr(vector=0xFF), Icr()
        self.esr = self._errors = 0
        self.lvt = dict.fromkeys(LVT_WRITABLE, LVT_MASKED)
        self.timer.reset()
        self._follow()

    def _follow(self) -> None:
        """Keep the three facts that every delivery asks for."""
        self.is_present = bool(self.base.enabled)
        self.is_x2apic = bool(self.base.extended)
        self.is_enabled = self.is_present and bool(self.svr.enabled)

    # The processor's face.

    @property
    def ppr(self) -> int:
        """Processor priority; SDM "Task and Processor Priorities"."""
        in_service = max(self.isr.bit_length() - 1, 0) & 0xF0
        return self.tpr if self.tpr & 0xF0 >= in_service else in_service

    def deliverable(self) -> int | None:
        """The vector the processor may take now, or None: the highest pending, if its class is above the PPR's."""
        if not self.irr:
            return None
        vector = self.irr.bit_length() - 1
        return vector if vector & 0xF0 > (self.ppr & 0xF0 if self.isr or self.tpr else 0) else None

    def acknowledge(self) -> int:
        """Take the deliverable vector into service; the spurious vector, and nothing in service, when there is none."""
        vector = self.deliverable()
        if vector is None:
            return self.svr.vector
        self._serve(vector)
        return vector

    def _serve(self, vector: int) -> None:
        self.irr &= ~(1 << vector)
        self.isr |= 1 << vector

    def acknowledge_and_end(self) -> int | None:
        """Take the deliverable vector and end it at once, for who keeps no order of service; None: there is none."""
        vector = self.deliverable()
        if vector is not None:
            self.irr &= ~(1 << vector)
            self.ended(vector)
        return vector

    def eoi(self) -> None:
        """End the highest vector in service; nothing when none is."""
        if not self.isr:
            return
        self.ended(self._end())

    def _end(self) -> int:
        """The highest vector in service no longer is."""
        vector = self.isr.bit_length() - 1
        self.isr &= ~(1 << vector)
        return vector

    def ended(self, vector: int) -> None:
        """*vector* was in service until now: tell who wants to hear of it, and look for what it held back."""
        self.on_eoi(vector)
        if self.tmr >> vector & 1 and not self.svr.no_eoi_broadcast:
            self.on_broadcast_eoi(vector)
        self.recheck()

    def hear_eoi(self, vector: int) -> None:
        """`on_eoi` must hear of the next EOI of *vector*. This model tells of every one."""

    @property
    def cr8(self) -> int:
        """CR8, the class of the TPR; a write of more than 15 is #GP(0)."""
        return self.tpr >> 4

    @cr8.setter
    def cr8(self, value: int) -> None:
        if value >> 4:
            raise GuestFault(Vector.GP, 0)
        self.set_tpr(value << 4)

    def recheck(self) -> None:
        """Something pending may have become deliverable: say so."""
        if self.irr:
            self.on_pending()

    # The wires' face.

    def accept(self, vector: int, level: bool = False) -> bool:
        """Latch a fixed interrupt in the IRR; False when the APIC is disabled or *vector* (0..255) is below 16."""
        assert 0 <= vector <= 255, f"vector {vector} is out of range 0..255"
        if not self.is_enabled:
            return False
        if vector < LOWEST_LEGAL_VECTOR:
            self.error(Esr.RECEIVE_ILLEGAL_VECTOR)
            return False
        self._request(vector, level)
        self.on_pending()
        return True

    def _request(self, vector: int, level: bool) -> None:
        bit = 1 << vector
        self.irr |= bit
        self.tmr = self.tmr | bit if level else self.tmr & ~bit

    def take(self, message: Message) -> bool:
        """Act on a message that names this APIC; False when it is not taken. NMI, INIT and SIPI pass when disabled."""
        if message.mode in FIXED_OR_LOWEST:
            return self.accept(message.vector, message.level)
        match message.mode:
            case DeliveryMode.NMI:
                self.on_nmi()
            case DeliveryMode.INIT:
                self.on_init()
            case DeliveryMode.STARTUP:
                self.on_sipi(message.vector)
            case _:
                return False
        return True

    def answers_to(self, destination: int, logical: bool) -> bool:
        """Does *destination* (no broadcast) name this APIC? SDM "Logical Destination Mode"."""
        if not self.is_present:
            return False
        if not logical:
            return destination == (self.apic_id if self.is_x2apic else self.apic_id & 0xFF)
        if self.is_x2apic:
            own = self.logical_id
            return destination >> 16 == own >> 16 and bool(destination & own & 0xFFFF)
        own = self.ldr >> 24
        if self.dfr >> 28 == 0xF:
            return destination <= 0xFF and bool(destination & own)
        return destination <= 0xFF and destination >> 4 in (own >> 4, 0xF) and bool(destination & own & 0xF)

    @property
    def logical_id(self) -> int:
        """The LDR: software's in xAPIC mode, derived from the id in x2APIC mode."""
        if not self.is_x2apic:
            return self.ldr
        return self.apic_id >> 4 << 16 | 1 << (self.apic_id & 0xF)

    def raise_local(self, entry: ApicRegister) -> bool:
        """A local source (timer, error, LINT pin ...) fires: deliver what its LVT entry says; False when it is lost."""
        lvt = Lvt(self.lvt[entry])
        mode = DeliveryMode(lvt.delivery_mode)
        if lvt.masked or not self.is_present or mode is DeliveryMode.STARTUP:
            return False
        return self.take(Message(lvt.vector, mode))

    @property
    def takes_external(self) -> bool:
        """INTR comes through: LINT0 says ExtINT, or is INTR itself because the APIC is disabled."""
        lvt = Lvt(self.lvt[ApicRegister.LVT_LINT0])
        return not self.is_present or (not lvt.masked and lvt.delivery_mode == DeliveryMode.EXTINT)

    def error(self, bit: Esr) -> None:
        """Note an error; the first of its kind since the last ESR write raises the error entry."""
        if not self._errors & bit:
            self._errors |= bit
            self.raise_local(ApicRegister.LVT_ERROR)

    # Software's face, as hv/machine/apic_registers.py decodes it.

    def read(self, offset: int) -> int:
        """The dword at *offset* of the xAPIC page; all ones while the page is not decoded (disabled, x2APIC)."""
        reader = READERS.get(offset)
        if reader is None or not self.is_present or self.is_x2apic:
            return apic_registers.read_refused(self)
        return reader(self)

    def write(self, offset: int, value: int) -> None:
        """Store the dword *value* in the page; a register that is read-only or not there is left, and ESR says so."""
        apic_registers.write_page(self, offset, value)

    def read_msr(self, index: int) -> int:
        """IA32_APIC_BASE, IA32_TSC_DEADLINE, or a register in x2APIC mode; GuestFault(13, 0) by the SDM's rules."""
        return apic_registers.read_msr(self, index)

    def write_msr(self, index: int, value: int) -> None:
        """Write one of those, *value* being EDX:EAX; GuestFault(13, 0), and no change, by the SDM's rules."""
        apic_registers.write_msr(self, index, value)

    def set_tpr(self, value: int) -> None:
        """Task priority, 0..255; what it held back is announced at once."""
        self.tpr = value
        self.recheck()

    def set_svr(self, value: int) -> None:
        """Spurious vector and software enable. Disabling masks every LVT entry."""
        self.svr = Svr(value & ~Svr.RESERVED)
        self._follow()
        if not self.svr.enabled:
            for entry, lvt in self.lvt.items():
                self.set_lvt(entry, lvt)
        self.recheck()

    def set_lvt(self, entry: ApicRegister, value: int) -> None:
        """Write a local vector table entry; its mask stays set while the APIC is software-disabled."""
        value &= LVT_WRITABLE[entry]
        if not self.svr.enabled:
            value |= LVT_MASKED
        if entry is ApicRegister.LVT_TIMER:
            lvt = Lvt(value)                    # before it is stored: an expiry that is due goes by the old entry
            self.timer.set_entry(TimerMode(lvt.timer_mode), bool(lvt.masked))
        self.lvt[entry] = value
        if entry is ApicRegister.LVT_LINT0:
            self.on_pending()                   # INTR may have been let in

    def latch_errors(self) -> None:
        """A write of ESR: what has come since the last one becomes readable."""
        self.esr, self._errors = self._errors, 0

    def send(self, icr: Icr) -> None:
        """Send an IPI; `on_ipi` hears of it first."""
        self.on_ipi(icr)
        self.interconnect.send(self, icr)

    def send_fixed(self, vector: int, destination: int) -> bool:
        """`send` of the usual, a fixed interrupt to one xAPIC id; False, and nothing done, when it is not that."""
        if self.on_ipi is not _nothing_of or vector < LOWEST_LEGAL_VECTOR or destination == BROADCAST_XAPIC:
            return False
        return self.interconnect.send_fixed(vector, destination)

    def set_base(self, value: int) -> None:
        """Write IA32_APIC_BASE; GuestFault(13, 0) when a reserved bit or the transition says so.

        SDM "x2APIC State Transitions". Disabled and enabled again, an APIC starts from reset.
        """
        new = ApicBase(value)
        old_mode = self.base.enabled << 1 | self.base.extended
        mode = new.enabled << 1 | new.extended
        if value & self._base_reserved or (mode != old_mode and (old_mode, mode) not in TRANSITIONS):
            raise GuestFault(Vector.GP, 0)
        new.bsp = int(self.bsp)
        self.base = new
        if mode == 0:
            self.init()
            self.on_pending()                   # INTR is let in
        elif mode != old_mode:
            self.icr = Icr(self.icr.raw, destination=0)
        self._follow()

    # For the REPL and for snapshots.

    def inspect(self) -> dict[str, Any]:
        """Plain data: the registers by name, pending and in-service vectors as lists."""
        return {
            "id": self.apic_id, "base": self.base.inspect(), "enabled": self.is_enabled, "tpr": self.tpr,
            "ppr": self.ppr, "deliverable": self.deliverable(), "irr": _vectors(self.irr), "isr": _vectors(self.isr),
            "tmr": _vectors(self.tmr), "svr": self.svr.inspect(), "esr": self.esr, "icr": self.icr.inspect(),
            "ldr": self.logical_id, "dfr": self.dfr, "timer": self.timer.inspect(),
            "lvt": {entry.name: value for entry, value in self.lvt.items()},
        }

    def save(self) -> dict[str, Any]:
        """The state as plain data, for `restore`."""
        return {
            "base": self.base.raw, "irr": self.irr, "isr": self.isr, "tmr": self.tmr, "tpr": self.tpr, "ldr": self.ldr,
            "dfr": self.dfr, "svr": self.svr.raw, "esr": self.esr, "errors": self._errors, "icr": self.icr.raw,
            "lvt": [self.lvt[entry] for entry in LVT_WRITABLE], "timer": self.timer.save(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `save` gave; callbacks and connections stay, and `on_pending` is called if something waits."""
        for name in ("irr", "isr", "tmr", "tpr", "ldr", "dfr", "esr"):
            setattr(self, name, state[name])
        self.base, self.svr, self.icr = ApicBase(state["base"]), Svr(state["svr"]), Icr(state["icr"])
        self._errors = state["errors"]
        self.lvt = dict(zip(LVT_WRITABLE, state["lvt"], strict=True))
        self.timer.restore(state["timer"])
        self._follow()
        self.recheck()


def _vectors(bitmap: int) -> list[int]:
    return [vector for vector in range(256) if bitmap >> vector & 1]
