"""Synthetic MSRs and CPUID: who may, what is refused, what it does. TLFS "Synthetic MSRs"."""

import pytest

from hv.hypervisor.msrs.registry import OURS, read_msr, write_msr
from hv.hypervisor.partitions.cpuid import CHILD_PRIVILEGES, CpuidTable
from hv.machine.clock import TICKS_PER_100NS
from hv.machine.faults import GuestFault, NestedFault
from hv.spec.cpuid import ExtendedSignatureEcx, FeaturesEcx, HvPrivilege
from hv.spec.msrs import Msr
from hv.trace.events import GuestCrashed, OverlayMoved
from tests.hypervisor.fakes import Machine


@pytest.fixture
def vp():
    return Machine().child().vps[0]


def refuses(action, *args):
    with pytest.raises(GuestFault) as caught:
        action(*args)
    assert (caught.value.vector, caught.value.error_code) == (13, 0)


def test_the_hypercall_page_needs_a_guest_identity(vp):
    """TLFS "Establishing the Hypercall Interface"; checklist 2."""
    write_msr(vp, Msr.HV_HYPERCALL, 0x5001)
    assert read_msr(vp, Msr.HV_HYPERCALL) == 0x5000
    write_msr(vp, Msr.HV_GUEST_OS_ID, 0x8100_0000_0000_0001)
    write_msr(vp, Msr.HV_HYPERCALL, 0x5001)
    assert read_msr(vp, Msr.HV_HYPERCALL) == 0x5001
    assert vp.partition.space.read(0x5000, 5).hex() == "0f01c1c3cc"
    with pytest.raises(NestedFault):
        vp.partition.space.write(0x5000, b"x")
    write_msr(vp, Msr.HV_GUEST_OS_ID, 0)
    assert read_msr(vp, Msr.HV_HYPERCALL) == 0x5000
    assert vp.partition.space.read(0x5000, 4) == bytes(4)


def test_the_hypercall_page_moves_and_leaves_the_old_page_as_it_was(vp):
    vp.partition.space.write(0x5000, b"mine")
    write_msr(vp, Msr.HV_GUEST_OS_ID, 1)
    write_msr(vp, Msr.HV_HYPERCALL, 0x5001)
    write_msr(vp, Msr.HV_HYPERCALL, 0x6001)
    assert vp.partition.space.read(0x5000, 4) == b"mine"
    assert vp.partition.space.read(0x6000, 3).hex() == "0f01c1"


def test_a_locked_hypercall_page_stays(vp):
    write_msr(vp, Msr.HV_GUEST_OS_ID, 1)
    write_msr(vp, Msr.HV_HYPERCALL, 0x5003)
    refuses(write_msr, vp, Msr.HV_HYPERCALL, 0)
    assert read_msr(vp, Msr.HV_HYPERCALL) == 0x5003


WRITES_REFUSED = [
    ("hypercall-reserved-bit", Msr.HV_HYPERCALL, 4), ("hypercall-page-beyond-gpa", Msr.HV_HYPERCALL, 1 << 45),
    ("vp-index", Msr.HV_VP_INDEX, 0), ("vp-runtime", Msr.HV_VP_RUNTIME, 0), ("time", Msr.HV_TIME_REF_COUNT, 0),
    ("tsc-frequency", Msr.HV_TSC_FREQUENCY, 0), ("apic-frequency", Msr.HV_APIC_FREQUENCY, 0),
    ("tpr-above-8-bits", Msr.HV_TPR, 0x100), ("eoi-above-32-bits", Msr.HV_EOI, 1 << 32),
    ("sversion", Msr.HV_SVERSION, 0), ("reset-above-bit-0", Msr.HV_RESET, 2), ("unknown", 0x40000FFF, 0),
    ("reference-tsc-beyond-gpa", Msr.HV_REFERENCE_TSC, 1 << 45 | 1),
    ("assist-page-beyond-gpa", Msr.HV_VP_ASSIST_PAGE, 1 << 45 | 1),
]


