"""The processor's own MSRs, as guests have them; SDM volume 4.

Every access to one of these exits, so a value that the manual refuses is #GP(0) here and never reaches the engine. The
rules are the processor's (`hv/machine/msrs.py`); the time-stamp counter is each VP's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.machine import msrs
from hv.spec.msrs import Msr

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

Reader = Callable[["VirtualProcessor", int], int]
Writer = Callable[["VirtualProcessor", int, int], None]


def _reader(read: msrs.Reader) -> Reader:
    return lambda vp, index: read(vp.regs, index)


def _writer(write: msrs.Writer) -> Writer:
    return lambda vp, index, value: write(vp.regs, index, value)


def _write_tsc(vp: VirtualProcessor, index: int, value: int) -> None:
    """The guest's counter is the clock plus an offset; IA32_TSC_ADJUST goes as far as it does. SDM
    "IA32_TSC_ADJUST Register Support"."""
    _adjust(vp, vp.tsc_adjust + value - vp.vcpu.tsc)
    set_tsc(vp, value)


def _write_adjust(vp: VirtualProcessor, index: int, value: int) -> None:
    """The counter goes as far as the adjustment."""
    moved = value - vp.tsc_adjust
    _adjust(vp, value)
    set_tsc(vp, vp.vcpu.tsc + moved)


def _adjust(vp: VirtualProcessor, value: int) -> None:
    vp.tsc_adjust = value & _U64


def set_tsc(vp: VirtualProcessor, value: int) -> None:
    """Let the counter be *value* now; IA32_TSC_ADJUST, which is the guest's own, stays."""
    with vp.vmcs.current():
        vp.vcpu.set_tsc(value & _U64)
    vp.partition.reference_tsc.follow()


def _write_debugctl(vp: VirtualProcessor, index: int, value: int) -> None:
    """There is nothing to switch on."""
    if value:
        raise msrs.refuse()


_U64 = (1 << 64) - 1
READERS = {index: _reader(read) for index, read in msrs.READERS.items()}
WRITERS = {index: _writer(write) for index, write in msrs.WRITERS.items()}
READERS[int(Msr.TSC)] = lambda vp, _: vp.vcpu.tsc
WRITERS[int(Msr.TSC)] = _write_tsc
READERS[int(Msr.TSC_ADJUST)] = lambda vp, _: vp.tsc_adjust
WRITERS[int(Msr.TSC_ADJUST)] = _write_adjust
WRITERS[int(Msr.DEBUGCTL)] = _write_debugctl
