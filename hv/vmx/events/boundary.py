"""What is due between two instructions of a guest, in the order in which the processor looks.

SDM "Priority Among Concurrent Events" and, for what only VMX has, the sections of each control under "VM Exits". Each
row asks whether it is due and does it: None when it is not, else whether the guest goes on (False: the exit handler
said stop). They are asked only while `Vcpu.watchful` says that one of them could be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.machine.faults import GuestFault
from hv.machine.idt import Event, EventKind
from hv.spec.exits import ExitReason, SipiQualification
from hv.spec.x86 import Vector
from hv.vmx.apic.interrupts import take_physical, take_virtual
from hv.vmx.events.debug_registers import ENABLES, instruction_bits
from hv.vmx.events.exits import interrupt_pending, nmi
from hv.vmx.events.non_register import ACTIVE, MOV_SS, PENDING, SHUTDOWN, WAIT_FOR_SIPI
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.events import debug_trap

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

Row = Callable[["Vcpu"], bool | None]


def trap_like_exit(vcpu: Vcpu) -> bool | None:
    """TPR below threshold, virtualized EOI, APIC write: behind the instruction that caused it, or behind VM entry.

    SDM "VM Exits Induced by the TPR Threshold": not in the shutdown state, nor while the processor waits for SIPI.
    """
    exit, vcpu.trap_like = vcpu.trap_like, None
    return None if exit is None or vcpu.non_register.activity in _DEAF else vcpu.exit(exit)


def init_signal(vcpu: Vcpu) -> bool | None:
    """INIT exits, and changes no register; it waits while the processor waits for SIPI."""
    if not vcpu.init_pending or vcpu.non_register.activity == WAIT_FOR_SIPI:
        return None
    vcpu.init_pending = False
    return vcpu.exit(VmExit(ExitReason.INIT_SIGNAL))


def startup_ipi(vcpu: Vcpu) -> bool | None:
    """SIPI exits from the state that waits for it; in any other it was dropped when it came."""
    vector, vcpu.sipi_vector = vcpu.sipi_vector, None
    if vector is None or vcpu.non_register.activity != WAIT_FOR_SIPI:
        return None
    return vcpu.exit(VmExit(ExitReason.SIPI, SipiQualification(vector=vector).raw))


def monitor_trap(vcpu: Vcpu) -> bool | None:
    """SDM "Monitor Trap Flag"; no blocking holds it back."""
    return vcpu.exit(VmExit(ExitReason.MONITOR_TRAP_FLAG)) if vcpu.mtf_pending else None


def debug_exception(vcpu: Vcpu) -> bool | None:
    """What pends becomes #DB, behind the instruction that MOV SS protects."""
    now = vcpu.non_register
    if not now.pending_debug & PENDING or now.activity in _DEAF or now.shadow & MOV_SS:
        return None
    return debug_trap(vcpu)


def preemption_timer(vcpu: Vcpu) -> bool | None:
    """SDM "VMX-Preemption Timer": blocked by nothing, but a processor that waits for SIPI."""
    if not vcpu.timer.expired or vcpu.non_register.activity == WAIT_FOR_SIPI:
        return None
    return vcpu.exit(VmExit(ExitReason.PREEMPTION_TIMER_EXPIRED))


def nmi_window(vcpu: Vcpu) -> bool | None:
    """SDM "NMI-Window Exiting": no virtual-NMI blocking, none by MOV SS."""
    now = vcpu.non_register
    if not vcpu.controls.nmi_window or now.nmi_blocked or now.activity == WAIT_FOR_SIPI or now.shadow & MOV_SS:
        return None
    return vcpu.exit(VmExit(ExitReason.NMI_WINDOW))


def non_maskable_interrupt(vcpu: Vcpu) -> bool | None:
    """A physical NMI; virtual-NMI blocking is no blocking of it."""
    now = vcpu.non_register
    if not vcpu.nmi_pending or now.activity == WAIT_FOR_SIPI or now.shadow & MOV_SS:
        return None
    if now.nmi_blocked and not vcpu.controls.virtual_nmis:
        return None
    vcpu.nmi_pending = False
    return vcpu.exit(nmi()) if vcpu.controls.nmis_exit else vcpu.take(Event(Vector.NMI, EventKind.NMI))


