"""The instruction that a processor is at: fetched through its segments and page tables, then decoded."""

from __future__ import annotations

from hv.instructions.decode import Decoded, Undecodable, bits_of, decode
from hv.machine.faults import Access
from hv.machine.linear import LinearMemory
from hv.machine.paging import LINEAR_32
from hv.machine.registers import Registers
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH


def decode_at(state: Registers, memory: LinearMemory) -> Decoded:
    """The instruction at CS:RIP. Undecodable, or the GuestFault or NestedFault of fetching it."""
    bits = bits_of(state)
    gva = state.rip if bits == 64 else state.cs.base + state.rip & LINEAR_32
    code = memory.fetch(gva, MAX_INSTRUCTION_LENGTH)
    try:
        return decode(code, bits)
    except Undecodable:
        if len(code) < MAX_INSTRUCTION_LENGTH:      # the rest lies in a page that refuses: its fault comes first
            memory.check(gva + len(code), 1, Access.EXECUTE)
        raise
