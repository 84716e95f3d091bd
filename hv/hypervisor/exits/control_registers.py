"""Control-register accesses that the VMCS asks to hear of: the task priority (CR8), and the bits that are not the
guest's: CR0.NE, which it may think it clears and sets, and CR4.VMXE, which is not offered."""

from __future__ import annotations

from hv.hypervisor.run import on_exit
from hv.hypervisor.verdicts import ADVANCE, Verdict
from hv.hypervisor.vps.guest_registers import CR0_OWNED
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.faults import GuestFault
from hv.spec.exits import CrQualification, ExitReason
from hv.spec.vmcs import VmcsField
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.control_registers import write_control_register

_MOV_TO = 0


@on_exit(ExitReason.CR_ACCESS)
def handle_cr_access(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """CR8 is the virtual APIC's; of the others only MOV to a bit that a mask owns comes here."""
    access = CrQualification(exit.qualification)
    if access.number == 0:
        return _write_cr0(vp, vp.regs.gpr[access.register])
    if access.number != 8:
        raise GuestFault(Vector.GP, 0)
    if access.access == _MOV_TO:
        vp.apic.cr8 = vp.regs.gpr[access.register]
    else:
        vp.regs.gpr[access.register] = vp.apic.cr8
    return ADVANCE


def _write_cr0(vp: VirtualProcessor, value: int) -> Verdict:
    """MOV to CR0 that changes NE: done with NE as it must be, and the guest reads what it wrote."""
    value &= -1 if vp.regs.bits == 64 else 0xFFFF_FFFF
    write_control_register(vp.vcpu, 0, value | CR0_OWNED)
    vp.vmcs.write(VmcsField.CR0_READ_SHADOW, value)
    return ADVANCE
