"""Registers that are named and not there: INVALID_PARAMETER, as for a name that nobody has heard of.

A register stands for a thing, and is provided with it. `absent` tells for each name without one what is missing.
"""

from __future__ import annotations

from hv.hypervisor.registers.table import REGISTERS
from hv.spec.hv_registers import HvRegisterName

N = HvRegisterName
_TRUST_LEVELS = "virtual trust levels are not built"
_XSAVE = "XSAVE is not offered by CPUID"
_CET = "control-flow enforcement is not offered by CPUID"
_SPECULATION = "it is a command, or a thing of AMD's"
_MTRR = "there are eight variable ranges: IA32_MTRRCAP"
_COUNTERS = "performance counters are not offered by CPUID"
_AN_ACT = "it is an act of the VP's own, not a state: InternalActivityState has that"


def _range(first: HvRegisterName, last: HvRegisterName) -> list[HvRegisterName]:
    return [name for name in N if first <= name <= last]


REASONS: dict[HvRegisterName, str] = {
    N.INSTRUCTION_EMULATION_HINTS: "the parent emulates without hints: there is no secret memory and no MBEC",
    N.DISPATCH_SUSPEND: "a VP that is dispatched is still scheduled by the hypervisor",
    N.ISOLATION_CONFIGURATION: "no partition is isolated",
    **dict.fromkeys((*_range(N.POWER_STATE_TRIGGER_C1, N.POWER_STATE_TRIGGER_C3), N.GUEST_IDLE), _AN_ACT),
    N.PENDING_EVENT1: "no event that is deferred needs a second one",
    N.XFEM: _XSAVE, N.XSS: _XSAVE, N.BNDCFGS: "MPX is not offered by CPUID",
    **dict.fromkeys((*_range(N.MTRR_PHYS_BASE8, N.MTRR_PHYS_BASEF), *_range(N.MTRR_PHYS_MASK8, N.MTRR_PHYS_MASKF)),
                    _MTRR),
    N.MCOUNT: _COUNTERS, N.ACOUNT: _COUNTERS,
    N.PRED_CMD: _SPECULATION, N.VIRT_SPEC_CTRL: _SPECULATION,
    N.TSX_CTRL: "TSX is not offered by CPUID",
    **dict.fromkeys(_range(N.U_CET, N.INTERRUPT_SSP_TABLE_ADDR), _CET),
    N.TSC_VIRTUAL_MULTIPLIER: "the time-stamp counter is offset, not scaled",
    N.CPU_MANAGEMENT_VERSION: "logical processors are not managed from outside",
    N.VP_ROOT_SIGNAL_COUNT: "the hypervisor schedules: root is signalled about no VP",
    N.GUEST_SCHEDULER_EVENT: "the hypervisor schedules: root is signalled about no VP",
    N.VP_CONFIG: "its layout is not public",
    N.GHCB: "no partition is isolated",
    N.REGISTER_PAGE: "a parent maps the register page by HvCallMapVpStatePage",
    N.SIRBP: "no document says what a ring of events has in it",
    **dict.fromkeys(_range(N.VSM_CODE_PAGE_OFFSETS, N.CR_INTERCEPT_IA32_MISC_ENABLE_MASK), _TRUST_LEVELS),
}


def absent() -> dict[HvRegisterName, str]:
    """Every name of the manual that is not provided, and why."""
    return {name: REASONS.get(name, "") for name in N if int(name) not in REGISTERS}
