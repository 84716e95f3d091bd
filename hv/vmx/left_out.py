"""What the manual names and this processor does not have or cannot meet, each with its reason.

Control bits stand in `capabilities.py`, because there they are refused. `docs/fidelity.md` is made from both.
"""

from __future__ import annotations

from enum import IntEnum

from hv.spec.exits import EntryFailure, ExitReason, VmInstructionError
from hv.spec.vmcs import VmxAbort

_NO_SMM, _NO_SGX, _NO_TDX = "there is no system-management mode", "there are no enclaves", "there are no trust domains"
_NO_MACHINE_CHECK, _NO_PASID = "the machine has no errors to check for", "there is no ENQCMD"
_NO_RANDOM, _NO_XSAVE = "there is no random-number generator", "there is no XSAVE"
_NO_WAIT = "the engine takes UMWAIT and TPAUSE for MFENCE"
_NO_USER_MSR = "there are no user-mode and immediate MSR accesses"
_NO_BUS_TIME = "time is work: a bus lock costs nothing, and an instruction never hangs"

EXITS: dict[IntEnum, str] = {
    ExitReason.IO_SMI: _NO_SMM,
    ExitReason.OTHER_SMI: _NO_SMM,
    ExitReason.RSM: _NO_SMM + ": RSM is #UD",
    ExitReason.GETSEC: "there is no safer mode: CR4.SMXE is reserved, so GETSEC is #UD",
    ExitReason.ENTRY_FAILURE_MACHINE_CHECK: _NO_MACHINE_CHECK,
    ExitReason.RDRAND: _NO_RANDOM,
    ExitReason.RDSEED: _NO_RANDOM,
    ExitReason.ENCLS: _NO_SGX,
    ExitReason.ENCLV: _NO_SGX,
    ExitReason.XSAVES: _NO_XSAVE,
    ExitReason.XRSTORS: _NO_XSAVE,
    ExitReason.XSETBV: _NO_XSAVE + ": CR4.OSXSAVE is reserved, so XSETBV is #UD",
    ExitReason.PCONFIG: "there is no memory encryption",
    ExitReason.SPP_EVENT: "there are no sub-page permissions",
    ExitReason.UMWAIT: _NO_WAIT,
    ExitReason.TPAUSE: _NO_WAIT,
    ExitReason.LOADIWKEY: "there is no key locker",
    ExitReason.ENQCMD_PASID_TRANSLATION: _NO_PASID,
    ExitReason.ENQCMDS_PASID_TRANSLATION: _NO_PASID,
    ExitReason.BUS_LOCK: _NO_BUS_TIME,
    ExitReason.INSTRUCTION_TIMEOUT: _NO_BUS_TIME,
    ExitReason.SEAMCALL: _NO_TDX,
    ExitReason.TDCALL: _NO_TDX,
    ExitReason.RDMSRLIST: "there are no MSR lists in instructions",
    ExitReason.WRMSRLIST: "there are no MSR lists in instructions",
    ExitReason.URDMSR: _NO_USER_MSR,
    ExitReason.UWRMSR: _NO_USER_MSR,
    ExitReason.RDMSR_IMMEDIATE: _NO_USER_MSR,
    ExitReason.WRMSRNS_IMMEDIATE: _NO_USER_MSR,
}

_DUAL_MONITOR = "needs the dual-monitor treatment of system-management mode"
# By enumeration, since members of different ones are equal numbers.
OTHERS: dict[type[IntEnum], dict[IntEnum, str]] = {
    ExitReason: EXITS,
    EntryFailure: {
        EntryFailure.NMI_INJECTION: "this processor injects an NMI also while STI blocks interrupts",
    },
    VmxAbort: {
        VmxAbort.CORRUPTED_VMCS: "fields live in the processor until VMCLEAR: software cannot corrupt them in between",
        VmxAbort.MACHINE_CHECK: _NO_MACHINE_CHECK,
    },
    VmInstructionError: {error: _DUAL_MONITOR for error in VmInstructionError if error in range(16, 26)},
}
