"""Registers that are the VP's, not the processor's: whether it may run, and what it gets at its next entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hv.hypervisor import intercepts
from hv.hypervisor.errors import HypercallError
from hv.hypervisor.registers.table import as_bytes, integer, provide
from hv.machine.idt import Event, EventKind
from hv.spec.hv_registers import (
    HvRegisterName,
    InternalActivityRegister,
    InterruptStateRegister,
    PendingInterruptionRegister,
)
from hv.spec.hv_status import HvStatus
from hv.vmx.events.injection import is_injectable

if TYPE_CHECKING:
    from hv.hypervisor.vp import VirtualProcessor

N = HvRegisterName
_INJECTED = frozenset(int(kind) for kind in EventKind)


def _set_explicit_suspend(vp: VirtualProcessor, value: bytes) -> None:
    vp.explicit_suspend = bool(integer(value) & 1)
    vp.kick()


def _set_intercept_suspend(vp: VirtualProcessor, value: bytes) -> None:
    """Clearing it is how a parent says that an intercept is completed."""
    if not integer(value) & 1:
        intercepts.complete(vp)
    else:
        vp.intercept_suspend = True
        vp.kick()


def _get_activity(vp: VirtualProcessor) -> bytes:
    activity = InternalActivityRegister(startup_suspend=int(vp.wait_for_sipi), halt_suspend=int(vp.halted))
    return as_bytes(activity.raw)


def _set_activity(vp: VirtualProcessor, value: bytes) -> None:
    activity = InternalActivityRegister(integer(value))
    vp.wait_for_sipi, vp.halted = bool(activity.startup_suspend), bool(activity.halt_suspend)
    vp.kick()


def _get_interrupt_state(vp: VirtualProcessor) -> bytes:
    return as_bytes(InterruptStateRegister(interrupt_shadow=int(bool(vp.regs.interrupt_shadow)),
                                         nmi_masked=int(vp.nmi_masked)).raw)


def _set_interrupt_state(vp: VirtualProcessor, value: bytes) -> None:
    regs: Any = vp.regs
    wanted = InterruptStateRegister(integer(value))
    regs.interrupt_shadow, vp.nmi_masked = bool(wanted.interrupt_shadow), bool(wanted.nmi_masked)


def _get_pending_interruption(vp: VirtualProcessor) -> bytes:
    event = vp.pending_event
    if event is None:
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
        if not is_injectable(event, bool(vp.regs.cr0 & 1)):
            raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"{register!r}: VM entry takes no such event")
    vp.pending_event = event
    vp.kick()


provide(N.EXPLICIT_SUSPEND, lambda vp: as_bytes(int(vp.explicit_suspend)), _set_explicit_suspend)
provide(N.INTERCEPT_SUSPEND, lambda vp: as_bytes(int(vp.intercept_suspend)), _set_intercept_suspend)
provide(N.INTERNAL_ACTIVITY_STATE, _get_activity, _set_activity)
provide(N.PENDING_INTERRUPTION, _get_pending_interruption, _set_pending_interruption)
provide(N.INTERRUPT_STATE, _get_interrupt_state, _set_interrupt_state)
