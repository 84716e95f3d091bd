"""Control and debug registers; SDM "Guest/Host Masks and Read Shadows for CR0 and CR4", "CR3-Target Controls"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import ControlAccess, ControlRegisterAccess, DebugRegisterAccess, Decoded, MemoryOperand
from hv.machine.control_registers import check_cr0, check_cr4
from hv.machine.faults import GuestFault
from hv.machine.paging import PHYSICAL_BITS
from hv.spec.exits import CrQualification, DrQualification, ExitReason
from hv.spec.vmcs import PrimaryControls
from hv.spec.x86 import DR6_RESET, DR6_WRITABLE, DR7_RESET, DR7_WRITABLE, Cr0, Cr4, Dr6, Dr7, Vector
from hv.vmx.events.debug_registers import ENABLES
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import advance, decoded_at, read_operand, write_operand
from hv.vmx.intercepts.task_priority import access_cr8, cr8_exits
from hv.vmx.translation.pdptes import load_by_control_register, load_by_cr3

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_CR3_LOAD_EXITING = PrimaryControls.CR3_LOAD_EXITING.value
_PE, _TS, _MACHINE_STATUS, _ALL = Cr0.PE.value, Cr0.TS.value, int(Cr0.MP | Cr0.EM | Cr0.TS), (1 << 64) - 1


def cr_read(vcpu: Vcpu, detail: int) -> VmExit | None:
    """MOV from CR8; MOV from CR0 and CR4 and SMSW while they have a mask, which may hide a bit."""
    decoded = decoded_at(vcpu)
    access = decoded.control_register
    if access is None:
        return _not_there_any_more(vcpu)
    if access.register == 8:
        return _cr8(vcpu, access, decoded.length)
    if access.register == 3:                # only to exit
        return _cr_exit(access, decoded.length)
    write_operand(vcpu, decoded, visible(vcpu, access.register))
    advance(vcpu, decoded.length)
    return None


def cr_write(vcpu: Vcpu, detail: int) -> VmExit | None:
    """MOV to CR0, CR4 and CR8, LMSW, CLTS; SDM "Guest/Host Masks and Read Shadows for CR0 and CR4"."""
    decoded = decoded_at(vcpu)
    access = decoded.control_register
    if access is None:
        return _not_there_any_more(vcpu)
    if access.register == 8:
        return _cr8(vcpu, access, decoded.length)
    if access.register == 3:
        return _load_cr3(vcpu, decoded, access)
    register, controls = access.register, vcpu.controls
    source, asked = _wanted(vcpu, decoded, access)
    mask, real = controls.cr_masks[register] & asked, _real(vcpu, register)
    if (source ^ controls.cr_shadows[register]) & mask:
        return _cr_exit(access, decoded.length, source)
    changed = asked & ~mask
    write_control_register(vcpu, register, real & ~changed | source & changed)
    advance(vcpu, decoded.length)
    return None


def _not_there_any_more(vcpu: Vcpu) -> VmExit | None:
    """What the engine executed is not what stands at RIP."""
    vcpu.engine.distrust_code()
    return None


def _load_cr3(vcpu: Vcpu, decoded: Decoded, access: ControlRegisterAccess) -> VmExit | None:
    """MOV to CR3 under CR3-load exiting, or with PAE paging; SDM "CR3-Target Controls"."""
    value = read_operand(vcpu, decoded)
    if vcpu.controls.primary & _CR3_LOAD_EXITING and value not in vcpu.controls.cr3_targets:
        return _cr_exit(access, decoded.length)
    if value >> PHYSICAL_BITS:
        raise GuestFault(Vector.GP, 0)
    load_by_cr3(vcpu, value)
    vcpu.state.cr3 = value
    advance(vcpu, decoded.length)
    return None


def _cr8(vcpu: Vcpu, access: ControlRegisterAccess, length: int) -> VmExit | None:
    if cr8_exits(vcpu, access):
        return _cr_exit(access, length)
    access_cr8(vcpu, access, length)
    return None


def _cr_exit(access: ControlRegisterAccess, length: int, lmsw_source: int = 0) -> VmExit:
    memory = isinstance(access.operand, MemoryOperand)
    lmsw = access.kind is ControlAccess.LMSW
    qualification = CrQualification(number=0 if lmsw or access.kind is ControlAccess.CLTS else access.register,
                                    access=int(access.kind), lmsw_memory=int(lmsw and memory),
                                    register=0 if lmsw else access.gpr, lmsw_source=lmsw_source & 0xFFFF if lmsw else 0)
    return VmExit(ExitReason.CR_ACCESS, qualification.raw, length)


def _real(vcpu: Vcpu, register: int) -> int:
    return int(vcpu.state.cr0 if register == 0 else vcpu.state.cr4)


def visible(vcpu: Vcpu, register: int) -> int:
    """CR0 or CR4 as the guest reads it: the bits that the mask owns are those of the read shadow."""
    mask = vcpu.controls.cr_masks[register]
    return _real(vcpu, register) & ~mask | vcpu.controls.cr_shadows[register] & mask


def _wanted(vcpu: Vcpu, decoded: Decoded, access: ControlRegisterAccess) -> tuple[int, int]:
    """A value for the control register, and which of its bits the instruction asks to have."""
    if access.kind is ControlAccess.CLTS:
        return 0, _TS
    source = read_operand(vcpu, decoded)
    if access.kind is ControlAccess.LMSW:       # can set PE, never clear it
        return source, _MACHINE_STATUS | source & _PE
    return source, _ALL


def write_control_register(vcpu: Vcpu, register: int, value: int) -> None:
    """Write CR0 or CR4 as MOV does in VMX operation, or raise its #GP; SDM "Restrictions on VMX Operation"."""
    if ~value & vcpu.controls.cr_fixed[register]:
        raise GuestFault(Vector.GP, 0)
    (check_cr0 if register == 0 else check_cr4)(vcpu.state, value)
    load_by_control_register(vcpu, register, value)
    vcpu.engine.write_control_register(vcpu.state, register, value)


