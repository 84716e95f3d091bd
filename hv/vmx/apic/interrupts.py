"""When virtual interrupts reach the guest: at VM entry, behind an instruction, and from a posted-interrupt descriptor.

SDM "Evaluation and Delivery of Virtual Interrupts", "Posted-Interrupt Processing". Which interrupt that is, is the
affair of `virtual_apic.py`; here is whether the guest takes it now, or RFLAGS.IF is waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.idt import EXTERNAL_INTERRUPTS
from hv.vmx.events.exits import external_interrupt

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

WATCHED = 3                            # word of the work counter: `window`


def enter_apic(vcpu: Vcpu) -> bool:
    """What VM entry does about the virtual APIC; False when an exit handler said stop.

    Software calls it when it changed the page or the guest interrupt status in an exit that it answers with True.
    """
    apic = vcpu.apic.virtual
    if apic is not None:
        exit = apic.enter()
        if exit is not None and not vcpu.exit(exit):
            return False
        if not (apic.recognized or vcpu.controls.interrupt_window or vcpu.work[WATCHED]):
            return True                     # the usual: nothing waits, and nothing did
    return deliver_virtual(vcpu)


def behind_instruction(vcpu: Vcpu) -> bool:
    """An instruction was virtualized on the APIC: its exit, or the interrupt that it let through."""
    vcpu.apic_acted = False
    exit, vcpu.trap_like = vcpu.trap_like, None
    if exit is not None:
        if vcpu.non_register.pending_debug:
            vcpu.look()
        return vcpu.exit(exit)
    return deliver_virtual(vcpu)            # behind the #DB, if one pends


def deliver_virtual(vcpu: Vcpu) -> bool:
    """The virtual interrupt that is recognized is delivered, or waits for RFLAGS.IF."""
    apic, state = vcpu.apic.virtual, vcpu.state
    if apic is not None and apic.recognized and state.takes_interrupts \
            and not vcpu.watchful and not vcpu.non_register.pending_debug:
        vector = apic.deliver()             # `take_virtual`, without its call
        vcpu.on_virtual_interrupt(vector)
        exit = vcpu.deliver(EXTERNAL_INTERRUPTS[vector])        # and `take`, the same
        if exit is not None and not vcpu.exit(exit):
            return False
    waits = vcpu.controls.interrupt_window or (apic is not None and apic.recognized)    # `flag_matters`, without calls
    if bool(vcpu.work[WATCHED]) is not waits:
        vcpu.watch_interrupt_flag()
    return True


def take_virtual(vcpu: Vcpu) -> int:
    """The vector of the virtual interrupt that is recognized, which is in service now."""
    assert vcpu.apic.virtual is not None, "only a virtual APIC recognizes one"
    vector = vcpu.apic.virtual.deliver()
    vcpu.on_virtual_interrupt(vector)
    return vector


def take_physical(vcpu: Vcpu, vector: int) -> bool:
    """A physical interrupt was acknowledged: posted-interrupt processing, or an exit; False when that said stop."""
    if vector != vcpu.apic.notification_vector:
        return vcpu.exit(external_interrupt(vector))
    vcpu.apic.process_posted()
    return deliver_virtual(vcpu)
