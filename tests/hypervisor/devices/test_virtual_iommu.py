"""A guest's own remapping unit: what an assigned device reaches through the guest's tables and the partition's map."""

from __future__ import annotations

import random
from contextlib import closing

import pytest

from hv.hypervisor.devices import shadow
from hv.hypervisor.devices.virtual_iommu import GUEST_CAPABILITIES, VirtualIommu
from hv.image.model import Image, Segment
from hv.iommu.translate import Refusal
from hv.platform import Machine
from hv.root.winhv import HvError
from hv.spec.hv_status import HvStatus
from hv.spec.partition import HvMapGpaFlags, HvPartitionProperty
from hv.spec.vtd import (
    ContextEntry,
    DescriptorType,
    FaultReason,
    FaultRecord,
    GlobalCommand,
    IotlbDescriptor,
    Irte,
    RemappableAddress,
    RootEntry,
    SecondLevelEntry,
    VtdRegister,
)
from hv.spec.x86 import PAGE_SIZE
from tests.proves import proves

HALTS = Image("halts", [Segment(0x7C00, b"\xf4", True, True)], 0x7C00, 16)
MIB = 4
ROOT, CONTEXTS, TOP, SECOND, LAST, QUEUE, INTERRUPTS = (0x10000 + 0x1000 * n for n in range(7))
DATA, OTHER = 0x30000, 0x31000
IOVA = 0x40000000
DOMAIN = 7
R = VtdRegister


