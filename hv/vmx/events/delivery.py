"""The delivery of an event through the guest's IDT, and the exits that can come of it.

An exit during the delivery would lose the event, so it is recorded with it; SDM "Information for VM Exits That Occur
During Event Delivery".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from hv.machine.clock import EXIT_TICKS
from hv.machine.faults import NestedFault, TripleFault
from hv.machine.idt import Event, EventKind, Intercepted, TaskGate, deliver_combined
from hv.spec.exits import ExitReason
from hv.spec.x86 import Vector
from hv.vmx.events.exits import bitmap_exits, exception_exit, task_gate
from hv.vmx.events.injection import info_of
from hv.vmx.events.non_register import ACTIVE, MOV_SS
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.memory import nested_fault

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_EXCEPTIONS = frozenset({EventKind.EXCEPTION, EventKind.PRIVILEGED_SOFTWARE_EXCEPTION, EventKind.SOFTWARE_EXCEPTION})
_NMI, _EXTERNAL = EventKind.NMI, EventKind.EXTERNAL     # naming a member of an enumeration costs a call


class Raised(NamedTuple):
    """An exception, and what came of its delivery: *events* are the first one, then each that came up on the way.

    It was at *rip*, *linear_rip* with the base of CS, at *cpl*; *injected* by software, or found by the processor.
    *number* counts from 1.
    """

    number: int
    rip: int
    linear_rip: int
    cpl: int
    injected: bool
    events: list[Event]


def _note(vcpu: Vcpu, event: Event, injected: bool) -> None:
    """*event* is the last exception from now on, or began it."""
    before, state = vcpu.raised, vcpu.state
    number = 1 if before is None else before.number + 1
    vcpu.raised = Raised(number, state.rip, state.linear_rip, state.cpl, injected, [event])


def deliver(vcpu: Vcpu, event: Event, injected: bool = False) -> VmExit | None:
    """Deliver *event* now, with all that can come of it; the exit, if that is one. *injected* is by VM entry.

    A #DB that pends is lost, but for an event of the program's behind MOV SS; SDM "Delivery of Pending Debug Exceptions
    after VM Entry".
    It costs as much time as an exit: a guest whose handler faults again for ever must come to its end.
    """
    state, now = vcpu.state, vcpu.non_register
    vcpu.work[0] += EXIT_TICKS
    vcpu.engine.clear_in_flight(state)
    if now.pending_debug and not (event.by_program and now.shadow & MOV_SS):
        now.pending_debug = 0
    now.activity = ACTIVE
    now.instruction_done()
    if event.kind is _NMI:
        vcpu.block_nmis(True)
    before = vcpu.raised
    try:
        if event.kind is not _EXTERNAL:
            if event.kind in _EXCEPTIONS:
                _note(vcpu, event, injected)
            deliver_combined(state, vcpu.memory, event, partial(_intercepts, vcpu, event, before), injected)
        elif vcpu.gates.enter(event.vector):
            vcpu.mtf_pending = vcpu.controls.monitor_trap_flag
            return None
        elif deliver_combined(state, vcpu.memory, event, partial(_intercepts, vcpu, event, before), injected) is event:
            state.ignore_code_base()
            vcpu.gates.learn(event.vector)
    except TripleFault:
        return VmExit(ExitReason.TRIPLE_FAULT)
    except NestedFault as fault:
        return _during(fault.delivering or event, nested_fault(vcpu, fault))
    except Intercepted as stop:
        exit = exception_exit(stop.event, stop.fault.qualification)
        return exit if stop.event.vector == Vector.DF else _during(stop.delivering, exit)
    except TaskGate as gate:
        return task_gate(gate.selector, gate.event)
    state.ignore_code_base()
    vcpu.mtf_pending = vcpu.controls.monitor_trap_flag
    return None


def _intercepts(vcpu: Vcpu, first: Event, before: Raised | None, event: Event) -> bool:
    """The exception *event* came up in the delivery of *first*, before which *before* was the last: it exits by the
    bitmap."""
    if vcpu.raised is before:
        _note(vcpu, first, False)               # an interrupt whose delivery faults
    assert vcpu.raised is not None, "the first one is noted"
    vcpu.raised.events.append(event)
    return bitmap_exits(vcpu, event.vector, event.error_code or 0)


def _during(event: Event, exit: VmExit) -> VmExit:
    """*exit* came while *event* was being delivered."""
    exit.idt_vectoring_info, exit.idt_vectoring_error_code = info_of(event), event.error_code or 0
    exit.instruction_length = event.instruction_length
    return exit
