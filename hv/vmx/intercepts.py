"""Which act of a guest causes which VM exit; what causes none is done here as the processor would do it.

SDM "Instructions That Cause VM Exits", "Other Causes of VM Exits". One function per trap of the machine. It returns the
exit, or None when the guest simply goes on; a GuestFault it raises is delivered to the guest. Faults that come before the
exit in priority (CPL, I/O permission) are checked first; SDM "Relative Priority of Faults and VM Exits".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.machine import system_instructions
from hv.machine.control_registers import check_cr0, check_cr4
from hv.machine.decode import (
    ControlAccess,
    ControlRegisterAccess,
    Decoded,
    ImmediateOperand,
    MemoryOperand,
    RegisterOperand,
    Undecodable,
    decode,
    decode_at,
    instruction_length,
    linear_address,
    read_register,
    write_register,
)
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.idt import Event, EventKind
from hv.machine.io_permission import io_permitted
from hv.machine.traps import Trap
from hv.spec.ept import EptViolationQualification
from hv.spec.exits import CrQualification, DrQualification, ExitReason, InterruptionInfo, InterruptionType, IoQualification
from hv.spec.vmcs import PrimaryControls
from hv.spec.x86 import Cr0, Cr4, Vector
from hv.vmx.entry import info_of
from hv.vmx.exit import VmExit

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

# Looked up once: naming a member of an enumeration costs a call.
_CPUID, _RDMSR, _WRMSR, _VMCALL = ExitReason.CPUID, ExitReason.RDMSR, ExitReason.WRMSR, ExitReason.VMCALL
_UD = Vector.UD.value

Intercept = Callable[["Vcpu", int], VmExit | None]

_VMX_REASONS = {
    "vmcall": ExitReason.VMCALL, "vmclear": ExitReason.VMCLEAR, "vmlaunch": ExitReason.VMLAUNCH,
    "vmptrld": ExitReason.VMPTRLD, "vmptrst": ExitReason.VMPTRST, "vmread": ExitReason.VMREAD,
    "vmresume": ExitReason.VMRESUME, "vmwrite": ExitReason.VMWRITE, "vmxoff": ExitReason.VMXOFF,
    "vmxon": ExitReason.VMXON, "invept": ExitReason.INVEPT, "invvpid": ExitReason.INVVPID,
}


# --- lengths and operands ------------------------------------------------------------------------

def _length(vcpu: Vcpu) -> int:
    """Length of the instruction at RIP."""
    code = vcpu.engine.code_bytes()
    try:
        return instruction_length(code, vcpu.state.bits)
    except Undecodable:
        return _decoded(vcpu).length


def _decoded(vcpu: Vcpu) -> Decoded:
    """The instruction at RIP; #UD when it is none."""
    code = vcpu.engine.code_bytes()
    try:
        return decode(code, vcpu.state.bits) if len(code) == 15 else decode_at(vcpu.state, vcpu.memory)
    except Undecodable:
        raise GuestFault(Vector.UD) from None


def _advance(vcpu: Vcpu, length: int) -> None:
    vcpu.state.rip += length
    vcpu.state.interrupt_shadow = False


# --- instructions --------------------------------------------------------------------------------

def cpuid(vcpu: Vcpu, detail: int) -> VmExit | None:
    return VmExit(_CPUID, 0, _length(vcpu))


def hlt(vcpu: Vcpu, detail: int) -> VmExit | None:
    return VmExit(ExitReason.HLT, 0, _length(vcpu))


def rdmsr(vcpu: Vcpu, detail: int) -> VmExit | None:
    return _msr(vcpu, _RDMSR, 0)


def wrmsr(vcpu: Vcpu, detail: int) -> VmExit | None:
    return _msr(vcpu, _WRMSR, 0x800)


def _msr(vcpu: Vcpu, reason: ExitReason, half: int) -> VmExit | None:
    """Exit unless the MSR bitmap lets the processor's own register be used; SDM "MSR-Bitmap Address"."""
    if vcpu.msr_bitmap is not None:
        index = vcpu.state.ecx
        low = index <= 0x1FFF
        if (low or 0xC0000000 <= index <= 0xC0001FFF) and index in vcpu.state.msrs:
            at = vcpu.msr_bitmap + half + (0 if low else 0x400) + ((index & 0x1FFF) >> 3)
            if not vcpu.second_level.memory.read(at, 1)[0] >> (index & 7) & 1:
                _use_msr(vcpu, index, write=bool(half))
                return None
    return VmExit(reason, 0, _length(vcpu))


