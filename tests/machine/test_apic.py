"""The local APIC: priorities, registers by page and by MSR, destinations, errors. No engine, no VP."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.apic import Interconnect, LocalApic
from hv.machine.clock import VirtualClock
from hv.machine.faults import GuestFault
from hv.spec.apic import (
    LVT_MASKED,
    LVT_WRITABLE,
    ApicBase,
    DeliveryMode,
    Esr,
    Icr,
    Lvt,
    Shorthand,
    Svr,
    XapicDestination,
)
from hv.spec.apic import ApicRegister as R
from hv.spec.msrs import Msr
from tests.machine.apic_acts import passes, serve

ENABLE = Svr(vector=0xFF, enabled=1).raw
XAPIC, X2APIC, DISABLED = 0xFEE00800, 0xFEE00C00, 0xFEE00000


def an_apic(apic_id: int = 0, clock: VirtualClock | None = None, x2apic: bool = False) -> LocalApic:
    apic = LocalApic(apic_id, clock or VirtualClock(), bsp=apic_id == 0)
    if x2apic:
        apic.write_msr(Msr.APIC_BASE, X2APIC)
        apic.write_msr(R.SVR.msr, ENABLE)
    else:
        apic.write(R.SVR, ENABLE)
    return apic


def a_machine(count: int, x2apic: bool = False) -> list[LocalApic]:
    """*count* enabled APICs with the ids 0.. on one interconnect; xAPIC logical ids are 1 << id."""
    wires = Interconnect()
    apics = [an_apic(n, x2apic=x2apic) for n in range(count)]
    for n, apic in enumerate(apics):
        wires.add(apic)
        apic.write(R.LDR, XapicDestination(id=1 << n & 0xFF).raw)
    return apics


def ipi(apic: LocalApic, destination: int = 0, **fields: int) -> None:
    """Send as software would, by page or by MSR."""
    if apic.is_x2apic:
        apic.write_msr(R.ICR_LOW.msr, Icr(destination=destination, **fields).raw)
    else:
        apic.write(R.ICR_HIGH, XapicDestination(id=destination).raw)
        apic.write(R.ICR_LOW, Icr(**fields).raw)


def reached(apics: list[LocalApic], vector: int = 0x51) -> list[int]:
    return [apic.apic_id for apic in apics if apic.irr >> vector & 1]


def errors(apic: LocalApic) -> int:
    apic.write(R.ESR, 0)
    return apic.read(R.ESR)


# --- Priorities -----------------------------------------------------------------------------------


def test_the_highest_pending_vector_is_delivered_first():
    apic = an_apic()
    for vector in (0x31, 0xF0, 0x42):
        apic.accept(vector)
    taken = []
    while apic.deliverable() is not None:
        taken.append(apic.acknowledge())
        apic.eoi()
    assert taken == [0xF0, 0x42, 0x31]


@pytest.mark.parametrize(("in_service", "tpr", "pending", "deliverable"), [
    pytest.param(0x3F, 0, 0x31, False, id="same-class-waits"),
    pytest.param(0x31, 0, 0x3F, False, id="a-higher-vector-of-the-same-class-waits"),
    pytest.param(0x31, 0, 0x40, True, id="a-higher-class-preempts"),
    pytest.param(None, 0x40, 0x4F, False, id="the-class-of-tpr-blocks"),
    pytest.param(None, 0x4F, 0x50, True, id="a-class-above-tpr-passes"),
    pytest.param(None, 0xF0, 0xFF, False, id="class-15-blocks-all"),
    pytest.param(0x51, 0x60, 0x61, False, id="tpr-above-in-service"),
])
def test_only_a_class_above_ppr_is_deliverable(in_service, tpr, pending, deliverable):
    """SDM "Task and Processor Priorities": classes are compared, not vectors."""
    apic = an_apic()
    if in_service is not None:
        apic.accept(in_service)
        apic.acknowledge()
    apic.write(R.TPR, tpr)
    apic.accept(pending)
    assert (apic.deliverable() == pending) is deliverable


@pytest.mark.parametrize(("tpr", "in_service", "ppr"), [
    pytest.param(0x35, None, 0x35, id="tpr-alone"),
    pytest.param(0x35, 0x31, 0x35, id="equal-classes-keep-the-sub-class"),
    pytest.param(0x35, 0x47, 0x40, id="in-service-wins-with-sub-class-0"),
])
def test_ppr_is_the_higher_of_tpr_and_in_service(tpr, in_service, ppr):
    apic = an_apic()
    if in_service:
        apic.accept(in_service)
        apic.acknowledge()
    apic.write(R.TPR, tpr)
    assert apic.read(R.PPR) == ppr


def test_acknowledging_nothing_gives_the_spurious_vector_and_no_service():
    """SDM "Spurious Interrupt": no ISR bit, no EOI."""
    apic = an_apic()
    apic.write(R.SVR, Svr(vector=0xEF, enabled=1).raw)
    apic.write(R.TPR, 0xF0)
    apic.accept(0x31)
    assert apic.acknowledge() == 0xEF
    assert (apic.isr, apic.irr) == (0, 1 << 0x31)


def test_eoi_ends_the_highest_vector_in_service():
    apic = an_apic()
    heard = []
    apic.on_eoi = heard.append
    for vector in (0x31, 0x52):
        apic.accept(vector)
        apic.acknowledge()
    apic.write(R.EOI, 0)
    assert (heard, apic.isr) == ([0x52], 1 << 0x31)


def test_eoi_with_nothing_in_service_does_nothing():
    apic = an_apic()
    apic.on_eoi = lambda vector: pytest.fail("no EOI to hear")
    apic.eoi()


@pytest.mark.parametrize(("level", "suppressed", "expected"), [
    pytest.param(True, 0, [0x31], id="level"),
    pytest.param(False, 0, [], id="edge"),
    pytest.param(True, 1, [], id="level-but-suppressed"),
])
def test_only_a_level_interrupt_is_broadcast_at_eoi(level, suppressed, expected):
    apic = an_apic()
    apic.write(R.SVR, Svr(vector=0xFF, enabled=1, no_eoi_broadcast=suppressed).raw)
    heard = []
    apic.on_broadcast_eoi = heard.append
    apic.accept(0x31, level)
    apic.acknowledge()
    apic.eoi()
    assert heard == expected


def test_a_second_request_of_a_pending_vector_collapses():
    apic = an_apic()
    assert apic.accept(0x31)
    assert apic.accept(0x31)
    apic.acknowledge()
    apic.eoi()
    assert apic.deliverable() is None


@pytest.mark.parametrize("change", [
    pytest.param(lambda apic: apic.accept(0x90), id="accept"),
    pytest.param(lambda apic: apic.eoi(), id="eoi"),
    pytest.param(lambda apic: apic.write(R.TPR, 0), id="tpr"),
    pytest.param(lambda apic: setattr(apic, "cr8", 0), id="cr8"),
    pytest.param(lambda apic: apic.write(R.SVR, ENABLE), id="enabling"),
])
def test_whatever_may_make_something_deliverable_is_announced(change):
    apic = an_apic()
    apic.accept(0x61)
    apic.acknowledge()
    apic.accept(0x51)
    heard = []
    apic.on_pending = lambda: heard.append(True)
    change(apic)
    assert heard


def test_cr8_is_the_class_of_tpr():
    apic = an_apic()
    apic.cr8 = 9
    assert (apic.tpr, apic.cr8) == (0x90, 9)
    with pytest.raises(GuestFault):
        apic.cr8 = 16


# --- Enabling -------------------------------------------------------------------------------------


def test_a_software_disabled_apic_masks_its_entries_and_accepts_nothing_fixed():
    """SDM "Local APIC State After It Has Been Software Disabled": what was pending stays, NMIs still pass."""
    apic = an_apic()
    nmis = []
    apic.on_nmi = lambda: nmis.append(True)
    apic.accept(0x31)
    apic.write(R.LVT_LINT0, Lvt(vector=0x40).raw)
    apic.write(R.SVR, 0xFF)
    assert not apic.accept(0x32)
    assert apic.deliverable() == 0x31
    apic.write(R.LVT_LINT0, Lvt(vector=0x41).raw)
    assert apic.read(R.LVT_LINT0) == LVT_MASKED | 0x41
    ipi(apic, delivery_mode=DeliveryMode.NMI)
    assert nmis


def test_enabling_again_leaves_the_entries_masked():
    apic = an_apic()
    apic.write(R.LVT_ERROR, 0x40)
    apic.write(R.SVR, 0xFF)
    apic.write(R.SVR, ENABLE)
    assert apic.read(R.LVT_ERROR) == LVT_MASKED | 0x40


@pytest.mark.parametrize(("start", "target", "allowed"), [
    pytest.param(XAPIC, X2APIC, True, id="xapic-to-x2apic"),
    pytest.param(XAPIC, DISABLED, True, id="xapic-to-disabled"),
    pytest.param(X2APIC, DISABLED, True, id="x2apic-to-disabled"),
    pytest.param(X2APIC, XAPIC, False, id="x2apic-to-xapic"),
    pytest.param(DISABLED, XAPIC, True, id="disabled-to-xapic"),
    pytest.param(DISABLED, X2APIC, False, id="disabled-to-x2apic"),
    pytest.param(XAPIC, 0xFEE00400, False, id="xapic-to-invalid"),
    pytest.param(DISABLED, 0xFEE00400, False, id="disabled-to-invalid"),
    pytest.param(XAPIC, XAPIC | 1, False, id="reserved-bit"),
    pytest.param(XAPIC, XAPIC | 1 << 45, False, id="beyond-the-physical-width"),
    pytest.param(XAPIC, 0x12345800, True, id="another-page"),
])
def test_apic_base_allows_only_the_transitions_of_the_manual(start, target, allowed):
    """SDM "x2APIC State Transitions"."""
    apic = LocalApic(0, VirtualClock(), bsp=True)
    apic.write_msr(Msr.APIC_BASE, start)
    if not allowed:
        with pytest.raises(GuestFault):
            apic.write_msr(Msr.APIC_BASE, target)
        return
    apic.write_msr(Msr.APIC_BASE, target)
    assert apic.read_msr(Msr.APIC_BASE) == target | ApicBase(bsp=1).raw


def test_disabling_by_apic_base_resets_and_hides_the_apic():
    apic = an_apic()
    apic.accept(0x31)
    apic.write_msr(Msr.APIC_BASE, DISABLED)
    assert (apic.deliverable(), apic.read(R.ID), apic.svr.raw) == (None, 0xFFFFFFFF, 0xFF)
    assert not apic.accept(0x31)


def test_init_resets_all_but_the_id_and_the_base():
    apic = an_apic(3)
    apic.accept(0x31)
    apic.write(R.TPR, 0x20)
    apic.on_init()
    assert (apic.irr, apic.read(R.TPR), apic.read(R.SVR), apic.read(R.ID)) == (0, 0, 0xFF, 3 << 24)
    assert all(apic.read(entry) == LVT_MASKED for entry in LVT_WRITABLE)


# --- The page -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("register", "written", "read"), [
    pytest.param(R.TPR, 0xFFFFFFFF, 0xFF, id="tpr"),
    pytest.param(R.LDR, 0xFFFFFFFF, 0xFF000000, id="ldr"),
    pytest.param(R.DFR, 0, 0x0FFFFFFF, id="dfr"),
    pytest.param(R.SVR, 0xFFFFFFFF, 0x13FF, id="svr"),
    pytest.param(R.ICR_HIGH, 0xFFFFFFFF, 0xFF000000, id="icr-high"),
    pytest.param(R.LVT_TIMER, 0xFFFFFFFF, 0x700FF, id="lvt-timer"),
    pytest.param(R.LVT_LINT0, 0xFFFFFFFF, 0x1A7FF, id="lvt-lint"),
    pytest.param(R.LVT_ERROR, 0xFFFFFFFF, 0x100FF, id="lvt-error"),
    pytest.param(R.LVT_PERFORMANCE, 0xFFFFFFFF, 0x107FF, id="lvt-performance"),
    pytest.param(R.TIMER_INITIAL, 0xFFFFFFFF, 0xFFFFFFFF, id="initial-count"),
    pytest.param(R.TIMER_DIVIDE, 0xFFFFFFFF, 0xB, id="divide"),
])
def test_a_register_keeps_only_its_writable_bits(register, written, read):
    apic = an_apic()
    apic.write(register, written)
    assert apic.read(register) == read


@pytest.mark.parametrize("offset", [R.ID, R.VERSION, R.PPR, R.APR, R.RRD, R.ISR, R.TMR + 0x10, R.IRR + 0x70,
                                    R.TIMER_CURRENT, R.SELF_IPI, 0x000, 0x081, 0x290, 0xFF0])
def test_a_write_to_a_read_only_or_absent_register_is_an_esr_error(offset):
    """SDM "Error Handling": illegal register address."""
    apic = an_apic()
    before = apic.read(offset) if offset in R.__members__.values() else 0
    apic.write(R.ESR, 0)
    apic.write(offset, 0xFFFFFFFF)
    assert errors(apic) == Esr.ILLEGAL_REGISTER
    if offset not in (R.SELF_IPI,) and offset in R.__members__.values():
        assert apic.read(offset) == before


def test_irr_isr_and_tmr_show_32_vectors_a_register():
    apic = an_apic()
    apic.accept(0xE3, level=True)
    apic.accept(0x21)
    assert apic.read(R.IRR + 0x70) == 1 << 3
    assert apic.read(R.IRR + 0x10) == 1 << 1
    assert apic.read(R.TMR + 0x70) == 1 << 3
    apic.acknowledge()
    assert (apic.read(R.ISR + 0x70), apic.read(R.IRR + 0x70)) == (1 << 3, 0)


def test_esr_shows_what_the_last_write_latched():
    """SDM "Error Handling": a write latches what has come since the last one."""
    apic = an_apic()
    apic.write(0x000, 0)
    assert apic.read(R.ESR) == 0
    assert errors(apic) == Esr.ILLEGAL_REGISTER
    assert errors(apic) == 0


def test_an_error_raises_the_error_entry_once_until_esr_is_written():
    apic = an_apic()
    apic.write(R.LVT_ERROR, 0x33)
    for _ in range(2):
        apic.write(0x000, 0)
        assert apic.deliverable() == (0x33 if _ == 0 else None)
        if apic.deliverable():
            apic.acknowledge()
            apic.eoi()


def test_an_error_entry_with_an_illegal_vector_does_not_recurse():
    apic = an_apic()
    apic.write(R.LVT_ERROR, 5)
    apic.write(0x000, 0)
    assert errors(apic) == Esr.ILLEGAL_REGISTER | Esr.RECEIVE_ILLEGAL_VECTOR


# --- The MSRs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0x800, 0x801, 0x809, 0x80C, 0x80E, 0x831, 0x80B, 0x83F, 0x83D, 0x840, 0x7FF])
def test_reading_an_absent_or_write_only_msr_is_gp(index):
    with pytest.raises(GuestFault):
        an_apic(x2apic=True).read_msr(index)


@pytest.mark.parametrize(("index", "value"), [
    pytest.param(R.ID.msr, 0, id="id-is-read-only"),
    pytest.param(R.VERSION.msr, 0, id="version-is-read-only"),
    pytest.param(R.PPR.msr, 0, id="ppr-is-read-only"),
    pytest.param(R.LDR.msr, 0, id="ldr-is-read-only"),
    pytest.param(R.ISR.msr, 0, id="isr-is-read-only"),
    pytest.param(R.IRR.msr + 7, 0, id="irr-is-read-only"),
    pytest.param(R.TIMER_CURRENT.msr, 0, id="current-count-is-read-only"),
    pytest.param(R.DFR.msr, 0, id="dfr-is-absent"),
    pytest.param(R.ICR_HIGH.msr, 0, id="icr-high-is-absent"),
    pytest.param(R.TPR.msr, 0x100, id="tpr-reserved"),
    pytest.param(R.TPR.msr, 1 << 32, id="upper-half"),
    pytest.param(R.EOI.msr, 1, id="eoi-must-be-0"),
    pytest.param(R.ESR.msr, 1, id="esr-must-be-0"),
    pytest.param(R.SVR.msr, 1 << 10, id="svr-reserved"),
    pytest.param(R.LVT_TIMER.msr, 1 << 19, id="lvt-timer-reserved"),
    pytest.param(R.LVT_LINT0.msr, 1 << 11, id="lvt-lint-reserved"),
    pytest.param(R.TIMER_DIVIDE.msr, 4, id="divide-reserved"),
    pytest.param(R.ICR_LOW.msr, 1 << 13, id="icr-reserved-13"),
    pytest.param(R.ICR_LOW.msr, 1 << 20, id="icr-reserved-20"),
    pytest.param(R.SELF_IPI.msr, 0x100, id="self-ipi-reserved"),
])
def test_a_wrong_write_to_an_x2apic_msr_is_gp(index, value):
    """SDM "Reserved Bit Checking": #GP(0), and nothing has changed."""
    apic = an_apic(x2apic=True)
    before = apic.save()
    with pytest.raises(GuestFault) as caught:
        apic.write_msr(index, value)
    assert (caught.value.vector, caught.value.error_code) == (13, 0)
    assert apic.save() == before


