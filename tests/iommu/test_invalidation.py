"""Both invalidation interfaces: what each granularity forgets, and what stops the queue."""

from __future__ import annotations

import pytest

from hv.iommu.interrupts import InterruptMessage
from hv.spec.vtd import (
    ContextCommand,
    ContextDescriptor,
    ContextEntry,
    Descriptor,
    DescriptorType,
    DeviceTlbDescriptor,
    FaultStatus,
    Granularity,
    InterruptDescriptor,
    IotlbAddress,
    IotlbCommand,
    IotlbDescriptor,
    Irte,
    QueueAddress,
    QueuePointer,
    SecondLevelEntry,
    VtdRegister,
    WaitDescriptor,
)
from tests.iommu.bench import DATA, DEVICE, DOMAIN, IOVA, LEVELS, QUEUE, RAM, STATUS, Bench
from tests.iommu.test_interrupts import handle
from tests.proves import proves

OTHER, OTHER_DOMAIN = DEVICE + 4, 6             # another function of the same device
G = Granularity
ON = {"translation": 1, "interrupt_remapping": 1}


class Queue:
    """The queue of a bench, enabled."""

    def __init__(self, bench: Bench, size: int = 0) -> None:
        self.bench, self.tail, self.length = bench, 0, 256 << size
        bench.write(VtdRegister.IQA, QueueAddress(page=QUEUE >> 12, size=size).raw, 8)
        bench.command(queued_invalidation=1, **ON)

    def put(self, *descriptors: Descriptor) -> None:
        for descriptor in descriptors:
            self.bench.memory.write(QUEUE + self.tail * 16, descriptor.raw.to_bytes(16, "little"))
            self.tail = (self.tail + 1) % self.length
        self.bench.write(VtdRegister.IQT, QueuePointer(index=self.tail).raw, 8)

    @property
    def head(self) -> int:
        return QueuePointer(self.bench.read(VtdRegister.IQH, 8)).index


def a_bench() -> Bench:
    """Two devices in two domains, both with IOVA and IOVA + 4096 cached; then the tables are cleared."""
    bench = Bench()
    bench.context(ContextEntry(present=1, address_width=2, domain_id=OTHER_DOMAIN, second_level=LEVELS[3] >> 12), OTHER)
    bench.entry(1, SecondLevelEntry(readable=1, writable=1, page=DATA >> 12), IOVA + 0x1000)
    assert all(cached(bench).values())
    return bench


def cached(bench: Bench) -> dict[str, bool]:
    """What still passes, by its name."""
    return {"page": bench.dma(), "next": bench.dma(IOVA + 0x1000), "other": bench.dma(source_id=OTHER)}


def forgotten(bench: Bench) -> set[str]:
    return {name for name, passes in cached(bench).items() if not passes}


PAGE_ROWS = [
    pytest.param(G.GLOBAL, 0, 0, 0, {"page", "next", "other"}, id="global"),
    pytest.param(G.DOMAIN, DOMAIN, 0, 0, {"page", "next"}, id="domain"),
    pytest.param(G.SELECTIVE, DOMAIN, IOVA, 0, {"page"}, id="one-page"),
    pytest.param(G.SELECTIVE, DOMAIN, IOVA + 0x1000, 1, {"next"}, id="two-pages-aligned-away"),
    pytest.param(G.SELECTIVE, DOMAIN, IOVA, 4, {"page", "next"}, id="sixteen-pages"),
    pytest.param(G.SELECTIVE, 77, IOVA, 4, set(), id="pages-of-no-domain"),
]


@proves("iommu/VtdRegister.IVA", "iommu/VtdRegister.IOTLB", "iommu/DescriptorType.IOTLB",
        "capability/Cap.page_selective", "capability/Ecap.iotlb_offset")
