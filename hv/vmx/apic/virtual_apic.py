"""The virtual-APIC page, and what the processor does with it: TPR, PPR, EOI and self-IPI virtualization, and the
evaluation, delivery and posting of virtual interrupts.

SDM "Virtualizing CR8-Based TPR Accesses", "Evaluation and Delivery of Virtual Interrupts", "Posted-Interrupt
Processing". Only the page and three numbers are in play here (RVI, SVI, and whether an interrupt is recognized), so
all of it can be tried without a processor. What exits is returned: these exits are trap-like.
"""

from __future__ import annotations

from hv.machine.ram import PhysicalMemory
from hv.spec.apic import ApicRegister
from hv.spec.exits import ExitReason
from hv.spec.x86 import PAGE_SIZE
from hv.vmx.exit import VmExit

# Places of dwords in the page. Plain integers: every interrupt goes by them.
_VTPR, _VPPR, _VEOI = (register.value >> 2 for register in (ApicRegister.TPR, ApicRegister.PPR, ApicRegister.EOI))
VISR, VTMR, VIRR = (register.value >> 2 for register in (ApicRegister.ISR, ApicRegister.TMR, ApicRegister.IRR))
_CLASS = 0xF0
_DOWN = range(7, -1, -1)


class VirtualApicPage:
    """The registers of the page at *spa*: `dwords[offset >> 2]`."""

    def __init__(self, memory: PhysicalMemory, spa: int) -> None:
        # Simplified: where there is no RAM, a bus would lose what is stored; here such a page keeps it. Translated
        # code is not told of a store to the page.
        self.spa = spa
        inside = spa + PAGE_SIZE <= memory.size
        page = memory.view[spa : spa + PAGE_SIZE] if inside else memoryview(bytearray(PAGE_SIZE))
        self.dwords = page.cast("B").cast("I")
        self._bitmaps = {first: self.dwords[first : first + 32 : 4] for first in (VISR, VTMR, VIRR)}

    def insert(self, bitmap: int, vector: int) -> None:
        """Set the bit of *vector* (0..255) in the registers at *bitmap*: `VISR`, `VTMR` or `VIRR`."""
        self.dwords[bitmap + (vector >> 5 << 2)] |= 1 << (vector & 31)

    def remove(self, bitmap: int, vector: int) -> None:
        """Clear the bit of *vector*."""
        self.dwords[bitmap + (vector >> 5 << 2)] &= ~(1 << (vector & 31))

    def holds(self, bitmap: int, vector: int) -> bool:
        """The bit of *vector* is set."""
        return bool(self.dwords[bitmap + (vector >> 5 << 2)] >> (vector & 31) & 1)

    def highest(self, bitmap: int) -> int:
        """The highest vector whose bit is set; 0 when none is, or that one."""
        last = int.from_bytes(self._bitmaps[bitmap].tobytes(), "little").bit_length() - 1
        return last if last > 0 else 0

    def vectors(self, bitmap: int) -> int:
        """All eight registers at *bitmap* as one number; bit n is vector n."""
        return int.from_bytes(self._bitmaps[bitmap].tobytes(), "little")

    def set_vectors(self, bitmap: int, vectors: int) -> None:
        """Store all eight registers."""
        for n in range(8):
            self.dwords[bitmap + (n << 2)] = vectors >> (n << 5) & 0xFFFF_FFFF


class InterruptStatus:
    """SDM "Guest Non-Register State", guest interrupt status: the virtual interrupts requested and in service."""

    def __init__(self) -> None:
        self.rvi = self.svi = 0         # vectors; 0 = none


