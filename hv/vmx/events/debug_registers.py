"""The breakpoints of DR0..DR3: which an instruction meets. SDM "Debug Registers", "Breakpoint Exceptions".

While a guest has one enabled it is a watched one (`watchful.py`). Instruction breakpoints then cost nothing until they
are met; with a data breakpoint it runs instruction by instruction, and each is asked what it accesses.
# Simplified: RF lasts, to who asks here, until the engine's next jump.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from hv.spec.vmcs import PendingDebugExceptions
from hv.spec.x86 import BreakOn, Cr4, Rflags

if TYPE_CHECKING:
    from hv.machine.state import ProcessorState
    from hv.vmx.vcpu import Vcpu

ENABLES = 0xFF                  # of DR7: L0, G0 .. L3, G3
MET = PendingDebugExceptions(enabled_breakpoint=1).raw
_EXECUTE, _IO, DATA = BreakOn.EXECUTE.value, BreakOn.IO.value, (BreakOn.WRITE.value, BreakOn.READ_WRITE.value)
_LENGTHS = (1, 2, 8, 4)         # by LENn
_RF, _DE = Rflags.RF.value, Cr4.DE.value
U64 = (1 << 64) - 1


class Breakpoint(NamedTuple):
    """*bit* is that of DR6. *length* bytes from *address* on, aligned as the processor takes it."""

    bit: int
    address: int
    length: int
    on: int


def breakpoints(state: ProcessorState) -> tuple[Breakpoint, ...]:
    """Those that DR7 enables."""
    return _breakpoints(state.dr7, (state.dr0, state.dr1, state.dr2, state.dr3))


@lru_cache(maxsize=64)
def _breakpoints(dr7: int, addresses: tuple[int, ...]) -> tuple[Breakpoint, ...]:
    found = []
    for n, address in enumerate(addresses):
        if dr7 >> 2 * n & 3:
            length = _LENGTHS[dr7 >> 18 + 4 * n & 3]
            found.append(Breakpoint(1 << n, address & -length & U64, length, dr7 >> 16 + 4 * n & 3))
    return tuple(found)


def execution_addresses(state: ProcessorState) -> frozenset[int]:
    """Linear addresses of instruction breakpoints, whose length is 1."""
    return frozenset(one.address for one in breakpoints(state) if one.on == _EXECUTE and one.length == 1)


def instruction_bits(vcpu: Vcpu) -> int:
    """Bits of DR6 for the instruction at RIP, which is about to be executed; none while RF suppresses them."""
    state, stopped = vcpu.state, vcpu.engine.debug_addresses.take()
    linear = state.linear_rip
    if state.rflags & _RF and stopped != linear:
        return 0
    return sum(one.bit for one in breakpoints(state)
               if one.on == _EXECUTE and one.length == 1 and one.address == linear)


def watches_data(state: ProcessorState) -> bool:
    """A data breakpoint is enabled."""
    return any(one.on in DATA for one in breakpoints(state))


def port_bits(state: ProcessorState, port: int, size: int) -> int:
    """Bits of DR6 for *size* bytes of I/O at *port*; RWn = 2 is for ports with CR4.DE alone."""
    if not state.cr4 & _DE:
        return 0
    return sum(one.bit for one in breakpoints(state)
               if one.on == _IO and port < one.address + one.length and one.address < port + size)


