"""Which registers of the APIC-access page are virtualized, and what a write of each brings about."""

from __future__ import annotations

import pytest

from hv.machine.ram import PhysicalMemory
from hv.spec.apic import ApicRegister as R
from hv.spec.exits import ExitReason
from hv.spec.x86 import PAGE_SIZE
from hv.vmx.apic.access_page import (
    READABLE,
    WRITABLE,
    WRITABLE_WITH_DELIVERY,
    is_one_register,
    is_self_ipi,
    read_x2apic,
    write_x2apic,
    written,
)
from hv.vmx.apic.virtual_apic import VIRR, VISR, VirtualApic, VirtualApicPage
from tests.proves import proves

BOTH = (0x020, 0x080, 0x0B0, 0x0D0, 0x0E0, 0x0F0, 0x280, 0x300, 0x310, *range(0x320, 0x380, 0x10), 0x380, 0x3E0)
SELF = 0x40000


def an_apic(delivers: bool) -> VirtualApic:
    apic = VirtualApic(VirtualApicPage(PhysicalMemory(PAGE_SIZE), 0))
    apic.delivers = delivers
    return apic


def write(apic: VirtualApic, offset: int, value: int) -> tuple[ExitReason, int] | None:
    """Store a dword as the guest does; the exit and its qualification."""
    apic.page.dwords[offset >> 2] = value
    exit = written(apic, offset)
    return exit and (exit.reason, exit.qualification)


@proves("control/SecondaryControls.APIC_REGISTER_VIRTUALIZATION")
def test_the_registers_that_reads_and_writes_reach():
    """SDM "Virtualizing Reads from the APIC-Access Page", "Virtualizing Writes to the APIC-Access Page"."""
    assert sorted(READABLE[0]) == sorted(WRITABLE[0]) == [0x080]
    assert sorted(READABLE[1]) == sorted((*BOTH, 0x030, *range(0x100, 0x280, 0x10)))
    assert sorted(WRITABLE[1]) == sorted(BOTH)
    assert sorted(WRITABLE_WITH_DELIVERY) == [0x080, 0x0B0, 0x300]


@pytest.mark.parametrize(("offset", "size", "inside"), [
    (0x80, 4, True), (0x83, 1, True), (0x82, 2, True), (0x83, 2, False), (0x84, 1, False), (0x84, 4, False),
    (0x80, 8, False), (0x8C, 4, False), (0xFFF, 1, False),
])
def test_only_the_low_dword_of_sixteen_bytes_is_a_register(offset, size, inside):
    """SDM "Virtualizing Reads from the APIC-Access Page": within bits 31:0 of a naturally aligned 16-byte region."""
    assert is_one_register(offset, size) is inside


@proves("control/SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY")
@pytest.mark.parametrize(("command", "is_one"), [
    (SELF | 0x10, True), (SELF | 0xFF, True), (SELF | 0x4800 | 0x40, True),     # level and destination mode are ignored
    (SELF | 0x0F, False), (0x40, False), (2 * SELF | 0x40, False), (3 * SELF | 0x40, False),
    *[(SELF | 0x40 | 1 << bit, False) for bit in (8, 9, 10, 12, 13, 15, 16, 17, *range(20, 32))],
])
def test_what_a_self_ipi_is(command, is_one):
    """SDM "APIC-Write Emulation": which values of VICR_LO are virtualized as self-IPIs."""
    assert is_self_ipi(command) is is_one


@proves("control/SecondaryControls.VIRTUALIZE_APIC_ACCESSES", "control/PrimaryControls.USE_TPR_SHADOW")
def test_a_write_of_tpr_clears_the_other_bytes():
    """SDM "APIC-Write Emulation": bytes 3:1 of VTPR are cleared, then TPR virtualization."""
    apic = an_apic(False)
    apic.threshold = 4
    assert write(apic, R.TPR, 0xABCDEF35) == (ExitReason.TPR_BELOW_THRESHOLD, 0)
    assert apic.page.dwords[R.TPR >> 2] == 0x35
    assert write(apic, R.TPR, 0x1245) is None


@proves("exit/APIC_WRITE", "control/SecondaryControls.APIC_REGISTER_VIRTUALIZATION")
@pytest.mark.parametrize("delivers", [False, True])
@pytest.mark.parametrize("offset", [0x020, 0x0D0, 0x0E0, 0x0F0, 0x0F1, 0x280, 0x323, 0x370, 0x380, 0x3E0])
def test_a_write_of_most_registers_exits_behind_the_instruction(offset, delivers):
    """SDM "APIC-Write Emulation": the page has the value, the qualification the offset."""
    apic = an_apic(delivers)
    assert write(apic, offset, 0x12345678) == (ExitReason.APIC_WRITE, offset)
    assert apic.page.dwords[offset >> 2] == 0x12345678


@proves("exit/APIC_WRITE")
def test_without_delivery_eoi_and_icr_exit_too():
    apic = an_apic(False)
    assert write(apic, R.EOI, 0) == (ExitReason.APIC_WRITE, 0x0B0)
    assert write(apic, R.ICR_LOW, SELF | 0x40) == (ExitReason.APIC_WRITE, 0x300)
    assert apic.page.vectors(VIRR) == 0


def test_with_delivery_eoi_and_self_ipi_do_not():
    """SDM "APIC-Write Emulation", offsets 0B0H and 300H; other interrupt commands are software's."""
    apic = an_apic(True)
    assert write(apic, R.ICR_LOW, SELF | 0x40) is None
    assert apic.recognized
    assert apic.deliver() == 0x40
    assert write(apic, R.EOI, 5) is None
    assert apic.page.vectors(VISR) == 0
    assert write(apic, R.ICR_LOW, 0x40) == (ExitReason.APIC_WRITE, 0x300)
    assert not apic.recognized


@pytest.mark.parametrize("delivers", [False, True])
def test_the_destination_never_exits(delivers):
    """SDM "APIC-Write Emulation": bytes 2:0 of VICR_HI are cleared, and that is all."""
    apic = an_apic(delivers)
    assert write(apic, R.ICR_HIGH, 0xAABBCCDD) is None
    assert apic.page.dwords[R.ICR_HIGH >> 2] == 0xAA000000


@proves("control/SecondaryControls.VIRTUALIZE_X2APIC_MODE")
def test_an_x2apic_msr_is_eight_bytes_of_the_page():
    """SDM "Virtualizing MSR-Based APIC Accesses": no register is special, and none is refused."""
    apic = an_apic(True)
    apic.page.dwords[0x300 >> 2], apic.page.dwords[0x304 >> 2], apic.page.dwords[0x7F0 >> 2] = 0x11, 0x22, 0x33
    assert read_x2apic(apic, 0x830) == 0x22_0000_0011
    assert read_x2apic(apic, 0x87F) == 0x33
    assert read_x2apic(apic, 0x8FF) == 0


@proves("control/SecondaryControls.VIRTUALIZE_X2APIC_MODE", "exit/APIC_WRITE")
def test_a_self_ipi_by_msr():
    """SDM "Virtualizing MSR-Based APIC Accesses", 83FH: an illegal vector is software's affair."""
    apic = an_apic(True)
    assert write_x2apic(apic, 0x83F, 0x41) is None
    assert apic.rvi == 0x41
    exit = write_x2apic(apic, 0x83F, 0x0F)
    assert exit is not None
    assert (exit.reason, exit.qualification) == (ExitReason.APIC_WRITE, 0x3F0)
    assert apic.page.dwords[0x3F0 >> 2] == 0x0F
    assert apic.rvi == 0x41