@pytest.mark.parametrize(("index", "value"), [row[1:] for row in WRITES_REFUSED],
                         ids=[row[0] for row in WRITES_REFUSED])
def test_a_write_is_a_general_protection_fault(vp, index, value):
    refuses(write_msr, vp, index, value)


@pytest.mark.parametrize("index", [Msr.HV_EOI, Msr.HV_SIRBP, 0x4000FFFF])
def test_a_read_is_a_general_protection_fault(vp, index):
    refuses(read_msr, vp, index)


PRIVILEGED = [
    (HvPrivilege.ACCESS_HYPERCALL_MSRS, Msr.HV_GUEST_OS_ID), (HvPrivilege.ACCESS_HYPERCALL_MSRS, Msr.HV_HYPERCALL),
    (HvPrivilege.ACCESS_VP_INDEX, Msr.HV_VP_INDEX), (HvPrivilege.ACCESS_VP_RUN_TIME_REG, Msr.HV_VP_RUNTIME),
    (HvPrivilege.ACCESS_PARTITION_REFERENCE_COUNTER, Msr.HV_TIME_REF_COUNT),
    (HvPrivilege.ACCESS_PARTITION_REFERENCE_TSC, Msr.HV_REFERENCE_TSC),
    (HvPrivilege.ACCESS_FREQUENCY_REGS, Msr.HV_TSC_FREQUENCY),
    (HvPrivilege.ACCESS_FREQUENCY_REGS, Msr.HV_APIC_FREQUENCY),
    (HvPrivilege.ACCESS_INTR_CTRL_REGS, Msr.HV_TPR), (HvPrivilege.ACCESS_INTR_CTRL_REGS, Msr.HV_VP_ASSIST_PAGE),
    (HvPrivilege.ACCESS_SYNIC_REGS, Msr.HV_SCONTROL), (HvPrivilege.ACCESS_SYNIC_REGS, Msr.HV_SINT15),
]


@pytest.mark.parametrize(("privilege", "index"), PRIVILEGED, ids=[index.name for _, index in PRIVILEGED])
def test_each_msr_needs_its_privilege(vp, privilege, index):
    """TLFS "Partition Privilege Flags": access without the privilege is #GP."""
    read_msr(vp, index)
    vp.partition.set_privileges(CHILD_PRIVILEGES & ~int(privilege))
    refuses(read_msr, vp, index)
    assert not vp.partition.cpuid.lookup(0x40000003, 0)[0] & int(privilege)


def test_the_reference_time_counts_from_the_partitions_creation():
    machine = Machine()
    machine.clock.advance(5 * TICKS_PER_100NS)
    vp = machine.child().vps[0]
    machine.clock.advance(7 * TICKS_PER_100NS)
    assert read_msr(vp, Msr.HV_TIME_REF_COUNT) == 7


def test_apic_msrs_go_to_the_virtual_apic(vp):
    write_msr(vp, Msr.HV_TPR, 0x20)
    assert (read_msr(vp, Msr.HV_TPR), vp.apic.cr8) == (0x20, 2)
    vp.apic.accept(0x52)
    vp.apic.acknowledge()
    write_msr(vp, Msr.HV_EOI, 0)
    assert vp.apic.isr == 0
    refuses(read_msr, vp, Msr.X2APIC_ID)            # still in xAPIC mode
    write_msr(vp, Msr.APIC_BASE, read_msr(vp, Msr.APIC_BASE) | 1 << 10)
    assert read_msr(vp, Msr.X2APIC_ID) == 0