def _use_msr(vcpu: Vcpu, index: int, write: bool) -> None:
    state = vcpu.state
    if write:
        state.msrs[index] = state.edx << 32 | state.eax
    else:
        value = state.msrs[index]
        state.rax, state.rdx = value & 0xFFFF_FFFF, value >> 32
    _advance(vcpu, _length(vcpu))


def rdtsc(vcpu: Vcpu, detail: int) -> VmExit | None:
    if vcpu.state.cr4 & Cr4.TSD and vcpu.state.cpl:
        raise GuestFault(Vector.GP, 0)
    if vcpu.primary & PrimaryControls.RDTSC_EXITING:
        return VmExit(ExitReason.RDTSC, 0, _length(vcpu))
    vcpu.clock.advance(1000)        # a guest that polls the counter must see it move
    tsc = vcpu.clock.tsc + vcpu.tsc_offset
    vcpu.state.rax, vcpu.state.rdx = tsc & 0xFFFF_FFFF, tsc >> 32 & 0xFFFF_FFFF
    _advance(vcpu, _length(vcpu))
    return None


def undefined(vcpu: Vcpu, detail: int) -> VmExit | None:
    """Not an instruction of this processor: RDTSCP, MONITOR, MWAIT and AMD's virtualization are not offered."""
    raise GuestFault(Vector.UD)


def rdpmc(vcpu: Vcpu, detail: int) -> VmExit | None:
    if vcpu.primary & PrimaryControls.RDPMC_EXITING:
        return VmExit(ExitReason.RDPMC, 0, _length(vcpu))
    raise GuestFault(Vector.GP, 0)


def pause(vcpu: Vcpu, detail: int) -> VmExit | None:
    if vcpu.primary & PrimaryControls.PAUSE_EXITING:
        return VmExit(ExitReason.PAUSE, 0, _length(vcpu))
    _advance(vcpu, _length(vcpu))
    return None


def wbinvd(vcpu: Vcpu, detail: int) -> VmExit | None:
    """INVD exits always; WBINVD only by a secondary control that is off here, and then does nothing: there is no cache."""
    decoded = _decoded(vcpu)
    if decoded.mnemonic == "invd":
        return VmExit(ExitReason.INVD, 0, decoded.length)
    _advance(vcpu, decoded.length)
    return None


# --- control and debug registers -----------------------------------------------------------------

def cr_read(vcpu: Vcpu, detail: int) -> VmExit | None:
    """MOV from CR8 (CR0 and CR4 are read as they are while no mask hides a bit)."""
    decoded = _decoded(vcpu)
    access = decoded.control_register
    assert access is not None, f"{decoded.text} trapped as a control-register read"
    if access.register == 8:
        return _cr_exit(access, decoded.length)
    _write_operand(vcpu, decoded, _visible(vcpu, access.register))
    _advance(vcpu, decoded.length)
    return None


def cr_write(vcpu: Vcpu, detail: int) -> VmExit | None:
    """MOV to CR0, CR4 and CR8, LMSW, CLTS; SDM "Guest/Host Masks and Read Shadows for CR0 and CR4"."""
    decoded = _decoded(vcpu)
    access = decoded.control_register
    assert access is not None, f"{decoded.text} trapped as a control-register write"
    if access.kind is ControlAccess.SMSW:
        return cr_read(vcpu, detail)
    if access.register == 8:
        return _cr_exit(access, decoded.length)
    value = _new_value(vcpu, decoded, access)
    mask = vcpu.cr_masks[access.register]
    if (value ^ vcpu.cr_shadows[access.register]) & mask:
        return _cr_exit(access, decoded.length, value)
    write_control_register(vcpu, access.register, _real(vcpu, access.register) & mask | value & ~mask)
    _advance(vcpu, decoded.length)
    return None


def _cr_exit(access: ControlRegisterAccess, length: int, lmsw_source: int = 0) -> VmExit:
    memory = isinstance(access.operand, MemoryOperand)
    lmsw = access.kind is ControlAccess.LMSW
    qualification = CrQualification(number=0 if lmsw or access.kind is ControlAccess.CLTS else access.register,
                                    access=int(access.kind), lmsw_memory=int(lmsw and memory),
                                    register=0 if lmsw else access.gpr, lmsw_source=lmsw_source & 0xFFFF if lmsw else 0)
    return VmExit(ExitReason.CR_ACCESS, qualification.raw, length)


