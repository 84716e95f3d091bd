"""The algorithms on the virtual-APIC page: each step of the manual, and against the model of a local APIC."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.apic import LocalApic
from hv.machine.clock import VirtualClock
from hv.machine.ram import PhysicalMemory
from hv.spec.apic import ApicRegister as R
from hv.spec.exits import ExitReason
from hv.spec.x86 import PAGE_SIZE
from hv.vmx.apic.virtual_apic import VIRR, VISR, VTMR, VirtualApic, VirtualApicPage
from tests.proves import proves

PAGE = 2 * PAGE_SIZE
VECTORS = st.integers(16, 255)


def an_apic(delivers: bool = True, tpr: int = 0) -> VirtualApic:
    apic = VirtualApic(VirtualApicPage(PhysicalMemory(4 * PAGE_SIZE), PAGE))
    apic.delivers = delivers
    apic.page.dwords[R.TPR >> 2] = tpr
    return apic


def ppr(apic: VirtualApic) -> int:
    return apic.page.dwords[R.PPR >> 2]


# --- The page ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("bitmap", "register"), [(VISR, R.ISR), (VTMR, R.TMR), (VIRR, R.IRR)])
@pytest.mark.parametrize("vector", [0, 31, 32, 100, 255])
def test_a_vector_has_one_bit_in_the_page(bitmap, register, vector):
    """SDM "Interrupt Acceptance for Fixed Interrupts": eight registers of 32 vectors, 10H apart."""
    memory = PhysicalMemory(4 * PAGE_SIZE)
    page = VirtualApicPage(memory, PAGE)
    page.insert(bitmap, vector)
    assert memory.read_u32(PAGE + register + 0x10 * (vector // 32)) == 1 << vector % 32
    assert page.holds(bitmap, vector)
    assert page.highest(bitmap) == vector
    assert page.vectors(bitmap) == 1 << vector
    assert memory.read(PAGE, PAGE_SIZE).count(0) == PAGE_SIZE - 1
    page.remove(bitmap, vector)
    assert not any(memory.read(PAGE, PAGE_SIZE))
    assert not page.holds(bitmap, vector)
    assert page.highest(bitmap) == 0


@given(st.integers(0, (1 << 256) - 1))
def test_the_eight_registers_are_one_number(vectors):
    page = VirtualApicPage(PhysicalMemory(PAGE_SIZE), 0)
    page.set_vectors(VIRR, vectors)
    assert page.vectors(VIRR) == vectors
    assert page.highest(VIRR) == max(vectors.bit_length() - 1, 0)
    assert page.vectors(VTMR) == 0
    assert page.dwords[R.ESR >> 2] == 0


@pytest.mark.parametrize("spa", [PAGE_SIZE, 1 << 45, (1 << 46) - PAGE_SIZE])
def test_a_page_outside_ram_is_one_of_its_own(spa):
    memory = PhysicalMemory(PAGE_SIZE)
    apic = VirtualApic(VirtualApicPage(memory, spa))
    apic.delivers = True
    apic.virtualize_self_ipi(0x40)
    assert apic.deliver() == 0x40
    assert not any(memory.read(0, PAGE_SIZE))


# --- TPR and PPR -------------------------------------------------------------------------------------------------

@proves("control/PrimaryControls.USE_TPR_SHADOW", "exit/TPR_BELOW_THRESHOLD")
@pytest.mark.parametrize(("tpr", "threshold", "exits"), [
    (0x00, 0, False), (0x0F, 1, True), (0x10, 1, False), (0x1F, 2, True), (0xEF, 15, True), (0xF0, 15, False),
    (0x20, 1, False),
])
def test_a_task_priority_class_below_the_threshold_exits(tpr, threshold, exits):
    """SDM "TPR Virtualization": VTPR[7:4] against TPR_THRESHOLD[3:0], and at VM entry likewise."""
    apic = an_apic(delivers=False)
    apic.threshold = threshold
    for found in (apic.set_vtpr(tpr), apic.enter()):
        assert (found is not None and found.reason is ExitReason.TPR_BELOW_THRESHOLD) is exits
        assert found is None or found.qualification == 0


@proves("control/SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY")
@pytest.mark.parametrize(("tpr", "svi", "priority"), [
    (0x00, 0x00, 0x00), (0x35, 0x00, 0x35), (0x35, 0x34, 0x35), (0x35, 0x3F, 0x35), (0x35, 0x4F, 0x40),
    (0xF5, 0xEF, 0xF5), (0x05, 0x10, 0x10),
])
def test_the_processor_priority_is_the_higher_class(tpr, svi, priority):
    """SDM "PPR Virtualization": VTPR when its class is at least SVI's, else SVI's class with zeros."""
    apic = an_apic()
    apic.svi = svi
    assert apic.set_vtpr(tpr) is None
    assert ppr(apic) == priority


def test_with_interrupt_delivery_the_threshold_means_nothing():
    """SDM "TPR Virtualization": the threshold is compared only without virtual-interrupt delivery."""
    apic = an_apic()
    apic.threshold = 15
    assert apic.set_vtpr(0) is None
    assert apic.enter() is None


# --- Evaluation, delivery, EOI -----------------------------------------------------------------------------------

@proves("control/SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY", "control/PrimaryControls.INTERRUPT_WINDOW_EXITING")
@pytest.mark.parametrize(("rvi", "tpr", "window", "recognized"), [
    (0x00, 0x00, False, False), (0x1F, 0x0F, False, True), (0x1F, 0x10, False, False), (0x50, 0x4F, False, True),
    (0x50, 0x50, False, False), (0xFF, 0xF0, False, False), (0x50, 0x00, True, False),
])
def test_a_pending_interrupt_is_recognized_above_the_priority(rvi, tpr, window, recognized):
    """SDM "Evaluation of Pending Virtual Interrupts": RVI[7:4] > VPPR[7:4], and no interrupt-window exiting."""
    apic = an_apic(tpr=tpr)
    apic.rvi, apic.window_exiting = rvi, window
    assert apic.enter() is None
    assert apic.recognized is recognized


def test_the_processor_itself_never_looks_at_virr():
    """SDM "Guest Interrupt Status": RVI is software's to set; a bit of VIRR alone delivers nothing at VM entry."""
    apic = an_apic()
    apic.page.insert(VIRR, 0x50)
    apic.enter()
    assert not apic.recognized


