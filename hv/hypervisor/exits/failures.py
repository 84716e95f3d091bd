"""Exits from which this VP, or this instruction, does not go on: triple fault, failed VM entry, what no guest has."""

from __future__ import annotations

from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.run import on_exit, shut_down
from hv.hypervisor.verdicts import ASK_PARENT, Halt, Verdict
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.faults import GuestFault
from hv.spec.exits import ExitReason
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit


@on_exit(ExitReason.TRIPLE_FAULT)
def handle_triple_fault(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """The parent decides what becomes of the VM; TLFS "Unrecoverable Exception". Root has none."""
    if vp.partition.parent is None:
        return shut_down(vp)
    intercepts.send_unrecoverable_exception(vp)
    return ASK_PARENT


@on_exit(ExitReason.ENTRY_FAILURE_GUEST_STATE)
def handle_entry_failure(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """Software wrote a state that no processor enters; SDM "VM-Entry Failures During or After Loading Guest State".

    The parent may mend it; TLFS "Invalid VP Register Value". Root has none.
    """
    if vp.partition.parent is None:
        return Halt(f"VM entry failed: {vp.vcpu.entry_result.failure}")
    intercepts.send_invalid_register(vp)
    return ASK_PARENT


@on_exit(ExitReason.TASK_SWITCH)
def handle_task_switch(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """A hypervisor must do a task switch itself; this one does not, like the systems its guests come from."""
    selector = exit.qualification & 0xFFFF
    return Halt(f"the guest asks for a task switch to selector {selector:#x}, which is not supported")


@on_exit(ExitReason.EPT_MISCONFIGURATION)
def handle_ept_misconfiguration(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """Only a bug of the hypervisor's own makes one."""
    walk = vp.vcpu.second_level.walk(exit.guest_physical_address or 0)
    return Halt(f"EPT misconfiguration at gpa {exit.guest_physical_address:#x}: {walk.misconfigured}")


def _not_offered(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """VMX, MONITOR and MWAIT are not offered to guests, so their instructions are undefined, as CPUID says."""
    raise GuestFault(Vector.UD)


for _reason in (ExitReason.VMCLEAR, ExitReason.VMLAUNCH, ExitReason.VMPTRLD, ExitReason.VMPTRST, ExitReason.VMREAD,
                ExitReason.VMRESUME, ExitReason.VMWRITE, ExitReason.VMXOFF, ExitReason.VMXON, ExitReason.INVEPT,
                ExitReason.INVVPID, ExitReason.MONITOR, ExitReason.MWAIT):
    on_exit(_reason)(_not_offered)


@on_exit(ExitReason.INVD)
def handle_invd(vp: VirtualProcessor, exit: VmExit) -> Verdict:
    """INVD would throw dirty cache lines away; a guest may not."""
    raise GuestFault(Vector.GP, 0)
