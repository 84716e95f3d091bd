"""Instructions that touch the APIC-access page; SDM "Virtualizing Memory-Mapped APIC Accesses".

The instruction is carried out in software on the virtual-APIC page when each of its accesses may be virtualized; else
it exits. Accesses that no instruction makes by a linear address (event delivery, page walks) always exit.

# Simplified: an instruction that `memory_operations.py` does not know (MOVS, CMPXCHG, PUSH, SSE) exits where silicon
# would virtualize it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Decoded, Undecodable, linear_address
from hv.instructions.memory_operations import MemoryAccess, perform
from hv.machine.faults import Access, NestedFault
from hv.spec.exits import ApicAccessQualification, ApicAccessType, ExitReason
from hv.spec.x86 import PAGE_SHIFT
from hv.vmx.apic.access_page import is_one_register, written
from hv.vmx.apic.virtual_apic import VirtualApic
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import access_at, advance

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_OFFSET = (1 << PAGE_SHIFT) - 1
_READ, _WRITE, _EXECUTE = Access.READ.value, Access.WRITE.value, Access.EXECUTE.value
_LINEAR = {_READ: ApicAccessType.LINEAR_READ, _WRITE: ApicAccessType.LINEAR_WRITE,
           _EXECUTE: ApicAccessType.LINEAR_FETCH}


def apic_access(vcpu: Vcpu, gpa: int, access: Access) -> VmExit | None:
    """The instruction at RIP does *access* (one of the three) at *gpa*, a guest-physical address of the page."""
    try:
        found = _instruction(vcpu, gpa) if access.value != _EXECUTE else None
    except NestedFault as fault:
        return access_exit(fault)
    if found is None:
        return access_exit(NestedFault(gpa, access))
    decoded, operation = found
    controls, offset = vcpu.apic, gpa & _OFFSET
    apic, register = controls.virtual, offset & ~3
    if (apic is None or not is_one_register(offset, operation.size)
            or (operation.read and register not in controls.readable)
            or (operation.write and register not in controls.writable)):
        return access_exit(NestedFault(gpa, Access.WRITE if operation.write else Access.READ), decoded.length)
    if perform(vcpu.state, operation, lambda: _load(apic, offset, operation.size),
               lambda value: _store(apic, offset, operation.size, value)):
        advance(vcpu, decoded.length)
    else:
        advance(vcpu, 0)            # REP: each iteration ends a shadow, and is stepped
    if operation.write:
        vcpu.trap_like, vcpu.apic_acted = written(apic, offset), True
    return None


def _instruction(vcpu: Vcpu, gpa: int) -> tuple[Decoded, MemoryAccess] | None:
    """The instruction at RIP, whose one access to memory begins at *gpa* and is allowed; None for any other.

    Raises the guest's own fault, and the NestedFault of a paging structure.
    """
    try:
        decoded, operation = access_at(vcpu)
    except Undecodable:
        return None
    state, memory = vcpu.state, vcpu.memory
    found = memory.gpa_of(memory.mode, linear_address(decoded, state, operation.memory),
                          _WRITE if operation.write else _READ, state.cpl, False)
    return (decoded, operation) if found == gpa else None


def access_exit(fault: NestedFault, length: int = 0) -> VmExit:
    """The exit of an access that is not virtualized; SDM "Exit Qualification for APIC-Access VM Exits"."""
    if fault.during_walk:
        kind = ApicAccessType.PHYSICAL_EVENT_DELIVERY if fault.delivering else ApicAccessType.PHYSICAL_INSTRUCTION
    else:
        kind = ApicAccessType.LINEAR_EVENT_DELIVERY if fault.delivering else _LINEAR[fault.access.value]
    return VmExit(ExitReason.APIC_ACCESS, ApicAccessQualification(offset=fault.gpa & _OFFSET, type=kind).raw, length)


def _load(apic: VirtualApic, offset: int, size: int) -> int:
    return apic.page.dwords[offset >> 2] >> 8 * (offset & 3) & (1 << 8 * size) - 1


def _store(apic: VirtualApic, offset: int, size: int, value: int) -> None:
    shift, mask = 8 * (offset & 3), (1 << 8 * size) - 1
    dwords = apic.page.dwords
    dwords[offset >> 2] = dwords[offset >> 2] & ~(mask << shift) | (value & mask) << shift
