"""Intercepts: a parent says what a child does it wants to hear of, and what CPUID shall answer without asking.

TLFS "Intercepts". # Simplified: the types of `HvInterceptType`; others are INVALID_PARAMETER.
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.registry import Call, hypercall, require, require_vtl0
from hv.hypervisor.partitions.cpuid_results import CpuidResult, Key
from hv.hypervisor.partitions.partition import Partition, PartitionState
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.intercepts import (
    CheckForIoInterceptInput,
    CheckForIoInterceptOutput,
    HvInterceptAccess,
    HvInterceptType,
    InstallInterceptInput,
    InterceptResultInput,
    RegisterInterceptResultInput,
)
from hv.spec.partition import ANY_VP
from hv.trace.events import InterceptInstalled

T = HvInterceptType
_READ, _WRITE = int(HvInterceptAccess.READ), int(HvInterceptAccess.WRITE)
_READ_WRITE = _READ | _WRITE
_EXECUTE = int(HvInterceptAccess.EXECUTE)
# The accesses that must be asked for together, and the end of the parameter's range.
INTERCEPT_RULES = {
    T.IO_PORT: (_READ_WRITE, 1 << 16), T.IO_PORT_RANGE: (_READ_WRITE, 1 << 32), T.MSR: (_READ_WRITE, 1 << 32),
    T.CPUID: (_EXECUTE, 1 << 32), T.GLOBAL_CPUID: (_EXECUTE, 1), T.EXCEPTION: (_EXECUTE, 32),
    T.HYPERCALL: (_EXECUTE, 1), T.UNKNOWN_SYNIC_CONNECTION: (_EXECUTE, 1), T.APIC_EOI: (_EXECUTE, 1),
    T.RETARGET_INTERRUPT_WITH_UNKNOWN_DEVICE_ID: (_EXECUTE, 1),
}
_PORT_SIZES = (1, 2, 4)


@hypercall(HypercallCode.INSTALL_INTERCEPT, input=InstallInterceptInput)
def install_intercept(call: Call, input: InstallInterceptInput) -> None:
    """From now on the access is a message to the caller; access 0 takes the intercept away. INSUFFICIENT_MEMORY."""
    partition = call.find_child(input.partition_id)
    partition.require_state(PartitionState.ACTIVE)
    require(input.intercept_type in INTERCEPT_RULES, f"intercept type {input.intercept_type:#x} is not built")
    kind, access, parameter = T(input.intercept_type), input.access_type, input.intercept_parameter
    wanted, end = INTERCEPT_RULES[kind]
    require(access in (0, wanted), f"access {access:#x} of {kind.name}: expected 0 or {wanted:#x}")
    require(parameter < end, f"parameter {parameter:#x} is out of range")
    if kind is T.IO_PORT_RANGE:
        first, last = parameter & 0xFFFF, parameter >> 16
        require(first <= last, f"port range {first:#x}..{last:#x} is empty")
        partition.intercepts.install_ports(first, last, access)
    else:
        first = last = parameter
        partition.intercepts.install(kind, parameter, access)
    call.emit(InterceptInstalled(partition.id, kind, first, last, access))
    for vp in partition.vps.values():
        if kind is T.EXCEPTION:
            vp.show_exceptions()
        elif kind is T.HYPERCALL:
            vp.call_site = None             # it is looked at anew
        elif kind is T.APIC_EOI:
            vp.eoi_messages.follow()


@hypercall(HypercallCode.REGISTER_INTERCEPT_RESULT, input=RegisterInterceptResultInput)
def register_intercept_result(call: Call, input: RegisterInterceptResultInput) -> None:
    """CPUID of this leaf is answered without a message from now on. INSUFFICIENT_MEMORY."""
    partition, key = _result_key(call, input.input)
    partition.require_state(PartitionState.ACTIVE)
    eax, ebx, ecx, edx = input.eax, input.ebx, input.ecx, input.edx
    result = CpuidResult((eax.value, ebx.value, ecx.value, edx.value), (eax.mask, ebx.mask, ecx.mask, edx.mask),
                         bool(input.input.always_override))
    partition.cpuid_results.register(key, result)
    partition.intercepts.look_at_cpuid()


@hypercall(HypercallCode.UNREGISTER_INTERCEPT_RESULT, input=InterceptResultInput)
def unregister_intercept_result(call: Call, input: InterceptResultInput) -> None:
    """That is over; INVALID_PARAMETER when there was no such result."""
    partition, key = _result_key(call, input)
    partition.cpuid_results.unregister(key)


def _result_key(call: Call, input: InterceptResultInput) -> tuple[Partition, Key]:
    partition = call.find_child(input.partition_id)
    require(input.intercept_type == T.CPUID, f"intercept type {input.intercept_type:#x}: only CPUID has results")
    flags = input.subleaf_specific | input.always_override
    require(flags <= 1, f"subleaf-specific or always-override is {flags}: expected 0 or 1")
    if input.vp_index != ANY_VP:
        partition.vp(input.vp_index)
    return partition, (input.vp_index, input.eax, input.ecx if input.subleaf_specific else None)


@hypercall(HypercallCode.CHECK_FOR_IO_INTERCEPT, input=CheckForIoInterceptInput, output=CheckForIoInterceptOutput)
def check_for_io_intercept(call: Call, input: CheckForIoInterceptInput) -> CheckForIoInterceptOutput:
    """Would this IN or OUT of the VP be a message? What a parent asks that does the instruction for it."""
    partition = call.find_child(input.partition_id)
    partition.vp(input.vp_index)
    require_vtl0(input.input_vtl)
    require(input.size in _PORT_SIZES and input.is_write <= 1, f"{input.size} bytes, write {input.is_write}")
    wanted = partition.intercepts.wants_port(input.port, _WRITE if input.is_write else _READ)
    return CheckForIoInterceptOutput(intercept=int(bool(wanted)))
