"""Registers that are the VP's, not the processor's: whether it may run, and what it gets at its next entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.interrupts import deliverability
from hv.hypervisor.registers.table import as_bytes, integer, provide
from hv.machine.idt import Event, EventKind
from hv.spec.hv_registers import (
    DeliverabilityNotificationsRegister,
    HvRegisterName,
    InternalActivityRegister,
    InterruptStateRegister,
    PendingEventType,
    PendingExceptionEvent,
    PendingInterruptionRegister,
)
from hv.spec.hv_status import HvStatus
from hv.spec.x86 import Vector
from hv.vmx.events.injection import is_injectable

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

N = HvRegisterName
_ACTIVITIES = int(InternalActivityRegister(startup_suspend=1, halt_suspend=1, idle_suspend=1))
_INTERRUPT_STATES = int(InterruptStateRegister(interrupt_shadow=1, nmi_masked=1))
_NOTIFICATIONS = int(DeliverabilityNotificationsRegister(
    nmi_notification=1, interrupt_notification=1, interrupt_priority=0xF, sints=0xFFFF))
_INJECTED = frozenset(int(kind) for kind in EventKind)


class DeferredException(Event):
    """A pending event that was given as PENDING_EVENT0. There is one at a time: both registers are views of it."""

    __slots__ = ()


def _bits(value: bytes, known: int) -> int:
    """The number in *value*; INVALID_REGISTER_VALUE when it has others than the *known* bits."""
    number = integer(value)
    if number & ~known:
        raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"{number:#x} has reserved bits, {known:#x} are known")
    return number


def _set_explicit_suspend(vp: VirtualProcessor, value: bytes) -> None:
    vp.explicit_suspend = bool(_bits(value, 1))
    vp.kick()


def _set_intercept_suspend(vp: VirtualProcessor, value: bytes) -> None:
    """Clearing it is how a parent says that an intercept is completed."""
    if not _bits(value, 1):
        intercepts.complete(vp)
    else:
        vp.intercept_suspend = True
        vp.kick()


def _get_activity(vp: VirtualProcessor) -> bytes:
    activity = InternalActivityRegister(startup_suspend=int(vp.wait_for_sipi), idle_suspend=int(vp.idles),
                                        halt_suspend=int(vp.halted and not vp.idles))
    return as_bytes(activity.raw)


def _set_activity(vp: VirtualProcessor, value: bytes) -> None:
    activity = InternalActivityRegister(_bits(value, _ACTIVITIES))
    vp.wait_for_sipi, vp.idles = bool(activity.startup_suspend), bool(activity.idle_suspend)
    vp.halted = bool(activity.halt_suspend or activity.idle_suspend)
    vp.kick()


def _get_interrupt_state(vp: VirtualProcessor) -> bytes:
    return as_bytes(InterruptStateRegister(interrupt_shadow=int(bool(vp.regs.interrupt_shadow)),
                                         nmi_masked=int(vp.nmi_masked)).raw)


def _set_interrupt_state(vp: VirtualProcessor, value: bytes) -> None:
    regs: Any = vp.regs
    wanted = InterruptStateRegister(_bits(value, _INTERRUPT_STATES))
    regs.interrupt_shadow, vp.nmi_masked = bool(wanted.interrupt_shadow), bool(wanted.nmi_masked)


def _get_pending_interruption(vp: VirtualProcessor) -> bytes:
    event = vp.pending_event
    if event is None or isinstance(event, DeferredException):
        return as_bytes(0)
    return as_bytes(PendingInterruptionRegister(
        interruption_pending=1, interruption_type=event.kind, deliver_error_code=int(event.error_code is not None),
        instruction_length=event.instruction_length, interruption_vector=event.vector,
        error_code=event.error_code or 0).raw)


def _set_pending_interruption(vp: VirtualProcessor, value: bytes) -> None:
    """What the VP gets at its next entry: how a parent answers an access with an exception."""
    register, event = PendingInterruptionRegister(integer(value)), None
    if register.interruption_pending:
        if register.interruption_type not in _INJECTED or register.interruption_vector > 0xFF:
            raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"{register!r}: no such event")
        error_code = register.error_code if register.deliver_error_code else None
        event = Event(register.interruption_vector, EventKind(register.interruption_type), error_code,
                      register.instruction_length)
    _pend(vp, event, event is not None or not isinstance(vp.pending_event, DeferredException))


def _pend(vp: VirtualProcessor, event: Event | None, here: bool) -> None:
    """*event* is what the VP gets; None takes back what stands *here*, and not in the other register."""
    if event is not None and not is_injectable(event, bool(vp.regs.cr0 & 1)):
        raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"{event}: VM entry takes no such event")
    if here:
        vp.pending_event = event
        vp.kick()


def _get_pending_event(vp: VirtualProcessor) -> bytes:
    event = vp.pending_event
    if not isinstance(event, DeferredException):
        return as_bytes(0)
    return PendingExceptionEvent(
        event_pending=1, event_type=PendingEventType.EXCEPTION, deliver_error_code=int(event.error_code is not None),
        vector=event.vector, error_code=event.error_code or 0, exception_parameter=event.address or 0,
    ).raw.to_bytes(16, "little")


def _set_pending_event(vp: VirtualProcessor, value: bytes) -> None:
    """An exception with its parameter; of the other kinds the hypervisor itself makes none, and takes none."""
    register, event = PendingExceptionEvent(int.from_bytes(value, "little")), None
    if register.event_pending:
        if register.event_type != PendingEventType.EXCEPTION or register.vector > 0xFF \
                or register.raw & PendingExceptionEvent.RESERVED:
            raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"{register!r}: no such event")
        event = DeferredException(
            register.vector, EventKind.EXCEPTION, register.error_code if register.deliver_error_code else None,
            address=register.exception_parameter if register.vector == Vector.PF else None)
    _pend(vp, event, event is not None or isinstance(vp.pending_event, DeferredException))


def _set_notifications(vp: VirtualProcessor, value: bytes) -> None:
    deliverability.ask(vp, DeliverabilityNotificationsRegister(_bits(value, _NOTIFICATIONS)))


provide(N.EXPLICIT_SUSPEND, lambda vp: as_bytes(int(vp.explicit_suspend)), _set_explicit_suspend)
provide(N.INTERCEPT_SUSPEND, lambda vp: as_bytes(int(vp.intercept_suspend)), _set_intercept_suspend)
provide(N.INTERNAL_ACTIVITY_STATE, _get_activity, _set_activity)
provide(N.PENDING_EVENT0, _get_pending_event, _set_pending_event)
provide(N.PENDING_INTERRUPTION, _get_pending_interruption, _set_pending_interruption)
provide(N.DELIVERABILITY_NOTIFICATIONS, lambda vp: as_bytes(vp.notifications), _set_notifications)
provide(N.INTERRUPT_STATE, _get_interrupt_state, _set_interrupt_state)
