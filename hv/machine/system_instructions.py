"""SYSCALL and SYSENTER, done on the registers: the engine only steps over them.

Both load flat segments without reading a descriptor table. SYSRET, SYSEXIT and IRET are the engine's own.
"""

from __future__ import annotations

from hv.machine.faults import GuestFault
from hv.machine.registers import Registers, Segment
from hv.spec.msrs import Msr
from hv.spec.x86 import AccessRights, CodeDataBits, Cr0, Efer, Rflags, Vector

_PE, _LMA, _SCE = Cr0.PE.value, Efer.LMA.value, Efer.SCE.value
_FIXED, _RF, _VM, _IF = Rflags.FIXED.value, Rflags.RF.value, Rflags.VM.value, Rflags.IF.value
_FLAT = 0xFFFF_FFFF
_CODE = CodeDataBits.CODE | CodeDataBits.READABLE | CodeDataBits.ACCESSED
_DATA = CodeDataBits.WRITABLE | CodeDataBits.ACCESSED
_CODE_64 = AccessRights(type=_CODE, s=1, present=1, long=1, granularity=1).raw
_CODE_32 = AccessRights(type=_CODE, s=1, present=1, big=1, granularity=1).raw
_STACK = AccessRights(type=_DATA, s=1, present=1, big=1, granularity=1).raw


def syscall(state: Registers, next_rip: int) -> None:
    """SYSCALL: RCX and R11 keep *next_rip* and RFLAGS, then LSTAR at CPL 0; SDM "SYSCALL - Fast System Call".

    GuestFault(#UD) outside 64-bit mode, as on Intel's processors, or with EFER.SCE = 0. RSP is left to the kernel.
    """
    if not (state.efer & _LMA and state.efer & _SCE and state.cs.long):
        raise GuestFault(Vector.UD)
    star = state.msrs[Msr.STAR]
    flags = state.rflags
    state.rcx, state.r11 = next_rip, flags
    _load_flat(state, star >> 32 & 0xFFFC, _CODE_64)
    state.rflags = flags & ~(state.msrs[Msr.SFMASK] | _RF) | _FIXED
    state.rip = state.msrs[Msr.LSTAR]


def sysenter(state: Registers, next_rip: int) -> None:
    """SYSENTER: CS:RIP and SS:RSP from the three MSRs, at CPL 0; SDM "SYSENTER - Fast System Call".

    GuestFault(#GP(0)) in real mode or when SYSENTER_CS holds a null selector. *next_rip* is not saved anywhere:
    the program keeps it by convention.
    """
    selector = state.msrs[Msr.SYSENTER_CS] & 0xFFFC
    if not state.cr0 & _PE or not selector:
        raise GuestFault(Vector.GP, 0)
    long = bool(state.efer & _LMA)
    mask = (1 << 64) - 1 if long else _FLAT
    rsp, rip = state.msrs[Msr.SYSENTER_ESP] & mask, state.msrs[Msr.SYSENTER_EIP] & mask
    state.rflags = state.rflags & ~(_VM | _IF | _RF) | _FIXED
    _load_flat(state, selector, _CODE_64 if long else _CODE_32)
    state.rsp, state.rip = rsp, rip


def _load_flat(state: Registers, selector: int, code_rights: int) -> None:
    """CS = *selector* and SS = the next one, both flat and of privilege 0, whatever the GDT says."""
    state.cs = Segment(selector, 0, _FLAT, code_rights)
    state.ss = Segment(selector + 8, 0, _FLAT, _STACK)
    state.cpl = 0
