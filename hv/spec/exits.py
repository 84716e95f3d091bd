"""Why a guest stopped: exit reasons, what qualifies them, and how VMX instructions fail.

SDM appendix "VMX Basic Exit Reasons" and chapter "VM Exits", "Recording VM-Exit Information".
"""

from __future__ import annotations

from hv.spec.ept import EptViolationQualification as EptViolationQualification
from hv.spec.layout import Register, bits
from hv.spec.numbering import Numbering


class ExitReason(Numbering):
    """Basic exit reason, bits 15:0 of the exit-reason field."""

    EXCEPTION_OR_NMI = 0
    EXTERNAL_INTERRUPT = 1
    TRIPLE_FAULT = 2
    INIT_SIGNAL = 3
    SIPI = 4
    IO_SMI = 5
    OTHER_SMI = 6
    INTERRUPT_WINDOW = 7
    NMI_WINDOW = 8
    TASK_SWITCH = 9
    CPUID = 10
    GETSEC = 11
    HLT = 12
    INVD = 13
    INVLPG = 14
    RDPMC = 15
    RDTSC = 16
    RSM = 17
    VMCALL = 18
    VMCLEAR = 19
    VMLAUNCH = 20
    VMPTRLD = 21
    VMPTRST = 22
    VMREAD = 23
    VMRESUME = 24
    VMWRITE = 25
    VMXOFF = 26
    VMXON = 27
    CR_ACCESS = 28
    MOV_DR = 29
    IO_INSTRUCTION = 30
    RDMSR = 31
    WRMSR = 32
    ENTRY_FAILURE_GUEST_STATE = 33
    ENTRY_FAILURE_MSR_LOADING = 34
    MWAIT = 36
    MONITOR_TRAP_FLAG = 37
    MONITOR = 39
    PAUSE = 40
    ENTRY_FAILURE_MACHINE_CHECK = 41
    TPR_BELOW_THRESHOLD = 43
    APIC_ACCESS = 44
    VIRTUALIZED_EOI = 45
    GDTR_IDTR_ACCESS = 46
    LDTR_TR_ACCESS = 47
    EPT_VIOLATION = 48
    EPT_MISCONFIGURATION = 49
    INVEPT = 50
    RDTSCP = 51
    PREEMPTION_TIMER_EXPIRED = 52
    INVVPID = 53
    WBINVD = 54                   # and WBNOINVD
    XSETBV = 55
    APIC_WRITE = 56
    RDRAND = 57
    INVPCID = 58
    VMFUNC = 59
    ENCLS = 60
    RDSEED = 61
    PAGE_MODIFICATION_LOG_FULL = 62
    XSAVES = 63
    XRSTORS = 64
    PCONFIG = 65
    SPP_EVENT = 66
    UMWAIT = 67
    TPAUSE = 68
    LOADIWKEY = 69
    ENCLV = 70
    ENQCMD_PASID_TRANSLATION = 72
    ENQCMDS_PASID_TRANSLATION = 73
    BUS_LOCK = 74
    INSTRUCTION_TIMEOUT = 75
    SEAMCALL = 76
    TDCALL = 77
    RDMSRLIST = 78
    WRMSRLIST = 79
    URDMSR = 80
    UWRMSR = 81
    RDMSR_IMMEDIATE = 84
    WRMSRNS_IMMEDIATE = 85


class ExitReasonField(Register):
    """The exit-reason field of the VMCS."""

    WIDTH = 32

    basic = bits(15, 0)           # ExitReason
    busy_shadow_stack = bits(25)
    bus_lock = bits(26)           # a bus lock happened too
    enclave = bits(27)
    pending_mtf = bits(28)
    from_root = bits(29)
    entry_failure = bits(31)      # VM entry failed after the host-state checks