def test_the_apics_msrs_work_in_x2apic_mode_too():
    child = Machine().child(vps=2)
    vp = child.vps[0]
    for each in child.vps.values():
        write_msr(each, Msr.APIC_BASE, read_msr(each, Msr.APIC_BASE) | 1 << 10)
    write_msr(vp, Msr.HV_TPR, 0x30)
    assert (read_msr(vp, Msr.HV_TPR), read_msr(vp, Msr.X2APIC_TPR)) == (0x30, 0x30)
    write_msr(vp, Msr.HV_ICR, 1 << 32 | 0x4061)
    assert read_msr(vp, Msr.HV_ICR) == 1 << 32 | 0x4061
    assert child.vps[1].apic.irr == 1 << 0x61


def test_an_apic_that_is_switched_off_has_no_msrs(vp):
    write_msr(vp, Msr.APIC_BASE, read_msr(vp, Msr.APIC_BASE) & ~(1 << 11))
    for index in (Msr.HV_TPR, Msr.HV_ICR, Msr.HV_EOI):
        refuses(write_msr, vp, index, 0)
    for index in (Msr.HV_TPR, Msr.HV_ICR):
        refuses(read_msr, vp, index)


def test_an_ipi_by_msr_reaches_the_other_vp():
    child = Machine().child(vps=2)
    write_msr(child.vps[0], Msr.HV_ICR, 1 << 56 | 0x4061)
    assert child.vps[1].apic.irr == 1 << 0x61


def test_the_assist_page_is_empty_when_it_appears(vp):
    vp.partition.space.write(0x7000, b"mine")
    write_msr(vp, Msr.HV_VP_ASSIST_PAGE, 0x7001)
    assert vp.partition.space.read(0x7000, 4) == bytes(4)
    write_msr(vp, Msr.HV_VP_ASSIST_PAGE, 0)
    assert vp.partition.space.read(0x7000, 4) == b"mine"


def test_a_crash_is_reported_with_its_text():
    """TLFS "Guest Crash Enlightenment Interface"."""
    machine = Machine()
    vp = machine.child().vps[0]
    vp.partition.space.write(0x2000, b"oops")
    for n, value in enumerate((1, 2, 3, 0x2000, 4)):
        write_msr(vp, Msr.HV_CRASH_P0 + n, value)
    write_msr(vp, Msr.HV_CRASH_CTL, 0b11 << 62)
    assert machine.events(GuestCrashed) == [GuestCrashed((1, 2, 3, 0x2000, 4), "oops")]


@pytest.mark.parametrize(("control", "gpa", "size", "told"), [
    (0b10, 0x2000, 4, [""]), (0b11, 0x2000, 2, ["oo"]), (0b11, 0x2000, 0, [""]), (0b11, 1 << 40, 4, [""]),
    (0b01, 0x2000, 4, []), (0b00, 0x2000, 4, []),
], ids=["no text", "cut", "empty", "nowhere", "only a text", "nothing"])
def test_a_crash_is_one_when_it_is_to_be_told(control, gpa, size, told):
    """Bit 63 CrashNotify, bit 62 CrashMessage."""
    machine = Machine()
    vp = machine.child().vps[0]
    vp.partition.space.write(0x2000, b"oops")
    write_msr(vp, Msr.HV_CRASH_P3, gpa)
    write_msr(vp, Msr.HV_CRASH_P4, size)
    write_msr(vp, Msr.HV_CRASH_CTL, control << 62)
    assert [event.text for event in machine.events(GuestCrashed)] == told


def test_a_crash_text_is_never_longer_than_a_page():
    machine = Machine()
    vp = machine.child().vps[0]
    write_msr(vp, Msr.HV_CRASH_P3, 0x2000)
    write_msr(vp, Msr.HV_CRASH_P4, 0x3000)
    write_msr(vp, Msr.HV_CRASH_CTL, 0b11 << 62)
    assert len(machine.events(GuestCrashed)[0].text) == 4096