def test_the_x2apic_msrs_are_gp_in_xapic_mode():
    with pytest.raises(GuestFault):
        an_apic().read_msr(R.ID.msr)


def test_the_page_is_not_decoded_in_x2apic_mode():
    apic = an_apic(x2apic=True)
    apic.write(R.TPR, 0x50)
    assert (apic.read(R.TPR), apic.tpr) == (0xFFFFFFFF, 0)


@pytest.mark.parametrize(("apic_id", "ldr"), [(0, 1), (5, 0x20), (0x13, 0x10008), (0x123, 0x120008)])
def test_the_x2apic_logical_id_comes_from_the_id(apic_id, ldr):
    """SDM "Deriving Logical x2APIC ID from the Local x2APIC ID"."""
    apic = an_apic(apic_id, x2apic=True)
    assert (apic.read_msr(R.ID.msr), apic.read_msr(R.LDR.msr)) == (apic_id, ldr)


def test_a_self_ipi_is_a_fixed_interrupt():
    apic = an_apic(x2apic=True)
    apic.write_msr(R.SELF_IPI.msr, 0x61)
    assert apic.deliverable() == 0x61


# --- Interprocessor interrupts --------------------------------------------------------------------


@pytest.mark.parametrize(("destination", "fields", "expected"), [
    pytest.param(2, {}, [2], id="physical"),
    pytest.param(0xFF, {}, [0, 1, 2, 3], id="physical-broadcast"),
    pytest.param(9, {}, [], id="physical-nobody"),
    pytest.param(0b0101, {"logical": 1}, [0, 2], id="logical-flat"),
    pytest.param(0xFF, {"logical": 1}, [0, 1, 2, 3], id="logical-broadcast"),
    pytest.param(9, {"shorthand": Shorthand.SELF}, [1], id="self"),
    pytest.param(9, {"shorthand": Shorthand.ALL}, [0, 1, 2, 3], id="all"),
    pytest.param(9, {"shorthand": Shorthand.OTHERS}, [0, 2, 3], id="all-but-self"),
    pytest.param(0b1110, {"logical": 1, "delivery_mode": DeliveryMode.LOWEST_PRIORITY}, [3], id="lowest-priority"),
    pytest.param(0, {"shorthand": Shorthand.SELF, "delivery_mode": 1}, [], id="self-and-lowest-is-invalid"),
    pytest.param(0, {"delivery_mode": 3}, [], id="reserved-mode"),
    pytest.param(0, {"delivery_mode": DeliveryMode.EXTINT}, [], id="extint"),
])
def test_an_xapic_ipi_reaches_whom_its_destination_names(destination, fields, expected):
    """SDM "Determining IPI Destination". APIC 1 sends; APICs 1 and 2 are busy with a higher priority than 3."""
    apics = a_machine(4)
    apics[1].write(R.TPR, 0x60)
    apics[2].write(R.TPR, 0x60)
    ipi(apics[1], destination, vector=0x51, **fields)
    assert reached(apics) == expected


