"""What VT-d names and these units do not have, each with its reason. `docs/fidelity.md` is made from it.

Of the bits of CAP and ECAP no reason is given: a bit that is clear says itself that something is not offered.
"""

from __future__ import annotations

from enum import IntEnum

from hv.spec.vtd import VtdRegister

REGISTERS: dict[IntEnum, str] = {
    VtdRegister.PMEN: "there is no protected memory (CAP.PLMR, PHMR)",
    VtdRegister.IQERCD: "it reads 0: only scalable mode says why the queue has stopped",
}
# Bits of GCMD by their names there.
COMMANDS: dict[str, str] = {
    "write_buffer_flush": "there is no write buffer (CAP.RWBF)",
    "advanced_fault_log": "there is no advanced fault log (CAP.AFL)",
    "set_fault_log": "there is no advanced fault log (CAP.AFL)",
}
