"""The interrupt controllers of a PC board, and their wires.

    devices --- InterruptLines 0..23 -+-- 0..15 --> 8259s -- INTR --+--> LINT0 of every processor
                                      |                             +--> pin 0
                                      +-- 0 to pin 2, others to their own --> I/O APIC --+
    PCI functions with MSI --------------------------------------------------------------+--> messages --> local APICs
                                                                        (a remapping unit of the guest's own) -^

Every line leads to the 8259s and to the I/O APIC; software masks the one it does not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from hv.root.external_line import BOOT_VP, ExternalLine
from hv.root.lines import InterruptLines
from hv.root.motherboard import Motherboard
from hv.root.msi import MsiDelivery
from hv.root.vdev.i8259 import I8259Pair
from hv.root.vdev.io_apic import IoApic
from hv.root.winhv import WinHv
from hv.spec.apic import DeliveryMode, Lvt, Svr
from hv.spec.hv_registers import HvRegisterName, PendingInterruptionRegister
from hv.spec.io_apic import WINDOW_SIZE
from hv.spec.pc import IO_APIC_GPA, IO_APIC_RID, PIC_MASTER, PIC_SLAVE, PIC_TRIGGER, TIMER_PIN, Irq

INTR_PIN = 0                            # of the I/O APIC: the 8259s' INTR
# What the firmware leaves in the local APIC of the boot processor: "Virtual Wire Mode via Local APIC", Intel
# "MultiProcessor Specification", and its NMI pin. In this order: software enable opens the local vector table.
FIRMWARE_APIC: Mapping[HvRegisterName, int] = {
    HvRegisterName.APIC_SPURIOUS: Svr(vector=0xFF, enabled=1).raw,
    HvRegisterName.APIC_LVT_LINT0: Lvt(delivery_mode=DeliveryMode.EXTINT).raw,
    HvRegisterName.APIC_LVT_LINT1: Lvt(delivery_mode=DeliveryMode.NMI).raw,
}


class InterruptControllers:
    """Those of *board*, whose VM is *partition_id*."""

    def __init__(self, board: Motherboard, lines: InterruptLines, winhv: WinHv, partition_id: int) -> None:
        self.messages = MsiDelivery(winhv, partition_id, self._on_extint)
        self.io_apic = IoApic(self.messages.way_of(IO_APIC_RID))
        self.intr = ExternalLine(winhv, partition_id, partial(self.io_apic.set_pin, INTR_PIN))
        self.pic = I8259Pair(self.intr, levels=1 << Irq.ACPI)
        for ports in (PIC_MASTER, PIC_SLAVE, PIC_TRIGGER):
            board.add("i8259", ports, self.pic)
        board.add_memory("io-apic", range(IO_APIC_GPA, IO_APIC_GPA + WINDOW_SIZE), self.io_apic)
        lines.listen(self._on_line)

    def _on_line(self, number: int, asserted: bool) -> None:
        self.pic.set_line(number, asserted)
        if number != Irq.CASCADE:
            self.io_apic.set_pin(TIMER_PIN if number == Irq.TIMER else number, asserted)

    def end_of_interrupt(self, vector: int) -> None:
        """A processor has ended a level-triggered interrupt."""
        self.io_apic.end_of_interrupt(vector)

    def _on_extint(self, destination: int, logical: bool) -> bool:
        """# Simplified: a logical destination is the boot processor."""
        return self.intr.name(BOOT_VP if logical else destination)

    def interruptible(self, vp_index: int) -> Mapping[HvRegisterName, int]:
        """The VP can take an interrupt, as the 8259s wanted to know: registers to set before it goes on."""
        if not self.intr.acknowledges(vp_index):
            self.pic.refresh()
            return {}
        return {HvRegisterName.PENDING_INTERRUPTION: PendingInterruptionRegister(
            interruption_pending=1, interruption_vector=self.pic.answer()).raw}
