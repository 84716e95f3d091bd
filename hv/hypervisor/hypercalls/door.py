"""The one door: every hypercall, of a guest's VMCALL and of root's winhv, comes through `hypercall`.

TLFS "Hypercall Interface". The order of checks: code, shape of the control word, alignment and place of the parameters,
privilege, then the parameters themselves. A parameter page that the caller itself could not access raises NestedFault:
that is no status, but an intercept.

A rep call does what fits about 50 us of virtual time, then lets interrupts and other processors have their turn: its
caller finds a new rep start in its control word, with RIP still at the call, and goes on without knowing;
TLFS "Hypercall Continuation".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NoReturn

import hv.hypervisor.hypercalls  # noqa: F401  registers the handlers
from hv.hypervisor.errors import CallInterrupted, HypercallError
from hv.hypervisor.hypercalls.parameters import read_input, read_memory, read_registers, write_output
from hv.hypervisor.hypercalls.registry import HYPERCALLS, Call, Declaration, Reps, require
from hv.spec.cpuid import HvPrivilege
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.trace.events import Hypercall, HypercallInterrupted

if TYPE_CHECKING:
    from hv.hypervisor.hypervisor import Hypervisor
    from hv.hypervisor.vps.vp import VirtualProcessor

_CODE = int(HypercallControl(call_code=0xFFFF))
_FAST = int(HypercallControl(fast=1))
_PLAIN = _CODE | _FAST                  # all that a simple call may set
_REP_START, _REPS = HypercallControl(rep_start=0xFFF).raw, 0xFFF
_REP = int(HypercallControl(call_code=0xFFFF, fast=1, rep_count=0xFFF, rep_start=0xFFF))    # all that a rep call may
_COUNT_SHIFT = HypercallControl(rep_count=1).raw.bit_length() - 1
_REP_START_SHIFT = HypercallControl(rep_start=1).raw.bit_length() - 1
_REP_SHIFT = HypercallResult(reps_complete=1).raw.bit_length() - 1
_REGISTERS = struct.Struct("<QQ")
FIRST_EXTENDED_CODE = 0x8000
_SUCCESS = HvStatus.SUCCESS           # naming a member of an enumeration costs a call
_EXTENDED = int(HvPrivilege.ENABLE_EXTENDED_HYPERCALLS)


def hypercall(hypervisor: Hypervisor, vp: VirtualProcessor, control: int, input_gpa: int, output_gpa: int) -> int:
    """Do the call that *vp* asks for; the HypercallResult value. In the fast form the two gpa are the parameters.

    Raises NestedFault when a parameter page is not accessible to the caller, and GuestFault when its XMM registers are
    wanted and cannot be used; nothing has been done then. CallInterrupted says how to go on with a long rep call.
    """
    reps, refusal, call = 0, None, vp.caller
    if call is None:
        call = vp.caller = Call(hypervisor, vp)
    try:
        declaration = HYPERCALLS.get(control & _CODE) or _unknown(vp, control & _CODE)
        if control & ~_PLAIN or declaration.rep:
            start = control >> _REP_START_SHIFT & _REPS
            if control & ~_REP or not declaration.rep or start >= control >> _COUNT_SHIFT & _REPS:
                start = _check_shape(declaration, HypercallControl(control))
            reps = start
        if declaration.rep:
            reps, refusal = _rep_call(call, declaration, control, input_gpa, output_gpa)
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


def hypercall_to_end(hypervisor: Hypervisor, vp: VirtualProcessor, control: int, input_gpa: int,
                     output_gpa: int) -> int:
    """Like `hypercall`, for a caller that is no machine code: what is interrupted goes on at once."""
    while True:
        try:
            return hypercall(hypervisor, vp, control, input_gpa, output_gpa)
        except CallInterrupted as interrupted:
            control = interrupted.control


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


def _check_reserved(declaration: Declaration, data: bytes) -> None:
    wrong = int.from_bytes(data, "little") & declaration.reserved
    if wrong:
        first = (wrong & -wrong).bit_length() - 1 >> 3
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"{declaration.code.name}: byte {first} must be zero")


def _simple_call(call: Call, declaration: Declaration, fast: int, input_gpa: int, output_gpa: int) -> None:
    if fast and declaration.fits_registers and not declaration.privilege & ~call.partition.privileges:
        data = _REGISTERS.pack(input_gpa, output_gpa)       # the usual, without a call
    else:
        read = read_registers if fast else read_memory
        data = read(call, declaration, declaration.input_size, declaration.output_size, input_gpa, output_gpa)
    if declaration.reserved and int.from_bytes(data, "little") & declaration.reserved:
        _check_reserved(declaration, data)
    handler = declaration.handler
    answer = handler(call, declaration.input.parse(data)) if declaration.input else handler(call)
    if answer is not None:
        write_output(call, fast, declaration.input_size, output_gpa, 0, answer.pack())


def _variable_call(call: Call, declaration: Declaration, control: HypercallControl, input_gpa: int,
                   output_gpa: int) -> None:
    """A simple call whose fixed input is followed by as many units of 8 bytes as the control word says."""
    size = declaration.input_size + 8 * control.variable_header_size
    data = read_input(call, declaration, control.fast, size, declaration.output_size, input_gpa, output_gpa)
    _check_reserved(declaration, data)
    assert declaration.input is not None, "a variable header has a fixed part"
    answer = declaration.handler(call, declaration.input.parse(data), _units(data[declaration.input_size : size]))
    if answer is not None:
        write_output(call, control.fast, size, output_gpa, 0, answer.pack())


def _units(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 8}Q", data)


def _rep_call(call: Call, declaration: Declaration, control: int, input_gpa: int,
              output_gpa: int) -> tuple[int, HypercallError | None]:
    """The reps completed, whose outputs are written in any case, and the refusal that ended them.

    CallInterrupted when there are more of them than may be done at a time.
    """
    count, start, fast = control >> _COUNT_SHIFT & _REPS, control >> _REP_START_SHIFT & _REPS, control & _FAST
    step = declaration.rep_output.SIZE if declaration.rep_output else 0
    element = declaration.rep_input.SIZE if declaration.rep_input else 0
    header = declaration.input_size
    if declaration.variable:
        header += 8 * HypercallControl(control).variable_header_size
    size = header + count * element
    data = read_input(call, declaration, fast, size, count * step, input_gpa, output_gpa)
    reps, refusal = Reps(data[header:size], declaration.rep_input, start, count, call), None
    try:
        if declaration.reserved:
            _check_reserved(declaration, data)
        assert declaration.input is not None, "a rep call has a header"
        variable = (_units(data[declaration.input_size : header]),) if declaration.variable else ()
        declaration.handler(call, declaration.input.parse(data), *variable, reps)
    except HypercallError as error:
        refusal = error
    ticks = reps.ticks
    call.hypervisor.clock.advance(ticks)
    call.rep_ticks += ticks
    finished = (reps.done - start) * step
    if finished:
        write_output(call, fast, size, output_gpa, start * step, bytes(reps.output[:finished]))
    if refusal is None and reps.done < count:
        _interrupt(call, declaration, control, reps.done)
    return reps.done, refusal


def _interrupt(call: Call, declaration: Declaration, control: int, done: int) -> NoReturn:
    assert done > control >> _REP_START_SHIFT & _REPS, f"{declaration.code.name} does not ask for its reps"
    call.emit(HypercallInterrupted(declaration.code, done, control >> _COUNT_SHIFT & _REPS))
    raise CallInterrupted(control & ~_REP_START | done << _REP_START_SHIFT)