# RIP of these is the next instruction's and the instruction's effects stand; SDM "Recording VM-Exit Information".
TRAP_LIKE = frozenset({
    ExitReason.TPR_BELOW_THRESHOLD, ExitReason.VIRTUALIZED_EOI, ExitReason.APIC_WRITE, ExitReason.BUS_LOCK,
    ExitReason.MONITOR_TRAP_FLAG,
})
# In non-root operation these exit whatever the controls say. VMREAD and VMWRITE stop exiting under VMCS shadowing.
UNCONDITIONAL = frozenset({
    ExitReason.CPUID, ExitReason.GETSEC, ExitReason.INVD, ExitReason.XSETBV, ExitReason.INVEPT, ExitReason.INVVPID,
    ExitReason.VMCALL, ExitReason.VMCLEAR, ExitReason.VMLAUNCH, ExitReason.VMPTRLD, ExitReason.VMPTRST,
    ExitReason.VMRESUME, ExitReason.VMXOFF, ExitReason.VMXON, ExitReason.VMREAD, ExitReason.VMWRITE,
    ExitReason.TASK_SWITCH,
})
ENTRY_FAILURES = frozenset({
    ExitReason.ENTRY_FAILURE_GUEST_STATE, ExitReason.ENTRY_FAILURE_MSR_LOADING, ExitReason.ENTRY_FAILURE_MACHINE_CHECK,
})
# The instructions that each reason is about; SDM "Instructions That Cause VM Exits". SMSW and RDPID never exit, and
# obey the same controls. Reasons that are no instruction's are not here.
INSTRUCTIONS: dict[ExitReason, tuple[str, ...]] = {
    **{reason: (reason.name,) for reason in ExitReason if reason.name in {
        "CPUID", "GETSEC", "HLT", "INVD", "INVLPG", "RDPMC", "RDTSC", "RSM", "VMCALL", "VMCLEAR", "VMLAUNCH", "VMPTRLD",
        "VMPTRST", "VMREAD", "VMRESUME", "VMWRITE", "VMXOFF", "VMXON", "RDMSR", "WRMSR", "MWAIT", "MONITOR", "PAUSE",
        "INVEPT", "INVVPID", "XSETBV", "RDRAND", "INVPCID", "VMFUNC", "ENCLS", "RDSEED", "XSAVES", "XRSTORS",
        "PCONFIG", "UMWAIT", "TPAUSE", "LOADIWKEY", "ENCLV", "SEAMCALL", "TDCALL", "RDMSRLIST", "WRMSRLIST", "URDMSR",
        "UWRMSR"}},
    ExitReason.CR_ACCESS: ("MOV_TO_CR", "MOV_FROM_CR", "CLTS", "LMSW", "SMSW"),
    ExitReason.MOV_DR: ("MOV_DR",),
    ExitReason.RDTSCP: ("RDTSCP", "RDPID"),
    ExitReason.IO_INSTRUCTION: ("IN", "OUT", "INS", "OUTS"),
    ExitReason.GDTR_IDTR_ACCESS: ("LGDT", "LIDT", "SGDT", "SIDT"),
    ExitReason.LDTR_TR_ACCESS: ("LLDT", "LTR", "SLDT", "STR"),
    ExitReason.WBINVD: ("WBINVD", "WBNOINVD"),
    ExitReason.TASK_SWITCH: ("FAR_CALL", "FAR_JMP", "IRET"),
    ExitReason.EXCEPTION_OR_NMI: ("INT1", "INT3", "INTO", "INT_N"),
    ExitReason.ENQCMD_PASID_TRANSLATION: ("ENQCMD",), ExitReason.ENQCMDS_PASID_TRANSLATION: ("ENQCMDS",),
    ExitReason.RDMSR_IMMEDIATE: ("RDMSR_IMMEDIATE",), ExitReason.WRMSRNS_IMMEDIATE: ("WRMSRNS_IMMEDIATE",),
}


# --- Events in and out ---------------------------------------------------------------------------

