"""Fault records, FSTS, and the fault event."""

from __future__ import annotations

import pytest

from hv.iommu.faults import describe
from hv.iommu.interrupts import InterruptMessage
from hv.spec.vtd import (
    ENTRY_SIZE,
    FAULT_RECORDS,
    Cap,
    ContextEntry,
    EventControl,
    FaultReason,
    FaultStatus,
    GlobalCommand,
    InterruptTableAddress,
    QueuePointer,
    VtdRegister,
)
from tests.iommu.bench import DATA, QUEUE, Bench
from tests.proves import proves

EVENT = InterruptMessage(0x71, 2, False, 0, False, False)


def a_bench(masked: bool = False) -> Bench:
    """A unit whose fault event is vector 0x71 to APIC 2; any DMA of DEVICE faults."""
    bench = Bench()
    bench.context(ContextEntry())
    bench.write(VtdRegister.FEDATA, 0x71)
    bench.write(VtdRegister.FEADDR, 0xFEE02000)
    bench.write(VtdRegister.FECTL, EventControl(masked=int(masked)).raw)
    return bench


def fail(bench: Bench, count: int = 1) -> None:
    for page in range(count):
        assert not bench.dma(page << 12)


@proves("capability/Cap.fault_offset", "capability/Cap.fault_records", "iommu/VtdRegister.FRCD")
def test_the_capabilities_say_where_the_records_are():
    cap = Cap(Bench().read(VtdRegister.CAP, 8))
    assert (cap.fault_offset * ENTRY_SIZE, cap.fault_records + 1) == (VtdRegister.FRCD, FAULT_RECORDS)


def test_faults_take_one_record_after_the_other():
    bench = a_bench()
    fail(bench, 3)
    assert [record.page for record in bench.records()] == [0, 1, 2]
    assert bench.fault_status == FaultStatus(pending=1, record_index=0)


def test_a_fault_without_a_free_record_is_lost_and_said_to_be():
    """VT-d "Primary Fault Logging": nothing is recorded until PFO is cleared, free records or not."""
    bench = a_bench()
    fail(bench, FAULT_RECORDS + 1)
    assert bench.fault_status.overflow
    bench.free_record(0)
    fail(bench)
    assert len(bench.records()) == FAULT_RECORDS - 1
    bench.write(VtdRegister.FSTS, FaultStatus(overflow=1).raw)
    fail(bench)
    assert (len(bench.records()), bench.fault_status.overflow) == (FAULT_RECORDS, 0)


@proves("iommu/VtdRegister.FSTS")
def test_ppf_goes_with_the_last_f_bit_and_cannot_be_written():
    bench = a_bench()
    fail(bench, 2)
    bench.write(VtdRegister.FSTS, 0xFFFFFFFF)
    bench.free_record(0)
    assert bench.fault_status.pending
    bench.free_record(1)
    assert not bench.fault_status.pending


def test_the_index_names_the_record_that_raised_ppf():
    bench = a_bench()
    fail(bench, 2)
    bench.free_record(0)
    bench.free_record(1)
    fail(bench, 2)
    assert bench.fault_status.record_index == 2


def test_a_record_is_freed_only_by_its_f_bit():
    bench = a_bench()
    fail(bench)
    offset = VtdRegister.FRCD
    for at, size in ((0, 8), (8, 4)):
        bench.write(offset + at, (1 << 8 * size) - 1, size)
    bench.write(offset + 12, 0x7FFFFFFF)
    assert bench.records()
    bench.write(offset + 8, 1 << 63, 8)
    assert not bench.records()


def test_the_event_is_sent_once_until_everything_is_served():
    bench = a_bench()
    fail(bench, 3)
    assert bench.messages == [EVENT]
    for number in range(3):
        bench.free_record(number)
    fail(bench)
    assert bench.messages == [EVENT, EVENT]


@proves("iommu/VtdRegister.FECTL")
def test_a_masked_event_waits_for_the_unmasking():
    bench = a_bench(masked=True)
    fail(bench)
    assert (bench.messages, EventControl(bench.read(VtdRegister.FECTL)).pending) == ([], 1)
    bench.write(VtdRegister.FECTL, 0)
    assert (bench.messages, bench.read(VtdRegister.FECTL)) == ([EVENT], 0)


def test_a_masked_event_is_withdrawn_when_its_cause_is_served():
    bench = a_bench(masked=True)
    fail(bench)
    bench.free_record(0)
    bench.write(VtdRegister.FECTL, 0)
    assert bench.messages == []


def test_the_event_is_masked_after_reset():
    assert Bench().read(VtdRegister.FECTL) == EventControl(masked=1).raw


@proves("iommu/VtdRegister.FEADDR")
def test_an_event_address_that_is_no_interrupt_address_goes_nowhere():
    bench = a_bench()
    bench.write(VtdRegister.FEADDR, DATA)
    fail(bench)
    assert (bench.messages, bench.memory.read_u32(DATA)) == ([], 0)


@proves("iommu/VtdRegister.FEUADDR")
@pytest.mark.parametrize(("extended", "upper", "destinations"), [
    (1, 0x1234_5600, [0x1234_5602]), (1, 0, [2]), (1, 0x1234_5601, []), (0, 0, [2]), (0, 0x100, [])])
def test_with_eime_the_upper_address_is_more_of_the_destination(extended, upper, destinations):
    """VT-d "Fault Event Upper Address Register": bits 31..8; without EIME the address is just not one of interrupts."""
    bench = a_bench()
    bench.write(VtdRegister.IRTA, InterruptTableAddress(extended=extended).raw, 8)
    bench.command(set_interrupt_table=1, translation=1)
    bench.write(VtdRegister.FEUADDR, upper)
    bench.dma()
    assert [message.destination for message in bench.messages] == destinations


@pytest.mark.parametrize("register", [VtdRegister.FEADDR, VtdRegister.FEUADDR, VtdRegister.FEDATA])
def test_the_event_registers_keep_what_is_written(register):
    bench = Bench()
    bench.write(register, 0xABCDEF00)
    assert bench.read(register) == 0xABCDEF00


def test_a_queue_error_is_a_cause_of_its_own():
    bench = a_bench()
    bench.write(VtdRegister.IQA, QUEUE, 8)
    bench.write(VtdRegister.GCMD, GlobalCommand(queued_invalidation=1).raw)
    bench.write(VtdRegister.IQT, QueuePointer(index=1).raw, 8)
    assert (bench.fault_status, bench.messages) == (FaultStatus(queue_error=1), [EVENT])


def test_a_record_reads_as_a_sentence():
    bench = a_bench()
    fail(bench)
    assert describe(bench.only_record()) == (
        "read at 0x0 by 0x0018: the context entry of the device is not present")
    assert bench.iommu.inspect()["faults"]["records"] == [describe(bench.only_record())]


def test_every_reason_has_its_sentence():
    assert all(reason.text for reason in FaultReason)
