"""Spot checks of the processor's numbers: descriptors, gates, TSS, vectors, MSRs, CPUID."""

import pytest

from hv.spec import msrs, x86
from hv.spec.cpuid import FeaturesEcx, FeaturesEdx, HvFeatures, HvPrivilege
from hv.spec.msrs import Msr
from hv.spec.x86 import GateDescriptor, SegmentDescriptor, SystemType, Vector


@pytest.mark.parametrize(("layout", "size"), [
    (x86.Tss32, 104), (x86.Tss64, 104), (x86.GateDescriptor64, 16), (x86.SystemDescriptor64, 16),
    (x86.TablePointer32, 6), (x86.TablePointer64, 10), (msrs.HvReferenceTscPage, 24),
])
def test_sizes(layout, size):
    assert size == layout.SIZE


@pytest.mark.parametrize(("name", "offset"), [("rsp0", 4), ("rsp1", 0xC), ("rsp2", 0x14), ("ist1", 0x24),
                                              ("ist7", 0x54), ("io_map_base", 0x66)])
def test_the_64_bit_tss_keeps_its_stacks_where_the_manual_says(name, offset):
    assert x86.Tss64.offset_of(name) == offset


@pytest.mark.parametrize(("name", "offset"), [("esp0", 4), ("ss0", 8), ("cr3", 0x1C), ("eip", 0x20), ("es", 0x48),
                                              ("ldtr", 0x60), ("io_map_base", 0x66)])
def test_the_32_bit_tss_keeps_its_registers_where_the_manual_says(name, offset):
    assert x86.Tss32.offset_of(name) == offset


@pytest.mark.parametrize(("raw", "base", "limit", "rights"), [
    (0x00CF9B000000FFFF, 0, 0xFFFFFFFF, 0xC09B),      # flat 32-bit code
    (0x00AF9B000000FFFF, 0, 0xFFFFFFFF, 0xA09B),      # 64-bit code
    (0x00CF93000000FFFF, 0, 0xFFFFFFFF, 0xC093),      # flat data
    (0x12008B3456780067, 0x12345678, 0x67, 0x8B),     # a busy TSS
])
def test_a_descriptor_says_base_limit_and_rights(raw, base, limit, rights):
    descriptor = SegmentDescriptor(raw)
    assert (descriptor.base, descriptor.limit, descriptor.rights.raw) == (base, limit, rights)
    assert SegmentDescriptor.of(base, limit, rights).raw == raw


def test_a_descriptor_refuses_the_unusable_bit():
    with pytest.raises(ValueError, match="0x10000"):
        SegmentDescriptor.of(0, 0, 0x10000)


def test_a_gate_keeps_its_handler():
    gate = GateDescriptor.of(0xFFFF8000_12345678 & 0xFFFFFFFF, 0x08, SystemType.INTERRUPT_GATE, ist=1)
    assert gate.raw == 0x12348E0100085678
    assert gate.offset == 0x12345678


def test_exception_classes():
    """SDM "Conditions for Generating a Double Fault"."""
    assert Vector.DE in x86.CONTRIBUTORY
    assert Vector.PF in x86.PAGE_FAULT_CLASS
    assert not x86.CONTRIBUTORY & x86.PAGE_FAULT_CLASS
    assert {int(v) for v in x86.ENTRY_DELIVERS_ERROR_CODE} == {8, 10, 11, 12, 13, 14, 17, 21}
    assert Vector.DE not in x86.PUSHES_ERROR_CODE
    assert Vector.GP in x86.PUSHES_RF
    assert not {Vector.DB, Vector.NMI, Vector.BP, Vector.OF, Vector.DF} & x86.PUSHES_RF


def test_the_rflags_that_exist():
    assert x86.RFLAGS_DEFINED == 0x3F7FD7
    assert int(x86.ARITHMETIC_FLAGS) == 0x8D5


@pytest.mark.parametrize(("msr", "number"), [
    (Msr.APIC_BASE, 0x1B), (Msr.FEATURE_CONTROL, 0x3A), (Msr.PAT, 0x277), (Msr.MTRR_DEF_TYPE, 0x2FF),
    (Msr.VMX_BASIC, 0x480), (Msr.VMX_EXIT_CTLS2, 0x493), (Msr.TSC_DEADLINE, 0x6E0), (Msr.EFER, 0xC0000080),
    (Msr.HV_HYPERCALL, 0x40000001), (Msr.HV_EOM, 0x40000084), (Msr.HV_STIMER3_COUNT, 0x400000B7),
    (Msr.HV_CRASH_CTL, 0x40000105), (Msr.HV_GUEST_IDLE, 0x400000F0),
])
def test_msr_numbers(msr, number):
    assert msr == number


@pytest.mark.parametrize(("msr", "offset"), [
    (Msr.X2APIC_ID, 0x20), (Msr.X2APIC_TPR, 0x80), (Msr.X2APIC_EOI, 0xB0), (Msr.X2APIC_SVR, 0xF0),
    (Msr.X2APIC_ISR7, 0x170), (Msr.X2APIC_TMR0, 0x180), (Msr.X2APIC_IRR7, 0x270), (Msr.X2APIC_ESR, 0x280),
    (Msr.X2APIC_ICR, 0x300), (Msr.X2APIC_LVT_TIMER, 0x320), (Msr.X2APIC_LVT_ERROR, 0x370),
    (Msr.X2APIC_INITIAL_COUNT, 0x380), (Msr.X2APIC_DIVIDE, 0x3E0),
])
def test_an_x2apic_msr_follows_from_the_xapic_offset(msr, offset):
    """SDM "x2APIC Register Address Space"."""
    assert msr == 0x800 + (offset >> 4)


def test_sints_and_synthetic_timers_are_counted():
    assert msrs.sint_msr(2) is Msr.HV_SINT2
    assert msrs.stimer_msrs(1) == (Msr.HV_STIMER1_CONFIG, Msr.HV_STIMER1_COUNT)
    with pytest.raises(ValueError, match=r"sint 17 is out of range 0\.\.15"):
        msrs.sint_msr(17)
    with pytest.raises(ValueError, match="timer 4"):
        msrs.stimer_msrs(4)


def test_synthetic_register_formats():
    assert msrs.HvSynicSint(vector=0x52, masked=1).raw == 0x10052
    assert msrs.HvSimp(enable=1, gpfn=0x1234).raw == 0x1234001
    assert msrs.HvHypercallMsr(enable=1, gpfn=5).raw == 0x5001
    assert msrs.HvStimerConfig(enable=1, auto_enable=1, sintx=2).raw == 0x20009
    assert msrs.HvCrashCtl(crash_notify=1, crash_message=1).raw == 0xC000000000000000


def test_feature_bits():
    assert HvPrivilege.POST_MESSAGES >> 32 == 1 << 4
    assert HvPrivilege.ACCESS_HYPERCALL_MSRS == 0x20
    assert HvPrivilege.START_VIRTUAL_PROCESSOR >> 32 == 1 << 21
    assert HvFeatures.USE_DIRECT_SYNTHETIC_TIMERS == 1 << 19
    assert (FeaturesEcx.VMX, FeaturesEcx.X2APIC, FeaturesEcx.HYPERVISOR) == (1 << 5, 1 << 21, 1 << 31)
    assert FeaturesEdx.APIC == 1 << 9
