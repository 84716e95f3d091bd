"""The virtual-machine control structure: every field's encoding, and every control bit.

SDM appendix "Field Encoding in VMCS" and chapter "Virtual Machine Control Structures". The processor's own layout of
the region is private; only the first two dwords are anybody's business (`VmcsRegion`).
"""

from __future__ import annotations

from hv.spec.layout import Layout, Register, bits, u32, u64
from hv.spec.numbering import Flags, Numbering

NO_VMCS = 0xFFFF_FFFF_FFFF_FFFF     # the current-VMCS pointer and the link pointer when there is none


class VmcsRegion(Layout):
    """The start of a VMCS region or VMXON region; the rest of the 4096 bytes belongs to the processor."""

    revision: u32         # RevisionIdentifier; the software writes it before VMPTRLD
    vmx_abort: u32        # VmxAbort; 0 = none


class RevisionIdentifier(Register):
    """The first dword of a VMCS region."""

    WIDTH = 32

    revision_id = bits(30, 0)     # VmxBasic.revision_id
    shadow = bits(31)             # a shadow VMCS: VMREAD and VMWRITE only, never entered


class VmxAbort(Numbering):
    """Why the processor gave up in the middle of a VM exit; SDM "VMX Aborts"."""

    SAVING_GUEST_MSRS = 1
    HOST_PDPTE = 2
    CORRUPTED_VMCS = 3
    LOADING_HOST_MSRS = 4
    MACHINE_CHECK = 5
    HOST_NOT_64_BIT = 6           # the guest was in 64-bit mode and the host address-space size is 0


class FieldWidth(Numbering):
    """Bits 14:13 of an encoding."""

    BITS_16 = 0
    BITS_64 = 1
    BITS_32 = 2
    NATURAL = 3                   # 64 bits on a processor with Intel 64


class FieldKind(Numbering):
    """Bits 11:10 of an encoding."""

    CONTROL = 0
    READ_ONLY_DATA = 1            # VMWRITE needs VmxMisc.write_any_field
    GUEST_STATE = 2
    HOST_STATE = 3


class FieldEncoding(Register):
    """The number VMREAD and VMWRITE take."""

    WIDTH = 32

    high = bits(0)                # access to bits 63:32 of a 64-bit field
    index = bits(9, 1)
    kind = bits(11, 10)           # FieldKind
    width = bits(14, 13)          # FieldWidth