class Guest:
    """A VM with a device and a unit, whose registers and tables are written as its guest would; three levels."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.vm = machine.create_vm("guest", HALTS, memory_mib=MIB, dma_device=True, viommu=True)
        self.device = self.vm.worker.device.source_id
        self.unit: VirtualIommu = self.vm.partition.virtual_iommu
        self.shadow = self.unit.shadows[self.device]
        self.tail = 0
        self.store(ROOT, RootEntry(present=1, context_table=CONTEXTS >> 12).raw, 16)
        self.context(ContextEntry(present=1, address_width=1, domain_id=DOMAIN, second_level=TOP >> 12))
        self.table(TOP, 1, SECOND)
        self.table(SECOND, 0, LAST)
        self.table(LAST, 0, DATA)
        self.vm.worker.write(DATA, b"data")
        self.vm.worker.write(OTHER, b"other")

    def store(self, gpa: int, value: int, size: int = 8) -> None:
        self.vm.worker.write(gpa, value.to_bytes(size, "little"))

    def context(self, entry: ContextEntry) -> None:
        self.store(CONTEXTS + (self.device & 0xFF) * 16, entry.raw, 16)

    def table(self, table: int, slot: int, gpa: int, **fields: int) -> None:
        rights = {"readable": 1, "writable": 1} | fields
        self.store(table + 8 * slot, SecondLevelEntry(page=gpa >> 12, **rights).raw)

    def command(self, **bits: int) -> None:
        self.unit.write(R.GCMD, 4, GlobalCommand(**bits).raw)

    def start(self) -> None:
        self.unit.write(R.RTADDR, 8, ROOT)
        self.unit.write(R.IQA, 8, QUEUE)
        self.command(set_root_table=1, queued_invalidation=1)
        self.command(translation=1, queued_invalidation=1)

    def queue(self, value: int) -> None:
        self.store(QUEUE + self.tail, value, 16)
        self.tail = (self.tail + 16) % PAGE_SIZE
        self.unit.write(R.IQT, 8, self.tail)

    def forget_contexts(self) -> None:
        self.queue(0x11)

    def forget_all(self) -> None:
        self.queue(0x12)

    def forget_page(self, iova: int, mask: int = 0, domain: int = DOMAIN) -> None:
        self.queue(IotlbDescriptor(type=DescriptorType.IOTLB, granularity=3, domain_id=domain, page=iova >> 12,
                                   address_mask=mask).raw)

    def reads(self, iova: int = IOVA) -> bytes | None:
        return self.machine.iommu.dma_read(self.device, iova, 4)

    def records(self) -> list[FaultRecord]:
        """Those of the guest's unit, after the physical one's interrupt was taken; they are free again."""
        self.machine.scheduler.take_idle_interrupts()
        found = []
        for number in range(8):
            at = R.FRCD + 16 * number
            record = FaultRecord(self.unit.read(at + 8, 8) << 64 | self.unit.read(at, 8))
            if record.fault:
                found.append(record)
                self.unit.write(at + 12, 4, 1 << 31)
        return found


@pytest.fixture(scope="module")
def machine():
    with closing(Machine(memory_mib=24)) as machine:
        yield machine


@pytest.fixture
def guest(machine):
    guest = Guest(machine)
    yield guest
    machine.destroy_vm(guest.vm)


def test_before_translation_a_device_sees_the_partition_as_it_is(guest):
    assert guest.reads(DATA) == b"data"
    guest.start()
    assert (guest.reads(), guest.reads(DATA)) == (b"data", None)
    guest.command(queued_invalidation=1)
    assert (guest.reads(), guest.reads(DATA)) == (None, b"data")


@proves("capability/Cap.caching_mode")
def test_a_changed_entry_counts_from_its_invalidation_on(guest):
    """VT-d "Caching Mode": CM = 1, so that holds for an entry that was not present too."""
    assert GUEST_CAPABILITIES.caching_mode
    guest.start()
    guest.table(LAST, 0, OTHER)
    guest.table(LAST, 1, OTHER)
    assert (guest.reads(), guest.reads(IOVA + PAGE_SIZE)) == (b"data", None)
    guest.forget_page(IOVA, domain=DOMAIN + 1)
    assert guest.reads() == b"data"
    guest.forget_page(IOVA)
    assert (guest.reads(), guest.reads(IOVA + PAGE_SIZE)) == (b"othe", None)
    guest.forget_all()
    assert guest.reads(IOVA + PAGE_SIZE) == b"othe"
    guest.store(LAST, 0)
    guest.forget_page(IOVA, mask=1)
    assert (guest.reads(), guest.reads(IOVA + PAGE_SIZE)) == (None, b"othe")


@pytest.mark.parametrize(("level", "table", "slot", "size"), [(2, SECOND, 1, 1 << 21), (3, TOP, 2, 1 << 30)])
def test_a_large_page_of_the_guest_is_pages_of_the_partition(guest, level, table, slot, size):
    """What of it the partition has not is refused to the device."""
    guest.start()
    guest.table(table, slot, 0, large=1)
    base = slot << 12 + 9 * (level - 1) | (IOVA if level == 2 else 0)
    guest.forget_page(base, 9 * (level - 1))
    assert (guest.reads(base + DATA), guest.reads(base + OTHER)) == (b"data", b"othe")
    assert guest.reads(base + (MIB << 20)) is None
    assert (guest.shadow.left_out > 0) is (size >> 12 > shadow.MOST_PAGES)


@proves("iommu/TranslationType.PASS_THROUGH")
def test_a_pass_through_device_sees_the_partition_as_it_is(guest):
    guest.context(ContextEntry(present=1, type=2, address_width=1, domain_id=DOMAIN))
    guest.start()
    assert (guest.reads(DATA), guest.reads()) == (b"data", None)


def test_a_context_entry_counts_from_its_invalidation_on(guest):
    guest.start()
    guest.context(ContextEntry())
    assert guest.reads() == b"data"
    guest.forget_contexts()
    assert guest.reads() is None
    assert [record.reason for record in guest.records()] == [FaultReason.CONTEXT_NOT_PRESENT]
    guest.context(ContextEntry(present=1, address_width=2, domain_id=DOMAIN, second_level=TOP >> 12))
    guest.forget_contexts()
    assert guest.reads() is None                # four levels, from a table that has a page where a table should be


def test_what_root_takes_away_is_gone_at_once(guest):
    """The guest's tables still have it; and it is there again when root gives another page."""
    guest.start()
    winhv, worker = guest.machine.root.winhv, guest.vm.worker
    winhv.unmap_gpa_pages(worker.partition_id, DATA >> 12, 1)
    assert guest.reads() is None
    assert [record.reason for record in guest.records()] == [FaultReason.READ_REFUSED]
    page = worker.pages[OTHER >> 12]
    winhv.map_gpa_pages(worker.partition_id, DATA >> 12, [page], HvMapGpaFlags.READABLE)
    assert guest.reads() == b"othe"
    assert not guest.machine.iommu.dma_write(guest.device, IOVA, b"x")


FAULTS = [
    ("root-not-present", lambda g: g.store(ROOT, 0, 16), False, FaultReason.ROOT_NOT_PRESENT),
    ("root-reserved", lambda g: g.store(ROOT, CONTEXTS | 3, 16), False, FaultReason.ROOT_RESERVED),
    ("context-beyond-memory", lambda g: g.store(ROOT, 1 << 40 | 1, 16), True, FaultReason.CONTEXT_ACCESS),
    ("context-not-present", lambda g: g.context(ContextEntry()), True, FaultReason.CONTEXT_NOT_PRESENT),
    ("context-reserved", lambda g: g.context(ContextEntry(1 << 4 | 1)), False, FaultReason.CONTEXT_RESERVED),
    ("no-device-tlb", lambda g: g.context(ContextEntry(present=1, type=1, address_width=1)), False,
     FaultReason.CONTEXT_INVALID),
    ("write-refused", lambda g: g.table(LAST, 0, DATA, writable=0), True, FaultReason.WRITE_REFUSED),
    ("read-refused", lambda g: g.table(LAST, 0, DATA, readable=0), False, FaultReason.READ_REFUSED),
    ("table-beyond-memory", lambda g: g.table(SECOND, 0, 1 << 40), False, FaultReason.SECOND_LEVEL_ACCESS),
    ("entry-reserved", lambda g: g.store(LAST, DATA | 1 << 11 | 3), True, FaultReason.SECOND_LEVEL_RESERVED),
    ("page-that-is-nobodys", lambda g: g.table(LAST, 0, 1 << 40), False, FaultReason.READ_REFUSED),
]


