"""VMREAD and VMWRITE of a guest under VMCS shadowing: which exit, and what the others do to the shadow VMCS."""

from __future__ import annotations

import pytest

from hv.spec.exits import ExitReason, VmInstructionError
from hv.spec.vmcs import NO_VMCS, SecondaryControls, VmcsField
from hv.vmx.capabilities import REVISION_ID
from hv.vmx.root_operation.operation import VmxOperation
from hv.vmx.vmcs import DEFAULT_CONTROLS
from tests.proves import proves
from tests.vmx.vcpu_box import CODE, vector_at

R, F = ExitReason, VmcsField
SHADOW, READ_BITMAP, WRITE_BITMAP, DATA = 0x64000, 0x65000, 0x66000, 0x20000
SECONDARY = DEFAULT_CONTROLS[F.SECONDARY_PROC_CONTROLS] | int(SecondaryControls.VMCS_SHADOWING)
CF, ZF = 1, 0x40
ROWS = ("control/SecondaryControls.VMCS_SHADOWING", "instruction/VMREAD", "instruction/VMWRITE")


@pytest.fixture
def shadowed(box):
    """A vcpu with a shadow VMCS whose GUEST_RIP is 1122334455667788H; the bitmaps let all but TSC_OFFSET through."""
    box.memory.write_u32(SHADOW, REVISION_ID | 1 << 31)
    bitmap = bytearray(4096)
    bitmap[F.TSC_OFFSET >> 3] = 1 << (F.TSC_OFFSET & 7)
    box.memory.write(READ_BITMAP, bytes(bitmap))
    box.memory.write(WRITE_BITMAP, bytes(bitmap))
    vcpu = box.vcpu()
    vcpu.vmx = VmxOperation(box.memory)
    vcpu.vmx.activate(SHADOW).write(F.GUEST_RIP, 0x1122334455667788)
    for field, value in {F.SECONDARY_PROC_CONTROLS: SECONDARY, F.VMCS_LINK_POINTER: SHADOW,
                         F.VMREAD_BITMAP: READ_BITMAP, F.VMWRITE_BITMAP: WRITE_BITMAP}.items():
        vcpu.vmcs.write(field, value)
    vcpu.state.rbx = DATA
    return vcpu


def run(box, vcpu, source, **registers):
    for name, value in registers.items():
        setattr(vcpu.state, name, value)
    box.put(f"{source}; cpuid")
    box.go(vcpu)
    return box.exits[0]


@proves(*ROWS)
@pytest.mark.parametrize("target", ["rax", "[rbx]"])
def test_a_guest_reads_its_shadow_vmcs_without_an_exit(box, shadowed, target):
    exit = run(box, shadowed, f"vmread {target}, rcx", rcx=F.GUEST_RIP, rflags=0x8D7)
    found = shadowed.state.rax if target == "rax" else box.memory.read_u64(DATA)
    assert (exit.reason, found, shadowed.state.rflags) == (R.CPUID, 0x1122334455667788, 2)


@proves(*ROWS)
@pytest.mark.parametrize("source", ["rax", "[rbx]"])
def test_a_guest_writes_its_shadow_vmcs_without_an_exit(box, shadowed, source):
    """The current VMCS keeps what it has."""
    box.memory.write_u64(DATA, 0x77)
    exit = run(box, shadowed, f"vmwrite rcx, {source}", rcx=F.GUEST_RSP, rax=0x77)
    assert (exit.reason, shadowed.vmx.activate(SHADOW).read(F.GUEST_RSP)) == (R.CPUID, 0x77)
    assert shadowed.vmcs.read(F.GUEST_RSP) != 0x77


@proves(*ROWS, "exit/VMREAD", "exit/VMWRITE")
@pytest.mark.parametrize(("source", "reason"), [("vmread rax, rcx", R.VMREAD), ("vmwrite rcx, rax", R.VMWRITE)])
@pytest.mark.parametrize("encoding", [F.TSC_OFFSET, 0x8000, 1 << 40 | F.GUEST_RIP])
@pytest.mark.parametrize("user", [False, True])
def test_the_bitmap_and_wide_encodings_make_it_exit(box, shadowed, source, reason, encoding, user):
    """Before the privilege level is asked for."""
    if user:
        shadowed.engine.load_image(shadowed.state, box.engine.save_image(box.state(user=True)))
        box.fix(shadowed)
    assert run(box, shadowed, source, rcx=encoding).reason is reason


@proves(*ROWS)
@pytest.mark.parametrize(("link", "encoding", "flags", "error"), [
    (NO_VMCS, F.GUEST_RIP, CF, 0), (SHADOW, 0x7FFE, ZF, VmInstructionError.UNSUPPORTED_COMPONENT),
    (SHADOW, F.GUEST_CS_SELECTOR | 1, ZF, VmInstructionError.UNSUPPORTED_COMPONENT)])
@pytest.mark.parametrize("source", ["vmread rax, rcx", "vmwrite rcx, rax"])
def test_a_failure_is_told_in_the_flags_and_the_shadow(box, shadowed, link, encoding, flags, error, source):
    """VMfailInvalid without a shadow VMCS; else the error is in that one."""
    shadowed.vmcs.write(F.VMCS_LINK_POINTER, link)
    exit = run(box, shadowed, source, rcx=encoding)
    assert (exit.reason, shadowed.state.rflags & 0x8D5) == (R.CPUID, flags)
    assert shadowed.vmx.activate(SHADOW).read(F.VM_INSTRUCTION_ERROR) == error
    assert shadowed.vmcs.read(F.VM_INSTRUCTION_ERROR) == 0


@proves(*ROWS)
@pytest.mark.parametrize("source", ["vmread rax, rcx", "vmwrite rcx, rax"])
def test_a_user_is_refused(box, shadowed, source):
    user = box.vcpu(user=True)
    shadowed.engine.load_image(shadowed.state, box.engine.save_image(user.state))
    exit = run(box, shadowed, source, rcx=F.GUEST_RIP)
    assert (exit.reason, vector_at(shadowed)) == (R.HLT, 13)


@proves(*ROWS)
def test_a_fault_of_the_operand_is_the_guests(box, shadowed):
    exit = run(box, shadowed, "vmread [rbx], rcx", rcx=F.GUEST_RIP, rbx=0x1234567000)
    assert (exit.reason, vector_at(shadowed), shadowed.state.cr2) == (R.HLT, 14, 0x1234567000)
    assert box.memory.read_u64(shadowed.state.rsp + 8) == CODE
