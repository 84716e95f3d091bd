"""HLT and PAUSE: the guest has nothing to do, or waits for another VP."""

from __future__ import annotations

from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import ADVANCE, YIELD, Verdict
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.spec.exits import ExitReason
from hv.trace.events import VpHalted
from hv.vmx.exit import VmExit


@on_exit(ExitReason.HLT)
def handle_hlt(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """The VP sleeps until an interrupt it may take; SDM "HLT". When nobody else can run, that is a jump of time."""
    vp.halted = True
    if vp.trace.listening:
        vp.trace.emit(VpHalted())
    if vp.asleep_for_good or vp.regs.single_stepping or vp.notifications:
        return YIELD
    if not vp.sleep():
        return YIELD
    vp.halted, vp.event_pending = False, True
    return ADVANCE


@on_exit(ExitReason.PAUSE)
def handle_pause(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """A spin loop: whoever holds the lock needs the processor more."""
    return YIELD