def _real(vcpu: Vcpu, register: int) -> int:
    return vcpu.state.cr0 if register == 0 else vcpu.state.cr4


def _visible(vcpu: Vcpu, register: int) -> int:
    mask = vcpu.cr_masks[register]
    return _real(vcpu, register) & ~mask | vcpu.cr_shadows[register] & mask


def _new_value(vcpu: Vcpu, decoded: Decoded, access: ControlRegisterAccess) -> int:
    """What the instruction wants the control register to be."""
    if access.kind is ControlAccess.CLTS:
        return vcpu.state.cr0 & ~Cr0.TS.value
    source = _read_operand(vcpu, decoded)
    if access.kind is ControlAccess.LMSW:       # can set PE, never clear it
        return vcpu.state.cr0 & ~0xE | source & 0xF
    return source


def _read_operand(vcpu: Vcpu, decoded: Decoded) -> int:
    operand = next(o for o in reversed(decoded.operands) if not _names_control_register(o))
    if isinstance(operand, RegisterOperand):
        return read_register(vcpu.state, operand.name)
    assert isinstance(operand, MemoryOperand)
    return vcpu.memory.read_integer(linear_address(decoded, vcpu.state, operand), 2)


def _write_operand(vcpu: Vcpu, decoded: Decoded, value: int) -> None:
    operand = next(o for o in decoded.operands if not _names_control_register(o))
    if isinstance(operand, RegisterOperand):
        write_register(vcpu.state, operand.name, value & (1 << 8 * operand.size) - 1)
    else:
        assert isinstance(operand, MemoryOperand)
        vcpu.memory.write(linear_address(decoded, vcpu.state, operand), (value & 0xFFFF).to_bytes(2, "little"))


def _names_control_register(operand: object) -> bool:
    return isinstance(operand, RegisterOperand) and operand.name[:2] in ("cr", "dr")


def write_control_register(vcpu: Vcpu, register: int, value: int) -> None:
    """Write CR0 or CR4 as MOV does, or raise its #GP."""
    (check_cr0 if register == 0 else check_cr4)(vcpu.state, value)
    vcpu.engine.write_control_register(vcpu.state, register, value)


def dr_write(vcpu: Vcpu, detail: int) -> VmExit | None:
    decoded = _decoded(vcpu)
    access = decoded.debug_register
    assert access is not None, f"{decoded.text} trapped as a debug-register access"
    if vcpu.primary & PrimaryControls.MOV_DR_EXITING:
        return VmExit(ExitReason.MOV_DR, DrQualification(number=access.register, from_dr=0, register=access.gpr).raw,
                      decoded.length)
    # Simplified: the registers are kept, but no address is watched yet.
    number = {4: 6, 5: 7}.get(access.register, access.register)
    setattr(vcpu.state, f"dr{number}", vcpu.state.gpr[access.gpr])
    _advance(vcpu, decoded.length)
    return None


# --- exceptions and interrupts -------------------------------------------------------------------

def exception(vcpu: Vcpu, vector: int) -> VmExit | None:
    """A fault the guest met: an exit when the exception bitmap says so, else its own affair. VMX instructions are #UD here."""
    if vector == _UD:
        found = _vmx_instruction(vcpu)
        if found is not None:
            return found
        if _fast_call_in_long_mode(vcpu):
            return None
    state, engine = vcpu.state, vcpu.engine
    error_code = engine.error_code() & 0xFFFF if vector in WITH_ERROR_CODE and state.protected else None
    address = engine.fault_address() if vector == Vector.PF else None
    if vector == Vector.PF:
        error_code = _page_fault_code(vcpu, address or 0, error_code or 0)
    if _bitmap_exits(vcpu, vector, error_code or 0):
        return _exception_exit(Event(vector, EventKind.EXCEPTION, error_code), address or 0)
    raise GuestFault(vector, error_code, address)


WITH_ERROR_CODE = frozenset({Vector.DF, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.AC})