@pytest.mark.parametrize(("granularity", "domain", "address", "mask", "expected"), PAGE_ROWS)
@pytest.mark.parametrize("queued", [False, True], ids=["registers", "queue"])
def test_an_iotlb_invalidation_forgets_what_it_names(queued, granularity, domain, address, mask, expected):
    """VT-d "IOTLB Invalidate Register", "IOTLB Invalidate Descriptor". IOVA is an odd page."""
    bench = a_bench()
    bench.entry(1, SecondLevelEntry())
    bench.entry(1, SecondLevelEntry(), IOVA + 0x1000)
    if queued:
        Queue(bench).put(IotlbDescriptor(
            type=DescriptorType.IOTLB, granularity=granularity, domain_id=domain, page=address >> 12,
            address_mask=mask))
    else:
        bench.write(VtdRegister.IVA, IotlbAddress(page=address >> 12, address_mask=mask).raw, 8)
        bench.write(VtdRegister.IOTLB, IotlbCommand(invalidate=1, granularity=granularity, domain_id=domain).raw, 8)
        done = IotlbCommand(bench.read(VtdRegister.IOTLB, 8))
        assert (done.invalidate, done.actual) == (0, granularity)
    assert forgotten(bench) == expected


CONTEXT_ROWS = [
    pytest.param(G.GLOBAL, 0, 0, 0, {"page", "next", "other"}, id="global"),
    pytest.param(G.DOMAIN, OTHER_DOMAIN, 0, 0, {"other"}, id="domain"),
    pytest.param(G.SELECTIVE, DOMAIN, DEVICE, 0, {"page", "next"}, id="device"),
    pytest.param(G.SELECTIVE, OTHER_DOMAIN, DEVICE, 1, {"other"}, id="device-without-function-bit-2"),
    pytest.param(G.SELECTIVE, OTHER_DOMAIN, DEVICE, 0, set(), id="device-of-another-domain"),
]


@proves("iommu/VtdRegister.CCMD", "iommu/DescriptorType.CONTEXT")
@pytest.mark.parametrize(("granularity", "domain", "source_id", "mask", "expected"), CONTEXT_ROWS)
@pytest.mark.parametrize("queued", [False, True], ids=["registers", "queue"])
def test_a_context_invalidation_forgets_what_it_names(queued, granularity, domain, source_id, mask, expected):
    """VT-d "Context Command Register", "Context-cache Invalidate Descriptor"."""
    bench = a_bench()
    bench.context(ContextEntry())
    bench.context(ContextEntry(), OTHER)
    fields = {"granularity": granularity, "domain_id": domain, "source_id": source_id, "function_mask": mask}
    if queued:
        Queue(bench).put(ContextDescriptor(type=DescriptorType.CONTEXT, **fields))
    else:
        bench.write(VtdRegister.CCMD, ContextCommand(invalidate=1, **fields).raw, 8)
        done = ContextCommand(bench.read(VtdRegister.CCMD, 8))
        assert (done.invalidate, done.actual) == (0, granularity)
    assert forgotten(bench) == expected


def test_the_upper_half_of_ccmd_alone_starts_it():
    bench = a_bench()
    bench.context(ContextEntry())
    raw = ContextCommand(invalidate=1, granularity=G.SELECTIVE, domain_id=DOMAIN, source_id=DEVICE).raw
    bench.write(VtdRegister.CCMD, raw & 0xFFFFFFFF)
    assert bench.dma()
    bench.write(VtdRegister.CCMD + 4, raw >> 32)
    assert not bench.dma()


@pytest.mark.parametrize(("register", "command"), [
    pytest.param(VtdRegister.CCMD, ContextCommand(invalidate=1, granularity=1), id="ccmd"),
    pytest.param(VtdRegister.IOTLB, IotlbCommand(invalidate=1, granularity=1), id="iotlb"),
])
def test_registers_invalidate_nothing_while_the_queue_is_enabled(register, command):
    bench = a_bench()
    Queue(bench)
    bench.entry(1, SecondLevelEntry())
    bench.context(ContextEntry())
    bench.write(register, command.raw, 8)
    done = type(command)(bench.read(register, 8))
    assert (done.invalidate, done.actual) == (0, 0)
    assert bench.dma()


