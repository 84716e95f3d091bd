"""Bugs for labs that diagnose a hypervisor: each replaces one handler of one VM, in one machine, and says when it acts.

They exist here only; nothing of the hypervisor knows of them. A lab switches one on by `fault` of its lab.toml:

| fault | what is wrong with the hypervisor |
|---|---|
| missing-eoi | the guest's EOI is dropped: what was in service stays so |
| stale-tlb | after a change of the second-level tables nothing is invalidated |
| wrong-rip-advance | RIP moves one byte too far behind CPUID |
| no-interrupt-window | an interrupt waits, the guest cannot take it, and no exit is asked for that says when it can |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hv.platform import VirtualMachine
from hv.spec.exits import ExitReason
from hv.vmx.exit import VmExit

Acted = Callable[[], object]            # called whenever the bug shows
Inject = Callable[[VirtualMachine, Acted], None]


def missing_eoi(vm: VirtualMachine, acted: Acted) -> None:
    """The guest's EOI is dropped. SDM "Signaling Interrupt Servicing Completion" wants the vector out of the ISR."""
    def dropped(apic: Any) -> None:
        if apic.isr:
            acted()

    for vp in vm.partition.vps.values():
        vp.apic.eoi = partial(dropped, vp.apic)     # type: ignore[method-assign]


def stale_tlb(vm: VirtualMachine, acted: Acted) -> None:
    """No INVEPT after a change of the tables: what a processor remembered goes on to count. SDM "INVEPT"."""
    tables = vm.partition.space.tables
    assert tables is not None, "a VM has tables of its own"
    tables.on_invept = acted


def wrong_rip_advance(vm: VirtualMachine, acted: Acted) -> None:
    """Behind CPUID, which has two bytes, the guest goes on one byte too far. SDM "Instruction length"."""
    def on_exit(vp: Any, handle: Callable[[VmExit], bool], exit: VmExit) -> bool:
        behind = vp.regs.rip + exit.instruction_length
        goes_on = handle(exit)
        if exit.reason is ExitReason.CPUID and vp.regs.rip == behind:
            acted()
            vp.regs.rip = behind + 1
        return goes_on

    for vp in vm.partition.vps.values():
        vp.vcpu.on_exit = partial(on_exit, vp, vp.vcpu.on_exit)


def no_interrupt_window(vm: VirtualMachine, acted: Acted) -> None:
    """No exit when the guest lets interrupts in: what waits then comes whenever. SDM "Interrupt-Window Exiting"."""
    def asked(wanted: bool) -> None:
        if wanted:
            acted()

    for vp in vm.partition.vps.values():
        vp.vcpu.want_window = asked     # type: ignore[method-assign]


FAULTS: dict[str, Inject] = {"missing-eoi": missing_eoi, "stale-tlb": stale_tlb, "wrong-rip-advance": wrong_rip_advance,
                             "no-interrupt-window": no_interrupt_window}
# Else no EOI ever reaches the hypervisor, and the processor itself delivers what waits.
WITHOUT_APIC_VIRTUALIZATION = frozenset({"missing-eoi", "no-interrupt-window"})
