"""Model-specific registers: the processor's, and the synthetic ones a hypervisor of the Hyper-V family offers.

SDM volume 4; TLFS "Synthetic MSRs" (HV_X64_MSR_x is `Msr.HV_x` here). Formats that have fields are Registers below.
"""

from __future__ import annotations

from hv.spec.apic import ApicBase as ApicBase
from hv.spec.layout import Layout, Register, bits, i64, u32, u64
from hv.spec.numbering import Numbering


class Msr(Numbering):
    """Every MSR somebody here reads, writes or answers."""

    # Architectural
    P5_MC_ADDR = 0x000
    P5_MC_TYPE = 0x001
    TSC = 0x010
    PLATFORM_ID = 0x017
    APIC_BASE = 0x01B
    FEATURE_CONTROL = 0x03A
    TSC_ADJUST = 0x03B
    SPEC_CTRL = 0x048
    PRED_CMD = 0x049
    BIOS_UPDATE_TRIGGER = 0x079
    BIOS_SIGN_ID = 0x08B              # microcode revision
    SMM_MONITOR_CTL = 0x09B
    SMBASE = 0x09E
    PMC0 = 0x0C1
    PMC1 = 0x0C2
    PMC2 = 0x0C3
    PMC3 = 0x0C4
    PLATFORM_INFO = 0x0CE
    UMWAIT_CONTROL = 0x0E1
    MPERF = 0x0E7
    APERF = 0x0E8
    MTRRCAP = 0x0FE
    ARCH_CAPABILITIES = 0x10A
    FLUSH_CMD = 0x10B
    SYSENTER_CS = 0x174
    SYSENTER_ESP = 0x175
    SYSENTER_EIP = 0x176
    MCG_CAP = 0x179
    MCG_STATUS = 0x17A
    MCG_CTL = 0x17B
    PERFEVTSEL0 = 0x186
    PERFEVTSEL1 = 0x187
    PERFEVTSEL2 = 0x188
    PERFEVTSEL3 = 0x189
    PERF_STATUS = 0x198
    PERF_CTL = 0x199
    THERM_INTERRUPT = 0x19B
    THERM_STATUS = 0x19C
    MISC_ENABLE = 0x1A0
    ENERGY_PERF_BIAS = 0x1B0
    DEBUGCTL = 0x1D9
    SMRR_PHYSBASE = 0x1F2
    SMRR_PHYSMASK = 0x1F3
    MTRR_PHYSBASE0 = 0x200
    MTRR_PHYSMASK0 = 0x201
    MTRR_PHYSBASE1 = 0x202
    MTRR_PHYSMASK1 = 0x203
    MTRR_PHYSBASE2 = 0x204
    MTRR_PHYSMASK2 = 0x205
    MTRR_PHYSBASE3 = 0x206
    MTRR_PHYSMASK3 = 0x207
    MTRR_PHYSBASE4 = 0x208
    MTRR_PHYSMASK4 = 0x209
    MTRR_PHYSBASE5 = 0x20A
    MTRR_PHYSMASK5 = 0x20B
    MTRR_PHYSBASE6 = 0x20C
    MTRR_PHYSMASK6 = 0x20D
    MTRR_PHYSBASE7 = 0x20E
    MTRR_PHYSMASK7 = 0x20F
    MTRR_FIX64K_00000 = 0x250
    MTRR_FIX16K_80000 = 0x258
    MTRR_FIX16K_A0000 = 0x259
    MTRR_FIX4K_C0000 = 0x268
    MTRR_FIX4K_C8000 = 0x269
    MTRR_FIX4K_D0000 = 0x26A
    MTRR_FIX4K_D8000 = 0x26B
    MTRR_FIX4K_E0000 = 0x26C
    MTRR_FIX4K_E8000 = 0x26D
    MTRR_FIX4K_F0000 = 0x26E
    MTRR_FIX4K_F8000 = 0x26F
    PAT = 0x277
    MC0_CTL2 = 0x280
    MTRR_DEF_TYPE = 0x2FF
    FIXED_CTR0 = 0x309
    FIXED_CTR1 = 0x30A
    FIXED_CTR2 = 0x30B
    PERF_CAPABILITIES = 0x345
    FIXED_CTR_CTRL = 0x38D
    PERF_GLOBAL_STATUS = 0x38E
    PERF_GLOBAL_CTRL = 0x38F
    PERF_GLOBAL_OVF_CTRL = 0x390
    MC0_CTL = 0x400
    MC0_STATUS = 0x401
    MC0_ADDR = 0x402
    MC0_MISC = 0x403
    # VMX capabilities: read only
    VMX_BASIC = 0x480
    VMX_PINBASED_CTLS = 0x481
    VMX_PROCBASED_CTLS = 0x482
    VMX_EXIT_CTLS = 0x483
    VMX_ENTRY_CTLS = 0x484
    VMX_MISC = 0x485
    VMX_CR0_FIXED0 = 0x486
    VMX_CR0_FIXED1 = 0x487
    VMX_CR4_FIXED0 = 0x488
    VMX_CR4_FIXED1 = 0x489
    VMX_VMCS_ENUM = 0x48A
    VMX_PROCBASED_CTLS2 = 0x48B
    VMX_EPT_VPID_CAP = 0x48C
    VMX_TRUE_PINBASED_CTLS = 0x48D
    VMX_TRUE_PROCBASED_CTLS = 0x48E
    VMX_TRUE_EXIT_CTLS = 0x48F
    VMX_TRUE_ENTRY_CTLS = 0x490
    VMX_VMFUNC = 0x491
    VMX_PROCBASED_CTLS3 = 0x492
    VMX_EXIT_CTLS2 = 0x493
    RTIT_CTL = 0x570
    DS_AREA = 0x600
    U_CET = 0x6A0
    S_CET = 0x6A2
    PL0_SSP = 0x6A4
    PL1_SSP = 0x6A5
    PL2_SSP = 0x6A6
    PL3_SSP = 0x6A7
    INTERRUPT_SSP_TABLE = 0x6A8
    TSC_DEADLINE = 0x6E0
    PKRS = 0x6E1
    # Local APIC in x2APIC mode: 0x800 + (xAPIC offset >> 4). 0x809, 0x80C, 0x80E and 0x831 do not exist
    X2APIC_ID = 0x802
    X2APIC_VERSION = 0x803
    X2APIC_TPR = 0x808
    X2APIC_PPR = 0x80A
    X2APIC_EOI = 0x80B
    X2APIC_LDR = 0x80D
    X2APIC_SVR = 0x80F
    X2APIC_ISR0 = 0x810
    X2APIC_ISR1 = 0x811
    X2APIC_ISR2 = 0x812
    X2APIC_ISR3 = 0x813
    X2APIC_ISR4 = 0x814
    X2APIC_ISR5 = 0x815
    X2APIC_ISR6 = 0x816
    X2APIC_ISR7 = 0x817
    X2APIC_TMR0 = 0x818
    X2APIC_TMR1 = 0x819
    X2APIC_TMR2 = 0x81A
    X2APIC_TMR3 = 0x81B
    X2APIC_TMR4 = 0x81C
    X2APIC_TMR5 = 0x81D
    X2APIC_TMR6 = 0x81E
    X2APIC_TMR7 = 0x81F
    X2APIC_IRR0 = 0x820
    X2APIC_IRR1 = 0x821
    X2APIC_IRR2 = 0x822
    X2APIC_IRR3 = 0x823
    X2APIC_IRR4 = 0x824
    X2APIC_IRR5 = 0x825
    X2APIC_IRR6 = 0x826
    X2APIC_IRR7 = 0x827
    X2APIC_ESR = 0x828
    X2APIC_LVT_CMCI = 0x82F
    X2APIC_ICR = 0x830
    X2APIC_LVT_TIMER = 0x832
    X2APIC_LVT_THERMAL = 0x833
    X2APIC_LVT_PERF = 0x834
    X2APIC_LVT_LINT0 = 0x835
    X2APIC_LVT_LINT1 = 0x836
    X2APIC_LVT_ERROR = 0x837
    X2APIC_INITIAL_COUNT = 0x838
    X2APIC_CURRENT_COUNT = 0x839
    X2APIC_DIVIDE = 0x83E
    X2APIC_SELF_IPI = 0x83F
    BNDCFGS = 0xD90
    XSS = 0xDA0
    LBR_CTL = 0x14CE
    # Extended
    EFER = 0xC0000080
    STAR = 0xC0000081
    LSTAR = 0xC0000082
    CSTAR = 0xC0000083
    SFMASK = 0xC0000084
    FS_BASE = 0xC0000100
    GS_BASE = 0xC0000101
    KERNEL_GS_BASE = 0xC0000102
    TSC_AUX = 0xC0000103
    # AMD only: the engine, not a guest
    SYSCFG = 0xC0010010
    HWCR = 0xC0010015
    VM_CR = 0xC0010114
    VM_HSAVE_PA = 0xC0010117
    # Synthetic
    HV_GUEST_OS_ID = 0x40000000
    HV_HYPERCALL = 0x40000001
    HV_VP_INDEX = 0x40000002
    HV_RESET = 0x40000003
    HV_VP_RUNTIME = 0x40000010            # 100 ns
    HV_TIME_REF_COUNT = 0x40000020        # 100 ns
    HV_REFERENCE_TSC = 0x40000021
    HV_TSC_FREQUENCY = 0x40000022         # Hz
    HV_APIC_FREQUENCY = 0x40000023        # Hz
    HV_NPIEP_CONFIG = 0x40000040          # (unconfirmed)
    HV_EOI = 0x40000070
    HV_ICR = 0x40000071
    HV_TPR = 0x40000072
    HV_VP_ASSIST_PAGE = 0x40000073
    HV_SCONTROL = 0x40000080
    HV_SVERSION = 0x40000081
    HV_SIEFP = 0x40000082
    HV_SIMP = 0x40000083
    HV_EOM = 0x40000084
    HV_SIRBP = 0x40000085
    HV_SINT0 = 0x40000090
    HV_SINT1 = 0x40000091
    HV_SINT2 = 0x40000092
    HV_SINT3 = 0x40000093
    HV_SINT4 = 0x40000094
    HV_SINT5 = 0x40000095
    HV_SINT6 = 0x40000096
    HV_SINT7 = 0x40000097
    HV_SINT8 = 0x40000098
    HV_SINT9 = 0x40000099
    HV_SINT10 = 0x4000009A
    HV_SINT11 = 0x4000009B
    HV_SINT12 = 0x4000009C
    HV_SINT13 = 0x4000009D
    HV_SINT14 = 0x4000009E
    HV_SINT15 = 0x4000009F
    HV_STIMER0_CONFIG = 0x400000B0
    HV_STIMER0_COUNT = 0x400000B1
    HV_STIMER1_CONFIG = 0x400000B2
    HV_STIMER1_COUNT = 0x400000B3
    HV_STIMER2_CONFIG = 0x400000B4
    HV_STIMER2_COUNT = 0x400000B5
    HV_STIMER3_CONFIG = 0x400000B6
    HV_STIMER3_COUNT = 0x400000B7
    HV_POWER_STATE_TRIGGER_C1 = 0x400000C1
    HV_POWER_STATE_TRIGGER_C2 = 0x400000C2
    HV_POWER_STATE_TRIGGER_C3 = 0x400000C3
    HV_POWER_STATE_CONFIG_C1 = 0x400000D1
    HV_POWER_STATE_CONFIG_C2 = 0x400000D2
    HV_POWER_STATE_CONFIG_C3 = 0x400000D3
    HV_STATS_PARTITION_RETAIL_PAGE = 0x400000E0
    HV_STATS_PARTITION_INTERNAL_PAGE = 0x400000E1
    HV_STATS_VP_RETAIL_PAGE = 0x400000E2
    HV_STATS_VP_INTERNAL_PAGE = 0x400000E3
    HV_GUEST_IDLE = 0x400000F0
    HV_SYNTH_DEBUG_CONTROL = 0x400000F1
    HV_SYNTH_DEBUG_STATUS = 0x400000F2
    HV_SYNTH_DEBUG_SEND_BUFFER = 0x400000F3
    HV_SYNTH_DEBUG_RECEIVE_BUFFER = 0x400000F4
    HV_SYNTH_DEBUG_PENDING_BUFFER = 0x400000F5
    HV_CRASH_P0 = 0x40000100
    HV_CRASH_P1 = 0x40000101
    HV_CRASH_P2 = 0x40000102
    HV_CRASH_P3 = 0x40000103              # of a message: its GPA
    HV_CRASH_P4 = 0x40000104              # of a message: its length, at most 4096
    HV_CRASH_CTL = 0x40000105
    HV_REENLIGHTENMENT_CONTROL = 0x40000106
    HV_TSC_EMULATION_CONTROL = 0x40000107
    HV_TSC_EMULATION_STATUS = 0x40000108
    HV_STIME_UNHALTED_TIMER_CONFIG = 0x40000114
    HV_STIME_UNHALTED_TIMER_COUNT = 0x40000115
    HV_TSC_INVARIANT_CONTROL = 0x40000118
    HV_NESTED_SCONTROL = 0x40001080
    HV_NESTED_SVERSION = 0x40001081
    HV_NESTED_SIEFP = 0x40001082
    HV_NESTED_SIMP = 0x40001083
    HV_NESTED_EOM = 0x40001084
    HV_NESTED_SINT0 = 0x40001090          # ..9F


