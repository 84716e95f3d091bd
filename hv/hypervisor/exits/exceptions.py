"""Exceptions that the exception bitmap names: the parent asked for them."""

from __future__ import annotations

from hv.hypervisor import intercepts
from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import ASK_PARENT, Inject, Verdict
from hv.hypervisor.vp import VirtualProcessor
from hv.spec.exits import ExitReason, InterruptionInfo, InterruptionType
from hv.spec.intercepts import HvInterceptType
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit

_EXECUTE = 4


@on_exit(ExitReason.EXCEPTION_OR_NMI)
def handle_exception(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """TLFS "Intercepts": an exception intercept goes to the parent; one nobody installed goes back to the guest."""
    info = InterruptionInfo(exit.interruption_info)
    error_code = exit.interruption_error_code if info.error_code_valid else None
    address = exit.qualification if info.vector == Vector.PF else None
    if not vp.partition.intercepts.wants(HvInterceptType.EXCEPTION, info.vector, _EXECUTE):
        return Inject(info.vector, error_code, address)
    intercepts.send_exception(vp, info.vector, error_code, parameter=address or 0,
                              software=info.type == InterruptionType.SOFTWARE_EXCEPTION, length=exit.instruction_length)
    return ASK_PARENT
