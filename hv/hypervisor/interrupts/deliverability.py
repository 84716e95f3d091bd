"""A parent waits until a VP of its child can take an NMI, an interrupt, or a message.

TLFS "HvRegisterDeliverabilityNotifications".

A parent that emulates an interrupt controller must know when its interrupt could be delivered: not while the guest has
interrupts off, or is at work for a higher priority. It writes the register, and goes on with other things; when what it
waits for is true the VP stops, the parent has a message, and the bits of what it was told are clear.

A VP that something waits for is looked at before each entry of its guest. What changes without an exit is made to exit:
RFLAGS.IF by the interrupt window, the end of an NMI's handler by the NMI window, and the task priority and EOI by
leaving the APIC to software, as for AutoEOI, and without EOI assist. A message slot becomes free by EOM or EOI, which
exit by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.interrupts.assisted_apic import AssistedApic
from hv.spec.hv_registers import DeliverabilityNotificationsRegister
from hv.spec.hv_status import HvStatus
from hv.spec.synic import HvMessageType, InterruptionDeliverable, PendingInterruptionType, SintDeliverable

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

Notifications = DeliverabilityNotificationsRegister
_INTERRUPT = int(Notifications(interrupt_notification=1))


def ask(vp: VirtualProcessor, wanted: Notifications) -> None:
    """The parent of *vp* waits for what *wanted* says from now on, and for nothing else."""
    if vp.partition.parent is None:
        raise HypercallError(HvStatus.INVALID_PARAMETER, "root has no parent that could be told")
    _become(vp, wanted)
    vp.kick()


def needs_exits(vp: VirtualProcessor) -> bool:
    """Every change of the priority of *vp* must be seen."""
    return bool(vp.notifications & _INTERRUPT)


def due(vp: VirtualProcessor) -> bool:
    """The parent is to be told something."""
    wanted = Notifications(vp.notifications)
    return vp.pending_event is None and (
        _nmi_is_due(vp, wanted) or _interrupt_is_due(vp, wanted) or bool(_free_sints(vp, wanted)))


def look(vp: VirtualProcessor) -> bool:
    """*vp* is about to enter its guest: False when it is to stop instead, since its parent has been told something."""
    if needs_exits(vp) and isinstance(vp.apic, AssistedApic):
        vp.apic.settle()                # the EOI of what is in service exits
    if due(vp):
        tell(vp)
        return False
    wanted = Notifications(vp.notifications)
    if wanted.nmi_notification:
        vp.vcpu.want_nmi_window(True)
    if wanted.interrupt_notification and _is_allowed(vp, wanted.interrupt_priority):
        vp.vcpu.want_window(True)
    for sint in _sints(wanted):
        vp.synic.ask_for_eom(sint)
    vp.event_pending = True             # and so it is looked at behind the next exit, too
    return True


def tell(vp: VirtualProcessor) -> None:
    """Send the first message that is `due`; the rest waits until the parent has completed it."""
    wanted = Notifications(vp.notifications)
    if _nmi_is_due(vp, wanted):
        wanted.nmi_notification = 0
        kind = PendingInterruptionType.NMI
    elif _interrupt_is_due(vp, wanted):
        wanted.interrupt_notification = wanted.interrupt_priority = 0
        kind = PendingInterruptionType.INTERRUPT
    else:
        _tell_of_sints(vp, wanted)
        return
    _become(vp, wanted)
    intercepts.send(vp, HvMessageType.X64_INTERRUPTION_DELIVERABLE, InterruptionDeliverable(
        header=intercepts.header(vp), deliverable_type=kind).pack())


def _tell_of_sints(vp: VirtualProcessor, wanted: Notifications) -> None:
    free = _free_sints(vp, wanted)
    wanted.sints &= ~free
    _become(vp, wanted)
    intercepts.send(vp, HvMessageType.SYNIC_SINT_DELIVERABLE, SintDeliverable(
        header=intercepts.header(vp), deliverable_sints=free).pack())


def _become(vp: VirtualProcessor, wanted: Notifications) -> None:
    """Let *wanted* be what is waited for. The windows are closed: whoever looks next opens what is needed."""
    vp.notifications = wanted.raw
    vp.partition.follow_apics()
    vp.vcpu.want_window(False)
    vp.vcpu.want_nmi_window(False)


def _nmi_is_due(vp: VirtualProcessor, wanted: Notifications) -> bool:
    return bool(wanted.nmi_notification) and vp.vcpu.takes_nmi and not vp.nmi_pending


def _interrupt_is_due(vp: VirtualProcessor, wanted: Notifications) -> bool:
    """A processor that halted has done STI and HLT: nothing shadows its interrupts any more."""
    return bool(wanted.interrupt_notification and vp.regs.interrupts_enabled and not vp.vcpu.debug_pends
                and (vp.halted or not vp.regs.interrupt_shadow) and _is_allowed(vp, wanted.interrupt_priority))


def _is_allowed(vp: VirtualProcessor, priority: int) -> bool:
    """An interrupt of class *priority* is above the processor's priority; 0 is one that no APIC is asked about."""
    return not priority or priority > vp.apic.ppr >> 4


def _free_sints(vp: VirtualProcessor, wanted: Notifications) -> int:
    return sum(1 << sint for sint in _sints(wanted) if vp.synic.refusal(sint) is None)


def _sints(wanted: Notifications) -> list[int]:
    return [sint for sint in range(16) if wanted.sints >> sint & 1]
