"""Data breakpoints: what the instruction at RIP accesses, met or not by DR0..DR3.

SDM "Data Breakpoint Conditions and I/O Breakpoint Conditions".
# Simplified: what an instruction does to memory beside its operands is known for pushes, pops, calls and returns; an
# access that the delivery of an event makes is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hv.instructions.decode import Decoded, Undecodable
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.fetch import decode_at
from hv.spec.x86 import BreakOn
from hv.vmx.events.debug_registers import DATA, U64, Breakpoint, breakpoints
from hv.vmx.intercepts.accesses import Reference, operand_references

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_READ, _WRITE = Access.READ.value, Access.WRITE.value


def data_bits(vcpu: Vcpu) -> int:
    """Bits of DR6 for what the instruction at RIP, or the next iteration of a repeated one, accesses."""
    try:
        decoded = decode_at(vcpu.state, vcpu.memory)
    except (Undecodable, GuestFault, NestedFault):
        return 0
    wanted = [one for one in breakpoints(vcpu.state) if one.on in DATA]
    met = 0
    for reference in (*operand_references(vcpu, decoded), *_of_the_stack(vcpu, decoded)):
        met |= sum(one.bit for one in wanted if not met & one.bit and _meets(one, reference))
    return met


def _meets(one: Breakpoint, reference: Reference) -> bool:
    access = _READ | _WRITE if one.on == BreakOn.READ_WRITE else _WRITE
    gva = reference.gva & U64
    return bool(reference.access & access) and gva < one.address + one.length and one.address < gva + reference.size


def _of_the_stack(vcpu: Vcpu, decoded: Decoded) -> Iterator[Reference]:
    """What pushes and pops access, words of the code's own size."""
    state, name = vcpu.state, decoded.mnemonic
    size = 8 if state.bits == 64 else 4 if decoded.operand_override is not (state.bits == 32) else 2
    base, wrap = (0, U64) if state.bits == 64 else (state.ss.base, 0xFFFF_FFFF if state.ss.big else 0xFFFF)
    if name.startswith(("push", "call", "enter")):
        yield Reference(base + (state.rsp - size & wrap), size, _WRITE)
    elif name.startswith(("pop", "ret")):
        yield Reference(base + (state.rsp & wrap), size, _READ)
    elif name == "leave":
        yield Reference(base + (state.rbp & wrap), size, _READ)
    elif name.startswith("iret"):
        yield Reference(base + (state.rsp & wrap), 5 * size if state.bits == 64 else 3 * size, _READ)
