"""A PC with a remapping unit that its guest programs, and two devices of the machine behind it."""

from __future__ import annotations

from typing import Any

from hv.image.model import Image, Segment
from hv.platform import Machine
from hv.root.winhv import HvError
from hv.spec.apic import ApicRegister
from hv.spec.hv_status import HvStatus as S
from hv.spec.pci import MsixControl, PciCommand, PciHeader
from hv.spec.vtd import (
    FaultReason,
    FaultRecord,
    GlobalCommand,
    InterruptDescriptor,
    InterruptTableAddress,
    Irte,
    RemappableAddress,
    VtdRegister,
)
from hv.spec.x86 import PAGE_SIZE

HALTS = Image("halts", [Segment(0x7C00, b"\xf4", True, True)], 0x7C00, 16)
ON = PciCommand(memory_enabled=1, bus_master=1).raw
TABLE, QUEUE = 0x20000, 0x21000
DEVICE, OTHER = 0x10, 0x18              # 00:02.0 and 00:03.0 of the guest's bus, both of the machine's
COMPATIBLE = 0xFEE0_0000
R = VtdRegister


def named(handle: int, **more: int) -> int:
    """The address of a message in remappable format."""
    return RemappableAddress(
        window=0xFEE, remappable=1, handle_low=handle & 0x7FFF, handle_high=handle >> 15, **more).raw


class PcWithUnit:
    """A PC with two processors, a network card and a DMA engine, and what its guest does to its unit and to them."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.vm = machine.create_vm("pc", HALTS, memory_mib=2, vps=2, pc=True, viommu=True, devices=("ring", "dma"))
        self.board, self.unit = self.vm.worker.motherboard, self.vm.partition.virtual_iommu
        self.apics = [vp.apic for _, vp in sorted(self.vm.partition.vps.items())]
        self.apics[1].write(ApicRegister.SVR, 0x1FF)
        self.tail, self.extended = 0, 0

    # --- the unit ----------------------------------------------------------------------------------------

    def command(self, **bits: int) -> None:
        self.unit.write(R.GCMD, 4, GlobalCommand(**bits).raw)

    def start(self, extended: int = 0, **bits: int) -> None:
        """A table of 256 entries, a queue, and both on."""
        self.extended = extended
        self.unit.write(R.IRTA, 8, InterruptTableAddress(page=TABLE >> 12, size=7, extended=extended).raw)
        self.unit.write(R.IQA, 8, QUEUE)
        self.command(set_interrupt_table=1, queued_invalidation=1)
        self.command(queued_invalidation=1, interrupt_remapping=1, **bits)

    def entry(self, index: int, destination: int = 0, **fields: int) -> None:
        """Of the device DEVICE, if nothing else is said."""
        where = destination if self.extended else destination << 8
        own = {"present": 1, "vector": 0x51, "destination": where, "validation": 1, "source_id": DEVICE}
        self.store(index, Irte(**own | fields).raw)

    def store(self, index: int, raw: int) -> None:
        self.vm.worker.write(TABLE + 16 * index, raw.to_bytes(16, "little"))

    def forget(self, **which: int) -> None:
        self.vm.worker.write(QUEUE + self.tail, InterruptDescriptor(type=4, **which).raw.to_bytes(16, "little"))
        self.tail = (self.tail + 16) % PAGE_SIZE
        self.unit.write(R.IQT, 8, self.tail)

    def faults(self) -> list[tuple[FaultReason, int, int]]:
        """Those recorded, as (reason, source id, index); their records are free again."""
        found = []
        for at in range(R.FRCD, R.FRCD + 8 * 16, 16):
            record = FaultRecord(self.unit.read(at + 8, 8) << 64 | self.unit.read(at, 8))
            if record.fault:
                found.append((FaultReason(record.reason), record.source_id, record.index))
                self.unit.write(at + 12, 4, 1 << 31)
        return found

    # --- who is interrupted ------------------------------------------------------------------------------

    def taken(self) -> list[set[int]]:
        """The vectors that wait in each local APIC, which are forgotten."""
        found = [{vector for vector in range(256) if apic.irr >> vector & 1} for apic in self.apics]
        for vp in self.vm.partition.vps.values():
            vp.apic.irr, vp.nmi_pending = 0, False
        return found

    def send(self, address: int, data: int = 0, device: int = DEVICE) -> S:
        """A device of root's making sends a message."""
        try:
            self.machine.root.winhv.assert_device_interrupt(self.vm.partition_id, device, address, data)
        except HvError as error:
            return error.status
        return S.SUCCESS

    def real(self, rid: int) -> Any:
        """The machine's device behind the guest's *rid*."""
        source = next(made.source_id for made in self.unit.shadows.values() if made.guest_id == rid)
        return next(device for device in self.machine.pci.functions.values() if device.rid == source)

    def interrupt(self, rid: int, number: int = 0) -> None:
        """The machine's device raises its interrupt *number*."""
        self.real(rid).interrupt(number)
        self.machine.scheduler.take_idle_interrupts()

    # --- a device's own table ----------------------------------------------------------------------------

    def let_send(self, rid: int) -> None:
        """The guest makes the device a bus master."""
        self.board.pci.config_write(rid, PciHeader.offset_of("command"), 2, ON)

    def msix(self, rid: int, number: int, address: int, data: int = 0) -> None:
        """The guest writes an entry of the device's table and lets it send."""
        function = self.board.pci.functions[rid]
        self.let_send(rid)
        for at, value in enumerate((address, 0, data, 0)):
            function.write_memory(16 * number + 4 * at, 4, value)
        self.board.pci.config_write(rid, function.msix.offset + 2, 2, MsixControl(enabled=1).raw)
