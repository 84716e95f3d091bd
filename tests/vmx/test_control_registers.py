"""CR0 and CR4 behind their masks: what the guest reads, what exits, what is written, and which bits are fixed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hv.machine.watched import CONTROL_REGISTERS
from hv.spec.exits import CrAccess, CrQualification, ExitReason
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.vmx.vmcs import DEFAULT_CONTROLS
from tests.proves import proves
from tests.vmx.vcpu_box import CODE, VcpuBox, vector_at

R, F = ExitReason, VmcsField
GP = 13
CR0, CR4 = 0x80010033, 0x2620           # of the box's 64-bit guest
PE, MP, EM, TS, NE, AM = 1, 2, 4, 8, 0x20, 0x40000
FREE = MP | EM | TS | AM                # bits of CR0 that a guest may have as it likes
SECONDARY = DEFAULT_CONTROLS[F.SECONDARY_PROC_CONTROLS]
MASK = {0: F.CR0_GUEST_HOST_MASK, 4: F.CR4_GUEST_HOST_MASK}
SHADOW = {0: F.CR0_READ_SHADOW, 4: F.CR4_READ_SHADOW}
DATA = 0x20000


def masked(register: int, mask: int, shadow: int) -> dict[VmcsField, int]:
    return {MASK[register]: mask, SHADOW[register]: shadow}


# --- reading ---------------------------------------------------------------------------------------------

@proves("exit/CR_ACCESS", "instruction/MOV_FROM_CR", "instruction/SMSW")
@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize(("mask", "shadow"), [(0, 0), (NE, 0), (NE, NE), (NE | TS, TS), (0xFFFFFFFF, 0xA5A5A5A5)])
def test_a_guest_reads_the_shadow_where_the_mask_owns_a_bit(box, bits, mask, shadow):
    """SDM "Guest/Host Masks and Read Shadows for CR0 and CR4"; SMSW reads the same."""
    wide, base = ("r", "rdi") if bits == 64 else ("e", "edi" if bits == 32 else "di")
    source = f"mov {wide}bx, cr0; smsw cx; smsw [{base}]; mov {wide}dx, cr4; cpuid"
    vcpu, exit = box.exit_of(source, bits, fields=masked(0, mask, shadow) | masked(4, mask, shadow), rdi=0x5000)
    cr0, cr4 = (real & ~mask | shadow & mask for real in (vcpu.state.cr0, vcpu.state.cr4))
    assert exit.reason is R.CPUID
    assert (vcpu.state.rbx, vcpu.state.rcx & 0xFFFF, vcpu.state.rdx) == (cr0, cr0 & 0xFFFF, cr4)
    assert box.memory.read(0x5000, 2) == (cr0 & 0xFFFF).to_bytes(2, "little")
    assert vcpu.state.cr0 & NE
    assert vcpu.state.cr4 & 0x2000


@proves("instruction/SMSW")
def test_smsw_of_a_user_reads_the_shadow_too(box):
    vcpu, _ = box.exit_of("smsw bx; int3", user=True, fields=masked(0, NE | TS, TS), rbx=0)
    assert vcpu.state.rbx == CR0 & 0xFFFF & ~NE | TS


def test_reading_is_not_watched_without_a_mask(box):
    """What is not asked for costs a guest nothing."""
    vcpu = box.vcpu()
    assert not vcpu.state.watched & CONTROL_REGISTERS
    vcpu.vmcs.write(F.CR4_GUEST_HOST_MASK, 0x2000)
    assert vcpu.state.watched & CONTROL_REGISTERS
    vcpu.vmcs.write(F.CR4_GUEST_HOST_MASK, 0)
    assert not vcpu.state.watched & CONTROL_REGISTERS


# --- writing ---------------------------------------------------------------------------------------------

@proves("exit/CR_ACCESS", "instruction/MOV_TO_CR")
@pytest.mark.parametrize(("register", "mask", "value", "exits"), [
    (0, 0, CR0 | TS, False), (0, TS, CR0 | TS, True), (0, TS, CR0, False), (4, 0, CR4 | 4, False),
    (4, 4, CR4 | 4, True), (4, 4, CR4, False)])
def test_a_bit_that_the_mask_owns_and_the_shadow_differs_in_exits(box, register, mask, value, exits):
    """SDM "Guest/Host Masks and Read Shadows for CR0 and CR4"."""
    vcpu, exit = box.exit_of(f"mov cr{register}, rbx; cpuid", fields={MASK[register]: mask}, rbx=value)
    if exits:
        assert (exit.reason, exit.instruction_length, vcpu.state.rip) == (R.CR_ACCESS, 3, CODE)
        assert CrQualification(exit.qualification) == CrQualification(number=register, access=CrAccess.MOV_TO_CR,
                                                                      register=3)
        assert (vcpu.state.cr0, vcpu.state.cr4) == (CR0, CR4)
    else:
        assert (exit.reason, getattr(vcpu.state, f"cr{register}")) == (R.CPUID, value)


@proves("instruction/MOV_TO_CR")
def test_a_masked_bit_keeps_its_real_value_and_shows_its_shadow(box):
    vcpu, exit = box.exit_of("mov cr0, rbx; mov rcx, cr0; cpuid", fields=masked(0, NE, 0), rbx=CR0 & ~NE | TS)
    assert (exit.reason, vcpu.state.cr0, vcpu.state.rcx) == (R.CPUID, CR0 | TS, CR0 & ~NE | TS)


@proves("instruction/MOV_TO_CR", "instruction/MOV_FROM_CR")
@given(real=st.integers(0, FREE), mask=st.integers(0, FREE | NE), shadow=st.integers(0, FREE | NE),
       new=st.integers(0, FREE | NE))
@settings(max_examples=60, deadline=None)
def test_cr0_is_written_and_read_by_the_formulas_of_the_manual(shared_box, real, mask, shadow, new):
    """Exit when (new ^ shadow) & mask; else real := real & mask | new & ~mask, and #GP if that breaks a fixed bit."""
    rest = CR0 & ~(FREE | NE)
    real, mask = rest | NE | real & FREE, mask & (FREE | NE)
    shadow, new = (rest | value & (FREE | NE) for value in (shadow, new))
    vcpu, exit = shared_box.exit_of("mov cr0, rbx; mov rcx, cr0; cpuid", fields=masked(0, mask, shadow), cr0=real,
                                    rbx=new)
    written = real & mask | new & ~mask
    if (new ^ shadow) & mask:
        assert (exit.reason, vcpu.state.cr0) == (R.CR_ACCESS, real)
    elif not written & NE:
        assert (vector_at(vcpu), vcpu.state.cr0) == (GP, real)
    else:
        assert (exit.reason, vcpu.state.cr0) == (R.CPUID, written)
        assert vcpu.state.rcx == written & ~mask | shadow & mask