def test_the_hypercall_page_is_told_when_it_moves_and_when_it_goes():
    machine = Machine()
    vp = machine.child().vps[0]
    for index, value in ((Msr.HV_HYPERCALL, 0x5001), (Msr.HV_GUEST_OS_ID, 1), (Msr.HV_HYPERCALL, 0x5001),
                         (Msr.HV_HYPERCALL, 0x6001), (Msr.HV_HYPERCALL, 0)):
        write_msr(vp, index, value)
    told = [(event.name, event.gpa) for event in machine.events(OverlayMoved)]
    assert told == [("hypercall page", gpa) for gpa in (None, 0x5000, 0x6000, None)]


def test_what_is_ours():
    assert 0x40000000 in OURS
    assert 0x1B in OURS
    assert 0x8FF in OURS
    assert Msr.EFER not in OURS


# CPUID.

def test_the_hypervisor_introduces_itself():
    """TLFS "Feature and Interface Discovery"; checklist 1."""
    table = CpuidTable(CHILD_PRIVILEGES)
    maximum, *name = table.lookup(0x40000000, 0)
    assert b"".join(word.to_bytes(4, "little") for word in name) == b"Microsoft Hv"
    assert maximum == 0x4000000A
    assert table.lookup(0x40000001, 0)[0] == 0x31237648
    assert table.lookup(0x40000003, 0)[:2] == (CHILD_PRIVILEGES & 0xFFFF_FFFF, CHILD_PRIVILEGES >> 32)
    assert table.lookup(1, 0)[2] & FeaturesEcx.HYPERVISOR


@pytest.mark.parametrize("leaf", [0x40000007, 0x40000008, 0x40000009, 0x4000000A, 0x4000000B, 8, 0x80000009])
def test_a_leaf_that_is_not_there_is_zeros(leaf):
    assert CpuidTable(CHILD_PRIVILEGES).lookup(leaf, 0) == (0, 0, 0, 0)


def test_a_guest_never_sees_vmx_or_svm():
    table = CpuidTable(CHILD_PRIVILEGES)
    _, ebx, ecx, _ = table.lookup(1, 0, apic_id=3)
    assert (ebx >> 24, ecx & FeaturesEcx.VMX, table.lookup(0x80000001, 0)[2] & ExtendedSignatureEcx.SVM) == (3, 0, 0)


# What a guest asks for in case it is moved.

def test_a_guest_that_asks_for_it_is_told_that_its_tsc_is_invariant(vp):
    """TLFS "TSC Invariant Controls": it cannot be taken back."""
    assert vp.partition.cpuid.lookup(0x80000007, 0) == (0, 0, 0, 0)
    write_msr(vp, Msr.HV_TSC_INVARIANT_CONTROL, 0)
    assert vp.partition.cpuid.lookup(0x80000007, 0) == (0, 0, 0, 0)
    write_msr(vp, Msr.HV_TSC_INVARIANT_CONTROL, 1)
    assert vp.partition.cpuid.lookup(0x80000007, 0) == (0, 0, 0, 0x100)
    assert vp.partition.cpuid.lookup(0x80000000, 0)[0] >= 0x80000007
    refuses(write_msr, vp, Msr.HV_TSC_INVARIANT_CONTROL, 0)
    assert read_msr(vp, Msr.HV_TSC_INVARIANT_CONTROL) == 1


def test_reenlightenment_is_kept_and_no_tsc_is_emulated(vp):
    write_msr(vp, Msr.HV_REENLIGHTENMENT_CONTROL, 3 << 32 | 1 << 16 | 0x61)
    write_msr(vp, Msr.HV_TSC_EMULATION_CONTROL, 1)
    write_msr(vp, Msr.HV_TSC_EMULATION_STATUS, 0)
    assert read_msr(vp, Msr.HV_REENLIGHTENMENT_CONTROL) == 3 << 32 | 1 << 16 | 0x61
    assert (read_msr(vp, Msr.HV_TSC_EMULATION_CONTROL), read_msr(vp, Msr.HV_TSC_EMULATION_STATUS)) == (1, 0)
