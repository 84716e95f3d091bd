"""Control-register accesses that the VMCS asks to hear of: the task priority (CR8), and bits no guest may set."""

from __future__ import annotations

from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import ADVANCE, Verdict
from hv.hypervisor.vp import VirtualProcessor
from hv.machine.faults import GuestFault
from hv.spec.exits import CrQualification, ExitReason
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit

_MOV_TO, _MOV_FROM = 0, 1


@on_exit(ExitReason.CR_ACCESS)
def handle_cr_access(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """CR8 is the virtual APIC's; everything else that exits is refused: the masks hold only what is not offered."""
    access = CrQualification(exit.qualification)
    if access.number != 8:
        raise GuestFault(Vector.GP, 0)
    if access.access == _MOV_TO:
        vp.apic.cr8 = vp.regs.gpr[access.register]
    else:
        vp.regs.gpr[access.register] = vp.apic.cr8
    return ADVANCE
