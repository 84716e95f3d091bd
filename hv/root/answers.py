"""What completes an instruction that no device of the VM models: the registers that a worker sets.

CPUID and a hypercall are answered as if nobody had asked; what a processor would refuse becomes an exception.
"""

from __future__ import annotations

from collections.abc import Mapping

from hv.spec.hv_registers import HvRegisterName, PendingInterruptionRegister
from hv.spec.hv_status import HvStatus
from hv.spec.synic import (
    CpuidIntercept,
    ExceptionIntercept,
    HvExceptionInfo,
    HvExecutionState,
    HvInterceptHeader,
    HypercallIntercept,
)
from hv.spec.x86 import Vector

N = HvRegisterName
Registers = dict[HvRegisterName, int]
_HARDWARE_EXCEPTION, _SOFTWARE_EXCEPTION = 3, 6
_CONTRIBUTORY = frozenset({Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP})
_U64 = (1 << 64) - 1


def past(header: HvInterceptHeader) -> Registers:
    """The instruction is done."""
    return {N.RIP: header.rip + (header.length_and_cr8 & 0xF) & _U64}


def cpuid(message: CpuidIntercept) -> Registers:
    """What the hypervisor would have answered."""
    return past(message.header) | {N.RAX: message.default_rax, N.RBX: message.default_rbx, N.RCX: message.default_rcx,
                                   N.RDX: message.default_rdx}


def hypercall(message: HypercallIntercept) -> Registers:
    """There is no such call; in 32-bit code the status is in EDX:EAX."""
    return past(message.header) | {N.RAX: int(HvStatus.INVALID_HYPERCALL_CODE)} | (
        {} if HvExecutionState(message.header.execution_state).efer_lma else {N.RDX: 0})


def exception(header: HvInterceptHeader, vector: int, error_code: int | None, waiting: int) -> Registers | None:
    """The guest gets *vector* at its instruction. *waiting* is PendingInterruption: when an exception was just being
    delivered, the two may make a double fault, and None stands for a triple one.

    SDM "Conditions for Generating a Double Fault".
    """
    combined = _combine(PendingInterruptionRegister(waiting), vector)
    if combined is None:
        return None
    if combined != vector:
        vector, error_code = combined, 0
    if not HvExecutionState(header.execution_state).cr0_pe:         # real mode has no error codes
        error_code = None
    return _pending(vector, _HARDWARE_EXCEPTION, error_code)


def _combine(waiting: PendingInterruptionRegister, vector: int) -> int | None:
    first = waiting.interruption_vector
    if not waiting.interruption_pending or waiting.interruption_type != _HARDWARE_EXCEPTION:
        return vector
    if vector not in _CONTRIBUTORY and vector != Vector.PF:
        return vector
    if first == Vector.DF:
        return None
    both_contribute = first in _CONTRIBUTORY and vector in _CONTRIBUTORY
    return Vector.DF.value if both_contribute or first == Vector.PF else vector


def _pending(vector: int, kind: int, error_code: int | None, length: int = 0) -> Registers:
    return {N.PENDING_INTERRUPTION: PendingInterruptionRegister(
        interruption_pending=1, interruption_type=kind, deliver_error_code=int(error_code is not None),
        instruction_length=length, interruption_vector=vector, error_code=error_code or 0).raw}


def reflected(message: ExceptionIntercept, waiting: int) -> Mapping[HvRegisterName, int] | None:
    """The exception goes to the guest after all, with CR2; None when that is a triple fault."""
    info, header = HvExceptionInfo(message.exception_info), message.header
    if info.software_exception:
        return _pending(message.exception_vector, _SOFTWARE_EXCEPTION, None, header.length_and_cr8 & 0xF)
    answer = exception(header, message.exception_vector, message.error_code if info.error_code_valid else None, waiting)
    if answer is not None and message.exception_vector == Vector.PF:
        answer[N.CR2] = message.exception_parameter
    return answer