def dr_access(vcpu: Vcpu, detail: int) -> VmExit | None:
    """MOV to or from DRn; SDM "MOV - Move to/from Debug Registers"."""
    decoded = decoded_at(vcpu)
    access = decoded.debug_register
    if access is None:
        return _not_there_any_more(vcpu)
    if vcpu.controls.primary & PrimaryControls.MOV_DR_EXITING:
        return dr_exit(access, decoded.length)
    state, number = vcpu.state, {4: 6, 5: 7}.get(access.register, access.register)
    if number != access.register and state.cr4 & Cr4.DE:
        raise GuestFault(Vector.UD)
    if Dr7(state.dr7).gd:
        raise GuestFault(Vector.DB, debug_bits=Dr6.BD.value)
    wide = state.bits == 64
    if access.write:
        _write_debug_register(vcpu, number, state.gpr[access.gpr] & (1 << 64 if wide else 1 << 32) - 1)
    else:
        state.gpr[access.gpr] = getattr(state, f"dr{number}")
    advance(vcpu, decoded.length)
    return None


def dr_exit(access: DebugRegisterAccess, length: int) -> VmExit:
    """SDM "Exit Qualification for MOV DR"."""
    return VmExit(ExitReason.MOV_DR, DrQualification(number=access.register, from_dr=int(not access.write),
                                                     register=access.gpr).raw, length)


def _write_debug_register(vcpu: Vcpu, number: int, value: int) -> None:
    if number >= 6:
        if value >> 32:
            raise GuestFault(Vector.GP, 0)
        value = value & DR6_WRITABLE | DR6_RESET if number == 6 else value & DR7_WRITABLE | DR7_RESET
    setattr(vcpu.state, f"dr{number}", value)
    if vcpu.state.dr7 & ENABLES:
        vcpu.look()
