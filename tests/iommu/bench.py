"""A remapping unit in front of a little RAM, with and without the driver that programs it."""

from __future__ import annotations

from typing import Any

from hv.iommu.driver import IommuDriver
from hv.iommu.interrupts import InterruptMessage
from hv.iommu.unit import EXTENDED_CAPABILITIES, Iommu
from hv.machine.ram import PhysicalMemory
from hv.spec.vtd import (
    ENTRY_SIZE,
    FAULT_RECORDS,
    ContextEntry,
    Ecap,
    FaultRecord,
    FaultStatus,
    GlobalCommand,
    InterruptTableAddress,
    Irte,
    RootEntry,
    SecondLevelEntry,
    VtdRegister,
)
from hv.trace.bus import Trace

RAM = 0x200000
ROOT, CONTEXTS, LEVELS = 0x1000, 0x2000, (0x6000, 0x5000, 0x4000, 0x3000)     # LEVELS: of level 1, 2, 3, 4
INTERRUPTS, QUEUE, STATUS = 0x7000, 0x8000, 0x9000
DATA = 0x100000
DEVICE = 0x0018                 # 00:03.0
DOMAIN = 5
IOVA = 0x12345000


class Bench:
    """One device in one domain with one page mapped, written by hand into fixed places; TE and IRE are on."""

    def __init__(self, extended: Ecap = EXTENDED_CAPABILITIES) -> None:
        self.memory = PhysicalMemory(RAM)
        self.messages: list[InterruptMessage] = []
        self.events: list[Any] = []
        self.trace = Trace()
        self.trace.listen(lambda record: self.events.append(record.event))
        self.iommu = Iommu(self.memory, self.messages.append, self.trace, extended=extended)
        self.root(RootEntry(present=1, context_table=CONTEXTS >> 12))
        self.context(ContextEntry(present=1, address_width=2, domain_id=DOMAIN, second_level=LEVELS[3] >> 12))
        for level in (4, 3, 2):
            self.entry(level, SecondLevelEntry(readable=1, writable=1, page=LEVELS[level - 2] >> 12))
        self.entry(1, SecondLevelEntry(readable=1, writable=1, page=DATA >> 12))
        self.write(VtdRegister.RTADDR, ROOT, 8)
        self.write(VtdRegister.IRTA, InterruptTableAddress(page=INTERRUPTS >> 12, size=7).raw, 8)
        self.command(set_root_table=1, set_interrupt_table=1, translation=1, interrupt_remapping=1)

    def read(self, register: int, size: int = 4) -> int:
        return self.iommu.read(register, size)

    def write(self, register: int, value: int, size: int = 4) -> None:
        self.iommu.write(register, size, value)

    def command(self, **bits: int) -> None:
        self.write(VtdRegister.GCMD, GlobalCommand(**bits).raw)

    def root(self, entry: RootEntry, source_id: int = DEVICE) -> None:
        self._store(ROOT + (source_id >> 8) * ENTRY_SIZE, entry.raw, ENTRY_SIZE)

    def context(self, entry: ContextEntry, source_id: int = DEVICE) -> None:
        self._store(CONTEXTS + (source_id & 0xFF) * ENTRY_SIZE, entry.raw, ENTRY_SIZE)

    def entry(self, level: int, entry: SecondLevelEntry, iova: int = IOVA) -> None:
        self._store(LEVELS[level - 1] + (iova >> 3 + 9 * level & 0x1FF) * 8, entry.raw, 8)

    def irte(self, index: int, entry: Irte) -> None:
        self._store(INTERRUPTS + index * ENTRY_SIZE, entry.raw, ENTRY_SIZE)

    def _store(self, spa: int, value: int, size: int) -> None:
        self.memory.write(spa, value.to_bytes(size, "little"))

    def dma(self, iova: int = IOVA, write: bool = False, source_id: int = DEVICE) -> bool:
        """One access of 8 bytes; did it pass?"""
        if write:
            return self.iommu.dma_write(source_id, iova, bytes(8))
        return self.iommu.dma_read(source_id, iova, 8) is not None

    @property
    def fault_status(self) -> FaultStatus:
        return FaultStatus(self.read(VtdRegister.FSTS))

    def records(self) -> list[FaultRecord]:
        """The records in use, in their order."""
        found = []
        for number in range(FAULT_RECORDS):
            offset = VtdRegister.FRCD + number * ENTRY_SIZE
            record = FaultRecord(self.read(offset + 8, 8) << 64 | self.read(offset, 8))
            if record.fault:
                found.append(record)
        return found

    def only_record(self) -> FaultRecord:
        """The one fault there is."""
        (record,) = self.records()
        return record

    def free_record(self, number: int) -> None:
        self.write(VtdRegister.FRCD + number * ENTRY_SIZE + 12, 1 << 31)


class Driven:
    """A unit brought up by its driver, and a pool of pages that notices a page freed twice."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory(RAM)
        self.messages: list[InterruptMessage] = []
        self.free = list(range(DATA - 0x1000, 0, -0x1000))
        self.iommu = Iommu(self.memory, self.messages.append)
        self.driver = IommuDriver(self.iommu, self.memory, self.free.pop, self.free_page)
        self.driver.start()
        self.driver.add_device(DEVICE)

    def free_page(self, spa: int) -> None:
        assert spa not in self.free
        self.free.append(spa)

    def reads(self, iova: int, source_id: int = DEVICE) -> bool:
        return self.iommu.dma_read(source_id, iova, 1) is not None

    def writes(self, iova: int, source_id: int = DEVICE) -> bool:
        return self.iommu.dma_write(source_id, iova, b"x")
