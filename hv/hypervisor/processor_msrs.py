"""The processor's own MSRs, with the checks that the engine does not make; SDM volume 4.

Every access to one of these exits, so a value that the manual refuses is #GP(0) here and never reaches the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.machine.faults import GuestFault
from hv.machine.paging import is_canonical
from hv.spec.msrs import Msr
from hv.spec.x86 import Cr0, Efer, Vector

if TYPE_CHECKING:
    from hv.hypervisor.vp import VirtualProcessor

Reader = Callable[["VirtualProcessor", int], int]
Writer = Callable[["VirtualProcessor", int, int], None]

_EFER_WRITABLE = int(Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE)
_PAT_TYPES = frozenset({0, 1, 4, 5, 6, 7})


def _refuse() -> GuestFault:
    return GuestFault(Vector.GP, 0)


def _read_kept(vp: VirtualProcessor, index: int) -> int:
    return vp.regs.msrs[index]


def _write_kept(vp: VirtualProcessor, index: int, value: int) -> None:
    vp.regs.msrs[index] = value


def _write_address(vp: VirtualProcessor, index: int, value: int) -> None:
    """A linear address: canonical, or #GP."""
    if not is_canonical(value):
        raise _refuse()
    vp.regs.msrs[index] = value


def _write_pat(vp: VirtualProcessor, index: int, value: int) -> None:
    if any(byte not in _PAT_TYPES for byte in value.to_bytes(8, "little")):
        raise _refuse()
    vp.regs.msrs[index] = value


def _write_sfmask(vp: VirtualProcessor, index: int, value: int) -> None:
    if value >> 32:
        raise _refuse()
    vp.regs.msrs[index] = value


def _write_efer(vp: VirtualProcessor, index: int, value: int) -> None:
    """Reserved bits and a change of LME under paging are #GP; LMA follows the processor, not the write."""
    old = vp.regs.efer
    if value & ~_EFER_WRITABLE or ((value ^ old) & Efer.LME and vp.regs.cr0 & Cr0.PG):
        raise _refuse()
    vp.regs.efer = value & ~int(Efer.LMA) | old & Efer.LMA


def _write_tsc(vp: VirtualProcessor, index: int, value: int) -> None:
    """The guest's counter is the clock plus an offset; SDM "Time-Stamp Counter"."""
    with vp.vmcs.current():
        vp.vcpu.set_tsc(value)


def _ignore(vp: VirtualProcessor, index: int, value: int) -> None:
    """A register without effect here: the write is legal."""


def _zero(vp: VirtualProcessor, index: int) -> int:
    return 0


READERS: dict[int, Reader] = {
    **{int(index): _read_kept for index in (Msr.STAR, Msr.LSTAR, Msr.CSTAR, Msr.SFMASK, Msr.KERNEL_GS_BASE, Msr.FS_BASE,
                                           Msr.GS_BASE, Msr.SYSENTER_CS, Msr.SYSENTER_ESP, Msr.SYSENTER_EIP, Msr.PAT)},
    Msr.EFER: lambda vp, _: vp.regs.efer,
    Msr.TSC: lambda vp, _: vp.vcpu.tsc,
    Msr.MISC_ENABLE: lambda vp, _: 1,               # fast strings
    Msr.BIOS_SIGN_ID: _zero,
    Msr.PLATFORM_ID: _zero,
}
WRITERS: dict[int, Writer] = {
    Msr.STAR: _write_kept, Msr.SYSENTER_CS: _write_kept, Msr.SFMASK: _write_sfmask, Msr.PAT: _write_pat,
    **{int(index): _write_address for index in (Msr.LSTAR, Msr.CSTAR, Msr.KERNEL_GS_BASE, Msr.FS_BASE, Msr.GS_BASE,
                                               Msr.SYSENTER_ESP, Msr.SYSENTER_EIP)},
    Msr.EFER: _write_efer, Msr.TSC: _write_tsc, Msr.MISC_ENABLE: _ignore, Msr.BIOS_SIGN_ID: _ignore,
}
READERS = {int(index): reader for index, reader in READERS.items()}
WRITERS = {int(index): writer for index, writer in WRITERS.items()}