def _page_fault_code(vcpu: Vcpu, address: int, code: int) -> int:
    """The engine leaves P out of the code of a reserved-bit fault."""
    return code | 1 if code & 8 else code


def _bitmap_exits(vcpu: Vcpu, vector: int, error_code: int) -> bool:
    wanted = bool(vcpu.exception_bitmap >> vector & 1)
    if vector == Vector.PF:
        return wanted == (error_code & vcpu.pf_mask == vcpu.pf_match)
    return wanted


def _exception_exit(event: Event, qualification: int, length: int = 0) -> VmExit:
    exit = VmExit(ExitReason.EXCEPTION_OR_NMI, qualification, length)
    exit.interruption_info = info_of(event)
    exit.interruption_error_code = event.error_code or 0
    return exit


def _vmx_instruction(vcpu: Vcpu) -> VmExit | None:
    """The exit of a VMX instruction, which the engine does not know; None when the bytes are none."""
    code = vcpu.engine.code_bytes()
    if code[:3] == b"\x0f\x01\xc1":
        return VmExit(_VMCALL, 0, 3)
    try:
        decoded = decode(code, vcpu.state.bits) if code else decode_at(vcpu.state, vcpu.memory)
    except Undecodable:
        return None
    reason = _VMX_REASONS.get(decoded.mnemonic)
    if reason is None or (reason is not ExitReason.VMCALL and not vcpu.state.protected):
        return None
    return VmExit(reason, decoded.memory.displacement & (1 << 64) - 1 if decoded.memory else 0, decoded.length)


def software_interrupt(vcpu: Vcpu, detail: int) -> VmExit | None:
    """INT n never exits; INT3 and INTO do when the exception bitmap says so."""
    decoded = _decoded(vcpu)
    if decoded.mnemonic in ("int3", "into"):
        event = Event(Vector.BP if decoded.mnemonic == "int3" else Vector.OF, EventKind.SOFTWARE_EXCEPTION,
                      None, decoded.length)
        if vcpu.exception_bitmap >> event.vector & 1:
            return _exception_exit(event, 0, decoded.length)
    else:
        operand = decoded.operands[0]
        assert isinstance(operand, ImmediateOperand), decoded.text
        event = Event(operand.value & 0xFF, EventKind.SOFTWARE_INTERRUPT, None, decoded.length)
    vcpu.inject(event)
    return None


def external_interrupt(vector: int) -> VmExit:
    """A physical interrupt while a guest runs, acknowledged on exit."""
    exit = VmExit(ExitReason.EXTERNAL_INTERRUPT)
    exit.interruption_info = InterruptionInfo(vector=vector, type=InterruptionType.EXTERNAL_INTERRUPT, valid=1).raw
    return exit


def task_gate(selector: int, event: Event) -> VmExit:
    """An event that leads to a task gate: a task switch always exits."""
    exit = VmExit(ExitReason.TASK_SWITCH, selector | 3 << 30, event.instruction_length)
    exit.idt_vectoring_info, exit.idt_vectoring_error_code = info_of(event), event.error_code or 0
    return exit


# --- memory --------------------------------------------------------------------------------------

def nested(vcpu: Vcpu, detail: int) -> VmExit | None:
    gpa, access = vcpu.engine.nested_fault()
    return nested_fault(vcpu, NestedFault(gpa, Access(access)))


def nested_fault(vcpu: Vcpu, fault: NestedFault) -> VmExit:
    """EPT violation or misconfiguration; SDM "Exit Qualification for EPT Violations"."""
    walk = vcpu.second_level.walk(fault.gpa)
    if walk.misconfigured:
        exit = VmExit(ExitReason.EPT_MISCONFIGURATION)
    else:
        linear = fault.gva is not None
        exit = VmExit(ExitReason.EPT_VIOLATION, EptViolationQualification(
            int(fault.access) | int(walk.rights) << 3, linear_valid=int(linear),
            final=int(linear and not fault.during_walk)).raw)
        exit.guest_linear_address = fault.gva
    exit.guest_physical_address = fault.gpa
    return exit


# --- ports ---------------------------------------------------------------------------------------

def port_in(vcpu: Vcpu, detail: int) -> VmExit | None:
    return _port(vcpu, read=True)


def port_out(vcpu: Vcpu, detail: int) -> VmExit | None:
    return _port(vcpu, read=False)


