"""The run loop: enter, exit, handle, obey.

`obey` is called for each VM exit, from inside the engine's hook
(`docs/decisions/0001-the-run-loop-lives-in-the-hook.md`), and answers whether the guest is entered again. Handlers for
each reason are in `exits/`, one file per family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hv.hypervisor.errors import CallIntercepted
from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.verdicts import (
    ADVANCE,
    ASK_PARENT,
    RETRY,
    SENT,
    YIELD,
    Advance,
    AskParent,
    Halt,
    Inject,
    Retry,
    Sent,
    Verdict,
    Yield,
)
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.idt import Event, EventKind
from hv.spec.exits import ExitReason
from hv.spec.x86 import PUSHES_RF, Rflags, Vector
from hv.trace import events
from hv.vmx.exit import VmExit

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

Handler = Callable[["VirtualProcessor", VmExit], Verdict]
EXIT_HANDLERS: dict[ExitReason, Handler] = {}


def on_exit(reason: ExitReason) -> Callable[[Handler], Handler]:
    """Register the handler of one exit reason; a second one for the same reason is an error at import."""
    def register(handler: Handler) -> Handler:
        if reason in EXIT_HANDLERS:
            first = EXIT_HANDLERS[reason]
            raise TypeError(f"{reason.name} is handled by {first.__qualname__} and {handler.__qualname__}")
        EXIT_HANDLERS[reason] = _BY_REASON[reason] = handler
        return handler
    return register


def unexpected(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """An exit nobody expected is never stepped over."""
    return Halt(f"no handler for exit {exit.reason.name}")


# Exits that an instruction makes, and so are met inside the engine's hook only.
_OF_INSTRUCTIONS = frozenset({ExitReason.IO_INSTRUCTION, ExitReason.EPT_VIOLATION, ExitReason.CPUID, ExitReason.RDMSR,
                              ExitReason.WRMSR})
_BY_REASON: list[Handler] = [unexpected] * 128      # the same by number, for the exit path


@contextmanager
def overheard(listener: Callable[[VirtualProcessor, VmExit, Verdict], None]) -> Iterator[None]:
    """Inside, *listener* gets what each handler decided, before that is obeyed. For who looks on while a run is
    repeated: all handlers are replaced, so nobody else pays for it."""
    def told(handler: Handler) -> Handler:
        def handle(vp: VirtualProcessor, exit: VmExit) -> Verdict:
            try:
                verdict = handler(vp, exit)
            except GuestFault as fault:
                listener(vp, exit, Inject(fault.vector, fault.error_code, fault.address))
                raise
            except (NestedFault, CallIntercepted):
                listener(vp, exit, ASK_PARENT)
                raise
            listener(vp, exit, verdict)
            return verdict
        return handle

    before = _BY_REASON[:]
    _BY_REASON[:] = [told(handler) for handler in before]
    try:
        yield
    finally:
        _BY_REASON[:] = before


def obey(vp: VirtualProcessor, exit: VmExit) -> bool:
    """Handle one exit and do what the handler decided; True to enter the guest again."""
    if vp.trace.listening:
        vp.trace.emit(exit)
    try:
        verdict = _BY_REASON[exit.reason](vp, exit)
    except GuestFault as fault:
        verdict = Inject(fault.vector, fault.error_code, fault.address)
    except NestedFault as fault:
        verdict = ask_about_memory(vp, fault.gpa, fault.access, fault.gva, not fault.during_walk)
    except CallIntercepted:
        intercepts.send_hypercall(vp, exit.instruction_length)
        verdict = ASK_PARENT
    if verdict is ADVANCE:
        if vp.regs.complete_instruction(exit.instruction_length) and not vp.vcpu.single_step():
            return False
        return not vp.event_pending or vp.deliver_pending()
    if verdict is ASK_PARENT and exit.reason in _OF_INSTRUCTIONS and not exit.idt_vectoring_info:
        return vp.hypervisor.on_ask(vp)
    if verdict is YIELD:
        return _give_way(vp, exit)
    return carry_out(vp, exit, verdict)


def _give_way(vp: VirtualProcessor, exit: VmExit) -> bool:
    """Yield. An interrupt comes between two instructions: the shadow of STI stays. A #DB does not let HLT wait."""
    if exit.instruction_length and vp.regs.complete_instruction(exit.instruction_length):
        vp.halted = False
        vp.vcpu.single_step()
        return False
    hypervisor = vp.hypervisor
    return not hypervisor.turn_over and hypervisor.on_yield(vp)


def carry_out(vp: VirtualProcessor, exit: VmExit, verdict: Verdict) -> bool:
    """Any verdict; the common one has a shorter way in `obey`. True to enter the guest again."""
    if verdict is RETRY:
        return vp.deliver_pending()
    if verdict is SENT:
        return vp.hypervisor.on_sent(vp)
    match verdict:
        case Advance():
            if vp.regs.complete_instruction(exit.instruction_length) and not vp.vcpu.single_step():
                return False
            return vp.deliver_pending()
        case Yield():
            return _give_way(vp, exit)
        case Sent():
            return vp.hypervisor.on_sent(vp)
        case Retry():
            return vp.deliver_pending()
        case Inject(vector, error_code, address):
            return inject_exception(vp, vector, error_code, address) and vp.deliver_pending()
        case AskParent():
            return False
        case Halt(why):
            vp.stop(why)
            return False


def ask_about_memory(vp: VirtualProcessor, gpa: int, access: Access, gva: int | None = None,
                     final: bool = True) -> Verdict:
    """The parent decides what the access to *gpa* meets; TLFS "Memory Access Messages". Root has none."""
    if vp.partition.parent is None:
        return _refuse_root(vp)
    intercepts.send_memory(vp, gpa, access, gva=gva, final=final, instruction=intercepts.instruction_at(vp))
    return ASK_PARENT


def _refuse_root(vp: VirtualProcessor) -> Verdict:
    """Root touched a page that is the hypervisor's: a machine check; TLFS "Memory Accesses". One in whose delivery
    that happens again shuts the processor down, as on silicon."""
    delivered, vp.pending_event = vp.pending_event, None        # what was on its way is lost, as with any abort
    if delivered is not None and delivered.kind is EventKind.EXCEPTION and delivered.vector == Vector.MC:
        return shut_down(vp)
    return Inject(Vector.MC)


def shut_down(vp: VirtualProcessor) -> Verdict:
    """Root met what it cannot survive: the machine starts anew, or ends; TLFS "Unrecoverable Exceptions"."""
    vp.hypervisor.on_shutdown(vp)
    return Halt(f"vp {vp.index} of root triple-faulted at rip {vp.regs.rip:#x}")


def inject_exception(vp: VirtualProcessor, vector: int, error_code: int | None, address: int | None) -> bool:
    """The guest gets an exception at the instruction it is at; False when that ended the run."""
    if vp.trace.listening:
        vp.trace.emit(events.Fault(vector, error_code, address))
    error_code = error_code if vp.regs.protected else None
    if vector in PUSHES_RF:             # VM entry pushes RFLAGS as they are
        vp.regs.rflags |= Rflags.RF.value
    return vp.vcpu.inject(Event(vector, EventKind.EXCEPTION, error_code, address=address))


__all__ = ["ADVANCE", "EXIT_HANDLERS", "RETRY", "carry_out", "obey", "on_exit", "overheard", "unexpected"]