@pytest.mark.parametrize(("destination", "expected"), [
    pytest.param(0x11, [0, 4], id="cluster-1-member-0"),
    pytest.param(0x13, [0, 1, 4], id="cluster-1-members-0-and-1"),
    pytest.param(0x21, [2], id="cluster-2"),
    pytest.param(0xF2, [1, 3], id="member-1-of-every-cluster"),
    pytest.param(0x31, [], id="no-such-cluster"),
])
def test_an_xapic_cluster_destination_names_members_of_one_cluster(destination, expected):
    """SDM "Logical Destination Mode", cluster model."""
    apics = a_machine(5)
    for apic, logical_id in zip(apics, (0x11, 0x12, 0x21, 0x22, 0x11), strict=True):
        apic.write(R.DFR, 0)
        apic.write(R.LDR, XapicDestination(id=logical_id).raw)
    ipi(apics[0], destination, vector=0x51, logical=1)
    assert reached(apics) == expected


@pytest.mark.parametrize(("destination", "logical", "expected"), [
    pytest.param(17, 0, [17], id="physical"),
    pytest.param(0xFF, 0, [], id="255-is-no-broadcast"),
    pytest.param(0xFFFFFFFF, 0, list(range(18)), id="broadcast"),
    pytest.param(0xFFFFFFFF, 1, list(range(18)), id="logical-broadcast"),
    pytest.param(0x00000005, 1, [0, 2], id="cluster-0"),
    pytest.param(0x00010003, 1, [16, 17], id="cluster-1"),
    pytest.param(0x00020001, 1, [], id="no-such-cluster"),
])
def test_an_x2apic_ipi_reaches_whom_its_destination_names(destination, logical, expected):
    apics = a_machine(18, x2apic=True)
    ipi(apics[0], destination, vector=0x51, logical=logical)
    assert reached(apics) == expected


