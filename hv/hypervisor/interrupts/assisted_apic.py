"""A local APIC in software, whose VP need not end every interrupt by an exit: EOI assist.

TLFS "Virtual VP Assist Page". When an interrupt goes to a VP whose EOI nobody has to hear of, and no other one waits,
the hypervisor sets NoEoiRequired in the VP's assist page. The guest clears that bit where it would end the interrupt,
and if it was set, that was all. What the bit says is looked at when it matters: before another interrupt is accepted,
before the guest ends one by itself, before anybody reads what is in service. A bit that is clear then has been an EOI;
one that is still set is taken back, so that the guest will do a real EOI.

An APIC that the processor virtualizes needs none of this: there an EOI is no exit (`apic_virtualization.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.machine.apic import LocalApic
from hv.machine.clock import VirtualClock
from hv.machine.ram import PhysicalMemory

NO_EOI_REQUIRED = 1             # bit 0 of the first dword of the page


class AssistedApic(LocalApic):
    """*page* says where in *memory* the assist page is (spa), or None while it is off."""

    _offered: int | None = None         # the page whose bit was set, and not looked at since
    _heard = 0                          # vectors whose next EOI somebody waits for, as bits

    def __init__(self, apic_id: int, clock: VirtualClock, bsp: bool, memory: PhysicalMemory,
                 page: Callable[[], int | None]) -> None:
        self._memory, self._page = memory, page
        super().__init__(apic_id, clock, bsp)

    def settle(self) -> None:
        """Take the bit back; if the guest has cleared it, the interrupt is ended."""
        page, self._offered = self._offered, None
        if page is None:
            return
        word = self._memory.read_u32(page)
        if word & NO_EOI_REQUIRED:
            self._memory.write_u32(page, word & ~NO_EOI_REQUIRED)
        else:
            super().eoi()

    def acknowledge(self) -> int:
        """Take the deliverable vector into service, and offer the guest to end it without an exit."""
        self.settle()
        vector = super().acknowledge()
        page = self._page()
        if page is not None and not self.irr and self.isr >> vector & ~(self.tmr | self._heard) >> vector & 1:
            self._memory.write_u32(page, self._memory.read_u32(page) | NO_EOI_REQUIRED)
            self._offered = page
        return vector

    def accept(self, vector: int, level: bool = False) -> bool:
        """Latch a fixed interrupt; one in service now ends by a real EOI, which may let this one through."""
        self.settle()
        return super().accept(vector, level)

    def eoi(self) -> None:
        """The guest ends an interrupt by itself."""
        self.settle()
        super().eoi()

    def hear_eoi(self, vector: int) -> None:
        """The next EOI of *vector* is a real one."""
        self.settle()
        self._heard |= 1 << vector

    def ended(self, vector: int) -> None:
        """*vector* was in service until now. Who still wants to hear of the next time says so again."""
        self._heard &= ~(1 << vector)
        super().ended(vector)

    def init(self) -> None:
        """Every register as after INIT."""
        self._offered, self._heard = None, 0
        super().init()

    def read(self, offset: int) -> int:
        """The dword at *offset* of the page; ISR and PPR are what they are by now."""
        self.settle()
        return super().read(offset)

    def read_msr(self, index: int) -> int:
        """The same by MSR."""
        self.settle()
        return super().read_msr(index)

    def save(self) -> dict[str, Any]:
        """The state as plain data."""
        self.settle()
        return super().save()
