"""EPT violations: the page of the virtual APIC and overlays are the hypervisor's, the rest is the parent's affair."""

from __future__ import annotations

from hv.hypervisor.exits.apic import apic_has_a_page, emulate_apic_access, keep_event, move_of_apic
from hv.hypervisor.exits.failures import handle_triple_fault
from hv.hypervisor.exits.mmio import emulate_mmio
from hv.hypervisor.run import ask_about_memory, on_exit
from hv.hypervisor.verdicts import Inject, Verdict
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.faults import Access, GuestFault, TripleFault
from hv.machine.idt import combine
from hv.spec.exits import ExitReason
from hv.spec.x86 import PAGE_SHIFT, Vector
from hv.vmx.events.injection import event_of
from hv.vmx.exit import VmExit

_OFFSET = (1 << PAGE_SHIFT) - 1
_WRITE = Access.WRITE.value
_FINAL = 1 << 8                         # bit 8 of the qualification: not an access to a paging structure


@on_exit(ExitReason.EPT_VIOLATION)
def handle_ept_violation(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """SDM "EPT Violations"; TLFS "Memory Access Messages"."""
    gpa = exit.guest_physical_address
    assert gpa is not None, "an EPT violation has a guest-physical address"
    if gpa >> PAGE_SHIFT == vp.apic.base.page and apic_has_a_page(vp) and not exit.idt_vectoring_info:
        if exit.move is not None:
            return move_of_apic(vp, exit, exit.move, gpa & _OFFSET)
        return emulate_apic_access(vp, exit, gpa & _OFFSET)
    registers = vp.partition.mmio_pages.get(gpa >> PAGE_SHIFT)
    if registers is not None and not exit.idt_vectoring_info:
        return emulate_mmio(vp, exit, registers, gpa)
    if exit.qualification & _WRITE and vp.partition.space.overlay_at(gpa >> PAGE_SHIFT):
        return _overlay_written(vp, exit)
    if exit.move is not None and vp.dispatched is not None and vp.hypervisor.root_answers_at_once \
            and vp.partition.space.visible(gpa >> PAGE_SHIFT) is None:
        exit.instruction_length = exit.move.length      # for who completes it
        return vp.dispatched.ask_memory(gpa, exit.guest_linear_address or 0, exit.move)
    keep_event(vp, exit)
    return ask_about_memory(vp, gpa, Access(exit.qualification & 7), exit.guest_linear_address,
                            bool(exit.qualification & _FINAL))


def _overlay_written(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """TLFS "Establishing the Hypercall Interface": a write to the page, which is the hypervisor's, is #GP.

    That is so for every overlay without the right to write. The parent hears nothing of it.
    """
    fault = GuestFault(Vector.GP, 0)
    if not exit.idt_vectoring_info:
        raise fault
    delivered = event_of(exit.idt_vectoring_info, exit.idt_vectoring_error_code, exit.instruction_length)
    try:
        event = combine(delivered, fault)
    except TripleFault:
        return handle_triple_fault(vp, exit)
    return Inject(event.vector, event.error_code)
