"""Instructions that the engine refuses with a fault where the processor does something else; they are decoded at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Undecodable
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.fetch import decode_at
from hv.spec.exits import ExitReason
from hv.spec.vmcs import PrimaryControls
from hv.spec.x86 import Cr4, Vector
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.control_registers import dr_exit
from hv.vmx.intercepts.memory import nested
from hv.vmx.intercepts.ports import may_be_string, string_before_fault
from hv.vmx.intercepts.tasks import far_transfer

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_MOV_DR_EXITING, _RDPMC_EXITING = PrimaryControls.MOV_DR_EXITING.value, PrimaryControls.RDPMC_EXITING.value
_PCE = Cr4.PCE.value
_GP, _WRITE = Vector.GP.value, Access.WRITE.value
REFUSALS = frozenset({Vector.SS.value, _GP, Vector.AC.value})


def refused(vcpu: Vcpu, vector: int) -> VmExit | bool:
    """After #GP, #SS or #AC of the engine: the exit, True when the instruction is done, False when the fault stands.

    GuestFault when it is another fault.
    """
    exit = string_before_fault(vcpu)
    if exit is None and vector == _GP:
        exit = _exit_before_the_fault(vcpu) if vcpu.controls.refused_exit else None
        if exit is None and vcpu.state.transfers_in_software:
            return far_transfer(vcpu)
    return exit or False


def refused_by_second_level(vcpu: Vcpu, detail: int) -> VmExit | None:
    """After a nested fault: an exit of the instruction that comes before it, or that of the fault."""
    gpa, access = vcpu.engine.nested_fault()
    exit = string_before_fault(vcpu) if may_be_string(vcpu, gpa, access & _WRITE) else None
    return exit or nested(vcpu, detail)


def _exit_before_the_fault(vcpu: Vcpu) -> VmExit | None:
    """MOV DR exits at any privilege level, and RDPMC by a user whom CR4.PCE lets read, which the engine does not."""
    try:
        decoded = decode_at(vcpu.state, vcpu.memory)
    except (Undecodable, GuestFault, NestedFault):
        return None
    if decoded.debug_register is not None and vcpu.controls.primary & _MOV_DR_EXITING:
        return dr_exit(decoded.debug_register, decoded.length)
    if decoded.mnemonic == "rdpmc" and vcpu.controls.primary & _RDPMC_EXITING and vcpu.state.cr4 & _PCE:
        return VmExit(ExitReason.RDPMC, 0, decoded.length)
    return None
