"""EPT violations: the page of the virtual APIC is the hypervisor's, everything else is the parent's affair."""

from __future__ import annotations

from hv.hypervisor.run import ask_about_memory, on_exit
from hv.hypervisor.verdicts import ADVANCE, Halt, Verdict
from hv.hypervisor.vp import VirtualProcessor
from hv.machine.decode import Undecodable, decode_at
from hv.machine.faults import Access
from hv.machine.memory_operations import memory_access, perform
from hv.spec.exits import ExitReason
from hv.spec.x86 import Rflags
from hv.trace.events import MmioAccess
from hv.vmx.entry import event_of
from hv.vmx.exit import VmExit

_PAGE, _RF = 0xFFF, Rflags.RF.value


@on_exit(ExitReason.EPT_VIOLATION)
def handle_ept_violation(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """SDM "EPT Violations"; TLFS "Memory Access Messages"."""
    gpa = exit.guest_physical_address
    assert gpa is not None, "an EPT violation has a guest-physical address"
    if gpa >> 12 == vp.apic.base.page and _apic_has_a_page(vp) and not exit.idt_vectoring_info:
        return _apic_access(vp, exit, gpa & _PAGE)
    if exit.idt_vectoring_info:         # the event is not lost: HvRegisterPendingInterruption has it
        vp.pending_event = event_of(exit.idt_vectoring_info, exit.idt_vectoring_error_code, exit.instruction_length)
    return ask_about_memory(vp, gpa, Access(exit.qualification & 7), exit.guest_linear_address)


def _apic_has_a_page(vp: VirtualProcessor) -> bool:
    return vp.apic.is_present and not vp.apic.is_x2apic


def _apic_access(vp: VirtualProcessor, exit: VmExit, offset: int) -> Verdict:
    """Carry the instruction out on the virtual APIC's registers; SDM "Accessing the Local APIC Registers"."""
    try:
        decoded = decode_at(vp.regs, vp.vcpu.memory)
        done = perform(vp.regs, memory_access(decoded), lambda: _read(vp, offset),
                       lambda value: _write(vp, offset, value))
    except Undecodable as error:
        return Halt(f"an instruction that cannot be emulated touches the local APIC: {error}")
    exit.instruction_length = decoded.length if done else 0
    vp.regs.rflags &= ~_RF              # which the exit has set: the instruction was carried out
    return ADVANCE


def _read(vp: VirtualProcessor, offset: int) -> int:
    value = vp.apic.read(offset & ~3) >> 8 * (offset & 3)
    if vp.trace.listening:
        vp.trace.emit(MmioAccess(vp.apic.base.page << 12 | offset, 4, False, value))
    return value


def _write(vp: VirtualProcessor, offset: int, value: int) -> None:
    if vp.trace.listening:
        vp.trace.emit(MmioAccess(vp.apic.base.page << 12 | offset, 4, True, value))
    vp.apic.write(offset, value & 0xFFFF_FFFF)
