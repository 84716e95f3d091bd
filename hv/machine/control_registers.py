"""The rules for writing CR0 and CR4, which the engine does not keep; SDM "MOV - Move to/from Control Registers"."""

from __future__ import annotations

from hv.machine.faults import GuestFault
from hv.machine.state import ProcessorState
from hv.spec.x86 import Cr0, Cr4, Efer, Vector

CR4_SUPPORTED = (Cr4.VME | Cr4.PVI | Cr4.TSD | Cr4.DE | Cr4.PSE | Cr4.PAE | Cr4.MCE | Cr4.PGE | Cr4.PCE | Cr4.OSFXSR
                 | Cr4.OSXMMEXCPT).value
_LONG = 1 << 13


def _require(condition: object) -> None:
    if not condition:
        raise GuestFault(Vector.GP, 0)


def check_cr0(state: ProcessorState, value: int) -> None:
    """#GP(0) when MOV to CR0 of *value* is illegal in *state*."""
    _require(not value >> 32)
    _require(not value & Cr0.PG or value & Cr0.PE)
    _require(not value & Cr0.NW or value & Cr0.CD)
    turns_on = value & Cr0.PG and not state.cr0 & Cr0.PG
    if turns_on and state.efer & Efer.LME:
        _require(state.cr4 & Cr4.PAE)
        _require(not state.cs.rights & _LONG)
    if state.cr0 & Cr0.PG and not value & Cr0.PG:
        _require(not (state.efer & Efer.LMA and state.cs.rights & _LONG))
        _require(not state.cr4 & Cr4.PCIDE)


def check_cr4(state: ProcessorState, value: int) -> None:
    """#GP(0) when MOV to CR4 of *value* is illegal in *state*."""
    _require(not value & ~CR4_SUPPORTED)
    _require(not state.efer & Efer.LMA or value & Cr4.PAE)