class InterruptionType(Numbering):
    """Bits 10:8 of an interruption-information field."""

    EXTERNAL_INTERRUPT = 0
    NMI = 2
    HARDWARE_EXCEPTION = 3
    SOFTWARE_INTERRUPT = 4                # INT n
    PRIVILEGED_SOFTWARE_EXCEPTION = 5     # INT1
    SOFTWARE_EXCEPTION = 6                # INT3, INTO
    OTHER_EVENT = 7                       # VM entry only: vector 0 is a pending MTF exit


# These push RIP plus the VM-entry instruction length.
SOFTWARE_TYPES = frozenset({
    InterruptionType.SOFTWARE_INTERRUPT, InterruptionType.PRIVILEGED_SOFTWARE_EXCEPTION,
    InterruptionType.SOFTWARE_EXCEPTION,
})


class InterruptionInfo(Register):
    """VM-entry and VM-exit interruption information, and IDT-vectoring information: one format for the three."""

    WIDTH = 32

    vector = bits(7, 0)
    type = bits(10, 8)            # InterruptionType
    error_code_valid = bits(11)   # at entry: deliver the error code
    nmi_unblocking = bits(12)     # at exit: an IRET had removed NMI blocking. At entry: 0. IDT-vectoring: undefined
    valid = bits(31)


class EntryFailure(Numbering):
    """Exit qualification of ENTRY_FAILURE_GUEST_STATE; of ENTRY_FAILURE_MSR_LOADING it is the entry's number from 1."""

    GUEST_STATE = 0
    PDPTE = 2
    NMI_INJECTION = 3             # into blocking by STI, on processors that refuse it
    VMCS_LINK_POINTER = 4


# --- Exit qualifications -------------------------------------------------------------------------
# SDM "Basic VM-Exit Information". A reason that is not listed here has qualification 0, a linear address or a
# displacement, which need no declaration.

class DebugQualification(Register):
    """Of #DB. DR6 and DR7.GD are not updated by the processor: this is what they would have become."""

    b0 = bits(0)
    b1 = bits(1)
    b2 = bits(2)
    b3 = bits(3)
    bus_lock = bits(11)
    bd = bits(13)
    bs = bits(14)
    rtm = bits(16)


class SipiQualification(Register):
    """Of a start-up IPI."""

    vector = bits(7, 0)


class TaskSwitchSource(Numbering):
    """What asked for the task."""

    CALL = 0
    IRET = 1
    JMP = 2
    IDT_TASK_GATE = 3


class TaskSwitchQualification(Register):
    """Of a task switch."""

    selector = bits(15, 0)        # of the new TSS
    source = bits(31, 30)         # TaskSwitchSource


class CrAccess(Numbering):
    """How a control register was touched."""

    MOV_TO_CR = 0
    MOV_FROM_CR = 1
    CLTS = 2
    LMSW = 3


class CrQualification(Register):
    """Of a control-register access."""

    number = bits(3, 0)           # 0 for CLTS and LMSW
    access = bits(5, 4)           # CrAccess
    lmsw_memory = bits(6)         # LMSW: the operand is memory
    register = bits(11, 8)        # 0 = RAX, 1 = RCX, ... 15 = R15, as in ModRM
    lmsw_source = bits(31, 16)


class DrQualification(Register):
    """Of MOV DR."""

    number = bits(2, 0)
    from_dr = bits(4)
    register = bits(11, 8)


class IoQualification(Register):
    """Of an I/O instruction."""

    size_minus_1 = bits(2, 0)     # 0, 1 or 3
    in_ = bits(3)                 # 1 = IN or INS
    string = bits(4)
    rep = bits(5)
    immediate = bits(6)           # the port stands in the instruction; 0: in DX
    port = bits(31, 16)

    @property
    def size(self) -> int:
        """Bytes: 1, 2 or 4."""
        return self.size_minus_1 + 1


class MwaitQualification(Register):
    """Of MWAIT."""

    armed = bits(0)               # address-range monitoring


