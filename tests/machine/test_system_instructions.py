"""SYSCALL and SYSENTER on the registers."""

from __future__ import annotations

import copy

import pytest

from hv.machine.faults import GuestFault
from hv.machine.registers import Segment
from hv.machine.system_instructions import syscall, sysenter
from hv.spec.msrs import Msr
from tests.machine.fakes import FLAT_CODE_32, FakeState

SCE, LMA = 1, 0x500
USER_64 = Segment(0x33, 0, 0xFFFFFFFF, 0xA0FB)
MSRS = {
    Msr.STAR: 0x0023_0013 << 32, Msr.LSTAR: 0xFFFF_8000_0000_1000, Msr.SFMASK: 0x700, Msr.SYSENTER_CS: 0x13,
    Msr.SYSENTER_ESP: 0xFFFF_8000_0000_2000, Msr.SYSENTER_EIP: 0xFFFF_8000_0000_3000,
}


def a_user(**registers: object) -> FakeState:
    """64-bit user code with SYSCALL enabled; IF, TF and the carry are set."""
    values = {"cr0": 0x80000011, "cr4": 0x20, "efer": LMA | SCE, "cs": USER_64, "cpl": 3, "rip": 0x400000,
              "rflags": 0x303, "rsp": 0x7000, "msrs": dict(MSRS)} | registers
    return FakeState(**values)  # type: ignore[arg-type]


def test_syscall_keeps_rip_and_rflags_in_rcx_and_r11():
    """SDM "SYSCALL - Fast System Call"."""
    state = a_user()
    syscall(state, 0x400002)
    assert (state.rcx, state.r11, state.rip, state.rsp) == (0x400002, 0x303, 0xFFFF_8000_0000_1000, 0x7000)
    assert (state.cpl, state.rflags) == (0, 0x3)
    assert state.cs == Segment(0x10, 0, 0xFFFFFFFF, 0xA09B)
    assert state.ss == Segment(0x18, 0, 0xFFFFFFFF, 0xC093)


def test_syscall_cannot_clear_the_fixed_flag():
    state = a_user(msrs=MSRS | {Msr.SFMASK: 0xFFFFFFFF})
    syscall(state, 0)
    assert state.rflags == 2


@pytest.mark.parametrize("registers", [{"efer": LMA}, {"efer": SCE}, {"cs": FLAT_CODE_32}],
                         ids=["sce-clear", "not-long-mode", "compatibility-mode"])
def test_syscall_outside_64_bit_mode_or_disabled_is_an_invalid_opcode(registers):
    state = a_user(**registers)
    before = copy.copy(state)
    with pytest.raises(GuestFault) as refused:
        syscall(state, 0)
    assert (refused.value.vector, refused.value.error_code) == (6, None)
    assert state == before


def test_sysenter_takes_all_from_its_msrs():
    """SDM "SYSENTER - Fast System Call"."""
    state = a_user()
    sysenter(state, 0x400002)
    assert (state.rip, state.rsp, state.cpl) == (0xFFFF_8000_0000_3000, 0xFFFF_8000_0000_2000, 0)
    assert state.rflags == 0x103
    assert state.cs == Segment(0x10, 0, 0xFFFFFFFF, 0xA09B)
    assert state.ss == Segment(0x18, 0, 0xFFFFFFFF, 0xC093)


def test_sysenter_of_protected_mode_loads_32_bits():
    state = a_user(cr0=0x11, efer=0, cs=FLAT_CODE_32, rflags=0x20202)
    sysenter(state, 0)
    assert (state.rip, state.rsp, state.cs.rights, state.rflags) == (0x3000, 0x2000, 0xC09B, 2)


@pytest.mark.parametrize("registers", [{"cr0": 0x10, "efer": 0}, {"msrs": MSRS | {Msr.SYSENTER_CS: 3}}],
                         ids=["real-mode", "null-selector"])
def test_sysenter_without_a_target_is_a_general_protection(registers):
    state = a_user(**registers)
    before = copy.copy(state)
    with pytest.raises(GuestFault) as refused:
        sysenter(state, 0)
    assert (refused.value.vector, refused.value.error_code) == (13, 0)
    assert state == before