@pytest.mark.parametrize(("arrange", "write", "reason"), [pytest.param(
    *row[1:], id=row[0], marks=proves(f"iommu/FaultReason.{row[-1].name}")) for row in FAULTS])
def test_a_fault_is_told_with_the_reason_of_the_guests_own_tables(guest, arrange, write, reason):
    """The physical unit knows only that its own entry is missing."""
    arrange(guest)
    guest.start()
    if write:
        assert not guest.machine.iommu.dma_write(guest.device, IOVA, b"x")
    else:
        assert guest.reads() is None
    (record,) = guest.records()
    assert (record.reason, record.source_id, record.page << 12, record.is_read) == (
        reason, guest.device, IOVA, int(not write))


def test_a_fault_raises_the_guests_fault_event(guest):
    guest.start()
    taken = []
    guest.unit.unit.interrupt = taken.append
    for register, value in ((R.FEDATA, 0x62), (R.FEADDR, 0xFEE00000), (R.FECTL, 0)):
        guest.unit.write(register, 4, value)
    guest.reads(DATA)
    guest.machine.scheduler.take_idle_interrupts()
    assert [message.vector for message in taken] == [0x62]


def test_fpd_of_the_guests_context_entry_silences_its_unit(guest):
    guest.context(ContextEntry(
        present=1, fault_disabled=1, address_width=1, domain_id=DOMAIN, second_level=TOP >> 12))
    guest.start()
    assert (guest.reads(DATA), guest.records()) == (None, [])


def test_messages_go_through_the_guests_interrupt_table(guest):
    """Source checks and faults are those of any unit."""
    guest.unit.write(R.IRTA, 8, INTERRUPTS | 7)
    guest.command(set_interrupt_table=1, interrupt_remapping=1)
    guest.store(INTERRUPTS + 16 * 5, Irte(
        present=1, vector=0x51, destination=0x0300, validation=1, source_id=guest.device).raw, 16)
    address = RemappableAddress(window=0xFEE, remappable=1, handle_low=5).raw
    message = guest.unit.remap(guest.device, address, 0).message
    assert (message.vector, message.destination) == (0x51, 3)
    assert guest.unit.remap(guest.device + 1, address, 0) is None
    assert [record.reason for record in guest.records()] == [FaultReason.SOURCE_REFUSED]


def test_tables_that_lead_to_themselves_cost_a_bounded_time(guest, monkeypatch):
    """512 entries that point to their own table, at each of four levels: 2^36 pages."""
    monkeypatch.setattr(shadow, "MOST_PAGES", 3000)
    monkeypatch.setattr(shadow, "MOST_TABLES", 30)
    guest.context(ContextEntry(present=1, address_width=2, domain_id=DOMAIN, second_level=TOP >> 12))
    for slot in range(512):
        guest.table(TOP, slot, TOP)
    guest.start()
    assert guest.shadow.left_out > 0
    for slot in range(512):
        guest.table(TOP, slot, TOP, writable=0, readable=0)
    guest.forget_all()
    assert guest.shadow.domain.pages_in(range(1 << 36)) == []


def test_a_guest_that_maps_more_than_its_pool_pays_for_gets_a_part(guest):
    guest.start()
    pool = guest.vm.partition.pool
    kept = [pool.allocate() for _ in range(pool.available)]
    guest.table(SECOND, 1, 0, large=1)
    guest.forget_all()
    assert (guest.reads(), guest.shadow.left_out > 0) == (b"data", True)
    pool.free_all(kept)
    guest.forget_all()
    assert (guest.reads(IOVA + (1 << 21) + DATA), guest.shadow.left_out) == (b"data", 0)


def test_its_device_is_in_no_other_domain_meanwhile(guest):
    domains = guest.machine.hypervisor.iommu
    for act in (lambda: domains.enter(guest.device, guest.vm.partition, 1), lambda: domains.leave(guest.device)):
        with pytest.raises(Exception, match="behind its guest's own unit"):
            act()


def test_a_reset_of_the_partition_resets_the_unit(guest):
    guest.start()
    guest.unit.reset()
    assert (guest.reads(DATA), guest.reads(), guest.unit.read(R.GSTS, 4)) == (b"data", None, 0)
    guest.start()
    assert guest.reads() == b"data"


