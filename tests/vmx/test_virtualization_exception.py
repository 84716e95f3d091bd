"""#VE: EPT violations that become exceptions of the guest, and what the guest finds in the information area."""

from __future__ import annotations

import pytest

from hv.machine.faults import Access
from hv.spec.ept import EptEntry, VirtualizationExceptionArea
from hv.spec.exits import ExitReason, InterruptionInfo
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.vmx.vcpu import Vcpu
from tests.machine.engine_box import DATA, STACK
from tests.proves import proves
from tests.vmx.vcpu_box import CODE, VcpuBox, vector_at

AREA = 0x71000
VE = 20
CONTROL = "control/SecondaryControls.EPT_VIOLATION_VE"


def converting(box: VcpuBox, source: str = "mov [rbx], rax; hlt", bits: int = 64, **registers: int) -> Vcpu:
    """A vcpu whose violations are #VE; DATA is read-only."""
    box.ept.map(DATA, DATA, Access.READ)
    box.ept.invept()
    vcpu = box.vcpu(bits)
    vcpu.vmcs.write(VmcsField.VE_INFO_ADDRESS, AREA)
    vcpu.vmcs.write(VmcsField.EPTP_INDEX, 5)
    vcpu.vmcs.write(VmcsField.SECONDARY_PROC_CONTROLS,
                    vcpu.vmcs.read(VmcsField.SECONDARY_PROC_CONTROLS) | SecondaryControls.EPT_VIOLATION_VE)
    box.put(source, bits)
    for name, value in ({"rbx": DATA + 8} | registers).items():
        setattr(vcpu.state, name, value)
    return vcpu


def area(box: VcpuBox) -> VirtualizationExceptionArea:
    return VirtualizationExceptionArea.parse(box.memory.read(AREA, VirtualizationExceptionArea.SIZE))


def exit_of(box: VcpuBox, vcpu: Vcpu):
    box.go(vcpu)
    return box.exits[-1]


@proves(CONTROL)
@pytest.mark.parametrize("bits", [32, 64])
def test_a_violation_is_the_guests_own_exception(box, bits):
    """SDM "Virtualization Exceptions": the handler finds what the exit would have recorded, and no error code."""
    source = "mov [rbx], rax; hlt" if bits == 64 else "mov [ebx], eax; hlt"
    vcpu = converting(box, source, bits)
    assert exit_of(box, vcpu).reason is ExitReason.HLT
    assert vector_at(vcpu) == VE
    assert box.memory.read_u64(STACK - (40 if bits == 64 else 12)) & 0xFFFF_FFFF == CODE
    found = area(box)
    assert (found.reason, found.busy, found.eptp_index) == (48, 0xFFFF_FFFF, 5)
    assert (found.exit_qualification, found.guest_linear_address, found.guest_physical_address) == (
        0x78A, DATA + 8, DATA + 8)


@proves(CONTROL)
def test_a_handler_that_repairs_what_it_can_and_frees_the_area_goes_on(box):
    """The handler moves RBX to a page that may be written, clears the busy word and returns: twice."""
    vcpu = converting(box, "mov [rbx], rax; mov rbx, rdx; mov [rbx], rax; hlt", rdx=DATA + 8, rax=7)
    handler = 0x54000
    box.gate(VE, 64, offset=handler)
    box.put("inc rcx; mov rbx, 0x22000; mov dword ptr [0x71004], 0; iretq", at=handler)
    assert exit_of(box, vcpu).reason is ExitReason.HLT
    assert (vcpu.state.rcx, vcpu.state.rip, box.memory.read_u64(0x22000)) == (2, CODE + 9, 7)


@proves(CONTROL)
def test_while_the_area_is_busy_violations_exit(box):
    box.memory.write_u32(AREA + 4, 1)
    vcpu = converting(box)
    exit = exit_of(box, vcpu)
    assert (exit.reason, exit.qualification, exit.guest_linear_address) == (ExitReason.EPT_VIOLATION, 0x78A, DATA + 8)
    assert area(box).reason == 0


@proves(CONTROL)
@pytest.mark.parametrize("present", [True, False])
def test_an_entry_may_suppress_it(box, present):
    """Bit 63 of the leaf, or of the entry that is not present."""
    vcpu = converting(box)
    step = box.ept.walk(DATA).entries[-1]
    box.memory.write_u64(step.spa, EptEntry(step.entry.raw if present else 0, suppress_ve=1).raw)
    assert exit_of(box, vcpu).reason is ExitReason.EPT_VIOLATION


@proves(CONTROL)
def test_what_is_not_present_converts_too(box):
    vcpu = converting(box, "mov rax, [rbx]; hlt", rbx=0x3000_0000 >> 8)
    box.ept.unmap(0x30_0000)
    box.ept.invept()
    assert exit_of(box, vcpu).reason is ExitReason.HLT
    assert (vector_at(vcpu), area(box).guest_physical_address) == (VE, 0x30_0000)


@proves(CONTROL)
def test_a_violation_during_delivery_exits(box):
    vcpu = converting(box, "ud2", rsp=DATA + 0x1000)
    exit = exit_of(box, vcpu)
    assert exit.reason is ExitReason.EPT_VIOLATION
    assert InterruptionInfo(exit.idt_vectoring_info).vector == 6


@proves(CONTROL)
def test_real_mode_has_no_virtualization_exception(box):
    vcpu = converting(box, "mov [bx], ax; hlt", 16, rbx=0x2000)
    box.ept.map(0x2000, 0x2000, Access.READ)
    box.ept.invept()
    assert exit_of(box, vcpu).reason is ExitReason.EPT_VIOLATION


@proves(CONTROL)
def test_a_misconfiguration_never_converts(box):
    vcpu = converting(box)
    box.memory.write_u64(box.ept.walk(DATA).entries[-1].spa, EptEntry(write=1).raw)
    assert exit_of(box, vcpu).reason is ExitReason.EPT_MISCONFIGURATION


@proves(CONTROL)
def test_the_exception_bitmap_may_make_it_an_exit(box):
    vcpu = converting(box)
    vcpu.vmcs.write(VmcsField.EXCEPTION_BITMAP, 1 << VE)
    exit = exit_of(box, vcpu)
    assert exit.reason is ExitReason.EXCEPTION_OR_NMI
    info = InterruptionInfo(exit.interruption_info)
    assert (info.vector, info.error_code_valid, area(box).busy) == (VE, 0, 0xFFFF_FFFF)


def test_an_area_outside_memory_is_busy(box):
    vcpu = converting(box)
    vcpu.vmcs.write(VmcsField.VE_INFO_ADDRESS, 1 << 40)
    assert exit_of(box, vcpu).reason is ExitReason.EPT_VIOLATION


@proves(CONTROL)
def test_an_access_that_software_makes_for_the_guest_converts(box):
    """SMSW to memory is done here."""
    vcpu = converting(box, "smsw [rbx]; hlt")
    vcpu.vmcs.write(VmcsField.CR0_GUEST_HOST_MASK, 0x8)
    exit_of(box, vcpu)
    assert vector_at(vcpu) == VE


@proves(CONTROL)
def test_it_is_a_page_fault_to_double_faults(box):
    """SDM "Interrupt 8 - Double Fault Exception": a #VE whose handler is not present is #DF."""
    vcpu = converting(box)
    box.gate(VE, 64, kind=0x0E)
    exit_of(box, vcpu)
    assert vector_at(vcpu) == 8