def _port(vcpu: Vcpu, read: bool) -> VmExit | None:
    """IN, OUT, INS, OUTS: #GP without permission, then the bitmaps; SDM "Unconditional I/O Exiting", "I/O-Bitmap Addresses"."""
    port, size, _ = vcpu.engine.port()
    if not io_permitted(vcpu.state, vcpu.memory, port, size):
        raise GuestFault(Vector.GP, 0)
    decoded = _decoded(vcpu)
    access = decoded.port
    assert access is not None, f"{decoded.text} trapped as an I/O instruction"
    if _port_exits(vcpu, port, size):
        return VmExit(ExitReason.IO_INSTRUCTION, IoQualification(
            size_minus_1=size - 1, in_=int(read), string=int(access.string), rep=int(access.repeat),
            immediate=int(access.port is not None), port=port).raw, decoded.length)
    if read:
        vcpu.state.rax = vcpu.state.rax | (1 << 8 * size) - 1       # nothing answers: all ones
    _advance(vcpu, decoded.length)
    return None


def _port_exits(vcpu: Vcpu, port: int, size: int) -> bool:
    if vcpu.io_bitmaps is None:
        return bool(vcpu.primary & PrimaryControls.UNCONDITIONAL_IO_EXITING)
    if port + size > 0x10000:
        return True
    memory = vcpu.second_level.memory
    return any(memory.read(vcpu.io_bitmaps[p >> 15] + ((p & 0x7FFF) >> 3), 1)[0] >> (p & 7) & 1 for p in range(port, port + size))


# --- system calls --------------------------------------------------------------------------------

def syscall(vcpu: Vcpu, detail: int) -> VmExit | None:
    system_instructions.syscall(vcpu.state, vcpu.state.rip + _length(vcpu))
    return None


def sysenter(vcpu: Vcpu, detail: int) -> VmExit | None:
    system_instructions.sysenter(vcpu.state, vcpu.state.rip + _length(vcpu))
    return None


def _fast_call_in_long_mode(vcpu: Vcpu) -> bool:
    """SYSENTER and SYSEXIT in long mode, which the engine does not know there."""
    code = vcpu.engine.code_bytes()
    if not vcpu.state.in_long_mode or b"\x0f" not in code[:14]:
        return False
    try:
        decoded = decode(code, vcpu.state.bits)
    except Undecodable:
        return False
    if decoded.mnemonic in ("sysenter", "sysexit", "sysexitq") and not decoded.lock:
        if decoded.mnemonic == "sysenter":
            system_instructions.sysenter(vcpu.state, vcpu.state.rip + decoded.length)
        else:
            wide = vcpu.state.bits == 64 and code[decoded.length - 3] & 0xF8 == 0x48
            system_instructions.sysexit(vcpu.state, wide)
        return True
    return False


def ltr(vcpu: Vcpu, detail: int) -> VmExit | None:
    """Done here whole: of a null selector the engine would make a TSS over which it ends the process."""
    decoded = _decoded(vcpu)
    selector = _read_operand(vcpu, decoded) & 0xFFFF
    system_instructions.load_task_register(vcpu.state, vcpu.memory, selector)
    _advance(vcpu, decoded.length)
    return None


_BY_NAME: dict[Trap, Intercept] = {
    Trap.CPUID: cpuid, Trap.HLT: hlt, Trap.RDMSR: rdmsr, Trap.WRMSR: wrmsr, Trap.RDTSC: rdtsc, Trap.RDTSCP: undefined,
    Trap.RDPMC: rdpmc, Trap.INVLPG: undefined, Trap.PAUSE: pause, Trap.WBINVD: wbinvd, Trap.MONITOR: undefined,
    Trap.MWAIT: undefined, Trap.CR_READ: cr_read, Trap.CR_WRITE: cr_write, Trap.DR_READ: undefined,
    Trap.DR_WRITE: dr_write, Trap.EXCEPTION: exception, Trap.SOFTWARE_INTERRUPT: software_interrupt,
    Trap.NESTED_FAULT: nested, Trap.IN: port_in, Trap.OUT: port_out, Trap.SYSCALL: syscall, Trap.SYSENTER: sysenter,
    Trap.UNDEFINED: undefined, Trap.LTR: ltr,
}
BY_TRAP: tuple[Intercept, ...] = tuple(_BY_NAME[trap] for trap in Trap)