class VmcsField(Numbering):
    """Every field by its full encoding. The 64-bit ones have a second encoding for their upper half: `high_half`."""

    # 16-bit controls
    VPID = 0x0000
    POSTED_INTR_NOTIFICATION_VECTOR = 0x0002
    EPTP_INDEX = 0x0004
    HLAT_PREFIX_SIZE = 0x0006
    LAST_PID_POINTER_INDEX = 0x0008
    VIRTUAL_TIMER_VECTOR = 0x000A
    # 16-bit guest state
    GUEST_ES_SELECTOR = 0x0800
    GUEST_CS_SELECTOR = 0x0802
    GUEST_SS_SELECTOR = 0x0804
    GUEST_DS_SELECTOR = 0x0806
    GUEST_FS_SELECTOR = 0x0808
    GUEST_GS_SELECTOR = 0x080A
    GUEST_LDTR_SELECTOR = 0x080C
    GUEST_TR_SELECTOR = 0x080E
    GUEST_INTERRUPT_STATUS = 0x0810       # RVI in 7:0, SVI in 15:8
    PML_INDEX = 0x0812
    GUEST_UINV = 0x0814
    # 16-bit host state; there is no LDTR
    HOST_ES_SELECTOR = 0x0C00
    HOST_CS_SELECTOR = 0x0C02
    HOST_SS_SELECTOR = 0x0C04
    HOST_DS_SELECTOR = 0x0C06
    HOST_FS_SELECTOR = 0x0C08
    HOST_GS_SELECTOR = 0x0C0A
    HOST_TR_SELECTOR = 0x0C0C
    # 64-bit controls
    IO_BITMAP_A = 0x2000
    IO_BITMAP_B = 0x2002
    MSR_BITMAP = 0x2004
    VM_EXIT_MSR_STORE_ADDR = 0x2006
    VM_EXIT_MSR_LOAD_ADDR = 0x2008
    VM_ENTRY_MSR_LOAD_ADDR = 0x200A
    EXECUTIVE_VMCS_POINTER = 0x200C
    PML_ADDRESS = 0x200E
    TSC_OFFSET = 0x2010
    VIRTUAL_APIC_PAGE_ADDR = 0x2012
    APIC_ACCESS_ADDR = 0x2014
    POSTED_INTR_DESC_ADDR = 0x2016
    VM_FUNCTION_CONTROLS = 0x2018
    EPT_POINTER = 0x201A
    EOI_EXIT_BITMAP0 = 0x201C             # vectors 0..63
    EOI_EXIT_BITMAP1 = 0x201E
    EOI_EXIT_BITMAP2 = 0x2020
    EOI_EXIT_BITMAP3 = 0x2022             # vectors 192..255
    EPTP_LIST_ADDRESS = 0x2024
    VMREAD_BITMAP = 0x2026
    VMWRITE_BITMAP = 0x2028
    VE_INFO_ADDRESS = 0x202A
    XSS_EXITING_BITMAP = 0x202C
    ENCLS_EXITING_BITMAP = 0x202E
    SPP_TABLE_POINTER = 0x2030
    TSC_MULTIPLIER = 0x2032
    TERTIARY_PROC_CONTROLS = 0x2034
    ENCLV_EXITING_BITMAP = 0x2036
    LOW_PASID_DIRECTORY_ADDR = 0x2038
    HIGH_PASID_DIRECTORY_ADDR = 0x203A
    SHARED_EPT_POINTER = 0x203C
    PCONFIG_EXITING_BITMAP = 0x203E
    HLAT_POINTER = 0x2040
    PID_POINTER_TABLE_ADDR = 0x2042
    SECONDARY_VM_EXIT_CONTROLS = 0x2044
    SPEC_CTRL_MASK = 0x204A
    SPEC_CTRL_SHADOW = 0x204C
    GUEST_DEADLINE_SHADOW = 0x204E
    INJECTED_EVENT_DATA = 0x2052
    # 64-bit read-only data
    GUEST_PHYSICAL_ADDRESS = 0x2400
    MSR_DATA = 0x2402
    ORIGINAL_EVENT_DATA = 0x2404
    # 64-bit guest state
    VMCS_LINK_POINTER = 0x2800
    GUEST_IA32_DEBUGCTL = 0x2802
    GUEST_IA32_PAT = 0x2804
    GUEST_IA32_EFER = 0x2806
    GUEST_IA32_PERF_GLOBAL_CTRL = 0x2808
    GUEST_PDPTE0 = 0x280A
    GUEST_PDPTE1 = 0x280C
    GUEST_PDPTE2 = 0x280E
    GUEST_PDPTE3 = 0x2810
    GUEST_IA32_BNDCFGS = 0x2812
    GUEST_IA32_RTIT_CTL = 0x2814
    GUEST_IA32_LBR_CTL = 0x2816           # (unconfirmed)
    GUEST_IA32_PKRS = 0x2818
    GUEST_IA32_FRED_CONFIG = 0x281A
    GUEST_IA32_FRED_RSP1 = 0x281C
    GUEST_IA32_FRED_RSP2 = 0x281E
    GUEST_IA32_FRED_RSP3 = 0x2820
    GUEST_IA32_FRED_STKLVLS = 0x2822
    GUEST_IA32_FRED_SSP1 = 0x2824
    GUEST_IA32_FRED_SSP2 = 0x2826
    GUEST_IA32_FRED_SSP3 = 0x2828
    GUEST_IA32_SPEC_CTRL = 0x282E
    GUEST_DEADLINE = 0x2830
    # 64-bit host state
    HOST_IA32_PAT = 0x2C00
    HOST_IA32_EFER = 0x2C02
    HOST_IA32_PERF_GLOBAL_CTRL = 0x2C04
    HOST_IA32_PKRS = 0x2C06
    HOST_IA32_FRED_CONFIG = 0x2C08
    HOST_IA32_FRED_RSP1 = 0x2C0A
    HOST_IA32_FRED_RSP2 = 0x2C0C
    HOST_IA32_FRED_RSP3 = 0x2C0E
    HOST_IA32_FRED_STKLVLS = 0x2C10
    HOST_IA32_FRED_SSP1 = 0x2C12
    HOST_IA32_FRED_SSP2 = 0x2C14
    HOST_IA32_FRED_SSP3 = 0x2C16
    HOST_IA32_SPEC_CTRL = 0x2C1A
    # 32-bit controls
    PIN_BASED_CONTROLS = 0x4000
    PRIMARY_PROC_CONTROLS = 0x4002
    EXCEPTION_BITMAP = 0x4004
    PAGE_FAULT_ERROR_CODE_MASK = 0x4006
    PAGE_FAULT_ERROR_CODE_MATCH = 0x4008
    CR3_TARGET_COUNT = 0x400A
    VM_EXIT_CONTROLS = 0x400C
    VM_EXIT_MSR_STORE_COUNT = 0x400E
    VM_EXIT_MSR_LOAD_COUNT = 0x4010
    VM_ENTRY_CONTROLS = 0x4012
    VM_ENTRY_MSR_LOAD_COUNT = 0x4014
    VM_ENTRY_INTERRUPTION_INFO = 0x4016
    VM_ENTRY_EXCEPTION_ERROR_CODE = 0x4018
    VM_ENTRY_INSTRUCTION_LENGTH = 0x401A
    TPR_THRESHOLD = 0x401C
    SECONDARY_PROC_CONTROLS = 0x401E
    PLE_GAP = 0x4020
    PLE_WINDOW = 0x4022
    INSTRUCTION_TIMEOUT = 0x4024
    SEAM_GUEST_KEY_ID = 0x4026
    # 32-bit read-only data
    VM_INSTRUCTION_ERROR = 0x4400
    EXIT_REASON = 0x4402
    EXIT_INTERRUPTION_INFO = 0x4404
    EXIT_INTERRUPTION_ERROR_CODE = 0x4406
    IDT_VECTORING_INFO = 0x4408
    IDT_VECTORING_ERROR_CODE = 0x440A
    EXIT_INSTRUCTION_LENGTH = 0x440C
    EXIT_INSTRUCTION_INFO = 0x440E
    # 32-bit guest state
    GUEST_ES_LIMIT = 0x4800
    GUEST_CS_LIMIT = 0x4802
    GUEST_SS_LIMIT = 0x4804
    GUEST_DS_LIMIT = 0x4806
    GUEST_FS_LIMIT = 0x4808
    GUEST_GS_LIMIT = 0x480A
    GUEST_LDTR_LIMIT = 0x480C
    GUEST_TR_LIMIT = 0x480E
    GUEST_GDTR_LIMIT = 0x4810
    GUEST_IDTR_LIMIT = 0x4812
    GUEST_ES_ACCESS_RIGHTS = 0x4814
    GUEST_CS_ACCESS_RIGHTS = 0x4816
    GUEST_SS_ACCESS_RIGHTS = 0x4818
    GUEST_DS_ACCESS_RIGHTS = 0x481A
    GUEST_FS_ACCESS_RIGHTS = 0x481C
    GUEST_GS_ACCESS_RIGHTS = 0x481E
    GUEST_LDTR_ACCESS_RIGHTS = 0x4820
    GUEST_TR_ACCESS_RIGHTS = 0x4822
    GUEST_INTERRUPTIBILITY_STATE = 0x4824
    GUEST_ACTIVITY_STATE = 0x4826
    GUEST_SMBASE = 0x4828
    GUEST_SYSENTER_CS = 0x482A
    VMX_PREEMPTION_TIMER_VALUE = 0x482E   # 482C belongs to nobody
    # 32-bit host state
    HOST_SYSENTER_CS = 0x4C00
    # natural-width controls
    CR0_GUEST_HOST_MASK = 0x6000
    CR4_GUEST_HOST_MASK = 0x6002
    CR0_READ_SHADOW = 0x6004
    CR4_READ_SHADOW = 0x6006
    CR3_TARGET_VALUE0 = 0x6008
    CR3_TARGET_VALUE1 = 0x600A
    CR3_TARGET_VALUE2 = 0x600C
    CR3_TARGET_VALUE3 = 0x600E
    # natural-width read-only data
    EXIT_QUALIFICATION = 0x6400
    IO_RCX = 0x6402                       # 6402..6408: SMM exits only
    IO_RSI = 0x6404
    IO_RDI = 0x6406
    IO_RIP = 0x6408
    GUEST_LINEAR_ADDRESS = 0x640A
    # natural-width guest state
    GUEST_CR0 = 0x6800
    GUEST_CR3 = 0x6802
    GUEST_CR4 = 0x6804
    GUEST_ES_BASE = 0x6806
    GUEST_CS_BASE = 0x6808
    GUEST_SS_BASE = 0x680A
    GUEST_DS_BASE = 0x680C
    GUEST_FS_BASE = 0x680E
    GUEST_GS_BASE = 0x6810
    GUEST_LDTR_BASE = 0x6812
    GUEST_TR_BASE = 0x6814
    GUEST_GDTR_BASE = 0x6816
    GUEST_IDTR_BASE = 0x6818
    GUEST_DR7 = 0x681A
    GUEST_RSP = 0x681C
    GUEST_RIP = 0x681E
    GUEST_RFLAGS = 0x6820
    GUEST_PENDING_DEBUG_EXCEPTIONS = 0x6822
    GUEST_SYSENTER_ESP = 0x6824
    GUEST_SYSENTER_EIP = 0x6826
    GUEST_S_CET = 0x6828
    GUEST_SSP = 0x682A
    GUEST_INTR_SSP_TABLE = 0x682C
    # natural-width host state
    HOST_CR0 = 0x6C00
    HOST_CR3 = 0x6C02
    HOST_CR4 = 0x6C04
    HOST_FS_BASE = 0x6C06
    HOST_GS_BASE = 0x6C08
    HOST_TR_BASE = 0x6C0A
    HOST_GDTR_BASE = 0x6C0C
    HOST_IDTR_BASE = 0x6C0E
    HOST_SYSENTER_ESP = 0x6C10
    HOST_SYSENTER_EIP = 0x6C12
    HOST_RSP = 0x6C14
    HOST_RIP = 0x6C16
    HOST_S_CET = 0x6C18
    HOST_SSP = 0x6C1A
    HOST_INTR_SSP_TABLE = 0x6C1C

    @property
    def width(self) -> FieldWidth:
        """How wide the field is."""
        return FieldWidth(self >> 13 & 3)

    @property
    def kind(self) -> FieldKind:
        """Control, read-only data, guest state or host state."""
        return FieldKind(self >> 10 & 3)

    @property
    def index(self) -> int:
        """Its number among the fields of the same width and kind."""
        return self >> 1 & 0x1FF

    @property
    def read_only(self) -> bool:
        """VMWRITE is refused (error 13) unless the processor offers VmxMisc.write_any_field."""
        return self.kind is FieldKind.READ_ONLY_DATA

    @property
    def mask(self) -> int:
        """All the bits the field can hold."""
        return _MASKS[self >> 13 & 3]

    @property
    def high_half(self) -> int:
        """The encoding of bits 63:32; ValueError when the field has none."""
        if self.width is not FieldWidth.BITS_64:
            raise ValueError(f"{self.name} is no 64-bit field: it has no high half")
        return self | 1