class ApicAccessType(Numbering):
    """How the APIC-access page was touched."""

    LINEAR_READ = 0
    LINEAR_WRITE = 1
    LINEAR_FETCH = 2
    LINEAR_EVENT_DELIVERY = 3
    PHYSICAL_EVENT_DELIVERY = 10
    PHYSICAL_INSTRUCTION = 15


class ApicAccessQualification(Register):
    """Of an APIC access."""

    offset = bits(11, 0)
    type = bits(15, 12)           # ApicAccessType
    asynchronous = bits(16)       # (unconfirmed)


class ApicWriteQualification(Register):
    """Of an APIC write, which has already reached the virtual-APIC page."""

    offset = bits(11, 0)


class VirtualizedEoiQualification(Register):
    """Of a virtualized EOI."""

    vector = bits(7, 0)


class PmlFullQualification(Register):
    """Of a full page-modification log."""

    nmi_unblocking = bits(12)


class SppQualification(Register):
    """Of a sub-page permission event."""

    miss = bits(11)               # 0: misconfiguration
    nmi_unblocking = bits(12)


class InstructionTimeoutQualification(Register):
    """Of an instruction timeout (notify)."""

    context_invalid = bits(0)
    nmi_unblocking = bits(12)


# --- VM-exit instruction information -------------------------------------------------------------

class InstructionInfo(Register):
    """VM-exit instruction information of every instruction but INS and OUTS; each kind fills its own fields.

    SDM "Information for VM Exits Due to Instruction Execution".
    """

    WIDTH = 32

    scale = bits(1, 0)            # index times 1, 2, 4, 8
    register_1 = bits(6, 3)       # the r/m register when is_register; RDRAND, UMWAIT: the operand
    address_size = bits(9, 7)     # 0 = 16 bits, 1 = 32, 2 = 64
    is_register = bits(10)
    operand_size = bits(12, 11)   # RDRAND: 0 = 16, 1 = 32, 2 = 64. LGDT and kin use the low bit: 0 = 16, 1 = 32
    segment = bits(17, 15)        # 0 ES, 1 CS, 2 SS, 3 DS, 4 FS, 5 GS
    index = bits(21, 18)
    index_invalid = bits(22)
    base = bits(26, 23)
    base_invalid = bits(27)
    register_2 = bits(31, 28)     # VMREAD, VMWRITE: the encoding. INVEPT and kin: the type. LGDT, LLDT and kin: 29:28


class TableInstruction(Numbering):
    """Bits 29:28 of `InstructionInfo` for reasons 46 (first name) and 47 (second name)."""

    SGDT_SLDT = 0
    SIDT_STR = 1
    LGDT_LLDT = 2
    LIDT_LTR = 3


class StringIoInfo(Register):
    """VM-exit instruction information of INS and OUTS, when VmxBasic.io_instruction_info."""

    WIDTH = 32

    address_size = bits(9, 7)     # 0 = 16 bits, 1 = 32, 2 = 64
    segment = bits(17, 15)        # OUTS only


# --- VM-instruction errors -----------------------------------------------------------------------

class VmInstructionError(Numbering):
    """SDM "VM Instruction Error Numbers". 14, 21 and 27 mean nothing; 16..20 and 22..25 need SMM dual monitors."""

    VMCALL_IN_ROOT = 1
    VMCLEAR_BAD_ADDRESS = 2
    VMCLEAR_VMXON_POINTER = 3
    VMLAUNCH_NOT_CLEAR = 4
    VMRESUME_NOT_LAUNCHED = 5
    VMRESUME_AFTER_VMXOFF = 6
    ENTRY_INVALID_CONTROLS = 7
    ENTRY_INVALID_HOST_STATE = 8
    VMPTRLD_BAD_ADDRESS = 9
    VMPTRLD_VMXON_POINTER = 10
    VMPTRLD_WRONG_REVISION = 11
    UNSUPPORTED_COMPONENT = 12
    READ_ONLY_COMPONENT = 13
    VMXON_IN_ROOT = 15
    ENTRY_INVALID_EXECUTIVE_POINTER = 16
    ENTRY_EXECUTIVE_NOT_LAUNCHED = 17
    ENTRY_EXECUTIVE_NOT_VMXON = 18
    VMCALL_NOT_CLEAR = 19
    VMCALL_INVALID_EXIT_CONTROLS = 20
    VMCALL_WRONG_MSEG_REVISION = 22
    VMXOFF_UNDER_DUAL_MONITOR = 23
    VMCALL_INVALID_SMM_FEATURES = 24
    ENTRY_INVALID_EXECUTIVE_CONTROLS = 25
    ENTRY_BLOCKED_BY_MOV_SS = 26
    INVALID_OPERAND = 28

    @property
    def text(self) -> str:
        """What it means, in a few words, for an error message."""
        return _TEXTS[self]


