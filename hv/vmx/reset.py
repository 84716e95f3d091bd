"""The registers of a processor after INIT and after SIPI; SDM "Processor State After Reset"."""

from __future__ import annotations

from hv.machine.registers import Segment, Table
from hv.machine.state import ProcessorState
from hv.spec.msrs import Msr
from hv.spec.x86 import DR6_RESET, DR7_RESET, PAT_RESET

_CODE, _DATA, _LDT, _TSS = 0x9B, 0x93, 0x82, 0x8B
_SIGNATURE = 0x6F1          # EDX: family 6, model 15, stepping 1, as CPUID says


def init_registers(state: ProcessorState) -> None:
    """Everything that INIT resets: real mode, F000:FFF0 with the base of the ROM."""
    for number in range(16):
        state.gpr[number] = 0
    state.rdx = _SIGNATURE
    state.rflags, state.rip = 2, 0xFFF0
    state.cr0, state.cr2, state.cr3, state.cr4, state.efer = 0x6000_0010, 0, 0, 0, 0
    state.cs = Segment(0xF000, 0xFFFF_0000, 0xFFFF, _CODE)
    state.ss = state.ds = state.es = state.fs = state.gs = Segment(0, 0, 0xFFFF, _DATA)
    state.ldtr, state.tr = Segment(0, 0, 0xFFFF, _LDT), Segment(0, 0, 0xFFFF, _TSS)
    state.gdtr = state.idtr = Table(0, 0xFFFF)
    state.dr0 = state.dr1 = state.dr2 = state.dr3 = 0
    state.dr6, state.dr7 = DR6_RESET, DR7_RESET
    state.msrs[Msr.PAT] = PAT_RESET
    state.debugctl = 0
    state.cpl = 0
    state.interrupt_shadow = False


def startup_registers(state: ProcessorState, vector: int) -> None:
    """What SIPI sets on top: real mode at page *vector*."""
    state.cs = Segment(vector << 8, vector << 12, 0xFFFF, _CODE)
    state.rip = 0
