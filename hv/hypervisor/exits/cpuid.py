"""CPUID: the partition's own table answers, never the host."""

from __future__ import annotations

from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import ADVANCE, ASK_PARENT, Verdict
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.spec.exits import ExitReason
from hv.spec.intercepts import HvInterceptType
from hv.trace.events import Cpuid
from hv.vmx.exit import VmExit

_RAX, _RCX, _RDX, _RBX = range(4)       # places in ProcessorState.gpr
_CPUID = HvInterceptType.CPUID.value
_LOW = 0xFFFF_FFFF


@on_exit(ExitReason.CPUID)
def handle_cpuid(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """SDM "Instructions That Cause VM Exits Unconditionally"; TLFS "Feature and Interface Discovery"."""
    gpr = vp.regs.gpr
    leaf, subleaf = gpr[_RAX] & _LOW, gpr[_RCX] & _LOW
    answer = vp.partition.cpuid.lookup(leaf, subleaf, vp.index)
    if _CPUID in vp.partition.intercepts.kinds:
        registered = vp.partition.cpuid_results.find(vp.index, leaf, subleaf)
        wanted = vp.partition.intercepts.wants_cpuid(leaf)
        if registered is not None and (wanted or registered.always_override):
            answer = registered.over(answer)
        elif wanted:
            intercepts.send_cpuid(vp, answer, exit.instruction_length)
            return ASK_PARENT
    gpr[_RAX], gpr[_RBX], gpr[_RCX], gpr[_RDX] = answer
    if vp.trace.listening:
        vp.trace.emit(Cpuid(leaf, subleaf, answer))
    return ADVANCE
