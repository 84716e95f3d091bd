"""Devices with a TLB of their own: translation requests, translated requests, and the invalidations they are sent."""

from __future__ import annotations

import pytest

from hv.iommu.translate import Leaf
from hv.iommu.unit import EXTENDED_CAPABILITIES
from hv.spec.vtd import (
    AddressType,
    ContextEntry,
    DescriptorType,
    DeviceTlbDescriptor,
    Ecap,
    FaultReason,
    FaultStatus,
    SecondLevelEntry,
    TranslationType,
    VtdRegister,
)
from tests.iommu.bench import DATA, DEVICE, DOMAIN, IOVA, LEVELS, STATUS, Bench
from tests.iommu.test_invalidation import Queue, a_wait
from tests.proves import proves

TRANSLATED = AddressType.TRANSLATED
WITHOUT = Ecap(EXTENDED_CAPABILITIES.raw, device_tlb=0)


def a_bench(type: int = TranslationType.DEVICE_TLB, extended: Ecap = EXTENDED_CAPABILITIES) -> Bench:
    bench = Bench(extended)
    bench.context(ContextEntry(
        present=1, type=type, address_width=2, domain_id=DOMAIN, second_level=LEVELS[3] >> 12))
    return bench


@proves("iommu/TranslationType.DEVICE_TLB", "capability/Ecap.device_tlb")
def test_a_trusted_device_asks_and_then_uses_what_it_was_told():
    """VT-d "Address Translation Services": TT = 1."""
    bench = a_bench()
    leaf = bench.iommu.translation_request(DEVICE, IOVA + 0x10)
    assert leaf == Leaf(DATA, 3, 4096)
    assert bench.iommu.dma_write(DEVICE, leaf.spa + 8, b"told", TRANSLATED)
    assert bench.iommu.dma_read(DEVICE, IOVA + 8, 4) == b"told"
    assert bench.iommu.dma_read(DEVICE, leaf.spa + 8, 4, TRANSLATED) == b"told"
    assert bench.records() == []


@pytest.mark.parametrize(("iova", "entry"), [
    pytest.param(IOVA, SecondLevelEntry(), id="not-present"),
    pytest.param(1 << 50, SecondLevelEntry(), id="beyond-the-width"),
])
def test_an_address_without_rights_is_an_answer_and_no_fault(iova, entry):
    bench = a_bench()
    bench.entry(1, entry)
    assert bench.iommu.translation_request(DEVICE, iova) == Leaf(0, 0, 4096)
    assert bench.records() == []


@pytest.mark.parametrize("type", [TranslationType.SECOND_LEVEL, TranslationType.PASS_THROUGH])
def test_a_device_that_is_not_trusted_gets_neither(type):
    """VT-d "Fault Reason Encodings": D, for each of both."""
    bench = a_bench(type)
    assert bench.iommu.translation_request(DEVICE, IOVA) is None
    assert bench.iommu.dma_read(DEVICE, DATA, 4, TRANSLATED) is None
    assert [(record.reason, record.address_type) for record in bench.records()] == [
        (FaultReason.TYPE_BLOCKED, AddressType.TRANSLATION_REQUEST), (FaultReason.TYPE_BLOCKED, TRANSLATED)]


def test_other_faults_of_a_translation_request_are_recorded():
    bench = a_bench()
    bench.entry(1, SecondLevelEntry(1 << 51, readable=1))
    assert bench.iommu.translation_request(DEVICE, IOVA) is None
    assert bench.only_record().reason == FaultReason.SECOND_LEVEL_RESERVED


def test_while_translation_is_off_nobody_may_say_that_he_asked():
    bench = a_bench()
    bench.command()
    assert bench.iommu.translation_request(DEVICE, IOVA) is None
    assert bench.iommu.dma_read(DEVICE, DATA, 4, TRANSLATED) is None
    assert bench.iommu.dma_read(DEVICE, DATA, 4) is not None
    assert bench.records() == []


def test_a_translated_write_is_no_interrupt_request():
    bench = a_bench()
    assert not bench.iommu.dma_write(DEVICE, 0xFEE00000, b"\x41\0\0\0", TRANSLATED)
    assert (bench.messages, bench.records()) == ([], [])


def test_without_the_capability_a_context_entry_cannot_allow_it():
    bench = a_bench(extended=WITHOUT)
    assert not bench.dma()
    assert bench.only_record().reason == FaultReason.CONTEXT_INVALID
    queue = Queue(bench)
    queue.put(DeviceTlbDescriptor(type=DescriptorType.DEVICE_TLB))
    assert (queue.head, bench.fault_status.queue_error) == (0, 1)


@proves("iommu/DescriptorType.DEVICE_TLB")
@pytest.mark.parametrize(("fields", "told"), [
    pytest.param({"page": 0x12345}, (0x12345, 0), id="one-page"),
    pytest.param({"page": 0x12344, "size": 1}, (0x12344, 1), id="two-pages"),
    pytest.param({"page": 0x12340 | 0b0111, "size": 1}, (0x12347, 4), id="sixteen-pages"),
    pytest.param({"page": (1 << 51) - 1, "size": 1}, ((1 << 51) - 1, 52), id="all"),
    pytest.param({"page": (1 << 52) - 1, "size": 1}, ((1 << 52) - 1, 52), id="all-ones"),
])
def test_a_device_is_told_which_pages_to_forget(fields, told):
    """PCI Express "Invalidate Request": with S set, the lowest 0 of the page number says how many."""
    bench = a_bench()
    heard: list[tuple[int, int]] = []
    bench.iommu.invalidation.device_tlbs[DEVICE] = lambda page, mask: heard.append((page, mask))
    queue = Queue(bench)
    queue.put(DeviceTlbDescriptor(type=DescriptorType.DEVICE_TLB, source_id=DEVICE, queue_depth=3, **fields),
              a_wait(write_status=1, status_data=7, status_dword=STATUS // 4))
    assert (heard, bench.memory.read_u32(STATUS), queue.head) == ([told], 7, 2)


@proves("iommu/VtdRegister.FSTS")
def test_a_device_that_does_not_answer_is_a_time_out_at_the_next_wait():
    """VT-d "Invalidation Completion Errors": that wait is given up, and the queue stands until ITE is cleared."""
    bench = a_bench()
    queue = Queue(bench)
    status = a_wait(write_status=1, status_data=7, status_dword=STATUS // 4)
    queue.put(DeviceTlbDescriptor(type=DescriptorType.DEVICE_TLB, source_id=DEVICE), status, a_wait(), a_wait())
    assert (queue.head, bench.fault_status, bench.memory.read_u32(STATUS)) == (2, FaultStatus(timeout_error=1), 0)
    bench.write(VtdRegister.FSTS, FaultStatus(timeout_error=1).raw)
    assert (queue.head, bench.fault_status.raw) == (4, 0)
    queue.put(status)
    assert bench.memory.read_u32(STATUS) == 7
