"""What the hypervisor does with the unit: domains, pages, interrupts and faults, through registers and queue only."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.iommu.interrupts import InterruptMessage
from hv.machine.clock import VirtualClock
from hv.machine.dma_engine import DmaCommand, DmaEngine, DmaEngineRegisters, DmaError, DmaStatus
from hv.spec.pci import PciCommand, PciHeader
from hv.spec.vtd import FAULT_RECORDS, FaultReason, GlobalCommand, VtdRegister
from tests.iommu.bench import DATA, DEVICE, Driven

IOVA = 0x40000000


def test_after_start_nothing_passes_that_was_not_allowed():
    bench = Driven()
    assert not bench.reads(DATA)
    bench.iommu.message(DEVICE, 0xFEE00000, 0x41)
    assert bench.messages == []
    status = GlobalCommand(bench.iommu.read(VtdRegister.GSTS, 4))
    assert (status.translation, status.interrupt_remapping, status.queued_invalidation) == (1, 1, 1)


def test_a_device_sees_the_pages_of_its_domain():
    bench = Driven()
    domain = bench.driver.create_domain()
    bench.driver.attach(domain, DEVICE)
    bench.driver.map(domain, IOVA, DATA, write=False)
    assert bench.reads(IOVA)
    assert not bench.writes(IOVA)
    assert not bench.reads(DATA)


def test_an_unmapped_page_is_out_of_reach_at_once():
    bench = Driven()
    domain = bench.driver.create_domain()
    bench.driver.attach(domain, DEVICE)
    bench.driver.map(domain, IOVA, DATA)
    assert bench.writes(IOVA)
    assert bench.driver.unmap(domain, IOVA)
    assert not bench.writes(IOVA)
    assert not bench.driver.unmap(domain, IOVA)


def test_without_the_drivers_invalidation_the_page_stays_reachable():
    bench = Driven()
    domain = bench.driver.create_domain()
    bench.driver.attach(domain, DEVICE)
    bench.driver.map(domain, IOVA, DATA)
    assert bench.writes(IOVA)
    assert domain.unmap(IOVA)
    assert bench.writes(IOVA)


def test_a_page_mapped_anew_replaces_the_old_one_at_once():
    bench = Driven()
    domain = bench.driver.create_domain()
    bench.driver.attach(domain, DEVICE)
    bench.driver.map(domain, IOVA, DATA)
    assert bench.writes(IOVA)
    bench.driver.map(domain, IOVA, DATA + 0x1000, write=False)
    assert not bench.writes(IOVA)
    bench.memory.write(DATA + 0x1000, b"new")
    assert bench.iommu.dma_read(DEVICE, IOVA, 3) == b"new"


def test_a_device_that_moves_takes_nothing_along():
    bench = Driven()
    first, second = bench.driver.create_domain(), bench.driver.create_domain()
    bench.driver.map(first, IOVA, DATA)
    bench.driver.map(second, IOVA + 0x1000, DATA)
    bench.driver.attach(first, DEVICE)
    assert bench.reads(IOVA)
    bench.driver.attach(second, DEVICE)
    assert (bench.reads(IOVA), bench.reads(IOVA + 0x1000)) == (False, True)
    assert bench.driver.domain_of(DEVICE) is second
    bench.driver.detach(DEVICE)
    assert (bench.reads(IOVA + 0x1000), bench.driver.domain_of(DEVICE)) == (False, None)


def test_a_destroyed_domain_gives_its_tables_back_and_its_id():
    bench = Driven()
    domain = bench.driver.create_domain()
    before = len(bench.free) + 1
    bench.driver.attach(domain, DEVICE)
    for page in (0, 1, 1 << 20, 1 << 30):
        bench.driver.map(domain, page << 12, DATA)
    bench.driver.destroy_domain(domain)
    assert len(bench.free) == before
    assert not bench.reads(0)
    assert bench.driver.create_domain().id == domain.id


def test_a_bus_has_a_table_while_it_has_devices():
    """One page for the first of them, whatever domains they are in; it is free when the last is gone."""
    bench = Driven()
    before = len(bench.free)
    for source_id in (0x0300, 0x0301, 0x0401):
        bench.driver.add_device(source_id)
    assert len(bench.free) == before - 2
    domain = bench.driver.create_domain()
    bench.driver.map(domain, IOVA, DATA)
    made = len(bench.free)
    for source_id in (0x0300, 0x0401, 0x0301, 0x0300):
        bench.driver.attach(domain, source_id)
        assert bench.reads(IOVA, source_id)
    bench.driver.remove_device(0x0300)
    assert (bench.reads(IOVA, 0x0300), bench.reads(IOVA, 0x0301), len(bench.free)) == (False, True, made)
    bench.driver.remove_device(0x0301)
    assert (bench.reads(IOVA, 0x0301), bench.reads(IOVA, 0x0401), len(bench.free)) == (False, True, made + 1)
    assert [record.reason for record in bench.driver.take_faults()] == [
        FaultReason.CONTEXT_NOT_PRESENT, FaultReason.ROOT_NOT_PRESENT]
    bench.driver.destroy_domain(domain)
    bench.driver.remove_device(0x0401)
    assert len(bench.free) == before


def test_a_bus_that_cannot_have_a_table_stays_as_it_was():
    bench = Driven()
    pages, bench.free[:] = bench.free[:], []
    with pytest.raises(IndexError):
        bench.driver.add_device(0x0300)
    bench.free[:] = pages
    bench.driver.add_device(0x0300)
    bench.driver.remove_device(0x0300)
    assert sorted(bench.free) == sorted(pages)


@pytest.mark.parametrize(("iova", "spa", "rights"), [
    pytest.param(1, DATA, {}, id="iova-not-aligned"),
    pytest.param(IOVA, DATA + 1, {}, id="spa-not-aligned"),
    pytest.param(1 << 48, DATA, {}, id="iova-too-wide"),
    pytest.param(IOVA, 1 << 46, {}, id="spa-too-wide"),
    pytest.param(-4096, DATA, {}, id="iova-negative"),
    pytest.param(IOVA, DATA, {"read": False, "write": False}, id="no-right"),
])
def test_a_mapping_that_cannot_be_is_refused(iova, spa, rights):
    bench = Driven()
    domain = bench.driver.create_domain()
    with pytest.raises(ValueError, match=f"{iova:#x}"):
        bench.driver.map(domain, iova, spa, **rights)
    assert not bench.driver.unmap(domain, iova)


def test_an_interrupt_goes_where_its_entry_says_and_only_for_its_device():
    bench = Driven()
    route = bench.driver.map_interrupt(DEVICE, 0x51, 300)
    bench.iommu.message(DEVICE, route.address, route.data)
    assert bench.messages == [InterruptMessage(0x51, 300, False, 0, False, False)]
    bench.iommu.message(DEVICE + 8, route.address, route.data)
    assert len(bench.messages) == 1
    bench.driver.unmap_interrupt(route)
    bench.iommu.message(DEVICE, route.address, route.data)
    assert len(bench.messages) == 1
    reasons = [record.reason for record in bench.driver.take_faults()]
    assert reasons == [FaultReason.SOURCE_REFUSED, FaultReason.IRTE_NOT_PRESENT]


def test_the_table_has_room_for_256_interrupts():
    bench = Driven()
    routes = [bench.driver.map_interrupt(DEVICE, 0x51, 0) for _ in range(256)]
    assert [route.index for route in routes] == list(range(256))
    assert bench.driver.map_interrupt(DEVICE, 0x51, 0) is None
    bench.driver.unmap_interrupt(routes[9])
    assert bench.driver.map_interrupt(DEVICE, 0x52, 0).index == 9


def test_faults_are_announced_and_taken_oldest_first():
    bench = Driven()
    bench.driver.report_faults_to(0x71, 0)
    for rounds in range(3):
        for page in range(3):
            bench.reads(page << 12)
        assert [message.vector for message in bench.messages] == [0x71] * (rounds + 1)
        assert [record.page for record in bench.driver.take_faults()] == [0, 1, 2]
    assert bench.driver.take_faults() == []


def test_after_an_overflow_faults_are_recorded_again():
    bench = Driven()
    for page in range(FAULT_RECORDS + 5):
        bench.reads(page << 12)
    assert len(bench.driver.take_faults()) == FAULT_RECORDS
    bench.reads(0)
    assert len(bench.driver.take_faults()) == 1


def test_the_queue_of_the_driver_wraps():
    bench = Driven()
    domain = bench.driver.create_domain()
    bench.driver.attach(domain, DEVICE)
    for _ in range(300):
        bench.driver.map(domain, IOVA, DATA)
        assert bench.reads(IOVA)
        bench.driver.unmap(domain, IOVA)
        assert not bench.reads(IOVA)
        bench.driver.take_faults()


def test_an_assigned_device_copies_inside_its_domain_only():
    """The whole way: DMA engine, domain, fault record, remapped MSI."""
    bench, clock = Driven(), VirtualClock()
    engine = DmaEngine(DEVICE, bench.iommu, clock)
    engine.config_write(PciHeader.offset_of("command"), 2, PciCommand(memory_enabled=1, bus_master=1).raw)
    domain = bench.driver.create_domain()
    bench.driver.attach(domain, DEVICE)
    bench.driver.map(domain, 0x1000, DATA)
    bench.driver.map(domain, 0x2000, DATA + 0x5000)
    route = bench.driver.map_interrupt(DEVICE, 0x51, 1)
    bench.memory.write(DATA, b"payload")

    def copy(**registers: int) -> DmaStatus:
        for name, value in registers.items():
            offset, kind = DmaEngineRegisters.FIELDS[name]
            engine.write(offset, kind.size, value)
        engine.write(DmaEngineRegisters.offset_of("command"), 4, DmaCommand.COPY)
        clock.skip_to_next()
        clock.run_due()
        return engine.status

    assert copy(source=0x1000, destination=0x2000, length=7, msi_address=route.address, msi_data=route.data,
                msi_enable=1).done
    assert bench.memory.read(DATA + 0x5000, 7) == b"payload"
    assert bench.messages == [InterruptMessage(0x51, 1, False, 0, False, False)]
    assert copy(destination=DATA).code == DmaError.WRITE_ABORTED
    assert bench.driver.take_faults()[0].page == DATA >> 12


IOVAS = st.sampled_from([0, 1, 511, 512, 513, 1 << 18, 1 << 27, (1 << 36) - 1]).map(lambda page: page << 12)
STEPS = st.lists(st.tuples(st.sampled_from(["map", "unmap", "move", "read"]), st.integers(0, 1), IOVAS), max_size=40)


@settings(max_examples=60)
@given(STEPS)
def test_the_driver_keeps_the_unit_and_the_tables_together(steps):
    """After each call a device reaches exactly what the model of its domain has."""
    bench = Driven()
    domains = [bench.driver.create_domain(), bench.driver.create_domain()]
    model: list[dict[int, int]] = [{}, {}]
    where = 0
    bench.driver.attach(domains[0], DEVICE)
    for count, (step, which, iova) in enumerate(steps):
        match step:
            case "map":
                model[which][iova] = DATA + (count << 12)
                bench.driver.map(domains[which], iova, model[which][iova])
            case "unmap":
                assert bench.driver.unmap(domains[which], iova) is (model[which].pop(iova, None) is not None)
            case "move":
                where = which
                bench.driver.attach(domains[where], DEVICE)
        assert bench.reads(iova) is (iova in model[where])
        found = domains[which].translate_for_inspection(iova)
        assert (found and found[0]) == model[which].get(iova)