def interrupt_window(vcpu: Vcpu) -> bool | None:
    """SDM "Interrupt-Window Exiting": RFLAGS.IF is 1, and no blocking by STI or MOV SS."""
    if not vcpu.controls.interrupt_window or not _may_be_interrupted(vcpu):
        return None
    return vcpu.exit(VmExit(ExitReason.INTERRUPT_WINDOW))


def interrupt(vcpu: Vcpu) -> bool | None:
    """A physical interrupt: an exit whatever RFLAGS.IF says, or the guest's own."""
    if not vcpu.controls.interrupts_exit:
        if not _may_be_interrupted(vcpu) or not vcpu.interrupt_waits():
            return None
        vector = vcpu.external_interrupt()
        return None if vector is None else vcpu.take(Event(vector, EventKind.EXTERNAL))
    if vcpu.non_register.activity in _DEAF or vcpu.state.interrupt_shadow:
        return None
    if not vcpu.controls.acknowledges:
        return vcpu.exit(interrupt_pending()) if vcpu.interrupt_waits() else None
    vector = vcpu.external_interrupt()
    return None if vector is None else take_physical(vcpu, vector)


def virtual_interrupt(vcpu: Vcpu) -> bool | None:
    """SDM "Virtual-Interrupt Delivery"; none while interrupt-window exiting is on."""
    if not vcpu.apic.recognizes or vcpu.controls.interrupt_window or not _may_be_interrupted(vcpu):
        return None
    return vcpu.take(Event(take_virtual(vcpu), EventKind.EXTERNAL))


def instruction_breakpoint(vcpu: Vcpu) -> bool | None:
    """#DB before the instruction at RIP; not behind MOV SS. SDM "Instruction-Breakpoint Exception Condition"."""
    if not vcpu.state.dr7 & ENABLES or vcpu.non_register.activity != ACTIVE or vcpu.non_register.shadow & MOV_SS:
        return None
    bits = instruction_bits(vcpu)
    return vcpu.fault(GuestFault(Vector.DB, debug_bits=bits)) if bits else None


def _may_be_interrupted(vcpu: Vcpu) -> bool:
    """IF is 1, no shadow, and a state of activity that interrupts end."""
    state = vcpu.state
    return state.interrupts_enabled and not state.interrupt_shadow and vcpu.non_register.activity not in _DEAF


_DEAF = (SHUTDOWN, WAIT_FOR_SIPI)       # to interrupts and to debug exceptions

ORDER: tuple[Row, ...] = (
    trap_like_exit, init_signal, startup_ipi, monitor_trap, debug_exception, preemption_timer, nmi_window,
    non_maskable_interrupt, interrupt_window, interrupt, virtual_interrupt, instruction_breakpoint,
)


def at_boundary(vcpu: Vcpu) -> bool | None:
    """Do the most urgent of what is due; None when nothing is, False when an exit handler said stop."""
    for row in ORDER:
        goes_on = row(vcpu)
        if goes_on is not None:
            return goes_on
    return None


def something_could_be_due(vcpu: Vcpu) -> bool:
    """The guest must be watched: one of the rows, or the entry, asks for more than the usual."""
    now = vcpu.non_register
    return bool(
        vcpu.controls.monitor_trap_flag or vcpu.mtf_pending or vcpu.controls.timer_runs
        or (vcpu.controls.nmi_window and not now.nmi_blocked)
        or vcpu.event_waits or now.activity != ACTIVE or now.pending_debug & PENDING or now.written or now.returning
        or vcpu.nmi_pending or vcpu.init_pending or vcpu.sipi_vector is not None or vcpu.trap_like is not None
        or vcpu.apic.recognizes or vcpu.state.dr7 & ENABLES
        or vcpu.interrupt_is_held())

