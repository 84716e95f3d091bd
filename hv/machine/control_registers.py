"""The rules for writing CR0 and CR4, which the engine does not keep; SDM "MOV - Move to/from Control Registers"."""

from __future__ import annotations

from hv.machine.faults import GuestFault
from hv.machine.state import ProcessorState
from hv.spec.x86 import Cr0, Cr4, Efer, Vector

# Simplified: VME and PVI can be set, as the engine has them in part; CPUID does not offer them.
CR4_SUPPORTED = (Cr4.VME | Cr4.PVI | Cr4.TSD | Cr4.DE | Cr4.PSE | Cr4.PAE | Cr4.MCE | Cr4.PGE | Cr4.PCE | Cr4.OSFXSR
                 | Cr4.OSXMMEXCPT | Cr4.VMXE | Cr4.SMEP).value
_LONG = 1 << 13
# Plain integers: `&` with an IntFlag would build an enum member, and a kernel toggles CR0.TS at every context switch.
_PE, _PG, _NW, _CD = Cr0.PE.value, Cr0.PG.value, Cr0.NW.value, Cr0.CD.value
_PAE, _PCIDE, _LME, _LMA = Cr4.PAE.value, Cr4.PCIDE.value, Efer.LME.value, Efer.LMA.value


def _require(condition: object) -> None:
    if not condition:
        raise GuestFault(Vector.GP, 0)


def check_cr0(state: ProcessorState, value: int) -> None:
    """#GP(0) when MOV to CR0 of *value* is illegal in *state*."""
    _require(not value >> 32)
    _require(not value & _PG or value & _PE)
    _require(not value & _NW or value & _CD)
    turns_on = value & _PG and not state.cr0 & _PG
    if turns_on and state.efer & _LME:
        _require(state.cr4 & _PAE)
        _require(not state.cs.rights & _LONG)
    if state.cr0 & _PG and not value & _PG:
        _require(not (state.efer & _LMA and state.cs.rights & _LONG))
        _require(not state.cr4 & _PCIDE)


def check_cr4(state: ProcessorState, value: int) -> None:
    """#GP(0) when MOV to CR4 of *value* is illegal in *state*."""
    _require(not value & ~CR4_SUPPORTED)
    _require(not state.efer & _LMA or value & _PAE)
