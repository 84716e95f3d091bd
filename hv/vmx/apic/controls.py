"""What the controls of a vcpu make of its local APIC: which accesses are virtualized, and on which page.

SDM "VM-Execution Control Fields", "Controls for APIC Virtualization". Nothing here runs on an exit: the controls are
read when one was written.
"""

from __future__ import annotations

from collections.abc import Callable

from hv.machine.ram import PhysicalMemory
from hv.spec.vmcs import PinControls, PrimaryControls, SecondaryControls, VmcsField
from hv.spec.x86 import PAGE_SHIFT
from hv.vmx.apic.access_page import READABLE, WRITABLE, WRITABLE_WITH_DELIVERY
from hv.vmx.apic.virtual_apic import InterruptStatus, VirtualApic, VirtualApicPage
from hv.vmx.controls import Controls
from hv.vmx.translation.second_level import NO_PAGE

_BITMAPS = (VmcsField.EOI_EXIT_BITMAP0, VmcsField.EOI_EXIT_BITMAP1, VmcsField.EOI_EXIT_BITMAP2,
            VmcsField.EOI_EXIT_BITMAP3)
DESCRIPTOR_BYTES = 64           # of the posted-interrupt descriptor: 256 requests, then ON and what is software's
_STATUS, _OUTSTANDING = 32, 1
_NONE: frozenset[int] = frozenset()


class ApicControls:
    """The controls of one vcpu, as `follow` found them."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory
        self.status = InterruptStatus()         # a VirtualApic, since there was a page the first time
        self.virtual: VirtualApic | None = None    # while there is a TPR shadow
        self.access_page = NO_PAGE              # number of the APIC-access page
        self.x2apic = False                     # "virtualize x2APIC mode"
        self.registers = False                  # "APIC-register virtualization"
        self.readable = self.writable = _NONE   # offsets of the registers that are virtualized
        self.notification_vector = -1           # of posted interrupts
        self.descriptor = 0                     # spa of the posted-interrupt descriptor

    def follow(self, read: Callable[[VmcsField], int], controls: Controls) -> None:
        """A control was written: *read* gives the fields, of which *controls* are some."""
        pin, primary, secondary = read(VmcsField.PIN_BASED_CONTROLS), controls.primary, controls.secondary
        shadow = bool(primary & PrimaryControls.USE_TPR_SHADOW)
        delivers = shadow and bool(secondary & SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY)
        accesses = bool(secondary & SecondaryControls.VIRTUALIZE_APIC_ACCESSES)
        self.registers = shadow and bool(secondary & SecondaryControls.APIC_REGISTER_VIRTUALIZATION)
        self.x2apic = shadow and bool(secondary & SecondaryControls.VIRTUALIZE_X2APIC_MODE)
        self.access_page = read(VmcsField.APIC_ACCESS_ADDR) >> PAGE_SHIFT if accesses else NO_PAGE
        self.readable = READABLE[self.registers] if shadow else _NONE
        self.writable = WRITABLE[self.registers] | (WRITABLE_WITH_DELIVERY if delivers else _NONE) if shadow else _NONE
        posted = delivers and bool(pin & PinControls.PROCESS_POSTED_INTERRUPTS)
        self.notification_vector = read(VmcsField.POSTED_INTR_NOTIFICATION_VECTOR) & 0xFF if posted else -1
        self.descriptor = read(VmcsField.POSTED_INTR_DESC_ADDR)
        self._follow_page(read(VmcsField.VIRTUAL_APIC_PAGE_ADDR) if shadow else -1)
        if self.virtual is not None:
            self.virtual.delivers = delivers
            self.virtual.window_exiting = controls.interrupt_window
            self.virtual.threshold = read(VmcsField.TPR_THRESHOLD)
            self.virtual.eoi_exits = sum(read(field) << 64 * n for n, field in enumerate(_BITMAPS)) if delivers else 0
            self.virtual.recognized = self.virtual.recognized and delivers

    def interrupt_status(self) -> int:
        """GUEST_INTERRUPT_STATUS."""
        return self.status.svi << 8 | self.status.rvi

    def set_interrupt_status(self, value: int) -> None:
        """Software writes it: VM entry evaluates what is pending."""
        self.status.rvi, self.status.svi = value & 0xFF, value >> 8

    def hold_back(self, window_exiting: bool) -> None:
        """Interrupt-window exiting was set or cleared: with it, no virtual interrupt is recognized."""
        if self.virtual is not None:
            self.virtual.window_exiting = window_exiting
            if self.virtual.delivers:
                self.virtual.evaluate()

    @property
    def recognizes(self) -> bool:
        """A virtual interrupt is pending."""
        return self.virtual is not None and self.virtual.recognized

    def process_posted(self) -> None:
        """The notification vector has come; SDM "Posted-Interrupt Processing"."""
        assert self.virtual is not None, "posted interrupts need a TPR shadow"
        spa, memory = self.descriptor, self.memory
        if spa + DESCRIPTOR_BYTES > memory.size:
            self.virtual.post(0)           # nothing answers: there is no request
            return
        status = memory.read_u32(spa + _STATUS)
        memory.write_u32(spa + _STATUS, status & ~_OUTSTANDING)
        requests = int.from_bytes(memory.read(spa, _STATUS), "little")
        memory.write(spa, bytes(_STATUS))
        self.virtual.post(requests)

    def _follow_page(self, address: int) -> None:
        """Work with the page at *address* from now on, with none at -1; RVI and SVI stay what they are."""
        status = self.status
        if address < 0:
            self.virtual = None
        elif isinstance(status, VirtualApic) and status.page.spa == address:
            self.virtual = status
        else:
            self.virtual = self.status = VirtualApic(VirtualApicPage(self.memory, address))
            self.virtual.rvi, self.virtual.svi = status.rvi, status.svi
