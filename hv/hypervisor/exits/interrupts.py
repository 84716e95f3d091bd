"""Physical interrupts that arrive while a guest runs, and the moment at which a guest can take a virtual one."""

from __future__ import annotations

from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import RETRY, YIELD, Verdict
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.spec.exits import ExitReason, InterruptionInfo
from hv.vmx.exit import VmExit


@on_exit(ExitReason.EXTERNAL_INTERRUPT)
def handle_external_interrupt(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """The vector belongs to the partition that owns the device, seldom to the one that was interrupted: that yields."""
    route = vp.hypervisor.interrupts.route(InterruptionInfo(exit.interruption_info).vector)
    return RETRY if route is None or route.vps == (vp,) else YIELD


@on_exit(ExitReason.INTERRUPT_WINDOW)
def handle_interrupt_window(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """RFLAGS.IF is set at last: Retry looks for what waits and injects it; SDM "Interrupt-Window Exiting"."""
    return RETRY


@on_exit(ExitReason.NMI_WINDOW)
def handle_nmi_window(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """The handler of the last NMI has returned: Retry injects the one that waits; SDM "NMI-Window Exiting"."""
    return RETRY
