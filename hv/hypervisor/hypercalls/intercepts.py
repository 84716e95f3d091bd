"""Intercepts: a parent says which ports, MSRs, CPUID leaves and exceptions of a child it wants to hear of.

TLFS "Intercepts". # Simplified: the types of `HvInterceptType`; others are INVALID_PARAMETER.
"""

from __future__ import annotations

from hv.hypervisor.hypercalls.registry import Call, hypercall, require
from hv.hypervisor.partition import PartitionState
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.intercepts import HvInterceptAccess, HvInterceptType, InstallInterceptInput

_READ_WRITE = int(HvInterceptAccess.READ | HvInterceptAccess.WRITE)
_EXECUTE = int(HvInterceptAccess.EXECUTE)
_ALLOWED = {HvInterceptType.IO_PORT: _READ_WRITE, HvInterceptType.IO_PORT_RANGE: _READ_WRITE,
            HvInterceptType.MSR: _READ_WRITE, HvInterceptType.CPUID: _EXECUTE, HvInterceptType.EXCEPTION: _EXECUTE}
_LIMIT = {HvInterceptType.IO_PORT: 1 << 16, HvInterceptType.MSR: 1 << 32, HvInterceptType.CPUID: 1 << 32,
          HvInterceptType.EXCEPTION: 32, HvInterceptType.IO_PORT_RANGE: 1 << 32}


@hypercall(HypercallCode.INSTALL_INTERCEPT, input=InstallInterceptInput)
def install_intercept(call: Call, input: InstallInterceptInput) -> None:
    """From now on the access is a message to the caller; access 0 takes the intercept away. INSUFFICIENT_MEMORY."""
    partition = call.find_child(input.partition_id)
    partition.require_state(PartitionState.ACTIVE)
    require(input.intercept_type in _ALLOWED, f"intercept type {input.intercept_type:#x} is not built")
    kind = HvInterceptType(input.intercept_type)
    access = input.access_type
    require(access in (0, _ALLOWED[kind]), f"access {access:#x} of {kind.name}: expected 0 or {_ALLOWED[kind]:#x}")
    require(input.intercept_parameter < _LIMIT[kind], f"parameter {input.intercept_parameter:#x} is out of range")
    if kind is HvInterceptType.IO_PORT_RANGE:
        first, last = input.intercept_parameter & 0xFFFF, input.intercept_parameter >> 16
        require(first <= last, f"port range {first:#x}..{last:#x} is empty")
        partition.intercepts.install_ports(first, last, access)
    else:
        partition.intercepts.install(kind, input.intercept_parameter, access)
    if kind is HvInterceptType.EXCEPTION:
        for vp in partition.vps.values():
            vp.show_exceptions()