_MASKS = (0xFFFF, 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)     # by FieldWidth
_BY_ENCODING = {int(field): field for field in VmcsField}
HIGHEST_INDEX = max(field.index for field in VmcsField)     # IA32_VMX_VMCS_ENUM bits 9:1


def field_of(encoding: int) -> tuple[VmcsField, bool] | None:
    """The field an encoding names and whether it means the high half, or None: VMfail 12."""
    high = bool(encoding & 1)
    field = _BY_ENCODING.get(encoding & ~1)
    if field is None or (high and field.width is not FieldWidth.BITS_64):
        return None
    return field, high


# --- Controls ------------------------------------------------------------------------------------
# A default1 bit must be 1 on a processor that knows no better; the TRUE capability MSRs release a few of them.

class PinControls(Flags):
    """SDM "Pin-Based VM-Execution Controls"."""

    EXTERNAL_INTERRUPT_EXITING = 1 << 0
    NMI_EXITING = 1 << 3
    VIRTUAL_NMIS = 1 << 5
    ACTIVATE_PREEMPTION_TIMER = 1 << 6
    PROCESS_POSTED_INTERRUPTS = 1 << 7


PIN_DEFAULT1 = 0x16
TRUE_PIN_DEFAULT1 = 0x16


class PrimaryControls(Flags):
    """SDM "Processor-Based VM-Execution Controls", primary."""

    INTERRUPT_WINDOW_EXITING = 1 << 2
    USE_TSC_OFFSETTING = 1 << 3
    HLT_EXITING = 1 << 7
    INVLPG_EXITING = 1 << 9
    MWAIT_EXITING = 1 << 10
    RDPMC_EXITING = 1 << 11
    RDTSC_EXITING = 1 << 12
    CR3_LOAD_EXITING = 1 << 15            # default1 in the legacy MSR
    CR3_STORE_EXITING = 1 << 16           # default1 in the legacy MSR
    ACTIVATE_TERTIARY_CONTROLS = 1 << 17
    CR8_LOAD_EXITING = 1 << 19
    CR8_STORE_EXITING = 1 << 20
    USE_TPR_SHADOW = 1 << 21
    NMI_WINDOW_EXITING = 1 << 22
    MOV_DR_EXITING = 1 << 23
    UNCONDITIONAL_IO_EXITING = 1 << 24    # ignored when USE_IO_BITMAPS
    USE_IO_BITMAPS = 1 << 25
    MONITOR_TRAP_FLAG = 1 << 27
    USE_MSR_BITMAPS = 1 << 28
    MONITOR_EXITING = 1 << 29
    PAUSE_EXITING = 1 << 30
    ACTIVATE_SECONDARY_CONTROLS = 1 << 31


