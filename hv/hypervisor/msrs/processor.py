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
    """The guest's counter is the clock plus an offset; SDM "Time-Stamp Counter"."""
    with vp.vmcs.current():
        vp.vcpu.set_tsc(value)
    vp.partition.reference_tsc.follow()


_NOT_OFFERED = frozenset({Msr.DEBUGCTL})        # to guests: there is nothing to switch on
READERS = {index: _reader(read) for index, read in msrs.READERS.items() if index not in _NOT_OFFERED}
WRITERS = {index: _writer(write) for index, write in msrs.WRITERS.items() if index not in _NOT_OFFERED}
READERS[int(Msr.TSC)] = lambda vp, _: vp.vcpu.tsc
WRITERS[int(Msr.TSC)] = _write_tsc