@pytest.mark.parametrize(("mode", "level", "expected"), [
    pytest.param(DeliveryMode.NMI, 1, ["nmi"], id="nmi"),
    pytest.param(DeliveryMode.INIT, 1, ["init"], id="init"),
    pytest.param(DeliveryMode.INIT, 0, ["init"], id="init-as-an-edge"),
    pytest.param(DeliveryMode.STARTUP, 1, [0x51], id="sipi"),
    pytest.param(DeliveryMode.SMI, 1, [], id="smi"),
])
def test_the_other_delivery_modes_call_the_processor(mode, level, expected):
    apics = a_machine(2)
    heard: list[object] = []
    apics[1].on_nmi = lambda: heard.append("nmi")
    apics[1].on_init = lambda: heard.append("init")
    apics[1].on_sipi = heard.append
    ipi(apics[0], 1, vector=0x51, delivery_mode=mode, level=level)
    assert (heard, apics[1].irr) == (expected, 0)


def test_an_init_level_de_assert_is_nothing():
    """SDM "Interrupt Command Register (ICR)": level 0, trigger mode level. Older buses set arbitration ids by it."""
    apics = a_machine(2)
    heard: list[object] = []
    apics[1].on_init = lambda: heard.append("init")
    ipi(apics[0], 1, delivery_mode=DeliveryMode.INIT, trigger=1, level=0)
    assert not heard
    ipi(apics[0], 1, delivery_mode=DeliveryMode.INIT, trigger=1, level=1)
    assert heard