PRIMARY_DEFAULT1 = 0x0401E172
TRUE_PRIMARY_DEFAULT1 = 0x04006172


class SecondaryControls(Flags):
    """The same, secondary; all 0 while ACTIVATE_SECONDARY_CONTROLS is 0. No default1 bits."""

    VIRTUALIZE_APIC_ACCESSES = 1 << 0
    ENABLE_EPT = 1 << 1
    DESCRIPTOR_TABLE_EXITING = 1 << 2
    ENABLE_RDTSCP = 1 << 3                # 0: RDTSCP and RDPID are #UD
    VIRTUALIZE_X2APIC_MODE = 1 << 4
    ENABLE_VPID = 1 << 5
    WBINVD_EXITING = 1 << 6
    UNRESTRICTED_GUEST = 1 << 7
    APIC_REGISTER_VIRTUALIZATION = 1 << 8
    VIRTUAL_INTERRUPT_DELIVERY = 1 << 9
    PAUSE_LOOP_EXITING = 1 << 10
    RDRAND_EXITING = 1 << 11
    ENABLE_INVPCID = 1 << 12
    ENABLE_VM_FUNCTIONS = 1 << 13
    VMCS_SHADOWING = 1 << 14
    ENCLS_EXITING = 1 << 15
    RDSEED_EXITING = 1 << 16
    ENABLE_PML = 1 << 17
    EPT_VIOLATION_VE = 1 << 18
    CONCEAL_VMX_FROM_PT = 1 << 19
    ENABLE_XSAVES = 1 << 20
    PASID_TRANSLATION = 1 << 21           # (unconfirmed)
    MODE_BASED_EXECUTE_CONTROL = 1 << 22
    SUB_PAGE_WRITE_PERMISSIONS = 1 << 23
    PT_USES_GUEST_PHYSICAL = 1 << 24
    USE_TSC_SCALING = 1 << 25
    ENABLE_USER_WAIT_AND_PAUSE = 1 << 26
    ENABLE_PCONFIG = 1 << 27
    ENCLV_EXITING = 1 << 28
    BUS_LOCK_DETECTION = 1 << 30
    INSTRUCTION_TIMEOUT = 1 << 31


