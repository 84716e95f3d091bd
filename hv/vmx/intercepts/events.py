"""Exceptions, software interrupts and external interrupts: which exit, and which are the guest's own affair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import ImmediateOperand, Undecodable, linear_address
from hv.machine.faults import GuestFault, NestedFault
from hv.machine.fetch import decode_at
from hv.machine.idt import Event, EventKind
from hv.machine.paging import LINEAR_64, is_canonical
from hv.spec.exits import ExitReason
from hv.spec.x86 import Dr6, Dr7, Vector
from hv.vmx.events.delivery import deliver
from hv.vmx.events.exits import bitmap_exits, exception_exit
from hv.vmx.events.non_register import MOV_SS, SINGLE_STEP
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import decoded_at
from hv.vmx.intercepts.ports import may_be_string, string_before_fault
from hv.vmx.intercepts.refused import REFUSALS, refused
from hv.vmx.intercepts.undefined import carry_out, undefined_here

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

# Looked up once: naming a member of an enumeration costs a call.
_UD, _GP, _DB = Vector.UD.value, Vector.GP.value, Vector.DB.value
_BREAKPOINTS, _BD = 0xF, Dr6.BD.value
_VMCALL = VmExit(ExitReason.VMCALL, 0, 3)       # always the same, and never changed: made once
_VMCALL_CODE = 0xC1010F         # the instruction's bytes, little-endian
_PUSHES, _POPS = ("push", "call", "enter"), ("pop", "ret", "iret", "leave")

_EXCEPTIONS_ON_DEMAND = {
    "int1": (Vector.DB, EventKind.PRIVILEGED_SOFTWARE_EXCEPTION), "int3": (Vector.BP, EventKind.SOFTWARE_EXCEPTION),
    "into": (Vector.OF, EventKind.SOFTWARE_EXCEPTION),
}


def exception(vcpu: Vcpu, vector: int) -> VmExit | None:
    """A fault the guest met: an exit when the exception bitmap says so, else its own affair.

    To the engine the VMX instructions are undefined ones, and so is INT1.
    """
    if vector == _DB:
        _single_stepped(vcpu)
        return None
    if vcpu.state.ignore_code_base():       # of a far transfer: the engine fetched elsewhere
        return None
    if vector == _UD:
        if vcpu.engine.code_head() & 0xFF_FFFF == _VMCALL_CODE:
            return _VMCALL
        decoded = undefined_here(vcpu)
        if decoded is not None and decoded.mnemonic == "int1":
            return software_interrupt(vcpu, 0)
        done = carry_out(vcpu, decoded)
        if done is not False:
            return done if isinstance(done, VmExit) else None
    elif vector in REFUSALS:
        done = refused(vcpu, vector)
        if done is not False:
            return done if isinstance(done, VmExit) else None
    state, engine = vcpu.state, vcpu.engine
    error_code = engine.error_code() & 0xFFFF if vector in WITH_ERROR_CODE and state.protected else None
    address = engine.fault_address() if vector == Vector.PF else None
    if address is not None:
        error_code = _page_fault_code(error_code or 0)
        if not address & 0xFFF and _may_be_later(vcpu, address) and engine.run_alone(state):
            return None
        if may_be_string(vcpu, address, error_code & 2):
            exit = string_before_fault(vcpu)
            if exit is not None:
                return exit
    if vector == _GP and not error_code and state.bits == 64 and _leaves_the_stack(vcpu):
        vector = Vector.SS
    raise GuestFault(vector, error_code, address)


def _single_stepped(vcpu: Vcpu) -> None:
    """RFLAGS.TF was set when the instruction before RIP began: #DB pends. MOV SS and POP SS are not stopped behind.

    SDM "Single-Step Exception Condition", "Masking Exceptions and Interrupts When Switching Stacks".
    """
    vcpu.state.ignore_code_base()
    if not vcpu.non_register.shadow & MOV_SS:
        vcpu.non_register.pending_debug |= SINGLE_STEP


def debug_trap(vcpu: Vcpu) -> bool:
    """What pends becomes #DB now: an exit, or the guest's own; False when the exit handler said stop."""
    now = vcpu.non_register
    bits, now.pending_debug = now.pending_debug & (SINGLE_STEP | _BREAKPOINTS), 0
    event = Event(Vector.DB, EventKind.EXCEPTION)
    if bitmap_exits(vcpu, _DB, 0):
        return vcpu.exit(exception_exit(event, bits))
    _note_in_dr6(vcpu, bits)
    return vcpu.take(event)


def _note_in_dr6(vcpu: Vcpu, bits: int) -> None:
    """B0..B3 are those of this #DB, the others stay until somebody clears them; SDM "Debug Status Register (DR6)"."""
    vcpu.state.dr6 = vcpu.state.dr6 & ~_BREAKPOINTS | bits


def raised(vcpu: Vcpu, fault: GuestFault) -> None:
    """*fault* goes to the guest itself: the debug registers tell why. With a VM exit they stay as they are."""
    if fault.vector == _DB:
        state = vcpu.state
        _note_in_dr6(vcpu, fault.debug_bits)
        if fault.debug_bits & _BD:
            state.dr7 = Dr7(state.dr7, gd=0).raw


WITH_ERROR_CODE = frozenset({Vector.DF, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.PF, Vector.AC})


def _page_fault_code(code: int) -> int:
    """The engine leaves P out of the code of a reserved-bit fault."""
    return code | 1 if code & 8 else code


def _may_be_later(vcpu: Vcpu, address: int) -> bool:
    """A page fault at *address*, where a page begins, may be that of fetching an instruction behind the one at RIP."""
    linear = vcpu.state.linear_rip
    if not 0 < address - linear <= 0x1000:
        return False
    try:
        return bool(linear + decoded_at(vcpu).length <= address)
    except GuestFault:
        return False


def _leaves_the_stack(vcpu: Vcpu) -> bool:
    """A reference by way of SS is not canonical, of which the engine makes #GP; SDM "Canonical Addressing"."""
    state = vcpu.state
    try:
        decoded = decode_at(state, vcpu.memory)
        memory = decoded.memory
        if memory is not None and not _is_reachable(linear_address(decoded, state), memory.size):
            return memory.segment == "ss"
    except (Undecodable, GuestFault, NestedFault):      # RIP is what is not canonical, or an index is a vector
        return False
    if decoded.mnemonic.startswith(_PUSHES):
        return not _is_reachable(state.rsp - 8, 8)
    if decoded.mnemonic.startswith(_POPS):
        return not _is_reachable(state.rbp if decoded.mnemonic == "leave" else state.rsp, 8)
    return False


def _is_reachable(gva: int, size: int) -> bool:
    return is_canonical(gva & LINEAR_64) and is_canonical(gva + size - 1 & LINEAR_64)


def software_interrupt(vcpu: Vcpu, detail: int) -> VmExit | None:
    """INT n never exits; INT1, INT3 and INTO do when the exception bitmap says so. The delivery of each may."""
    decoded = decoded_at(vcpu)
    if decoded.mnemonic in _EXCEPTIONS_ON_DEMAND:
        event = Event(*_EXCEPTIONS_ON_DEMAND[decoded.mnemonic], None, decoded.length)
        if vcpu.controls.exception_bitmap >> event.vector & 1:
            return exception_exit(event, 0, decoded.length)
    else:
        operand = decoded.operands[0]
        assert isinstance(operand, ImmediateOperand), decoded.text
        event = Event(operand.value & 0xFF, EventKind.SOFTWARE_INTERRUPT, None, decoded.length)
    return deliver(vcpu, event)
