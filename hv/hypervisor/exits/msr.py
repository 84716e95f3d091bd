"""RDMSR and WRMSR: the processor's own registers by the manual's rules, the hypervisor's own ones, or the parent."""

from __future__ import annotations

from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.msrs import processor
from hv.hypervisor.msrs import registry as msrs
from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import ADVANCE, ASK_PARENT, Verdict
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.faults import GuestFault
from hv.spec.exits import ExitReason
from hv.spec.intercepts import HvInterceptType
from hv.spec.x86 import Vector
from hv.trace.events import MsrIgnored, MsrRead, MsrWrite
from hv.vmx.exit import VmExit

_RAX, _RCX, _RDX = range(3)
_LOW = 0xFFFF_FFFF
_MSR = HvInterceptType.MSR
_READ, _WRITE = 1, 2
IGNORE_UNIMPLEMENTED = 1        # partition property UnimplementedMsrAction


@on_exit(ExitReason.RDMSR)
def handle_rdmsr(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """SDM "RDMSR"; TLFS "Virtual MSRs"."""
    gpr = vp.regs.gpr
    index = gpr[_RCX] & _LOW
    if index in msrs.OURS:
        value = msrs.read_msr(vp, index)
    elif index in processor.READERS:
        value = processor.READERS[index](vp, index)
    elif vp.partition.intercepts.wants(_MSR, index, _READ):
        intercepts.send_msr(vp, index, False, exit.instruction_length)
        return ASK_PARENT
    elif vp.partition.unimplemented_msr_action == IGNORE_UNIMPLEMENTED:
        value = 0
        _note_ignored(vp, index, 0, False)
    else:
        raise GuestFault(Vector.GP, 0)
    gpr[_RAX], gpr[_RDX] = value & _LOW, value >> 32
    if vp.trace.listening:
        vp.trace.emit(MsrRead(index, value))
    return ADVANCE


@on_exit(ExitReason.WRMSR)
def handle_wrmsr(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """SDM "WRMSR"; TLFS "Virtual MSRs"."""
    gpr = vp.regs.gpr
    index, value = gpr[_RCX] & _LOW, (gpr[_RDX] & _LOW) << 32 | gpr[_RAX] & _LOW
    if index in msrs.OURS:
        msrs.write_msr(vp, index, value)
    elif index in processor.WRITERS:
        processor.WRITERS[index](vp, index, value)
    elif vp.partition.intercepts.wants(_MSR, index, _WRITE):
        intercepts.send_msr(vp, index, True, exit.instruction_length)
        return ASK_PARENT
    elif vp.partition.unimplemented_msr_action == IGNORE_UNIMPLEMENTED:
        _note_ignored(vp, index, value, True)
    else:
        raise GuestFault(Vector.GP, 0)
    if vp.trace.listening:
        vp.trace.emit(MsrWrite(index, value))
    return ADVANCE


def _note_ignored(vp: VirtualProcessor, index: int, value: int, write: bool) -> None:
    """The partition has asked that MSRs which are not there be no #GP; property UnimplementedMsrAction."""
    if vp.trace.listening:
        vp.trace.emit(MsrIgnored(index, value, write))
