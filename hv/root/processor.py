"""The processor as root's kernel uses it: the hypercall instruction, MSRs, time, memory, interrupts.

Handed in by the platform.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hv.root.winhv import Door, RootMemory


class RootProcessor(NamedTuple):
    """Root's VP 0: *vmcall* enters the hypervisor, *wrmsr(index, value)* writes a synthetic MSR, *rdtsc* reads the
    time-stamp counter.

    *connect_interrupt* names the function that is called when the virtual APIC delivers a vector; *connect_thread*
    (partition, VP, function) the one that goes on where HvCallDispatchVp of that VP comes back: it gives the flags of
    the next call. None: there is no such thread any more.
    """

    vmcall: Door
    wrmsr: Callable[[int, int], None]
    rdtsc: Callable[[], int]
    memory: RootMemory
    connect_interrupt: Callable[[int, Callable[[], None]], None]
    connect_thread: Callable[[int, int, Callable[[], int] | None], None]