@proves("capability/Cap.address_mask")
def test_a_page_range_beyond_mamv_invalidates_nothing():
    bench = a_bench()
    bench.entry(1, SecondLevelEntry())
    bench.write(VtdRegister.IVA, IotlbAddress(page=IOVA >> 12, address_mask=19).raw, 8)
    bench.write(VtdRegister.IOTLB, IotlbCommand(invalidate=1, granularity=G.SELECTIVE, domain_id=DOMAIN).raw, 8)
    assert IotlbCommand(bench.read(VtdRegister.IOTLB, 8)).actual == 0
    assert bench.dma()


@proves("iommu/DescriptorType.INTERRUPT", "capability/Ecap.handle_mask")
@pytest.mark.parametrize(("descriptor", "vectors"), [
    pytest.param({"selective": 0}, [0x61, 0x61], id="global"),
    pytest.param({"selective": 1, "index": 4}, [0x61, 0x51], id="one"),
    pytest.param({"selective": 1, "index": 4, "index_mask": 1}, [0x61, 0x61], id="two"),
    pytest.param({"selective": 1, "index": 6, "index_mask": 31}, [0x61, 0x61], id="all-by-mask"),
    pytest.param({"selective": 1, "index": 6, "index_mask": 1}, [0x51, 0x51], id="others"),
])
def test_an_interrupt_entry_invalidation_forgets_what_it_names(descriptor, vectors):
    bench = Bench()
    for vector in (0x51, 0x61):
        for index in (4, 5):
            bench.irte(index, Irte(present=1, vector=vector))
            bench.iommu.message(DEVICE, handle(index), 0)
    bench.messages.clear()
    Queue(bench).put(InterruptDescriptor(type=DescriptorType.INTERRUPT, **descriptor))
    for index in (4, 5):
        bench.iommu.message(DEVICE, handle(index), 0)
    assert [message.vector for message in bench.messages] == vectors


def a_wait(**fields: int) -> WaitDescriptor:
    return WaitDescriptor(type=DescriptorType.WAIT, **fields)


