"""EPT violations: the page of the virtual APIC is the hypervisor's, everything else is the parent's affair."""

from __future__ import annotations

from hv.hypervisor.exits.apic import apic_has_a_page, emulate_apic_access, keep_event
from hv.hypervisor.run import ask_about_memory, on_exit
from hv.hypervisor.verdicts import Verdict
from hv.hypervisor.vp import VirtualProcessor
from hv.machine.faults import Access
from hv.spec.exits import ExitReason
from hv.spec.x86 import PAGE_SHIFT
from hv.vmx.exit import VmExit

_OFFSET = (1 << PAGE_SHIFT) - 1


@on_exit(ExitReason.EPT_VIOLATION)
def handle_ept_violation(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """SDM "EPT Violations"; TLFS "Memory Access Messages"."""
    gpa = exit.guest_physical_address
    assert gpa is not None, "an EPT violation has a guest-physical address"
    if gpa >> PAGE_SHIFT == vp.apic.base.page and apic_has_a_page(vp) and not exit.idt_vectoring_info:
        return emulate_apic_access(vp, exit, gpa & _OFFSET)
    keep_event(vp, exit)
    return ask_about_memory(vp, gpa, Access(exit.qualification & 7), exit.guest_linear_address)
