"""Exceptions that the exception bitmap names: the parent asked for them."""

from __future__ import annotations

from hv.hypervisor.exits.apic import keep_event
from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import ASK_PARENT, Inject, Verdict
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.spec.exits import ExitReason, InterruptionInfo, InterruptionType
from hv.spec.intercepts import HvInterceptType
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit

_EXECUTE = 4


@on_exit(ExitReason.EXCEPTION_OR_NMI)
def handle_exception(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """TLFS "Intercepts": an exception intercept goes to the parent, before it is combined with another to #DF; one that
    nobody installed goes back to the guest. CR2 is as it was: the message has the address."""
    info = InterruptionInfo(exit.interruption_info)
    error_code = exit.interruption_error_code if info.error_code_valid else None
    address = exit.qualification if info.vector == Vector.PF else None
    if not vp.partition.intercepts.wants(HvInterceptType.EXCEPTION, info.vector, _EXECUTE):
        return Inject(info.vector, error_code, address)
    keep_event(vp, exit)                # a fault of its delivery: the parent decides what the two make together
    intercepts.send_exception(vp, info.vector, error_code, parameter=address or 0,
                              software=info.type == InterruptionType.SOFTWARE_EXCEPTION, length=exit.instruction_length,
                              instruction=intercepts.instruction_at(vp))
    return ASK_PARENT
