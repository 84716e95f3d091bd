"""The processor's own MSRs as RDMSR and WRMSR at CPL 0 see them, with the rules that the engine does not keep.

SDM volume 4, and "WRMSR" for canonical addresses. Whoever lets a value from outside into one of them comes here: a
value that the manual refuses is #GP(0) and changes nothing.

There are no machine-check banks: MCG_CAP says 0, and the registers of banks are #GP.

# Simplified: the microcode revision can be read without CPUID before it; IA32_DEBUGCTL is kept and has no effect: there
are no branch records, and TF steps each instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hv.machine import memory_types
from hv.machine.clock import TSC_HZ
from hv.machine.faults import GuestFault
from hv.machine.paging import is_canonical
from hv.spec.msrs import (
    ArchCapabilities,
    Debugctl,
    MachineCheckStatus,
    MiscEnable,
    Msr,
    PlatformInfo,
    PredCmd,
    SpecCtrl,
)
from hv.spec.x86 import Cr0, Efer, MemoryType, Vector

EFER_WRITABLE = int(Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE)
_LME, _LMA, _PG = Efer.LME.value, Efer.LMA.value, Cr0.PG.value
_PAT_TYPES = frozenset(map(int, MemoryType))
_FAST_STRINGS: int = MiscEnable(fast_strings=1).raw
_UNAVAILABLE: int = MiscEnable(bts_unavailable=1, pebs_unavailable=1).raw
_MICROCODE = 1 << 32                # its revision is in the upper half
_RATIO = TSC_HZ // 100_000_000
_PLATFORM: int = PlatformInfo(maximum_ratio=_RATIO, minimum_ratio=_RATIO).raw
# Nothing is done ahead of its time here: there is no cache, no prediction and no buffer to leak from.
_CAPABILITIES: int = ArchCapabilities(
    rdcl_no=1, ibrs_all=1, skip_l1dfl_vmentry=1, ssb_no=1, mds_no=1, if_pschange_mc_no=1, taa_no=1, sbdr_ssdp_no=1,
    fbsdp_no=1, psdp_no=1, bhi_no=1, pbrsb_no=1, gds_no=1, rfds_no=1, its_no=1).raw

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


def _write_base(state: State, index: int, value: int) -> None:
    """Of FS or GS. IRET to user code keeps it, also where the segment itself becomes unusable."""
    _write_address(state, index, value)
    state.keep_base(index)


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


def _read_value(state: State, index: int) -> int:
    return int(state.kept_msrs.get(index, 0))


def _writer_of(reserved: int) -> Writer:
    """A register that is nothing but its value, with bits that are #GP."""
    def write(state: State, index: int, value: int) -> None:
        if value & reserved:
            raise refuse()
        state.kept_msrs[index] = value
    return write


def _write_misc_enable(state: State, index: int, value: int) -> None:
    """Fast strings can be switched. What this processor has no part for stays as it is, and so does what limits it:
    CPUID and NX are those of the partition."""
    state.kept_msrs[index] = value & _FAST_STRINGS


def _read_misc_enable(state: State, index: int) -> int:
    return int(state.kept_msrs.get(index, _FAST_STRINGS)) | _UNAVAILABLE


def _command(state: State, index: int, value: int) -> None:
    """A barrier of predictions, of which there are none."""
    if value & PredCmd.RESERVED:
        raise refuse()


def _constant(value: int) -> Reader:
    return lambda state, index: value


def _ignore(state: State, index: int, value: int) -> None:
    """A register without effect here: the write is legal."""


def _zero(state: State, index: int) -> int:
    return 0


READERS: dict[int, Reader] = {
    **{int(index): _read_kept for index in (
        Msr.STAR, Msr.LSTAR, Msr.CSTAR, Msr.SFMASK, Msr.KERNEL_GS_BASE, Msr.FS_BASE, Msr.GS_BASE, Msr.SYSENTER_CS,
        Msr.SYSENTER_ESP, Msr.SYSENTER_EIP, Msr.PAT, Msr.TSC_AUX)},
    int(Msr.EFER): lambda state, _: int(state.efer),
    int(Msr.DEBUGCTL): lambda state, _: int(state.debugctl),
    int(Msr.MISC_ENABLE): _read_misc_enable,
    int(Msr.BIOS_SIGN_ID): _constant(_MICROCODE), int(Msr.PLATFORM_ID): _zero,
    int(Msr.PLATFORM_INFO): _constant(_PLATFORM), int(Msr.ARCH_CAPABILITIES): _constant(_CAPABILITIES),
    int(Msr.MTRRCAP): _constant(memory_types.CAPABILITIES), **dict.fromkeys(memory_types.REGISTERS, _read_value),
    int(Msr.MCG_CAP): _zero, int(Msr.P5_MC_ADDR): _zero, int(Msr.P5_MC_TYPE): _zero,
    int(Msr.MCG_STATUS): _read_value, int(Msr.SPEC_CTRL): _read_value,
}
WRITERS: dict[int, Writer] = {
    **{int(index): _write_address for index in (Msr.LSTAR, Msr.CSTAR, Msr.KERNEL_GS_BASE, Msr.SYSENTER_ESP,
                                                Msr.SYSENTER_EIP)},
    int(Msr.FS_BASE): _write_base, int(Msr.GS_BASE): _write_base,
    int(Msr.STAR): _write_kept, int(Msr.SYSENTER_CS): _write_kept, int(Msr.SFMASK): _write_half,
    int(Msr.PAT): _write_pat, int(Msr.EFER): _write_efer, int(Msr.DEBUGCTL): _write_debugctl,
    int(Msr.MISC_ENABLE): _write_misc_enable, int(Msr.BIOS_SIGN_ID): _ignore,
    **dict.fromkeys(memory_types.REGISTERS, memory_types.write),
    int(Msr.MCG_STATUS): _writer_of(MachineCheckStatus.RESERVED), int(Msr.SPEC_CTRL): _writer_of(SpecCtrl.RESERVED),
    int(Msr.PRED_CMD): _command, int(Msr.TSC_AUX): _write_half,
}