@pytest.mark.parametrize(("destination", "vector", "expected"), [
    pytest.param(1, 0x0F, Esr.SEND_ILLEGAL_VECTOR, id="vector-below-16"),
    pytest.param(7, 0x51, Esr.SEND_ACCEPT, id="nobody-there"),
    pytest.param(1, 0x51, 0, id="taken"),
])
def test_a_failed_ipi_is_told_in_the_senders_esr(destination, vector, expected):
    apics = a_machine(2)
    ipi(apics[0], destination, vector=vector)
    assert errors(apics[0]) == expected


def test_only_the_low_half_of_the_icr_sends():
    apic = an_apic()
    apic.write(R.ICR_LOW, Icr(vector=0x51, shorthand=Shorthand.SELF).raw)
    apic.acknowledge()
    apic.eoi()
    apic.write(R.ICR_HIGH, 0)
    assert apic.irr == 0


@pytest.mark.parametrize(("hint", "expected"), [(False, [0, 1]), (True, [1])])
def test_a_redirection_hint_picks_one_target(hint, expected):
    apics = a_machine(2)
    apics[0].write(R.TPR, 0x20)
    apics[0].interconnect.deliver(0x51, 0b11, logical=True, redirection_hint=hint)
    assert reached(apics) == expected


@given(st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 0xFF]), st.sampled_from([None, 1, 2]),
       st.sampled_from([None, 1]), st.sampled_from([3, 257]))
