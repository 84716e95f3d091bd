"""Instructions that tell a user program where the kernel has its tables, kept from it.

TLFS "Non-Privileged Instruction Execution Prevention". SGDT, SIDT, SLDT and STR are no privileged instructions. While a
VP asks for it (HV_X64_MSR_NPIEP_CONFIG) its descriptor-table instructions exit, and what is prevented is #GP(0) for
programs. All others are done by the processor itself: they exit once, are entered again without the control, and the
monitor trap behind the instruction puts the control back. A VP that asks for nothing pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.faults import GuestFault
from hv.spec.exits import ExitReason, InstructionInfo, TableInstruction
from hv.spec.msrs import HvNpiepConfig
from hv.spec.vmcs import PrimaryControls, SecondaryControls, VmcsField
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

_EXITING = SecondaryControls.DESCRIPTOR_TABLE_EXITING.value
_TRAP = PrimaryControls.MONITOR_TRAP_FLAG.value
_IDENTITY = 3                   # of register_2: the two low bits
_PREVENTS = {
    (ExitReason.GDTR_IDTR_ACCESS, TableInstruction.SGDT_SLDT): HvNpiepConfig(prevent_sgdt=1).raw,
    (ExitReason.GDTR_IDTR_ACCESS, TableInstruction.SIDT_STR): HvNpiepConfig(prevent_sidt=1).raw,
    (ExitReason.LDTR_TR_ACCESS, TableInstruction.SGDT_SLDT): HvNpiepConfig(prevent_sldt=1).raw,
    (ExitReason.LDTR_TR_ACCESS, TableInstruction.SIDT_STR): HvNpiepConfig(prevent_str=1).raw,
}


def set_config(vp: VirtualProcessor, value: int) -> None:
    """Keep from *vp*'s programs what *value*, an `HvNpiepConfig`, says; #GP(0) for a reserved bit."""
    if value & HvNpiepConfig.RESERVED:
        raise GuestFault(Vector.GP, 0)
    before, vp.npiep = vp.npiep, value
    if value or before:
        _control(vp, VmcsField.SECONDARY_PROC_CONTROLS, _EXITING, bool(value))
        _control(vp, VmcsField.PRIMARY_PROC_CONTROLS, _TRAP, False)


def allow_or_refuse(vp: VirtualProcessor, exit: VmExit) -> None:
    """*exit* is that of a descriptor-table instruction: GuestFault when it is prevented, else it runs next."""
    identity = InstructionInfo(exit.instruction_info).register_2 & _IDENTITY
    if vp.regs.cpl and vp.npiep & _PREVENTS.get((exit.reason, TableInstruction(identity)), 0):
        raise GuestFault(Vector.GP, 0)
    _control(vp, VmcsField.SECONDARY_PROC_CONTROLS, _EXITING, False)
    _control(vp, VmcsField.PRIMARY_PROC_CONTROLS, _TRAP, True)


def watch_again(vp: VirtualProcessor) -> None:
    """The instruction is done, or an event came before it."""
    _control(vp, VmcsField.PRIMARY_PROC_CONTROLS, _TRAP, False)
    _control(vp, VmcsField.SECONDARY_PROC_CONTROLS, _EXITING, bool(vp.npiep))


def _control(vp: VirtualProcessor, field: VmcsField, bit: int, wanted: bool) -> None:
    controls = vp.vmcs.read(field)
    vp.vmcs.write(field, controls | bit if wanted else controls & ~bit)