X2APIC_MSRS = range(0x800, 0x900)         # all of it is the APIC's: an absent one is #GP, not "unknown"
SYNTHETIC_MSRS = range(0x40000000, 0x40002000)
CRASH_PARAMETERS, CRASH_MESSAGE_SIZE = 5, 4096
SINT_COUNT = 16
STIMER_COUNT = 4
C_STATES = 3                    # C1..C3


def sint_msr(sint: int) -> Msr:
    """The MSR of SINT *sint*; ValueError outside 0..15."""
    if not 0 <= sint < SINT_COUNT:
        raise ValueError(f"sint {sint} is out of range 0..15")
    return Msr(Msr.HV_SINT0 + sint)


def stimer_msrs(timer: int) -> tuple[Msr, Msr]:
    """Config and count MSR of synthetic timer *timer*; ValueError outside 0..3."""
    if not 0 <= timer < STIMER_COUNT:
        raise ValueError(f"synthetic timer {timer} is out of range 0..3")
    return Msr(Msr.HV_STIMER0_CONFIG + 2 * timer), Msr(Msr.HV_STIMER0_COUNT + 2 * timer)


# --- Architectural formats -----------------------------------------------------------------------

class FeatureControl(Register):
    """IA32_FEATURE_CONTROL."""

    lock = bits(0)                # once 1, WRMSR is #GP until reset
    vmxon_in_smx = bits(1)
    vmxon_outside_smx = bits(2)
    senter_local = bits(14, 8)
    senter_global = bits(15)
    sgx_launch_control = bits(17)
    sgx = bits(18)
    lmce = bits(20)


