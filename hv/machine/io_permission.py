"""May this program touch that port? The engine does not ask; SDM "I/O Permission Bit Map"."""

from __future__ import annotations

from hv.machine.linear import LinearMemory
from hv.machine.registers import Registers
from hv.spec.x86 import Cr0, Rflags, SystemType, Tss32

_PE, _VM = Cr0.PE.value, Rflags.VM.value
_IOPL_SHIFT = 12
_TSS = frozenset({SystemType.TSS_AVAILABLE.value, SystemType.TSS_BUSY.value})
_IO_MAP_BASE = Tss32.offset_of("io_map_base")       # the same place in a 64-bit TSS
_LAST_FIXED_BYTE = Tss32.SIZE - 1


def io_permitted(state: Registers, memory: LinearMemory, port: int, size: int) -> bool:
    """True when IN or OUT of *size* (1, 2 or 4) bytes at *port* is allowed; the caller injects #GP(0) otherwise.

    Real mode may; protected mode may at CPL <= IOPL; else, and always in virtual-8086 mode, the bitmap of the TSS
    decides. Raises the GuestFault or NestedFault of reading the TSS.
    """
    if not state.cpl or not state.cr0 & _PE:        # CPL 0 is no more than any IOPL; virtual-8086 mode has 3
        return True
    if not state.rflags & _VM and state.cpl <= state.rflags >> _IOPL_SHIFT & 3:
        return True
    return _bitmap_permits(state, memory, port, size)


def _bitmap_permits(state: Registers, memory: LinearMemory, port: int, size: int) -> bool:
    """Two bytes of the bitmap are always read, so both must lie inside the limit; a set bit forbids its port."""
    tss = state.tr
    if not tss.usable or tss.type not in _TSS or tss.limit < _LAST_FIXED_BYTE:
        return False
    offset = memory.read_system(tss.base + _IO_MAP_BASE, 2) + port // 8
    if offset + 1 > tss.limit:
        return False
    forbidden = memory.read_system(tss.base + offset, 2)
    return not forbidden >> port % 8 & (1 << size) - 1