class TertiaryControls(Flags):
    """The same, tertiary: 64 bits, and only an allowed-1 MSR."""

    LOADIWKEY_EXITING = 1 << 0
    ENABLE_HLAT = 1 << 1
    EPT_PAGING_WRITE = 1 << 2
    GUEST_PAGING_VERIFICATION = 1 << 3
    IPI_VIRTUALIZATION = 1 << 4
    ENABLE_MSR_LIST = 1 << 6
    VIRTUALIZE_SPEC_CTRL = 1 << 7
    APIC_TIMER_VIRTUALIZATION = 1 << 8


class ExitControls(Flags):
    """SDM "VM-Exit Controls"."""

    SAVE_DEBUG_CONTROLS = 1 << 2          # default1 in the legacy MSR
    HOST_ADDRESS_SPACE_SIZE = 1 << 9      # the host is in 64-bit mode
    LOAD_PERF_GLOBAL_CTRL = 1 << 12
    ACKNOWLEDGE_INTERRUPT = 1 << 15
    SAVE_PAT = 1 << 18
    LOAD_PAT = 1 << 19
    SAVE_EFER = 1 << 20
    LOAD_EFER = 1 << 21
    SAVE_PREEMPTION_TIMER = 1 << 22
    CLEAR_BNDCFGS = 1 << 23
    CONCEAL_VMX_FROM_PT = 1 << 24
    CLEAR_RTIT_CTL = 1 << 25
    CLEAR_LBR_CTL = 1 << 26
    CLEAR_UINV = 1 << 27
    LOAD_CET_STATE = 1 << 28
    LOAD_PKRS = 1 << 29
    SAVE_PERF_GLOBAL_CTRL = 1 << 30
    ACTIVATE_SECONDARY_CONTROLS = 1 << 31


