"""What leaves a guest: the machine's own words for "this is not for the guest to decide"."""

from __future__ import annotations

from hv.machine import stubs, svm
from hv.spec.numbering import Numbering


class Trap(Numbering):
    """What the guest did. The comments say what `detail` is and what else is live."""

    CPUID = 0
    HLT = 1
    RDMSR = 2
    WRMSR = 3
    RDTSC = 4
    RDTSCP = 5
    RDPMC = 6
    INVLPG = 7
    PAUSE = 8
    WBINVD = 9
    MONITOR = 10
    MWAIT = 11
    CR_READ = 12                # detail: register number
    CR_WRITE = 13
    DR_READ = 14
    DR_WRITE = 15
    EXCEPTION = 16              # detail: vector; error_code(), fault_address()
    SOFTWARE_INTERRUPT = 17     # INT n, INT3, INTO; RIP on the instruction
    NESTED_FAULT = 18           # nested_fault()
    IN = 19                     # port()
    OUT = 20
    SYSCALL = 21
    SYSENTER = 22
    UNDEFINED = 23              # instructions of the engine's own guest mode, which no guest has
    LTR = 24
    IRET = 25                   # in protected mode outside IA-32e mode
    DESCRIPTOR_TABLE = 26       # as far as they are watched: LGDT, LIDT, LLDT, SGDT, SIDT, SLDT, STR


# The instructions that the engine tells of by a hook of their own.
INSTRUCTION_TRAPS = {stubs.KIND_IN: Trap.IN, stubs.KIND_OUT: Trap.OUT, stubs.KIND_SYSCALL: Trap.SYSCALL,
                     stubs.KIND_SYSENTER: Trap.SYSENTER}

# What the engine's hook is called with -> (trap, detail). MSR_NUMBER stands for several: the engine looks closer.
_BY_EXIT: dict[int, Trap] = {
    svm.SvmExit.CPUID: Trap.CPUID, svm.SvmExit.HLT: Trap.HLT,
    svm.SvmExit.RDTSC: Trap.RDTSC, svm.SvmExit.RDTSCP: Trap.RDTSCP,
    svm.SvmExit.RDPMC: Trap.RDPMC, svm.SvmExit.INVLPG: Trap.INVLPG, svm.SvmExit.PAUSE: Trap.PAUSE,
    svm.SvmExit.WBINVD: Trap.WBINVD, svm.SvmExit.INVD: Trap.WBINVD, svm.SvmExit.MONITOR: Trap.MONITOR,
    svm.SvmExit.MWAIT: Trap.MWAIT, svm.SvmExit.SOFTWARE_INTERRUPT: Trap.SOFTWARE_INTERRUPT,
    svm.SvmExit.NESTED_FAULT: Trap.NESTED_FAULT, svm.SvmExit.TR_WRITE: Trap.LTR,
    svm.SvmExit.IRET: Trap.IRET,
}
_BY_EXIT |= dict.fromkeys(range(svm.SvmExit.IDTR_READ, svm.SvmExit.TR_WRITE), Trap.DESCRIPTOR_TABLE)
BY_NUMBER: dict[int, tuple[Trap, int]] = {svm.EXIT_BASE + code: (trap, 0) for code, trap in _BY_EXIT.items()}
for _n in range(16):
    BY_NUMBER[svm.EXIT_BASE + svm.SvmExit.CR_READ + _n] = (Trap.CR_READ, _n)
    BY_NUMBER[svm.EXIT_BASE + svm.SvmExit.CR_WRITE + _n] = (Trap.CR_WRITE, _n)
    BY_NUMBER[svm.EXIT_BASE + svm.SvmExit.DR_READ + _n] = (Trap.DR_READ, _n)
    BY_NUMBER[svm.EXIT_BASE + svm.SvmExit.DR_WRITE + _n] = (Trap.DR_WRITE, _n)
for _n in range(32):
    BY_NUMBER[svm.EXIT_BASE + svm.SvmExit.EXCEPTION + _n] = (Trap.EXCEPTION, _n)
MSR_NUMBER = svm.EXIT_BASE + svm.SvmExit.MSR
UNDEFINED = (Trap.UNDEFINED, 0)         # for every other number
