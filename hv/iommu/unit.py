"""One remapping unit: the register file, the global commands, and the door that devices' requests come through.

VT-d "Register Descriptions", "Global Command Register". Until software sets TE, DMA passes untranslated; until it sets
IRE, interrupts pass as they are written.
"""

# Simplified: a global command is done when its write returns; several in one write are obeyed together.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.iommu.faults import FaultLog
from hv.iommu.interrupts import InterruptFault, InterruptMessage, InterruptRemapper, as_written
from hv.iommu.invalidation import Invalidation
from hv.iommu.memory import UnitMemory
from hv.iommu.registers import RegisterFile
from hv.iommu.translate import READ, WRITE, DmaFault, Leaf, Translator
from hv.machine.faults import BusError
from hv.spec.apic import DEFAULT_BASE, INTERRUPT_WINDOW_END
from hv.spec.vtd import (
    FAULT_OFFSET,
    FAULT_RECORDS,
    GUEST_ADDRESS_WIDTH,
    IOTLB_OFFSET,
    MAXIMUM_ADDRESS_MASK,
    AddressType,
    Cap,
    Ecap,
    GlobalCommand,
    InterruptTableAddress,
    RootTableAddress,
    VtdRegister,
)
from hv.spec.x86 import PAGE_SIZE
from hv.trace import events
from hv.trace.bus import Trace

VERSION = 0x10
_WINDOW = DEFAULT_BASE >> 20
_UNTRANSLATED = AddressType.UNTRANSLATED.value
CAPABILITIES = Cap(
    domains=6, sagaw=0b00110, mgaw=GUEST_ADDRESS_WIDTH - 1, zero_length_read=1, large_pages=0b11,
    fault_offset=FAULT_OFFSET // 16, page_selective=1, fault_records=FAULT_RECORDS - 1,
    address_mask=MAXIMUM_ADDRESS_MASK, posted=1)