class Star(Register):
    """STAR: the selectors SYSCALL and SYSRET load."""

    syscall_eip = bits(31, 0)     # legacy mode, AMD only
    syscall_cs = bits(47, 32)     # SS is this + 8
    sysret_cs = bits(63, 48)      # 64-bit CS is this + 16, SS this + 8


class Debugctl(Register):
    """IA32_DEBUGCTL."""

    lbr = bits(0)
    btf = bits(1)                 # TF steps by branches
    bus_lock_detect = bits(2)
    tr = bits(6)
    bts = bits(7)
    btint = bits(8)
    bts_off_os = bits(9)
    bts_off_usr = bits(10)
    freeze_lbrs_on_pmi = bits(11)
    freeze_perfmon_on_pmi = bits(12)
    enable_uncore_pmi = bits(13)
    freeze_while_smm = bits(14)
    rtm_debug = bits(15)


class MtrrCap(Register):
    """IA32_MTRRCAP."""

    variable_count = bits(7, 0)
    fixed = bits(8)
    write_combining = bits(10)
    smrr = bits(11)


class MtrrDefType(Register):
    """IA32_MTRR_DEF_TYPE."""

    type = bits(7, 0)             # x86.MemoryType
    fixed_enable = bits(10)
    enable = bits(11)


class MtrrPhysBase(Register):
    """IA32_MTRR_PHYSBASEn."""

    type = bits(7, 0)             # x86.MemoryType
    base = bits(51, 12)           # page number


