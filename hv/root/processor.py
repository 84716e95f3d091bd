"""The processor as root's kernel uses it: the hypercall instruction, MSRs, memory, interrupts.

Handed in by the platform.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hv.root.winhv import Door, RootMemory


class RootProcessor(NamedTuple):
    """Root's VP 0: *vmcall* enters the hypervisor, *wrmsr(index, value)* writes a synthetic MSR.

    *set_interrupt_handler* names the function that is called with each vector the virtual APIC delivers.
    """

    vmcall: Door
    wrmsr: Callable[[int, int], None]
    memory: RootMemory
    set_interrupt_handler: Callable[[Callable[[int], None]], None]
