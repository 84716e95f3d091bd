"""The memory type range registers: which memory is cached how, by physical address. SDM "Memory Type Range Registers".

There is no cache here, so they have no effect; an operating system reads what its firmware wrote, and writes its own.
"""

from __future__ import annotations

from typing import Any

from hv.machine.faults import GuestFault
from hv.machine.paging import PHYSICAL_BITS
from hv.spec.msrs import FIXED_MTRRS, VARIABLE_MTRRS, Msr, MtrrCap, MtrrDefType, MtrrPhysBase, MtrrPhysMask
from hv.spec.x86 import MemoryType, Vector

_TYPES = frozenset(int(kind) for kind in MemoryType if kind is not MemoryType.UC_MINUS)    # that is PAT's alone
_BEYOND = ~((1 << PHYSICAL_BITS) - 1)
CAPABILITIES: int = MtrrCap(variable_count=len(VARIABLE_MTRRS), fixed=1, write_combining=1).raw
BASES = frozenset(int(base) for base, _ in VARIABLE_MTRRS)
REGISTERS = (*(int(index) for pair in VARIABLE_MTRRS for index in pair), *map(int, FIXED_MTRRS),
             int(Msr.MTRR_DEF_TYPE))


def is_legal(index: int, value: int) -> bool:
    """WRMSR of *value* to the register *index* of `REGISTERS` is no #GP: known types, no reserved bit."""
    if index in FIXED_MTRRS:
        return _TYPES.issuperset(value.to_bytes(8, "little"))
    if index == Msr.MTRR_DEF_TYPE:
        return not value & MtrrDefType.RESERVED and value & 0xFF in _TYPES
    if index in BASES:
        return not value & (_BEYOND | MtrrPhysBase.RESERVED) and value & 0xFF in _TYPES
    return not value & (_BEYOND | MtrrPhysMask.RESERVED)


def write(state: Any, index: int, value: int) -> None:
    """WRMSR; GuestFault(13, 0)."""
    if not is_legal(index, value):
        raise GuestFault(Vector.GP, 0)
    state.kept_msrs[index] = value