_TEXTS = {
    VmInstructionError.VMCALL_IN_ROOT: "VMCALL in root operation",
    VmInstructionError.VMCLEAR_BAD_ADDRESS: "VMCLEAR of an address that is not page aligned or too wide",
    VmInstructionError.VMCLEAR_VMXON_POINTER: "VMCLEAR of the VMXON region",
    VmInstructionError.VMLAUNCH_NOT_CLEAR: "VMLAUNCH of a VMCS that is not clear",
    VmInstructionError.VMRESUME_NOT_LAUNCHED: "VMRESUME of a VMCS that is not launched",
    VmInstructionError.VMRESUME_AFTER_VMXOFF: "VMRESUME after VMXOFF and VMXON",
    VmInstructionError.ENTRY_INVALID_CONTROLS: "VM entry with an invalid control field",
    VmInstructionError.ENTRY_INVALID_HOST_STATE: "VM entry with an invalid host-state field",
    VmInstructionError.VMPTRLD_BAD_ADDRESS: "VMPTRLD of an address that is not page aligned or too wide",
    VmInstructionError.VMPTRLD_VMXON_POINTER: "VMPTRLD of the VMXON region",
    VmInstructionError.VMPTRLD_WRONG_REVISION: "VMPTRLD of a region with another revision id",
    VmInstructionError.UNSUPPORTED_COMPONENT: "VMREAD or VMWRITE of a field this processor does not have",
    VmInstructionError.READ_ONLY_COMPONENT: "VMWRITE of a read-only field",
    VmInstructionError.VMXON_IN_ROOT: "VMXON in root operation",
    VmInstructionError.ENTRY_INVALID_EXECUTIVE_POINTER: "VM entry with an invalid executive-VMCS pointer",
    VmInstructionError.ENTRY_EXECUTIVE_NOT_LAUNCHED: "VM entry, the executive VMCS is not launched",
    VmInstructionError.ENTRY_EXECUTIVE_NOT_VMXON: "VM entry, the executive-VMCS pointer is not the VMXON pointer",
    VmInstructionError.VMCALL_NOT_CLEAR: "VMCALL to start the SMM monitor, the VMCS is not clear",
    VmInstructionError.VMCALL_INVALID_EXIT_CONTROLS: "VMCALL to start the SMM monitor, invalid VM-exit controls",
    VmInstructionError.VMCALL_WRONG_MSEG_REVISION: "VMCALL to start the SMM monitor, another MSEG revision",
    VmInstructionError.VMXOFF_UNDER_DUAL_MONITOR: "VMXOFF while the SMM monitor is active",
    VmInstructionError.VMCALL_INVALID_SMM_FEATURES: "VMCALL to start the SMM monitor, invalid features",
    VmInstructionError.ENTRY_INVALID_EXECUTIVE_CONTROLS: "VM entry, invalid controls in the executive VMCS",
    VmInstructionError.ENTRY_BLOCKED_BY_MOV_SS: "VM entry while MOV SS blocks events",
    VmInstructionError.INVALID_OPERAND: "INVEPT or INVVPID with an invalid operand",
}