class MtrrPhysMask(Register):
    """IA32_MTRR_PHYSMASKn."""

    valid = bits(11)
    mask = bits(51, 12)


VARIABLE_MTRRS = tuple((Msr(Msr.MTRR_PHYSBASE0 + 2 * n), Msr(Msr.MTRR_PHYSMASK0 + 2 * n)) for n in range(8))
FIXED_MTRRS = (Msr.MTRR_FIX64K_00000, Msr.MTRR_FIX16K_80000, Msr.MTRR_FIX16K_A0000,
               *(Msr(Msr.MTRR_FIX4K_C0000 + n) for n in range(8)))


class MachineCheckStatus(Register):
    """IA32_MCG_STATUS."""

    restart_ip_valid = bits(0)
    error_ip_valid = bits(1)
    in_progress = bits(2)


class MiscEnable(Register):
    """IA32_MISC_ENABLE."""

    fast_strings = bits(0)
    automatic_thermal_control = bits(3)
    performance_monitoring = bits(7)        # read-only: there is
    bts_unavailable = bits(11)              # read-only: no branch trace store
    pebs_unavailable = bits(12)             # read-only: no event-based sampling
    enhanced_speedstep = bits(16)
    monitor = bits(18)                      # MONITOR and MWAIT
    limit_cpuid = bits(22)                  # leaves above 2 are not told
    xtpr_disable = bits(23)
    xd_disable = bits(34)