@pytest.fixture(scope="module")
def shared_box():
    box = VcpuBox()
    yield box
    box.close()


CLTS = {        # mask, shadow, what CR0.TS was -> whether it exits, what it is
    "not-masked": (0, 0, TS, False, 0), "masked-and-clear": (TS, 0, TS, False, TS),
    "masked-and-set": (TS, TS, 0, True, 0),
    "another-bit-is-masked": (NE | MP, 0, TS, False, 0),
}


@proves("instruction/CLTS", "exit/CR_ACCESS")
@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("case", CLTS)
def test_clts(box, case, bits):
    """SDM "Changes to Instruction Behavior in VMX Non-Root Operation", CLTS."""
    mask, shadow, before, exits, after = CLTS[case]
    vcpu = box.vcpu(bits)
    vcpu.state.cr0 |= before
    for field, value in masked(0, mask, shadow).items():
        vcpu.vmcs.write(field, value)
    box.put("clts; cpuid", bits)
    box.go(vcpu)
    assert vcpu.state.cr0 & TS == after
    if exits:
        assert box.exits[0].reason is R.CR_ACCESS
        assert CrQualification(box.exits[0].qualification) == CrQualification(access=CrAccess.CLTS)
        assert box.exits[0].instruction_length == 2
    else:
        assert box.exits[0].reason is R.CPUID