@proves("iommu/DescriptorType.WAIT", "capability/Ecap.queued")
def test_a_wait_descriptor_writes_its_status():
    bench = Bench()
    Queue(bench).put(a_wait(write_status=1, fence=1, status_data=0x1234, status_dword=STATUS // 4))
    assert bench.memory.read_u32(STATUS) == 0x1234


@proves("iommu/VtdRegister.ICS", "iommu/VtdRegister.IECTL", "iommu/VtdRegister.IEDATA", "iommu/VtdRegister.IEADDR",
        "iommu/VtdRegister.IEUADDR")
def test_a_wait_descriptor_raises_its_event_once_until_iwc_is_cleared():
    bench = Bench()
    bench.write(VtdRegister.IEDATA, 0x72)
    bench.write(VtdRegister.IEADDR, 0xFEE01000)
    bench.write(VtdRegister.IECTL, 0)
    queue = Queue(bench)
    queue.put(a_wait(interrupt=1), a_wait(interrupt=1))
    assert bench.messages == [InterruptMessage(0x72, 1, False, 0, False, False)]
    assert bench.read(VtdRegister.ICS) == 1
    bench.write(VtdRegister.ICS, 1)
    queue.put(a_wait(interrupt=1))
    assert len(bench.messages) == 2


BAD = [
    pytest.param(Descriptor(type=0), id="type-0"),
    pytest.param(Descriptor(type=6), id="type-of-scalable-mode"),
    pytest.param(DeviceTlbDescriptor(1 << 65, type=DescriptorType.DEVICE_TLB), id="device-tlb-reserved"),
    pytest.param(ContextDescriptor(type=DescriptorType.CONTEXT), id="context-granularity-0"),
    pytest.param(IotlbDescriptor(type=DescriptorType.IOTLB), id="iotlb-granularity-0"),
    pytest.param(IotlbDescriptor(type=DescriptorType.IOTLB, granularity=3, address_mask=19), id="iotlb-beyond-mamv"),
    pytest.param(ContextDescriptor(1 << 64, type=DescriptorType.CONTEXT, granularity=1), id="context-reserved"),
    pytest.param(InterruptDescriptor(1 << 127, type=DescriptorType.INTERRUPT), id="interrupt-reserved"),
    pytest.param(WaitDescriptor(1 << 8, type=DescriptorType.WAIT), id="wait-reserved"),
    pytest.param(a_wait(write_status=1, status_dword=RAM // 4), id="wait-status-outside-memory"),
]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_descriptor_stops_the_queue_until_iqe_is_cleared(bad):
    """VT-d "Queued Invalidation Interface": the head stays at it; repaired and cleared, the queue goes on."""
    bench = Bench()
    queue = Queue(bench)
    queue.put(a_wait(), bad, a_wait(write_status=1, status_data=7, status_dword=STATUS // 4))
    assert (queue.head, bench.fault_status) == (1, FaultStatus(queue_error=1))
    queue.put(a_wait())
    assert (queue.head, bench.memory.read_u32(STATUS)) == (1, 0)
    bench.memory.write(QUEUE + 16, a_wait().raw.to_bytes(16, "little"))
    bench.write(VtdRegister.FSTS, FaultStatus(queue_error=1).raw)
    assert (queue.head, bench.memory.read_u32(STATUS), bench.fault_status.raw) == (4, 7, 0)


@pytest.mark.parametrize(("queue_page", "tail"), [
    pytest.param(QUEUE >> 12, 256, id="tail-beyond-the-ring"),
    pytest.param(RAM >> 12, 1, id="ring-outside-memory"),
])
def test_a_queue_that_cannot_be_read_is_an_error(queue_page, tail):
    bench = Bench()
    bench.write(VtdRegister.IQA, QueueAddress(page=queue_page).raw, 8)
    bench.command(queued_invalidation=1, **ON)
    bench.write(VtdRegister.IQT, QueuePointer(index=tail).raw, 8)
    assert bench.fault_status.queue_error


@proves("iommu/VtdRegister.IQH", "iommu/VtdRegister.IQT")
@pytest.mark.parametrize("size", [0, 1])
def test_the_queue_wraps(size):
    bench = Bench()
    queue = Queue(bench, size)
    for _ in range(3 * queue.length // 100):
        queue.put(*[a_wait()] * 100)
    assert queue.head == queue.tail != 0
    assert not bench.fault_status.raw


@proves("iommu/GlobalCommand.queued_invalidation")
def test_a_disabled_queue_does_nothing_and_starts_from_0():
    bench = Bench()
    queue = Queue(bench)
    queue.put(a_wait())
    bench.command(**ON)
    assert queue.head == 0
    bench.write(VtdRegister.IQT, QueuePointer(index=0).raw, 8)
    queue.tail = 0
    queue.put(a_wait(write_status=1, status_data=7, status_dword=STATUS // 4))
    assert bench.memory.read_u32(STATUS) == 0
    bench.command(queued_invalidation=1, **ON)
    assert bench.memory.read_u32(STATUS) == 7


@proves("iommu/VtdRegister.IQA")
def test_the_queue_may_be_moved_only_while_it_is_disabled():
    bench = Bench()
    Queue(bench)
    bench.write(VtdRegister.IQA, 0x3000, 8)
    assert bench.read(VtdRegister.IQA, 8) == QUEUE


def test_a_listener_of_the_event_may_move_the_tail():
    """The completion interrupt's handler queues more: each descriptor is still obeyed once, in order."""
    bench = Bench()
    bench.write(VtdRegister.IEDATA, 0x72)
    bench.write(VtdRegister.IEADDR, 0xFEE01000)
    bench.write(VtdRegister.IECTL, 0)
    queue = Queue(bench)
    bench.iommu.interrupt = lambda message: queue.put(
        a_wait(write_status=1, status_data=7, status_dword=STATUS // 4))
    queue.put(a_wait(interrupt=1))
    assert (queue.head, bench.memory.read_u32(STATUS)) == (2, 7)
