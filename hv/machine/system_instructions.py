"""System instructions done on the registers, because the engine does them wrongly or not at all.

SYSCALL and SYSENTER (it only steps over them) and SYSEXIT (it has none in long mode) load flat segments without reading
a descriptor table. LTR of a null selector would leave it a TSS over which it ends the process. SYSRET and IRET are its
own.
"""

from __future__ import annotations

from hv.machine.faults import GuestFault
from hv.machine.linear import LinearMemory
from hv.machine.paging import is_canonical
from hv.machine.registers import Registers, Segment, Table
from hv.spec.msrs import Msr
from hv.spec.x86 import AccessRights, CodeDataBits, Cr0, Efer, Rflags, SystemType, Vector

_PE, _LMA, _SCE = Cr0.PE.value, Efer.LMA.value, Efer.SCE.value
_FIXED, _RF, _VM, _IF = Rflags.FIXED.value, Rflags.RF.value, Rflags.VM.value, Rflags.IF.value
_FLAT = 0xFFFF_FFFF
_USER = AccessRights(dpl=3).raw
_BUSY = 2                       # type bit of a TSS
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
    flags = state.rflags & ~_RF
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


def sysexit(state: Registers, wide: bool) -> None:
    """SYSEXIT: to RDX, the stack at RCX, CPL 3; *wide* is REX.W. SDM "SYSEXIT - Fast Return from Fast System Call"."""
    base = state.msrs[Msr.SYSENTER_CS] & 0xFFFC
    if not state.cr0 & _PE or state.cpl or not base:
        raise GuestFault(Vector.GP, 0)
    if wide and not (is_canonical(state.rcx) and is_canonical(state.rdx)):
        raise GuestFault(Vector.GP, 0)
    mask = (1 << 64) - 1 if wide else _FLAT
    selector = base + (32 if wide else 16)
    rsp, rip = state.rcx & mask, state.rdx & mask
    state.cs = Segment(selector | 3, 0, _FLAT, (_CODE_64 if wide else _CODE_32) | _USER)
    state.ss = Segment(selector + 8 | 3, 0, _FLAT, _STACK | _USER)
    state.cpl, state.rsp, state.rip = 3, rsp, rip


def load_task_register(state: Registers, memory: LinearMemory, selector: int) -> None:
    """LTR: TR is the TSS of *selector*, marked busy; SDM "LTR - Load Task Register"."""
    if not selector & ~3 or selector & 4:
        raise GuestFault(Vector.GP, selector & ~3)
    size = 16 if state.efer & _LMA else 8
    if (selector & ~7) + size - 1 > state.gdtr.limit:
        raise GuestFault(Vector.GP, selector & ~3)
    gva = state.gdtr.base + (selector & ~7)
    raw = memory.read_system(gva, size)
    segment = Segment.from_descriptor(selector, raw)
    available = (SystemType.TSS_AVAILABLE,) if size == 16 else (SystemType.TSS16_AVAILABLE, SystemType.TSS_AVAILABLE)
    if segment.code_or_data or segment.type not in available or raw >> 104 & 0x1F or not is_canonical(segment.base):
        raise GuestFault(Vector.GP, selector & ~3)
    if not segment.present:
        raise GuestFault(Vector.NP, selector & ~3)
    memory.write(gva + 5, bytes((raw >> 40 & 0xFF | _BUSY,)), 0, implicit=True)
    state.tr = segment._replace(rights=segment.rights | _BUSY)


def descriptor_table(raw: bytes, bits: int, narrow: bool) -> Table:
    """What LGDT or LIDT loads from the 6 or 10 bytes of *raw*; SDM "LGDT/LIDT - Load Global/Interrupt Descriptor Table
    Register". *narrow* is an operand size of 16 bits, which takes 24 bits of the base.

    GuestFault(#GP(0)) when the base is not canonical.
    """
    base = int.from_bytes(raw[2:], "little")
    if bits == 64 and not is_canonical(base):
        raise GuestFault(Vector.GP, 0)
    return Table(base & 0xFF_FFFF if narrow and bits != 64 else base, int.from_bytes(raw[:2], "little"))


def load_local_table(state: Registers, memory: LinearMemory, selector: int) -> None:
    """LLDT: LDTR is the LDT of *selector*, or unusable for a null one; SDM "LLDT - Load Local Descriptor Table
    Register"."""
    if not selector & ~3:
        state.ldtr = Segment.null(selector)
        return
    if selector & 4:
        raise GuestFault(Vector.GP, selector & ~3)
    size = 16 if state.efer & _LMA else 8
    if (selector & ~7) + size - 1 > state.gdtr.limit:
        raise GuestFault(Vector.GP, selector & ~3)
    raw = memory.read_system(state.gdtr.base + (selector & ~7), size)
    segment = Segment.from_descriptor(selector, raw)
    if segment.code_or_data or segment.type != SystemType.LDT or raw >> 104 & 0x1F or not is_canonical(segment.base):
        raise GuestFault(Vector.GP, selector & ~3)
    if not segment.present:
        raise GuestFault(Vector.NP, selector & ~3)
    state.ldtr = segment


def _load_flat(state: Registers, selector: int, code_rights: int) -> None:
    """CS = *selector* and SS = the next one, both flat and of privilege 0, whatever the GDT says."""
    state.cs = Segment(selector, 0, _FLAT, code_rights)
    state.ss = Segment(selector + 8, 0, _FLAT, _STACK)
    state.cpl = 0