def test_the_short_way_of_a_fixed_interrupt_does_what_the_long_one_does_or_nothing(vector, destination, off, x2, third):
    """SDM "Determining IPI Destination", physical destination mode."""
    outcomes = []
    for short in (True, False):
        wires = Interconnect()
        apics = [an_apic(n, x2apic=n == x2) for n in (0, 1, 2, third)]
        for apic in apics:
            wires.add(apic)
        if off is not None:
            (apics[off].write_msr if apics[off].is_x2apic else apics[off].write)(
                R.SVR.msr if apics[off].is_x2apic else R.SVR, 0xFF)
        if not (short and apics[0].send_fixed(vector, destination)):
            assert not any(apic.irr for apic in apics)
            ipi(apics[0], destination, vector=vector)
        outcomes.append([(apic.irr, apic.save()["errors"]) for apic in apics])
    assert outcomes[0] == outcomes[1]


def test_two_apics_cannot_have_the_same_id():
    wires = Interconnect()
    wires.add(an_apic(1))
    with pytest.raises(ValueError, match="APIC id 1 is connected already"):
        wires.add(an_apic(1))


# --- Whatever a guest does ------------------------------------------------------------------------

WORD = st.integers(0, 2**64 - 1) | st.sampled_from(
    [0, 1, ENABLE, 0x200FF, Icr(vector=0x51, shorthand=2).raw, XAPIC, X2APIC])
ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(list(R)) | st.integers(0, 0xFFF), WORD),
    st.tuples(st.just("read"), st.sampled_from(list(R)) | st.integers(0, 0xFFF), WORD),
    st.tuples(st.just("write_msr"), st.integers(0x800, 0x840) | st.sampled_from([0x1B, 0x6E0]), WORD),
    st.tuples(st.just("read_msr"), st.integers(0x7FF, 0x840) | st.sampled_from([0x1B, 0x6E0]), WORD),
    st.tuples(st.just("accept"), st.integers(0, 255), WORD),
    st.tuples(st.just("serve"), st.just(0), WORD),
    st.tuples(st.just("pass"), st.just(0), st.integers(0, 10**6)),
)