class VirtualApic(InterruptStatus):
    """A virtual-APIC *page*, with the guest interrupt status (RVI, SVI) and the controls that concern it."""

    def __init__(self, page: VirtualApicPage) -> None:
        super().__init__()
        self.page = page
        self.recognized = False         # a virtual interrupt is pending: it is delivered at the next chance
        self.delivers = False           # "virtual-interrupt delivery"
        self.window_exiting = False     # "interrupt-window exiting": nothing is recognized
        self.threshold = 0              # TPR_THRESHOLD, bits 3:0
        self.eoi_exits = 0              # the four EOI-exit bitmaps; bit n is vector n

    @property
    def vtpr(self) -> int:
        """The guest's task priority, 0..255."""
        return self.page.dwords[_VTPR] & 0xFF

    def set_vtpr(self, value: int) -> VmExit | None:
        """The guest writes its task priority (0..255), with TPR virtualization."""
        self.page.dwords[_VTPR] = value & 0xFF
        return self.virtualize_tpr()

    def virtualize_tpr(self) -> VmExit | None:
        """SDM "TPR Virtualization"."""
        if not self.delivers:
            return self.below_threshold()
        self.virtualize_ppr()
        self.evaluate()
        return None

    def below_threshold(self) -> VmExit | None:
        """The exit of a task priority under the TPR threshold: after each change of it, and after VM entry."""
        if self.page.dwords[_VTPR] >> 4 & 0xF < self.threshold & 0xF:
            return VmExit(ExitReason.TPR_BELOW_THRESHOLD)
        return None

    def virtualize_ppr(self) -> None:
        """SDM "PPR Virtualization"."""
        tpr, in_service = self.page.dwords[_VTPR] & 0xFF, self.svi & _CLASS
        self.page.dwords[_VPPR] = tpr if tpr & _CLASS >= in_service else in_service

    def evaluate(self) -> None:
        """SDM "Evaluation of Pending Virtual Interrupts"."""
        self.recognized = not self.window_exiting and self.rvi & _CLASS > self.page.dwords[_VPPR] & _CLASS

    def enter(self) -> VmExit | None:
        """What VM entry does, after it loaded the guest: the task priority counts, or what is pending is evaluated."""
        if not self.delivers:
            return self.below_threshold()
        dwords, in_service = self.page.dwords, self.svi & _CLASS     # PPR virtualization and evaluation, in one go
        priority = dwords[_VTPR] & 0xFF
        if priority & _CLASS < in_service:
            priority = in_service
        dwords[_VPPR] = priority
        self.recognized = self.rvi & _CLASS > priority & _CLASS and not self.window_exiting
        return None

    def virtualize_eoi(self) -> VmExit | None:
        """The guest ends what is in service; SDM "EOI Virtualization"."""
        page, vector = self.page, self.svi
        page.dwords[_VEOI] = 0
        page.remove(VISR, vector)
        self.svi = page.highest(VISR)
        self.virtualize_ppr()
        if self.eoi_exits >> vector & 1:
            return VmExit(ExitReason.VIRTUALIZED_EOI, vector)
        self.evaluate()
        return None

    def request(self, vector: int) -> None:
        """*vector* is pending from now on; SDM "Self-IPI Virtualization", without its evaluation."""
        self.page.dwords[VIRR + (vector >> 5 << 2)] |= 1 << (vector & 31)
        if vector > self.rvi:
            self.rvi = vector

    def virtualize_self_ipi(self, vector: int) -> None:
        """The guest sends itself *vector* (16..255)."""
        self.request(vector)
        self.evaluate()

    def deliver(self) -> int:
        """Take the recognized interrupt into service: the vector to deliver; SDM "Virtual-Interrupt Delivery"."""
        page, vector = self.page, self.rvi
        dwords, place, bit = page.dwords, vector >> 5 << 2, 1 << (vector & 31)
        dwords[VISR + place] |= bit
        dwords[VIRR + place] &= ~bit
        self.svi = vector
        dwords[_VPPR] = vector & _CLASS
        self.rvi = page.highest(VIRR)
        self.recognized = False
        return vector

    def post(self, requests: int) -> None:
        """Take in the posted-interrupt requests of a descriptor; bit n is vector n."""
        page = self.page
        page.set_vectors(VIRR, page.vectors(VIRR) | requests)
        self.rvi = max(self.rvi, requests.bit_length() - 1)
        self.evaluate()