EXIT_DEFAULT1 = 0x00036DFF
TRUE_EXIT_DEFAULT1 = 0x00036DFB


class SecondaryExitControls(Flags):
    """The same, secondary: 64 bits."""

    SAVE_FRED = 1 << 0
    LOAD_FRED = 1 << 1
    LOAD_SPEC_CTRL = 1 << 2
    PREMATURELY_BUSY_SHADOW_STACK = 1 << 3


class EntryControls(Flags):
    """SDM "VM-Entry Controls"."""

    LOAD_DEBUG_CONTROLS = 1 << 2          # default1 in the legacy MSR
    IA32E_MODE_GUEST = 1 << 9
    ENTRY_TO_SMM = 1 << 10
    DEACTIVATE_DUAL_MONITOR = 1 << 11
    LOAD_PERF_GLOBAL_CTRL = 1 << 13
    LOAD_PAT = 1 << 14
    LOAD_EFER = 1 << 15
    LOAD_BNDCFGS = 1 << 16
    CONCEAL_VMX_FROM_PT = 1 << 17
    LOAD_RTIT_CTL = 1 << 18
    LOAD_UINV = 1 << 19
    LOAD_CET_STATE = 1 << 20
    LOAD_LBR_CTL = 1 << 21
    LOAD_PKRS = 1 << 22
    LOAD_FRED = 1 << 23
    LOAD_SPEC_CTRL = 1 << 24


