"""VMCALL: the guest's side of the hypercall door."""

from __future__ import annotations

from hv.hypervisor.errors import CallIntercepted, CallInterrupted
from hv.hypervisor.hypercalls.door import hypercall
from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import ADVANCE, RETRY, YIELD, Verdict
from hv.hypervisor.vps.vp import CallSite, VirtualProcessor
from hv.machine.faults import Access, GuestFault
from hv.spec.exits import ExitReason
from hv.spec.intercepts import HvInterceptType
from hv.spec.x86 import PAGE_SHIFT, Vector
from hv.vmx.exit import VmExit

_RAX, _RCX, _RDX, _RBX = range(4)
_RSI, _RDI, _R8 = 6, 7, 8
_LOW = 0xFFFF_FFFF
_HYPERCALL = HvInterceptType.HYPERCALL
_EXECUTE = 4


@on_exit(ExitReason.VMCALL)
def handle_vmcall(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """TLFS "Hypercall Interface": from CPL 0 of protected mode, with the hypercall page established; else #UD."""
    regs, site = vp.regs, vp.call_site
    if site is None or site[0] != regs.location or site[1] != vp.partition.hypercall_msr.raw:
        site = vp.call_site = checked_call_site(vp)
    gpr, wide = regs.gpr, site[2]
    if wide:
        control, input_gpa, output_gpa = gpr[_RCX], gpr[_RDX], gpr[_R8]
    else:
        control, input_gpa, output_gpa = _pair(gpr, _RDX, _RAX), _pair(gpr, _RBX, _RCX), _pair(gpr, _RDI, _RSI)
    try:
        result = hypercall(vp.hypervisor, vp, control, input_gpa, output_gpa)
    except CallInterrupted as interrupted:
        _set_control(gpr, wide, interrupted.control)
        return RETRY
    if wide:
        gpr[_RAX] = result
    else:
        gpr[_RDX], gpr[_RAX] = result >> 32, result & _LOW
    return YIELD if vp.hypervisor.turn_over else ADVANCE


def _set_control(gpr: memoryview, wide: bool, control: int) -> None:
    """TLFS "Hypercall Continuation": the caller is at its VMCALL still, and asks for what is left."""
    if wide:
        gpr[_RCX] = control
    else:
        gpr[_RDX], gpr[_RAX] = control >> 32, control & _LOW


def checked_call_site(vp: VirtualProcessor) -> CallSite:
    """TLFS "Establishing the Hypercall Interface": a call by any other means than the hypercall page may be #UD.

    # Simplified: looked up again only when RIP, CR3, the mode or the MSR are others than at the last call.
    """
    regs, page = vp.regs, vp.partition.hypercall_msr
    wide = regs.is_kernel_64
    if not (wide or _may_call_from_32_bits(vp)):
        raise GuestFault(Vector.UD)
    if vp.partition.intercepts.wants(_HYPERCALL, 0, _EXECUTE):
        raise CallIntercepted                   # and so each time: no place is remembered
    if not page.enable:
        raise GuestFault(Vector.UD)
    walk = vp.vcpu.memory.walk(regs.linear_rip, Access.EXECUTE)
    if walk.gpa >> PAGE_SHIFT != page.gpfn:
        raise GuestFault(Vector.UD)
    return regs.location, page.raw, wide


def _may_call_from_32_bits(vp: VirtualProcessor) -> bool:
    """Protected or compatibility mode at CPL 0; neither real nor virtual-8086 mode."""
    return vp.regs.protected and not vp.regs.cpl


def _pair(gpr: memoryview, high: int, low: int) -> int:
    return (gpr[high] & _LOW) << 32 | gpr[low] & _LOW