def act(apic: LocalApic, clock: VirtualClock, name: str, place: int, value: int) -> None:
    match name:
        case "write" | "write_msr":
            getattr(apic, name)(place, value)
        case "read" | "read_msr":
            getattr(apic, name)(place)
        case "accept":
            apic.accept(place, bool(value & 1))
        case "serve":
            serve(apic)
        case "pass":
            passes(clock, value)


@settings(max_examples=150)
@given(st.lists(ACTIONS, max_size=40))
def test_no_sequence_of_accesses_breaks_the_apic(actions):
    """The only exception is #GP(0), and only by an MSR; the registers keep their widths and the priorities hold."""
    clock = VirtualClock()
    apics = [LocalApic(n, clock, bsp=n == 0) for n in range(2)]
    wires = Interconnect()
    for apic in apics:
        wires.add(apic)
    apic = apics[0]
    for name, place, value in actions:
        try:
            act(apic, clock, name, place, value)
        except GuestFault:
            assert name.endswith("msr")
        assert apic.irr | apic.isr | apic.tmr < 1 << 256
        assert not (apic.irr | apic.isr) & 0xFFFF
        assert all(0 <= apic.read(offset) <= 0xFFFFFFFF for offset in range(0x80, 0x400, 0x10))
        vector = apic.deliverable()
        assert vector is None or (vector >> 4 > apic.ppr >> 4 and apic.irr >> vector & 1)
        assert not (apic.svr.enabled == 0 and any(not lvt & LVT_MASKED for lvt in apic.lvt.values()))