ENTRY_DEFAULT1 = 0x000011FF
TRUE_ENTRY_DEFAULT1 = 0x000011FB


class VmFunctions(Flags):
    """SDM "VM-Function Controls"; bit n allows VMFUNC with EAX = n."""

    EPTP_SWITCHING = 1 << 0


# --- Guest state that is no register -------------------------------------------------------------

class Interruptibility(Flags):
    """SDM "Guest Non-Register State", interruptibility state."""

    BLOCKING_BY_STI = 1 << 0
    BLOCKING_BY_MOV_SS = 1 << 1
    BLOCKING_BY_SMI = 1 << 2
    BLOCKING_BY_NMI = 1 << 3              # of virtual NMIs, when VIRTUAL_NMIS is 1
    ENCLAVE_INTERRUPTION = 1 << 4


class ActivityState(Numbering):
    """SDM "Guest Non-Register State", activity state."""

    ACTIVE = 0
    HLT = 1
    SHUTDOWN = 2
    WAIT_FOR_SIPI = 3


class PendingDebugExceptions(Register):
    """SDM "Guest Non-Register State", pending debug exceptions."""

    b0 = bits(0)
    b1 = bits(1)
    b2 = bits(2)
    b3 = bits(3)
    bus_lock = bits(11)
    enabled_breakpoint = bits(12)         # one of b0..b3 was met and DR7 enables it
    bs = bits(14)
    rtm = bits(16)


class GuestInterruptStatus(Register):
    """GUEST_INTERRUPT_STATUS: what virtual-interrupt delivery keeps."""

    WIDTH = 16

    rvi = bits(7, 0)      # requesting virtual interrupt
    svi = bits(15, 8)     # servicing virtual interrupt


class MsrListEntry(Layout):
    """One of the MSR-load or MSR-store area; 16 bytes, the area is 16-byte aligned."""

    index: u32
    reserved: u32
    data: u64


# --- Capability MSRs -----------------------------------------------------------------------------

class AllowedSettings(Register):
    """A control-capability MSR; SDM "VM-Execution Control Fields" (capability reporting)."""

    allowed_0 = bits(31, 0)       # a 1 here: the control must be 1
    allowed_1 = bits(63, 32)      # a 0 here: the control must be 0

    def allows(self, controls: int) -> bool:
        """Whether VM entry accepts *controls*."""
        return controls & self.allowed_0 == self.allowed_0 and not controls & ~self.allowed_1


class VmxBasic(Register):
    """IA32_VMX_BASIC."""

    revision_id = bits(30, 0)
    region_size = bits(44, 32)            # bytes, 1..4096
    addresses_32_bit = bits(48)
    dual_monitor = bits(49)
    memory_type = bits(53, 50)            # x86.MemoryType of VMCS accesses: UC or WB
    io_instruction_info = bits(54)        # INS and OUTS report it
    true_controls = bits(55)              # the TRUE capability MSRs exist
    any_error_code = bits(56)             # an injected exception may come with or without an error code
    nested_exception = bits(58)


class VmxMisc(Register):
    """IA32_VMX_MISC."""

    preemption_timer_shift = bits(4, 0)   # the timer counts TSC >> this
    saves_lma = bits(5)                   # exits write EFER.LMA to IA32E_MODE_GUEST
    activity_hlt = bits(6)
    activity_shutdown = bits(7)
    activity_wait_for_sipi = bits(8)
    pt_in_vmx = bits(14)
    rdmsr_smbase = bits(15)
    cr3_target_count = bits(24, 16)       # at most
    msr_list_size = bits(27, 25)          # at most 512 * (this + 1) entries are wise
    smm_monitor_ctl_2 = bits(28)
    write_any_field = bits(29)            # VMWRITE to read-only data works
    zero_length_injection = bits(30)      # software events may be injected with instruction length 0
    mseg_revision = bits(63, 32)
