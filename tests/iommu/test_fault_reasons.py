"""Every reason of VT-d "Fault Reason Encodings" that this unit knows, caused once, and the record it leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from _pytest.mark import ParameterSet

from hv.spec.vtd import (
    HOST_ADDRESS_WIDTH,
    AddressType,
    ContextEntry,
    FaultReason,
    FaultRecord,
    GlobalCommand,
    InterruptTableAddress,
    Irte,
    PostedIrte,
    RootEntry,
    SecondLevelEntry,
    VtdRegister,
)
from hv.trace import events
from tests.iommu.bench import CONTEXTS, DATA, DEVICE, DOMAIN, IOVA, LEVELS, RAM, Bench
from tests.iommu.test_interrupts import handle
from tests.proves import proves

R = FaultReason
OUTSIDE = 1 << HOST_ADDRESS_WIDTH - 1 >> 12
TOP = LEVELS[3] >> 12


class Dma(NamedTuple):
    """A request that is refused for *reason*, once *arrange* has been done."""

    reason: FaultReason
    arrange: Callable[[Bench], object]
    write: bool = False
    iova: int = IOVA
    address_type: int = AddressType.UNTRANSLATED


def context(**changes: int) -> ContextEntry:
    return ContextEntry(**{"present": 1, "address_width": 2, "domain_id": DOMAIN, "second_level": TOP} | changes)


def root_table_at(page: int) -> Callable[[Bench], None]:
    def arrange(bench: Bench) -> None:
        bench.write(VtdRegister.RTADDR, page << 12, 8)
        bench.command(set_root_table=1, translation=1)
    return arrange


DMA = [
    Dma(R.ROOT_NOT_PRESENT, lambda b: b.root(RootEntry(context_table=CONTEXTS >> 12))),
    Dma(R.CONTEXT_NOT_PRESENT, lambda b: b.context(context(present=0)), write=True),
    Dma(R.CONTEXT_INVALID, lambda b: b.context(context(address_width=3))),
    Dma(R.ADDRESS_BEYOND_WIDTH, lambda b: b.context(context(address_width=1)), iova=1 << 39),
    Dma(R.WRITE_REFUSED, lambda b: b.entry(2, SecondLevelEntry(readable=1, page=LEVELS[0] >> 12)), write=True),
    Dma(R.READ_REFUSED, lambda b: b.entry(1, SecondLevelEntry(writable=1, page=1))),
    Dma(R.SECOND_LEVEL_ACCESS, lambda b: b.entry(3, SecondLevelEntry(readable=1, writable=1, page=OUTSIDE))),
    Dma(R.ROOT_ACCESS, root_table_at(OUTSIDE), write=True),
    Dma(R.CONTEXT_ACCESS, lambda b: b.root(RootEntry(present=1, context_table=OUTSIDE))),
    Dma(R.ROOT_RESERVED, lambda b: b.root(RootEntry(1 << 100, present=1, context_table=CONTEXTS >> 12))),
    Dma(R.CONTEXT_RESERVED, lambda b: b.context(ContextEntry(context().raw | 1 << 127)), write=True),
    Dma(R.SECOND_LEVEL_RESERVED, lambda b: b.entry(3, SecondLevelEntry(readable=1, large=1, page=1))),
    Dma(R.TYPE_BLOCKED, lambda b: None, write=True, address_type=AddressType.TRANSLATED),
]


class Interrupt(NamedTuple):
    """An interrupt request that is refused for *reason*, once *arrange* has been done."""

    reason: FaultReason
    arrange: Callable[[Bench], object]
    index: int = 7
    address: int = handle(7)
    data: int = 0


def interrupt_table_at(spa: int) -> Callable[[Bench], None]:
    def arrange(bench: Bench) -> None:
        bench.write(VtdRegister.IRTA, InterruptTableAddress(page=spa >> 12, size=7).raw, 8)
        bench.command(set_interrupt_table=1, interrupt_remapping=1)
    return arrange


def posts_to(descriptor: int) -> Irte:
    return Irte(PostedIrte(present=1, posted=1, vector=0x51, descriptor_low=descriptor >> 6).raw)


INTERRUPT = [
    Interrupt(R.REQUEST_RESERVED, lambda b: None, data=0x8000_0000),
    Interrupt(R.INDEX_BEYOND_TABLE, lambda b: None, index=0xFFFF, address=handle(0xFFFF)),
    Interrupt(R.IRTE_NOT_PRESENT, lambda b: b.irte(7, Irte(vector=0x51))),
    Interrupt(R.IRTE_ACCESS, interrupt_table_at(RAM)),
    Interrupt(R.IRTE_RESERVED, lambda b: b.irte(7, Irte(1 << 90, present=1))),
    Interrupt(R.COMPATIBILITY_BLOCKED, lambda b: None, index=0, address=0xFEE00000, data=0x41),
    Interrupt(R.SOURCE_REFUSED, lambda b: b.irte(7, Irte(present=1, validation=2, source_id=0x0102))),
    Interrupt(R.DESCRIPTOR_ACCESS, lambda b: b.irte(7, posts_to(RAM))),
    Interrupt(R.DESCRIPTOR_RESERVED, lambda b: b.irte(7, posts_to(DATA)) or b.memory.write_u64(DATA + 32, 4)),
]


def cases(rows: list[Dma] | list[Interrupt]) -> list[ParameterSet]:
    """Each stands behind the row of its reason."""
    return [pytest.param(row, id=f"{row.reason:x}-{row.reason.name.lower().replace('_', '-')}",
                         marks=proves(f"iommu/FaultReason.{row.reason.name}")) for row in rows]


@pytest.mark.parametrize("row", cases(DMA))
def test_a_dma_leaves_a_record_of_its_reason(row):
    """VT-d "Fault Recording Registers": page, source, reason, type of address, direction, F; and nothing moved."""
    bench = Bench()
    row.arrange(bench)
    before = bench.memory.read(0, RAM)
    if row.write:
        assert not bench.iommu.dma_write(DEVICE, row.iova + 0x123, b"12345678", row.address_type)
    else:
        assert bench.iommu.dma_read(DEVICE, row.iova + 0x123, 8, row.address_type) is None
    assert bench.only_record() == FaultRecord(
        page=row.iova >> 12, source_id=DEVICE, reason=row.reason, address_type=row.address_type,
        is_read=int(not row.write), fault=1)
    assert bench.events == [
        events.DmaFault(DEVICE, row.iova + 0x123, row.write, row.reason, row.reason.text)]
    assert (bench.memory.read(0, RAM), bench.fault_status.pending) == (before, 1)


@pytest.mark.parametrize("row", cases(INTERRUPT))
def test_an_interrupt_leaves_a_record_of_its_reason(row):
    """VT-d "Fault Recording Registers": the index stands in bits 63:48, and no vector arrives."""
    bench = Bench()
    row.arrange(bench)
    assert bench.iommu.dma_write(DEVICE, row.address, row.data.to_bytes(4, "little"))     # posted: nobody hears
    assert bench.only_record() == FaultRecord(page=row.index << 36, source_id=DEVICE, reason=row.reason, fault=1)
    assert (bench.messages, bench.fault_status.pending) == ([], 1)


def test_no_reason_is_left_out():
    assert {row.reason for row in (*DMA, *INTERRUPT)} == set(FaultReason)


QUALIFIED = [row for row in DMA if row.reason not in (
    R.ROOT_NOT_PRESENT, R.ROOT_ACCESS, R.ROOT_RESERVED, R.CONTEXT_ACCESS)]


@pytest.mark.parametrize("row", cases(QUALIFIED))
def test_a_context_entry_may_ask_for_silence_about_its_own_faults(row):
    """VT-d "Context Entry": FPD; those above are not qualified, as no context entry was read."""
    bench = Bench()
    bench.context(context(fault_disabled=1))
    row.arrange(bench)
    spa = CONTEXTS + (DEVICE & 0xFF) * 16
    bench.memory.write_u64(spa, bench.memory.read_u64(spa) | ContextEntry(fault_disabled=1).raw)
    assert bench.iommu.dma_read(DEVICE, row.iova, 8, row.address_type) is None or row.reason is R.WRITE_REFUSED
    assert not bench.iommu.dma_write(DEVICE, row.iova, b"x", row.address_type) or row.reason is R.READ_REFUSED
    assert (bench.records(), bench.fault_status.raw) == ([], 0)


@proves("iommu/VtdRegister.FECTL", "iommu/VtdRegister.FEDATA", "iommu/VtdRegister.FEADDR")
def test_a_fault_event_is_sent_once_until_it_is_served():
    """VT-d "Fault Event Control Register": IM holds it back in IP; clearing IM sends it."""
    bench = Bench()
    bench.context(ContextEntry())
    bench.write(VtdRegister.FEDATA, 0x71)
    bench.write(VtdRegister.FEADDR, 0xFEE01000)
    bench.dma()
    assert (bench.messages, bench.read(VtdRegister.FECTL)) == ([], 0xC000_0000)
    bench.write(VtdRegister.FECTL, 0)
    assert ([message.vector for message in bench.messages], bench.read(VtdRegister.FECTL)) == ([0x71], 0)
    bench.dma()
    assert len(bench.messages) == 1
    assert GlobalCommand(bench.read(VtdRegister.GSTS)).translation
