"""Descriptor-table instructions of a VP that keeps some of them from its programs; `vps/npiep.py`."""

from __future__ import annotations

from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import RETRY, Verdict
from hv.hypervisor.vps import npiep
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.spec.exits import ExitReason
from hv.vmx.exit import VmExit


@on_exit(ExitReason.GDTR_IDTR_ACCESS)
def handle_gdtr_idtr(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """SGDT, SIDT, LGDT, LIDT; TLFS "Non-Privileged Instruction Execution Prevention"."""
    npiep.allow_or_refuse(vp, exit)
    return RETRY


@on_exit(ExitReason.LDTR_TR_ACCESS)
def handle_ldtr_tr(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """SLDT, STR, LLDT, LTR."""
    npiep.allow_or_refuse(vp, exit)
    return RETRY


@on_exit(ExitReason.MONITOR_TRAP_FLAG)
def handle_monitor_trap(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """The one instruction that was let through; SDM "Monitor Trap Flag"."""
    npiep.watch_again(vp)
    return RETRY
