"""VMCALL: the guest's side of the hypercall door."""

from __future__ import annotations

from hv.hypervisor.exits.memory import handle_ept_violation
from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import ADVANCE, Verdict
from hv.hypervisor.vp import VirtualProcessor
from hv.machine.faults import GuestFault, NestedFault
from hv.spec.exits import ExitReason
from hv.spec.msrs import HvHypercallMsr
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit
from hv.vmx.intercepts import nested_fault

_RAX, _RCX, _RDX, _RBX = range(4)
_RSI, _RDI, _R8 = 6, 7, 8
_LOW = 0xFFFF_FFFF
_ENABLE = HvHypercallMsr(enable=1).raw


@on_exit(ExitReason.VMCALL)
def handle_vmcall(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """TLFS "Hypercall Interface": from CPL 0 of protected mode, with the hypercall page established; else #UD."""
    regs = vp.regs
    wide = regs.is_kernel_64
    if not vp.partition.hypercall_msr.raw & _ENABLE or not (wide or _may_call_from_32_bits(vp)):
        raise GuestFault(Vector.UD)
    gpr = regs.gpr
    if wide:
        control, input_gpa, output_gpa = gpr[_RCX], gpr[_RDX], gpr[_R8]
    else:
        control, input_gpa, output_gpa = _pair(gpr, _RDX, _RAX), _pair(gpr, _RBX, _RCX), _pair(gpr, _RDI, _RSI)
    try:
        result = hypercall(vp.hypervisor, vp, control, input_gpa, output_gpa)
    except NestedFault as fault:
        return handle_ept_violation(vp, nested_fault(vp.vcpu, fault))
    if wide:
        gpr[_RAX] = result
    else:
        gpr[_RDX], gpr[_RAX] = result >> 32, result & _LOW
    return ADVANCE


def _may_call_from_32_bits(vp: VirtualProcessor) -> bool:
    """Protected or compatibility mode at CPL 0; neither real nor virtual-8086 mode."""
    return vp.regs.protected and not vp.regs.cpl


def _pair(gpr: memoryview, high: int, low: int) -> int:
    return (gpr[high] & _LOW) << 32 | gpr[low] & _LOW
