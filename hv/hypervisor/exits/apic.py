"""What the processor's APIC virtualization leaves to the hypervisor, and accesses to an APIC that is not virtualized.

`interrupts/apic_virtualization.py` says what it does by itself. SDM "APIC-Access VM Exits", "APIC-Write VM Exits".
"""

from __future__ import annotations

from hv.hypervisor.interrupts.vp_apic import VpApic
from hv.hypervisor.run import ask_about_memory, on_exit
from hv.hypervisor.verdicts import ADVANCE, RETRY, SENT, Halt, Verdict
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.instructions.decode import Undecodable
from hv.instructions.memory_operations import perform
from hv.instructions.moves import Move
from hv.machine.faults import Access
from hv.spec.apic import ApicRegister
from hv.spec.exits import ApicAccessQualification, ApicAccessType, ExitReason
from hv.spec.x86 import PAGE_SHIFT, PAGE_SIZE, Rflags
from hv.trace.events import MmioAccess
from hv.vmx.events.injection import event_of
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import access_at

_RF, _OFFSET = Rflags.RF.value, PAGE_SIZE - 1
_ICR = ApicRegister.ICR_LOW.value
_BY_INSTRUCTION = (ApicAccessType.LINEAR_READ, ApicAccessType.LINEAR_WRITE)
_ACCESS = {ApicAccessType.LINEAR_READ: Access.READ, ApicAccessType.LINEAR_WRITE: Access.WRITE,
           ApicAccessType.LINEAR_FETCH: Access.EXECUTE}


@on_exit(ExitReason.APIC_ACCESS)
def handle_apic_access(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """An access to a register that has to be computed, or by an instruction that is not virtualized; or no access of
    an instruction at all, which finds no memory there."""
    if exit.move is not None and vp.apic.is_present and not vp.apic.is_x2apic:     # `apic_has_a_page`, without its call
        return move_of_apic(vp, exit, exit.move, exit.qualification & _OFFSET)
    access = ApicAccessQualification(exit.qualification)
    if access.type in _BY_INSTRUCTION and apic_has_a_page(vp):
        return emulate_apic_access(vp, exit, access.offset)
    keep_event(vp, exit)
    wanted = _ACCESS.get(ApicAccessType(access.type), Access.READ)
    return ask_about_memory(vp, vp.apic.base.page << PAGE_SHIFT | access.offset, wanted)


@on_exit(ExitReason.APIC_WRITE)
def handle_apic_write(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """The value is in the page, the instruction is done: what is left is the effect."""
    apic, offset = vp.apic, exit.qualification
    assert isinstance(apic, VpApic), "only a virtualized APIC has a page"
    if vp.trace.listening:
        value = apic.virtual.page.dwords[offset >> 2]
        vp.trace.emit(MmioAccess(apic.base.page << PAGE_SHIFT | offset & ~3, 4, True, value))
    apic.written(offset)
    return SENT if offset == _ICR else RETRY


@on_exit(ExitReason.VIRTUALIZED_EOI)
def handle_virtualized_eoi(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """Somebody waits for this EOI: a SINT with a message, or the source of a level-triggered interrupt."""
    vp.apic.ended(exit.qualification)
    return RETRY


def keep_event(vp: VirtualProcessor, exit: VmExit) -> None:
    """The event whose delivery was interrupted is not lost: HvRegisterPendingInterruption has it."""
    if exit.idt_vectoring_info:
        vp.pending_event = event_of(exit.idt_vectoring_info, exit.idt_vectoring_error_code, exit.instruction_length)


def apic_has_a_page(vp: VirtualProcessor) -> bool:
    return vp.apic.is_present and not vp.apic.is_x2apic


def emulate_apic_access(vp: VirtualProcessor, exit: VmExit, offset: int) -> Verdict:
    """Carry the instruction out on the virtual APIC's registers; SDM "Accessing the Local APIC Registers"."""
    try:
        decoded, access = access_at(vp.vcpu)
        done = perform(vp.regs, access, lambda: _read(vp, offset) & (1 << 8 * access.size) - 1,
                       lambda value: _write(vp, offset, value))
    except Undecodable as error:
        return Halt(f"an instruction that cannot be emulated touches the local APIC: {error}")
    exit.instruction_length = decoded.length if done else 0
    vp.regs.rflags &= ~_RF              # which the exit has set: the instruction was carried out
    return ADVANCE


def move_of_apic(vp: VirtualProcessor, exit: VmExit, move: Move, offset: int) -> Verdict:
    """The same for a *move* that is known already."""
    if move.load is not None:
        value = _read(vp, offset) if vp.trace.listening else vp.apic.read(offset & ~3) >> 8 * (offset & 3)
        move.load(vp.regs.gpr, value)
    elif move.value is not None:
        _write(vp, offset, move.value(vp.regs.gpr))
    exit.instruction_length = move.length
    vp.regs.clear_resume_flag()
    return ADVANCE


def _read(vp: VirtualProcessor, offset: int) -> int:
    value = vp.apic.read(offset & ~3) >> 8 * (offset & 3)
    if vp.trace.listening:
        vp.trace.emit(MmioAccess(vp.apic.base.page << PAGE_SHIFT | offset, 4, False, value))
    return value


def _write(vp: VirtualProcessor, offset: int, value: int) -> None:
    if vp.trace.listening:
        vp.trace.emit(MmioAccess(vp.apic.base.page << PAGE_SHIFT | offset, 4, True, value))
    vp.apic.write(offset, value & 0xFFFF_FFFF)