EXTENDED_CAPABILITIES = Ecap(
    coherent=1, queued=1, device_tlb=1, interrupt_remapping=1, extended_interrupts=1, pass_through=1,
    iotlb_offset=IOTLB_OFFSET // 16, handle_mask=15)


class Iommu:
    """The unit *name* in front of *memory*. *interrupt* is called with every message that reaches the local APICs.

    It is the `DmaPort` of its devices: `dma_read`, `dma_write`, `message`.
    """

    def __init__(self, memory: UnitMemory, interrupt: Callable[[InterruptMessage], None],
                 trace: Trace | None = None, name: str = "iommu0", capabilities: Cap = CAPABILITIES,
                 extended: Ecap = EXTENDED_CAPABILITIES) -> None:
        self.memory, self.interrupt, self.trace, self.name = memory, interrupt, trace or Trace(), name
        self.capabilities, self.extended = capabilities, extended
        self.status = GlobalCommand()           # GSTS
        self.root_table, self.interrupt_table = RootTableAddress(), InterruptTableAddress()
        self.translator = Translator(memory, device_tlbs=bool(extended.device_tlb))
        self.remapper = InterruptRemapper(memory, posts=bool(capabilities.posted))
        self._translates = False                # GSTS.TES
        self.faults = FaultLog(self._own_interrupt)
        self.invalidation = Invalidation(memory, self.translator, self.remapper, self.faults, self._own_interrupt)
        self._file = RegisterFile()
        self._declare_registers()

    def _declare_registers(self) -> None:
        file = self._file
        file.add(VtdRegister.VER, 4, lambda: VERSION)
        file.add(VtdRegister.CAP, 8, lambda: self.capabilities.raw)
        file.add(VtdRegister.ECAP, 8, lambda: self.extended.raw)
        file.add(VtdRegister.GCMD, 4, lambda: 0, self._command)
        file.add(VtdRegister.GSTS, 4, lambda: self.status.raw)
        file.add(VtdRegister.RTADDR, 8, lambda: self.root_table.raw, self._set_root_table)
        file.add(VtdRegister.IRTA, 8, lambda: self.interrupt_table.raw, self._set_interrupt_table)
        self.faults.add_to(file)
        self.invalidation.add_to(file)

    # Software's face.

    def read(self, offset: int, size: int) -> int:
        """A register, *size* 4 or 8 and aligned; 0 for any other access, and where no register is."""
        return self._file.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register, or half of one of eight bytes; any other access is ignored."""
        self._file.write(offset, size, value)

    def _command(self, value: int, mask: int) -> None:
        """GCMD: the one-shot bits act, the others are what GSTS shall be. AFL and WBF are not there (CAP)."""
        command = GlobalCommand(value)
        if command.set_root_table:
            self.translator.root_table = self.root_table.page * PAGE_SIZE
            self.status.set_root_table = 1
        if command.set_interrupt_table:
            self.remapper.table = self.interrupt_table
            self.status.set_interrupt_table = 1
        self.status.translation = command.translation
        self._translates = bool(command.translation)
        self.status.interrupt_remapping = command.interrupt_remapping
        self.status.compatibility_format = command.compatibility_format
        self.status.queued_invalidation = command.queued_invalidation
        self.remapper.enabled = bool(command.interrupt_remapping)
        self.remapper.compatibility = bool(command.compatibility_format)
        self.invalidation.enable(bool(command.queued_invalidation))

    def _set_root_table(self, value: int, mask: int) -> None:
        """RTADDR; used from the next SRTP on. TTM is reserved without scalable mode."""
        kept = RootTableAddress(self.root_table.raw & ~mask | value)
        self.root_table = RootTableAddress(page=kept.page)

    def _set_interrupt_table(self, value: int, mask: int) -> None:
        """IRTA; used from the next SIRTP on."""
        raw = self.interrupt_table.raw & ~mask | value
        self.interrupt_table = InterruptTableAddress(raw & ~InterruptTableAddress.RESERVED)

    # The devices' face.

    def dma_read(self, source_id: int, iova: int, size: int, address_type: int = _UNTRANSLATED) -> bytes | None:
        """What *source_id* reads at *iova*; None, and a fault record, when it may not or nothing is there."""
        if self._translates and not address_type and not self.trace.listening:
            spa = self.translator.quick(source_id, iova, size, READ)
            if spa is not None:
                return self.memory.read(spa, size)
        pieces = self._pieces(source_id, iova, size, False, address_type)
        if pieces is None:
            return None
        read = self.memory.read
        try:
            if len(pieces) == 1:
                return read(*pieces[0])
            return b"".join([read(spa, length) for spa, length in pieces])
        except BusError:
            return None             # translated, but no RAM answers: an abort, not a fault of the unit

    def dma_write(self, source_id: int, iova: int, data: bytes, address_type: int = _UNTRANSLATED) -> bool:
        """Store *data* for *source_id*, all of it or (False) nothing; four bytes in the interrupt window interrupt."""
        if iova >> 20 == _WINDOW and len(data) == 4 and iova % 4 == 0:
            if address_type != _UNTRANSLATED:
                return False        # VT-d "Address Range FEEx_xxxx": only an untranslated write is an interrupt request
            self._interrupt_request(source_id, iova, int.from_bytes(data, "little"))
            return True
        size = len(data)
        if self._translates and not address_type and not self.trace.listening:
            spa = self.translator.quick(source_id, iova, size, WRITE)
            if spa is not None:
                self.memory.write(spa, data)
                return True
        pieces = self._pieces(source_id, iova, size, True, address_type)
        if pieces is None:
            return False
        if len(pieces) == 1 and pieces[0][0] + pieces[0][1] <= self.memory.size:
            self.memory.write(pieces[0][0], data)
            return True
        return self._write_pieces(pieces, data)

    def _write_pieces(self, pieces: list[tuple[int, int]], data: bytes) -> bool:
        if any(spa + length > self.memory.size for spa, length in pieces):
            return False
        done = 0
        for spa, length in pieces:
            self.memory.write(spa, data[done : done + length])
            done += length
        return True

    def translation_request(self, source_id: int, iova: int) -> Leaf | None:
        """What a device with a TLB of its own may keep of the page at *iova*; None when it may not ask.

        PCI Express "Translation Request". While translation is off nobody answers.
        """
        if not self._translates or is_interrupt_address(iova):
            return None
        try:
            return self.translator.for_device_tlb(source_id, iova)
        except DmaFault as fault:
            self._refuse_dma(fault)
            return None

    def message(self, source_id: int, address: int, data: int) -> None:
        """A posted dword write of *source_id*: an interrupt in the interrupt window, a DMA elsewhere."""
        address, data = address & ~3, data & 0xFFFF_FFFF
        if is_interrupt_address(address):
            self._interrupt_request(source_id, address, data)
        else:
            self.dma_write(source_id, address, data.to_bytes(4, "little"))

    def _pieces(self, source_id: int, iova: int, size: int, write: bool,
                address_type: int) -> list[tuple[int, int]] | None:
        """Where the request goes, as (spa, size); None when it is refused or meets the interrupt window."""
        if iova < INTERRUPT_WINDOW_END and iova + size > DEFAULT_BASE:
            return None             # the interrupt window is never translated
        if self._translates:
            try:
                pieces = self.translator.dma(source_id, iova, size, write, address_type)
            except DmaFault as fault:
                self._refuse_dma(fault)
                return None
        elif address_type == _UNTRANSLATED:
            pieces = [(iova, size)]
        else:
            return None             # nobody can have asked for a translation
        if self.trace.listening and all(spa + length <= self.memory.size for spa, length in pieces):
            self.trace.emit(events.Dma(source_id, iova, size, write, pieces[0][0]))
        return pieces

    def _refuse_dma(self, fault: DmaFault) -> None:
        if self.trace.listening:
            self.trace.emit(events.DmaFault(fault.source_id, fault.iova, fault.write, fault.reason, fault.reason.text))
        self.faults.record_dma(fault)

    def _interrupt_request(self, source_id: int, address: int, data: int) -> None:
        try:
            message, index, posting = self.remapper.remap(source_id, address, data)
        except InterruptFault as fault:
            if self.trace.listening:
                self.trace.emit(events.InterruptRemapFault(source_id, fault.index, fault.reason, fault.reason.text))
            self.faults.record_interrupt(fault)
            return
        if self.trace.listening and posting is not None:
            self.trace.emit(events.InterruptPosted(
                0, source_id, posting.vector, posting.descriptor, message is not None))
        elif self.trace.listening and index is not None and message is not None:
            self.trace.emit(events.InterruptRemapped(source_id, index, message.vector, message.destination))
        if message is not None:
            self.interrupt(message)

    def _own_interrupt(self, address: int, data: int) -> None:
        """The unit's own messages are not remapped, and go nowhere when software gave no interrupt address.

        VT-d "Fault Event Upper Address Register": with EIME its bits 31..8 are those of the destination.
        """
        more = (address >> 32 & ~0xFF) if self.remapper.table.extended else 0
        address -= more << 32
        if is_interrupt_address(address):
            message = as_written(address, data)
            self.interrupt(message._replace(destination=message.destination | more))

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"name": self.name, "status": self.status.inspect(), "translation": self.translator.inspect(),
                "interrupts": self.remapper.inspect(), "faults": self.faults.inspect(),
                "invalidation": self.invalidation.inspect()}


def is_interrupt_address(address: int) -> bool:
    """Is a write there an interrupt request? FEE00000-FEEFFFFF."""
    return DEFAULT_BASE <= address < INTERRUPT_WINDOW_END
