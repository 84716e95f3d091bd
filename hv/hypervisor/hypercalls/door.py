"""The one door: every hypercall, of a guest's VMCALL and of root's winhv, comes through `hypercall`.

TLFS "Hypercall Interface". The order of checks: code, shape of the control word, alignment and place of the parameters,
privilege, then the parameters themselves. A parameter page that the caller itself could not access raises NestedFault:
that is no status, but an intercept.
# Simplified: a rep call is never interrupted, so no caller has to come back; the XMM forms are not offered.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NoReturn

import hv.hypervisor.hypercalls  # noqa: F401  registers the handlers
from hv.hypervisor.errors import HypercallError
from hv.hypervisor.hypercalls.registry import FAST_INPUT_SIZE, HYPERCALLS, Call, Declaration, Reps, require
from hv.machine.faults import Access
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.x86 import PAGE_SIZE
from hv.trace.events import Hypercall

if TYPE_CHECKING:
    from hv.hypervisor.gpa_space import GpaSpace
    from hv.hypervisor.hypervisor import Hypervisor
    from hv.hypervisor.vp import VirtualProcessor

_CODE = int(HypercallControl(call_code=0xFFFF))
_FAST = int(HypercallControl(fast=1))
_PLAIN = _CODE | _FAST                  # all that a simple call may set
_REP_SHIFT = HypercallResult(reps_complete=1).raw.bit_length() - 1
_REGISTERS = struct.Struct("<QQ")
FIRST_EXTENDED_CODE = 0x8000
_SUCCESS = HvStatus.SUCCESS           # naming a member of an enumeration costs a call
_EXTENDED = int(HvPrivilege.ENABLE_EXTENDED_HYPERCALLS)


def hypercall(hypervisor: Hypervisor, vp: VirtualProcessor, control: int, input_gpa: int, output_gpa: int) -> int:
    """Do the call that *vp* asks for; the HypercallResult value. In the fast form the two gpa are the parameters.

    Raises NestedFault when a parameter page is not accessible to the caller; nothing has been done then.
    """
    reps, refusal, call = 0, None, vp.caller
    if call is None:
        call = vp.caller = Call(hypervisor, vp)
    try:
        declaration = HYPERCALLS.get(control & _CODE) or _unknown(vp, control & _CODE)
        if control & ~_PLAIN or declaration.rep:
            reps = _check_shape(declaration, HypercallControl(control))
        if declaration.rep:
            reps, refusal = _rep_call(call, declaration, HypercallControl(control), input_gpa, output_gpa)
        elif declaration.variable:
            _variable_call(call, declaration, HypercallControl(control), input_gpa, output_gpa)
        else:
            _simple_call(call, declaration, control & _FAST, input_gpa, output_gpa)
    except HypercallError as error:
        refusal = error
    status = _SUCCESS if refusal is None else refusal.status
    if hypervisor.trace.listening:
        why = "" if refusal is None else refusal.text
        hypervisor.trace.emit(Hypercall(control & _CODE, control, input_gpa, output_gpa, status, reps, why))
    return status | reps << _REP_SHIFT


def _unknown(vp: VirtualProcessor, code: int) -> NoReturn:
    """INVALID_HYPERCALL_CODE; ACCESS_DENIED for an extended one without the privilege."""
    if code >= FIRST_EXTENDED_CODE and not vp.partition.has(_EXTENDED):
        raise HypercallError(HvStatus.ACCESS_DENIED, f"extended call {code:#x} needs its privilege")
    raise HypercallError(HvStatus.INVALID_HYPERCALL_CODE, f"no hypercall {code:#x}")


def _check_shape(declaration: Declaration, control: HypercallControl) -> int:
    """INVALID_HYPERCALL_INPUT for a control word the call cannot have; the rep start."""
    wrong = HvStatus.INVALID_HYPERCALL_INPUT
    require(not control.raw & HypercallControl.RESERVED, f"reserved bits in {control.raw:#x}", wrong)
    require(not control.raw >> 64, f"control {control.raw:#x} is wider than 64 bits", wrong)
    require(not control.is_nested, "the hypervisor is not nested", wrong)
    require(declaration.variable or not control.variable_header_size,
            f"{declaration.code.name} has no variable header", wrong)
    if not declaration.rep:
        require(not control.rep_count and not control.rep_start, f"{declaration.code.name} is a simple call", wrong)
        return 0
    require(control.rep_count, "rep count is 0", wrong)
    require(control.rep_start < control.rep_count, f"rep start {control.rep_start} of {control.rep_count}", wrong)
    return control.rep_start


def _check_place(space: GpaSpace, gpa: int, size: int, what: str) -> None:
    """INVALID_ALIGNMENT unless *size* bytes at *gpa* are 8-aligned, in one page, inside the GPA space."""
    if gpa & 7 or (gpa & PAGE_SIZE - 1) + size > PAGE_SIZE or gpa >> 12 >= space.page_limit:
        raise HypercallError(HvStatus.INVALID_ALIGNMENT, f"{what} of {size} bytes at {gpa:#x}: misaligned or misplaced")


def _lacks_privilege(call: Call, declaration: Declaration) -> HypercallError:
    missing = declaration.privilege & ~call.partition.privileges
    return HypercallError(HvStatus.ACCESS_DENIED, f"{declaration.code.name} needs privilege {missing:#x}")


def _read_registers(call: Call, declaration: Declaration, fits: bool, first: int, second: int) -> bytes:
    """The input bytes of the fast form, if they and what is answered can be in registers."""
    if not fits:
        raise HypercallError(HvStatus.INVALID_HYPERCALL_INPUT, f"{declaration.code.name} does not fit registers")
    if declaration.privilege & ~call.partition.privileges:
        raise _lacks_privilege(call, declaration)
    return _REGISTERS.pack(first, second)


def _read_memory(call: Call, declaration: Declaration, size: int, output_size: int, input_gpa: int,
                 output_gpa: int) -> bytes:
    """The input bytes, once places and privilege are right, and the output is known to be writable."""
    space = call.partition.space
    if size:
        _check_place(space, input_gpa, size, "input")
    if output_size:
        _check_place(space, output_gpa, output_size, "output")
    if declaration.privilege & ~call.partition.privileges:
        raise _lacks_privilege(call, declaration)
    data = space.read(input_gpa, size) if size else b""
    if output_size:
        space.translate(output_gpa, Access.WRITE)
    return data


def _check_reserved(declaration: Declaration, data: bytes) -> None:
    for part in declaration.reserved:
        if any(data[part]):
            text = f"{declaration.code.name}: bytes {part.start}..{part.stop - 1} must be zero"
            raise HypercallError(HvStatus.INVALID_PARAMETER, text)


def _simple_call(call: Call, declaration: Declaration, fast: int, input_gpa: int, output_gpa: int) -> None:
    if fast and declaration.fits_registers and not declaration.privilege & ~call.partition.privileges:
        data = _REGISTERS.pack(input_gpa, output_gpa)       # the usual, without a call
    elif fast:
        data = _read_registers(call, declaration, declaration.fits_registers, input_gpa, output_gpa)
    else:
        data = _read_memory(call, declaration, declaration.input_size, declaration.output_size, input_gpa, output_gpa)
    if declaration.reserved:
        _check_reserved(declaration, data)
    handler = declaration.handler
    answer = handler(call, declaration.input.parse(data)) if declaration.input else handler(call)
    if answer is not None:
        call.partition.space.write(output_gpa, answer.pack())


def _variable_call(call: Call, declaration: Declaration, control: HypercallControl, input_gpa: int,
                   output_gpa: int) -> None:
    """A simple call whose fixed input is followed by as many units of 8 bytes as the control word says."""
    size = declaration.input_size + 8 * control.variable_header_size
    if control.fast:
        fits = size <= FAST_INPUT_SIZE and not declaration.output_size
        data = _read_registers(call, declaration, fits, input_gpa, output_gpa)
    else:
        data = _read_memory(call, declaration, size, declaration.output_size, input_gpa, output_gpa)
    _check_reserved(declaration, data)
    assert declaration.input is not None, "a variable header has a fixed part"
    answer = declaration.handler(call, declaration.input.parse(data), _units(data[declaration.input_size : size]))
    if answer is not None:
        call.partition.space.write(output_gpa, answer.pack())


def _units(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 8}Q", data)


def _rep_call(call: Call, declaration: Declaration, control: HypercallControl, input_gpa: int,
              output_gpa: int) -> tuple[int, HypercallError | None]:
    """The reps completed, whose outputs are written in any case, and the refusal that ended them."""
    count, start = control.rep_count, control.rep_start
    step = declaration.rep_output.SIZE if declaration.rep_output else 0
    element = declaration.rep_input.SIZE if declaration.rep_input else 0
    header = declaration.input_size + 8 * control.variable_header_size
    size, output_size = header + count * element, count * step
    if control.fast:
        fits = size <= FAST_INPUT_SIZE and not output_size
        data = _read_registers(call, declaration, fits, input_gpa, output_gpa)
    else:
        data = _read_memory(call, declaration, size, output_size, input_gpa, output_gpa)
    reps, refusal = Reps(data[header:], declaration.rep_input, start, count), None
    try:
        _check_reserved(declaration, data)
        assert declaration.input is not None, "a rep call has a header"
        variable = (_units(data[declaration.input_size : header]),) if declaration.variable else ()
        declaration.handler(call, declaration.input.parse(data), *variable, reps)
    except HypercallError as error:
        refusal = error
    finished = (reps.done - start) * step
    if finished:
        call.partition.space.write(output_gpa + start * step, bytes(reps.output[:finished]))
    return reps.done, refusal