LMSW = {        # mask, shadow, CR0's low four bits, source -> None (it exits) or those bits after it
    "sets": (0, 0, 1, 0xE, 0xF), "clears-all-but-pe": (0, 0, 0xF, 0, 1),
    "bits-above-3-are-ignored": (0, 0, 1, 0xFFF0, 1),
    "masked-and-as-the-shadow": (TS, TS, 1, TS, 1), "masked-and-unlike-the-shadow": (TS, 0, 1, TS, None),
    "masked-and-cleared": (MP, MP, 1, 0, None), "pe-is-masked-and-cleared": (PE, PE, 1, 0, 1),
    "pe-is-masked-and-set-in-the-shadow": (PE, PE, 1, 1, 1), "pe-is-masked-and-wanted": (PE, 0, 1, 1, None),
    "ne-is-nothing-to-it": (NE, 0, 1, 0xE, 0xF),
}


@proves("instruction/LMSW", "exit/CR_ACCESS")
@pytest.mark.parametrize("operand", ["ax", "[rbx]"])
@pytest.mark.parametrize("case", LMSW)
def test_lmsw(box, case, operand):
    """SDM "Changes to Instruction Behavior in VMX Non-Root Operation", LMSW: it sets PE and never clears it."""
    mask, shadow, before, source, after = LMSW[case]
    box.memory.write(DATA, source.to_bytes(2, "little"))
    vcpu, exit = box.exit_of(f"lmsw {operand}; cpuid", fields=masked(0, mask, shadow), cr0=CR0 & ~0xF | before,
                             rax=source, rbx=DATA)
    if after is None:
        assert exit.reason is R.CR_ACCESS
        assert CrQualification(exit.qualification) == CrQualification(
            access=CrAccess.LMSW, lmsw_memory=int(operand == "[rbx]"), lmsw_source=source)
        assert exit.instruction_length == 3
        after = before
    else:
        assert exit.reason is R.CPUID
    assert vcpu.state.cr0 == CR0 & ~0xF | after


# --- fixed bits ------------------------------------------------------------------------------------------

@proves("instruction/MOV_TO_CR")
@pytest.mark.parametrize(("register", "value"), [
    (0, CR0 & ~NE), (0, 0x80000032), (0, 1 << 40 | CR0), (4, 0x2000), (4, 0x620), (4, CR4 | 1 << 11),
    (4, CR4 | 1 << 40)])
def test_an_illegal_value_is_general_protection_and_changes_nothing(box, register, value):
    """SDM "Restrictions on VMX Operation": CR0.NE and CR4.VMXE are fixed to 1, hidden by a mask or not."""
    vcpu, exit = box.exit_of(f"mov cr{register}, rbx", rbx=value)
    assert (exit.reason, vector_at(vcpu)) == (R.HLT, GP)
    assert (vcpu.state.cr0, vcpu.state.cr4) == (CR0, CR4)


@proves("control/SecondaryControls.UNRESTRICTED_GUEST")
@pytest.mark.parametrize("unrestricted", [False, True])
def test_only_an_unrestricted_guest_turns_paging_off(box, unrestricted):
    """PE and PG are fixed to 1 without the control."""
    fields = {F.SECONDARY_PROC_CONTROLS: SECONDARY if unrestricted else SECONDARY & ~int(
        SecondaryControls.UNRESTRICTED_GUEST)}
    vcpu = box.vcpu(32)
    vcpu.state.cr3, vcpu.state.cr0 = 0x5000, 0x80000031
    for field, value in fields.items():
        vcpu.vmcs.write(field, value)
    vcpu.state.rbx = 0x31
    box.put("mov cr0, ebx; cpuid", 32)
    box.go(vcpu)
    assert (box.exits[0].reason, vcpu.state.cr0) == ((R.CPUID, 0x31) if unrestricted else (R.HLT, 0x80000031))