def test_the_property_is_set_once_and_before_devices(machine):
    winhv, code = machine.root.winhv, HvPartitionProperty.VIRTUAL_IOMMU
    vm = machine.create_vm("plain", HALTS, memory_mib=1, dma_device=True)
    assert winhv.get_partition_property(vm.partition_id, code) == 0
    for value, status in ((1, HvStatus.INVALID_PARTITION_STATE), (2, HvStatus.PROPERTY_VALUE_OUT_OF_RANGE)):
        with pytest.raises(HvError) as refused:
            winhv.set_partition_property(vm.partition_id, code, value)
        assert refused.value.status == status
    machine.destroy_vm(vm)
    vm = machine.create_vm("with", HALTS, memory_mib=1, viommu=True)
    assert winhv.get_partition_property(vm.partition_id, code) == 1
    with pytest.raises(HvError):
        winhv.set_partition_property(vm.partition_id, code, 0)
    machine.destroy_vm(vm)


def test_a_vm_that_goes_leaves_the_books_as_they_were(machine):
    before = machine.root.memory.free_count, machine.hypervisor.root.pool.in_use
    guest = Guest(machine)
    guest.start()
    guest.table(TOP, 2, 0, large=1)
    guest.forget_all()
    machine.destroy_vm(guest.vm)
    assert (machine.root.memory.free_count, machine.hypervisor.root.pool.in_use) == before


def test_the_shadow_agrees_with_the_guests_tables_and_the_map(guest, monkeypatch):
    """Random tables, random remaps by root: after an invalidation a device sees exactly both, composed."""
    monkeypatch.setattr(shadow, "MOST_PAGES", 1 << 11)
    rng, space = random.Random(7), guest.vm.partition.space
    guest.start()
    places = [IOVA + (page << 12) for page in range(8)] + [IOVA + (1 << 21) + (page << 12) for page in (0, 3, 511)]
    for _ in range(40):
        for _ in range(rng.randrange(1, 4)):
            table, slot = rng.choice(((LAST, rng.randrange(8)), (SECOND, 1)))
            if table == SECOND:
                guest.table(SECOND, 1, 0, large=rng.randrange(2), readable=rng.randrange(2), writable=rng.randrange(2))
            else:
                guest.table(LAST, slot, rng.randrange(0, MIB << 20, PAGE_SIZE) | rng.choice((0, 0, 1 << 40)),
                            readable=rng.randrange(2), writable=rng.randrange(2))
        guest.forget_all()
        for iova in places:
            for write, needed in ((False, 1), (True, 2)):
                translator = guest.unit.unit.translator
                context = translator.sound(translator.context_entry(guest.device))
                try:
                    gpa = translator.walk(context, iova, needed).spa
                except Refusal:
                    gpa = None
                mapping = None if gpa is None else space.mapping(gpa >> 12)
                allowed = mapping is not None and bool(mapping.rights & needed)
                passed = guest.machine.iommu.dma_write(guest.device, iova, b"") if write else \
                    guest.machine.iommu.dma_read(guest.device, iova, 4) is not None
                assert passed is allowed
                if allowed and not write:
                    assert guest.reads(iova) == guest.machine.memory.read(mapping.spa, 4)


def test_no_sequence_of_register_writes_breaks_the_unit(guest):
    rng = random.Random(3)
    for _ in range(1500):
        size = rng.choice((1, 2, 4, 4, 8, 8))
        offset = rng.choice((rng.randrange(0x300), rng.choice(list(R)), rng.choice(list(R)) + 4))
        value = rng.choice((rng.getrandbits(64), rng.choice((ROOT, QUEUE, TOP)), 1 << rng.randrange(64), 0xC7000000))
        guest.unit.write(offset, size, value)
        assert 0 <= guest.unit.read(offset, size) < 1 << 8 * size
        guest.reads(rng.choice((IOVA, DATA)))
        guest.machine.scheduler.take_idle_interrupts()
    guest.unit.inspect()


def test_on_a_pc_the_guest_knows_its_device_by_its_place_on_the_pci_bus(machine):
    """The machine's second function is the first one of this VM's bus; both names lead to one shadow."""
    first = machine.create_vm("first", HALTS, memory_mib=1, dma_device=True)
    vm = machine.create_vm("pc", HALTS, memory_mib=MIB, dma_device=True, pc=True, viommu=True)
    (made,) = vm.partition.virtual_iommu.shadows.values()
    assert made.source_id == vm.worker.device.source_id != made.guest_id
    assert made.guest_id in vm.worker.motherboard.pci.functions
    for each in (first, vm):
        machine.destroy_vm(each)
