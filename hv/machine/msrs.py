"""The processor's own MSRs as RDMSR and WRMSR at CPL 0 see them, with the rules that the engine does not keep.

SDM volume 4, and "WRMSR" for canonical addresses. Whoever lets a value from outside into one of them comes here: a
value that the manual refuses is #GP(0) and changes nothing.

# Simplified: IA32_DEBUGCTL is kept and has no effect; there are no branch records, and TF steps each instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.machine.faults import GuestFault
from hv.machine.paging import is_canonical
from hv.spec.msrs import Debugctl, Msr
from hv.spec.x86 import Cr0, Efer, MemoryType, Vector

EFER_WRITABLE = int(Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE)
_LME, _LMA, _PG = Efer.LME.value, Efer.LMA.value, Cr0.PG.value
_PAT_TYPES = frozenset(map(int, MemoryType))
_FAST_STRINGS = 1

State = Any                 # a `ProcessorState`, or a fake of it
Reader = Callable[[State, int], int]
Writer = Callable[[State, int, int], None]


def refuse() -> GuestFault:
    """#GP(0)."""
    return GuestFault(Vector.GP, 0)


def read_msr(state: State, index: int) -> int:
    """What RDMSR gives; GuestFault(13, 0) for an MSR that is not the processor's own."""
    reader = READERS.get(index)
    if reader is None:
        raise refuse()
    return reader(state, index)


def write_msr(state: State, index: int, value: int) -> None:
    """What WRMSR of *value* (64 bits) does; GuestFault(13, 0), and nothing done."""
    writer = WRITERS.get(index)
    if writer is None:
        raise refuse()
    writer(state, index, value)


def _read_kept(state: State, index: int) -> int:
    return int(state.msrs[index])


def _write_kept(state: State, index: int, value: int) -> None:
    state.msrs[index] = value


def _write_address(state: State, index: int, value: int) -> None:
    if not is_canonical(value):
        raise refuse()
    state.msrs[index] = value


def _write_pat(state: State, index: int, value: int) -> None:
    if any(byte not in _PAT_TYPES for byte in value.to_bytes(8, "little")):
        raise refuse()
    state.msrs[index] = value


def _write_half(state: State, index: int, value: int) -> None:
    """Bits 63:32 are reserved."""
    if value >> 32:
        raise refuse()
    state.msrs[index] = value


def _write_efer(state: State, index: int, value: int) -> None:
    """Reserved bits and a change of LME under paging are #GP; LMA follows the processor, not the write."""
    old = state.efer
    if value & ~EFER_WRITABLE or ((value ^ old) & _LME and state.cr0 & _PG):
        raise refuse()
    state.efer = value & ~_LMA | old & _LMA


def _write_debugctl(state: State, index: int, value: int) -> None:
    if value & Debugctl.RESERVED:
        raise refuse()
    state.debugctl = value


def _ignore(state: State, index: int, value: int) -> None:
    """A register without effect here: the write is legal."""


def _zero(state: State, index: int) -> int:
    return 0


READERS: dict[int, Reader] = {
    **{int(index): _read_kept for index in (
        Msr.STAR, Msr.LSTAR, Msr.CSTAR, Msr.SFMASK, Msr.KERNEL_GS_BASE, Msr.FS_BASE, Msr.GS_BASE, Msr.SYSENTER_CS,
        Msr.SYSENTER_ESP, Msr.SYSENTER_EIP, Msr.PAT)},
    int(Msr.EFER): lambda state, _: int(state.efer),
    int(Msr.DEBUGCTL): lambda state, _: int(state.debugctl),
    int(Msr.MISC_ENABLE): lambda state, _: _FAST_STRINGS,
    int(Msr.BIOS_SIGN_ID): _zero, int(Msr.PLATFORM_ID): _zero,
}
WRITERS: dict[int, Writer] = {
    **{int(index): _write_address for index in (Msr.LSTAR, Msr.CSTAR, Msr.KERNEL_GS_BASE, Msr.FS_BASE, Msr.GS_BASE,
                                                Msr.SYSENTER_ESP, Msr.SYSENTER_EIP)},
    int(Msr.STAR): _write_kept, int(Msr.SYSENTER_CS): _write_kept, int(Msr.SFMASK): _write_half,
    int(Msr.PAT): _write_pat, int(Msr.EFER): _write_efer, int(Msr.DEBUGCTL): _write_debugctl,
    int(Msr.MISC_ENABLE): _ignore, int(Msr.BIOS_SIGN_ID): _ignore,
}