def test_delivery_moves_the_vector_from_virr_to_visr():
    """SDM "Virtual-Interrupt Delivery", every line of the pseudo-code."""
    apic = an_apic(tpr=0x1F)
    for vector in (0x31, 0x57, 0x58):
        apic.virtualize_self_ipi(vector)
    assert apic.deliver() == 0x58
    assert (apic.rvi, apic.svi, ppr(apic), apic.recognized) == (0x57, 0x58, 0x50, False)
    assert apic.page.vectors(VISR) == 1 << 0x58
    assert apic.page.vectors(VIRR) == 1 << 0x57 | 1 << 0x31


@proves("exit/VIRTUALIZED_EOI")
@pytest.mark.parametrize("exits", [False, True])
def test_eoi_ends_svi_and_exits_by_the_bitmap(exits):
    """SDM "EOI Virtualization": VISR, SVI and PPR first; then the exit, or the evaluation of what waits."""
    apic = an_apic()
    for vector in (0x41, 0x93):
        apic.virtualize_self_ipi(vector)
        apic.deliver()
    apic.request(0x66)
    apic.eoi_exits = 1 << 0x93 if exits else ~(1 << 0x93)
    apic.page.dwords[R.EOI >> 2] = 7
    found = apic.virtualize_eoi()
    assert (apic.svi, ppr(apic), apic.page.vectors(VISR), apic.page.dwords[R.EOI >> 2]) == (0x41, 0x40, 1 << 0x41, 0)
    if exits:
        assert found is not None
        assert (found.reason, found.qualification) == (ExitReason.VIRTUALIZED_EOI, 0x93)
        assert not apic.recognized              # until the next VM entry evaluates
        apic.enter()
    else:
        assert found is None
    assert apic.recognized
    assert apic.deliver() == 0x66


def test_an_eoi_of_nothing_is_one_of_vector_0():
    """SDM "EOI Virtualization": the pseudo-code does not ask whether anything is in service."""
    apic = an_apic()
    apic.page.insert(VISR, 0)
    apic.eoi_exits = 1
    found = apic.virtualize_eoi()
    assert found is not None
    assert found.qualification == 0
    assert apic.page.vectors(VISR) == 0


def test_a_self_ipi_raises_rvi_and_never_lowers_it():
    """SDM "Self-IPI Virtualization"."""
    apic = an_apic()
    apic.virtualize_self_ipi(0x60)
    apic.virtualize_self_ipi(0x20)
    assert apic.rvi == 0x60
    assert apic.recognized
    assert apic.page.vectors(VIRR) == 1 << 0x60 | 1 << 0x20


@proves("control/PinControls.PROCESS_POSTED_INTERRUPTS")
def test_posted_requests_join_what_waits():
    """SDM "Posted-Interrupt Processing": VIRR |= PIR, RVI is the higher of the two."""
    apic = an_apic()
    apic.request(0x60)
    apic.post(1 << 0x33 | 1 << 0x81)
    assert apic.rvi == 0x81
    assert apic.recognized
    assert apic.page.vectors(VIRR) == 1 << 0x33 | 1 << 0x81 | 1 << 0x60
    apic.post(0)
    assert apic.rvi == 0x81
    apic.post(1 << 0x20)
    assert apic.rvi == 0x81


# --- Against the model -------------------------------------------------------------------------------------------

ACTS = st.one_of(
    st.tuples(st.just("accept"), VECTORS), st.tuples(st.just("tpr"), st.integers(0, 255)),
    st.tuples(st.just("eoi"), st.just(0)), st.tuples(st.just("take"), st.just(0)), st.tuples(st.just("post"), VECTORS))


@settings(max_examples=200)
@given(st.lists(ACTS, max_size=60))
def test_the_page_delivers_in_the_order_of_a_local_apic(acts):
    """SDM "Task and Processor Priorities", "Interrupt Acceptance for Fixed Interrupts": one architecture, two forms."""
    model, apic = LocalApic(0, VirtualClock()), an_apic()
    model.write(R.SVR, 0x1FF)
    for act, value in acts:
        match act:
            case "accept":
                model.accept(value)
                apic.virtualize_self_ipi(value)
            case "post":
                model.accept(value)
                apic.post(1 << value)
            case "tpr":
                model.set_tpr(value)
                apic.set_vtpr(value)
            case "eoi":
                model.eoi()
                apic.virtualize_eoi()
            case "take":
                assert apic.recognized is (model.deliverable() is not None)
                if apic.recognized:
                    assert apic.deliver() == model.acknowledge()
        assert (apic.page.vectors(VIRR), apic.page.vectors(VISR), apic.vtpr) == (model.irr, model.isr, model.tpr)
        assert ppr(apic) == model.ppr
        assert (apic.rvi, apic.svi) == (max(model.irr.bit_length() - 1, 0), max(model.isr.bit_length() - 1, 0))