class SpecCtrl(Register):
    """IA32_SPEC_CTRL."""

    ibrs = bits(0)
    stibp = bits(1)               # may be written without the feature, and does nothing then


class PredCmd(Register):
    """IA32_PRED_CMD; it is only written."""

    ibpb = bits(0)


class ArchCapabilities(Register):
    """IA32_ARCH_CAPABILITIES: what the processor does not suffer from."""

    rdcl_no = bits(0)             # rogue data cache load, "Meltdown"
    ibrs_all = bits(1)            # IBRS may stay on, and costs nothing
    rsba = bits(2)
    skip_l1dfl_vmentry = bits(3)
    ssb_no = bits(4)
    mds_no = bits(5)
    if_pschange_mc_no = bits(6)
    taa_no = bits(8)
    sbdr_ssdp_no = bits(13)
    fbsdp_no = bits(14)
    psdp_no = bits(15)
    bhi_no = bits(20)
    pbrsb_no = bits(24)
    gds_no = bits(26)
    rfds_no = bits(27)
    its_no = bits(62)


class PlatformInfo(Register):
    """MSR_PLATFORM_INFO."""

    maximum_ratio = bits(15, 8)   # without turbo, in units of 100 MHz
    minimum_ratio = bits(47, 40)


# --- Synthetic formats ---------------------------------------------------------------------------

class HvGuestOsId(Register):
    """HV_X64_MSR_GUEST_OS_ID of a proprietary system (bit 63 = 0); TLFS "Reporting the Guest OS Identity"."""

    build = bits(15, 0)
    service_version = bits(23, 16)
    minor_version = bits(31, 24)
    major_version = bits(39, 32)
    os_id = bits(47, 40)          # 4 = Windows NT
    vendor = bits(62, 48)         # 1 = Microsoft
    open_source = bits(63)


class HvGuestOsIdOpenSource(Register):
    """HV_X64_MSR_GUEST_OS_ID of an open-source system (bit 63 = 1)."""

    build = bits(15, 0)
    version = bits(47, 16)
    os_id = bits(55, 48)
    os_type = bits(62, 56)        # 1 Linux, 2 FreeBSD, 3 Xen, 4 Illumos
    open_source = bits(63)


class HvHypercallMsr(Register):
    """HV_X64_MSR_HYPERCALL; TLFS "Establishing the Hypercall Interface"."""

    enable = bits(0)              # stays 0 while HV_GUEST_OS_ID is 0
    locked = bits(1)              # the MSR cannot be changed until the partition is reset
    reserved = bits(11, 2)
    gpfn = bits(63, 12)           # GPA page number of the hypercall page


class HvReset(Register):
    """HV_X64_MSR_RESET."""

    reset = bits(0)


class HvOverlayPage(Register):
    """A page the hypervisor lays over the guest's memory: the shape HvSimp, HvSiefp and others share."""

    enable = bits(0)
    reserved = bits(11, 1)        # preserved
    gpfn = bits(63, 12)           # GPA page number


class HvReferenceTsc(HvOverlayPage):
    """HV_X64_MSR_REFERENCE_TSC; the page is `HvReferenceTscPage`."""


class HvVpAssistPage(HvOverlayPage):
    """HV_X64_MSR_VP_ASSIST_PAGE; TLFS "Virtual VP Assist Page"."""


class HvSiefp(HvOverlayPage):
    """HV_X64_MSR_SIEFP: where the event flags are."""


class HvSimp(HvOverlayPage):
    """HV_X64_MSR_SIMP: where the messages are."""


class HvSirbp(HvOverlayPage):
    """HV_X64_MSR_SIRBP: where the event ring is."""


class HvStatsPage(HvOverlayPage):
    """HV_X64_MSR_STATS_*: where a page of counters is."""


class HvScontrol(Register):
    """HV_X64_MSR_SCONTROL; 0 after reset."""

    enable = bits(0)
    reserved = bits(63, 1)        # preserved


class HvSynicSint(Register):
    """HV_X64_MSR_SINT0..15; TLFS "SINTx Registers". 0x10000 after reset."""

    vector = bits(7, 0)           # 16..255 while unmasked
    reserved_15_8 = bits(15, 8)   # preserved
    masked = bits(16)
    auto_eoi = bits(17)
    polling = bits(18)            # messages are placed, no interrupt
    as_intercept = bits(19)
    proxy = bits(20)
    reserved_63_21 = bits(63, 21)


SINT_RESET = 0x10000


class HvStimerConfig(Register):
    """HV_X64_MSR_STIMER0..3_CONFIG; TLFS "Synthetic Timer Configuration Register"."""

    enable = bits(0)
    periodic = bits(1)
    lazy = bits(2)
    auto_enable = bits(3)         # writing a count enables
    apic_vector = bits(11, 4)     # direct mode
    direct_mode = bits(12)        # an interrupt instead of a message
    reserved_15_13 = bits(15, 13)
    sintx = bits(19, 16)          # message mode; 0 keeps enable at 0
    reserved_63_20 = bits(63, 20)


class HvNpiepConfig(Register):
    """HV_X64_MSR_NPIEP_CONFIG: which instructions are kept from CPL 3."""

    prevent_sgdt = bits(0)
    prevent_sidt = bits(1)
    prevent_sldt = bits(2)
    prevent_str = bits(3)


class HvCrashCtl(Register):
    """HV_X64_MSR_CRASH_CTL: reads what is supported; a write with crash_notify reports a crash and is not stored."""

    pre_os_id = bits(60, 58)
    no_crash_dump = bits(61)
    crash_message = bits(62)      # P3 and P4 describe a text
    crash_notify = bits(63)


class HvReenlightenmentControl(Register):
    """HV_X64_MSR_REENLIGHTENMENT_CONTROL."""

    vector = bits(7, 0)
    enabled = bits(16)
    target_vp = bits(63, 32)


class HvTscEmulationControl(Register):
    """HV_X64_MSR_TSC_EMULATION_CONTROL."""

    enabled = bits(0)


class HvTscEmulationStatus(Register):
    """HV_X64_MSR_TSC_EMULATION_STATUS."""

    in_progress = bits(0)


class HvUnhaltedTimerConfig(Register):
    """HV_X64_MSR_STIME_UNHALTED_TIMER_CONFIG."""

    vector = bits(7, 0)           # 2 = NMI, or 16..255
    enabled = bits(8)


class HvTscInvariantControl(Register):
    """HV_X64_MSR_TSC_INVARIANT_CONTROL: once set it stays."""

    expose_invariant_tsc = bits(0)


class HvReferenceTscPage(Layout):
    """TLFS "Partition Reference TSC Page": time in 100 ns = (TSC * tsc_scale >> 64) + tsc_offset."""

    tsc_sequence: u32             # changes with the rest; 0 = do not use the page, read HV_TIME_REF_COUNT
    reserved: u32
    tsc_scale: u64                # (10**7 << 64) // Hz
    tsc_offset: i64               # 100 ns
