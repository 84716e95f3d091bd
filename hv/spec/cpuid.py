"""CPUID: the processor's feature bits, and the leaves by which a guest finds the hypervisor.

SDM volume 2 "CPUID"; TLFS "Feature and Interface Discovery". Guests decide by feature bits, never by the version leaf.
Where newer headers name a bit the TLFS reserves, the comment says so.
"""

from __future__ import annotations

from hv.spec.layout import Register, bits
from hv.spec.numbering import Flags, Numbering


class CpuidLeaf(Numbering):
    """The leaves somebody here answers on purpose."""

    VENDOR = 0x00000000
    FEATURES = 0x00000001
    CACHE_AND_TLB = 0x00000002
    CACHE_PARAMETERS = 0x00000004
    MONITOR = 0x00000005
    POWER = 0x00000006
    EXTENDED_FEATURES = 0x00000007        # subleaf 0
    PERFORMANCE_MONITORING = 0x0000000A
    TOPOLOGY = 0x0000000B
    XSAVE = 0x0000000D
    TSC_FREQUENCY = 0x00000015            # EBX / EAX of the crystal's ECX Hz
    PROCESSOR_FREQUENCY = 0x00000016      # MHz
    HV_VENDOR = 0x40000000                # TLFS: HvCpuIdFunctionHvVendorAndMaxFunction
    HV_INTERFACE = 0x40000001
    HV_VERSION = 0x40000002
    HV_FEATURES = 0x40000003
    HV_ENLIGHTENMENTS = 0x40000004
    HV_LIMITS = 0x40000005
    HV_HARDWARE_FEATURES = 0x40000006
    HV_CPU_MANAGEMENT = 0x40000007        # root only
    HV_SVM_FEATURES = 0x40000008          # shared virtual memory, not AMD's SVM
    HV_NESTED_PRIVILEGES = 0x40000009
    HV_NESTED_FEATURES = 0x4000000A
    HV_ISOLATION = 0x4000000C
    HV_STACK_VENDOR = 0x40000080
    HV_STACK_INTERFACE = 0x40000081
    HV_STACK_FEATURES = 0x40000082
    EXTENDED_MAX = 0x80000000
    EXTENDED_SIGNATURE = 0x80000001
    BRAND_0 = 0x80000002
    BRAND_1 = 0x80000003
    BRAND_2 = 0x80000004
    L2_CACHE = 0x80000006                 # ECX
    INVARIANT_TSC = 0x80000007            # EDX bit 8
    ADDRESS_SIZES = 0x80000008            # EAX: 7:0 physical, 15:8 linear


HV_VENDOR_TEXT = b"Microsoft Hv"          # EBX, ECX, EDX of HV_VENDOR
HV_INTERFACE_SIGNATURE = 0x31237648       # "Hv#1", EAX of HV_INTERFACE
HV_STACK_INTERFACE_SIGNATURE = 0x31235356     # "VS#1", EAX of HV_STACK_INTERFACE
HV_MINIMUM_MAX_LEAF = CpuidLeaf.HV_LIMITS     # what "Hv#1" promises at least
NEVER_NOTIFY_LONG_SPIN_WAIT = 0xFFFFFFFF      # EBX of HV_ENLIGHTENMENTS


# --- The hypervisor's leaves ---------------------------------------------------------------------

class HvPrivilege(Flags):
    """HV_PARTITION_PRIVILEGE_MASK: EAX (bits 31:0) and EBX (63:32) of HV_FEATURES; TLFS "Partition Privilege Flags".

    The lower half opens MSRs (else #GP), the upper half hypercalls (else HV_STATUS_ACCESS_DENIED).
    """

    ACCESS_VP_RUN_TIME_REG = 1 << 0                   # HV_VP_RUNTIME
    ACCESS_PARTITION_REFERENCE_COUNTER = 1 << 1       # HV_TIME_REF_COUNT
    ACCESS_SYNIC_REGS = 1 << 2                        # HV_SCONTROL..HV_EOM, HV_SINTx
    ACCESS_SYNTHETIC_TIMER_REGS = 1 << 3              # HV_STIMERx
    ACCESS_INTR_CTRL_REGS = 1 << 4                    # HV_EOI, HV_ICR, HV_TPR, HV_VP_ASSIST_PAGE
    ACCESS_HYPERCALL_MSRS = 1 << 5                    # HV_GUEST_OS_ID, HV_HYPERCALL
    ACCESS_VP_INDEX = 1 << 6
    ACCESS_RESET_REG = 1 << 7
    ACCESS_STATS_REG = 1 << 8
    ACCESS_PARTITION_REFERENCE_TSC = 1 << 9           # TLFS 5.0C's MSR table says bit 1 opens HV_REFERENCE_TSC
    ACCESS_GUEST_IDLE_REG = 1 << 10
    ACCESS_FREQUENCY_REGS = 1 << 11
    ACCESS_DEBUG_MSRS = 1 << 12                       # reserved in the TLFS
    ACCESS_REENLIGHTENMENT_CONTROLS = 1 << 13
    ACCESS_ROOT_SCHEDULER_MSR = 1 << 14               # reserved in the TLFS
    ACCESS_TSC_INVARIANT_CONTROLS = 1 << 15
    CREATE_PARTITIONS = 1 << 32
    ACCESS_PARTITION_ID = 1 << 33
    ACCESS_MEMORY_POOL = 1 << 34
    ADJUST_MESSAGE_BUFFERS = 1 << 35                  # reserved in the TLFS
    POST_MESSAGES = 1 << 36
    SIGNAL_EVENTS = 1 << 37
    CREATE_PORT = 1 << 38
    CONNECT_PORT = 1 << 39
    ACCESS_STATS = 1 << 40
    DEBUGGING = 1 << 43
    CPU_MANAGEMENT = 1 << 44                          # in effect: this is the root
    CONFIGURE_PROFILER = 1 << 45
    ACCESS_VP_EXIT_TRACING = 1 << 46                  # reserved in the TLFS
    ENABLE_EXTENDED_GVA_RANGES = 1 << 47              # in the list of a FLUSH_VIRTUAL_ADDRESS_LIST
    ACCESS_VSM = 1 << 48
    ACCESS_VP_REGISTERS = 1 << 49
    FAST_HYPERCALL_OUTPUT = 1 << 51
    ENABLE_EXTENDED_HYPERCALLS = 1 << 52              # codes from 0x8000 up
    START_VIRTUAL_PROCESSOR = 1 << 53
    ISOLATION = 1 << 54


class HvPowerFeatures(Register):
    """ECX of HV_FEATURES."""

    WIDTH = 32

    max_c_state = bits(3, 0)                  # reserved in the web edition
    hpet_needed_for_c3 = bits(4)              # deprecated
    invariant_mperf = bits(5)
    supervisor_shadow_stack = bits(6)
    architectural_pmu = bits(7)
    exception_trap_intercept = bits(8)
    vp_dispatch_interrupt_injection = bits(9)     # newer headers only
    vp_ghcb_root_mapping = bits(10)               # newer headers only


class HvFeatures(Flags):
    """EDX of HV_FEATURES."""

    MWAIT_AVAILABLE = 1 << 0                  # deprecated
    GUEST_DEBUGGING_AVAILABLE = 1 << 1
    PERFORMANCE_MONITORS_AVAILABLE = 1 << 2
    CPU_DYNAMIC_PARTITIONING_AVAILABLE = 1 << 3
    XMM_REGISTERS_FOR_FAST_HYPERCALL_AVAILABLE = 1 << 4       # for input
    GUEST_IDLE_AVAILABLE = 1 << 5
    HYPERVISOR_SLEEP_STATE_SUPPORT_AVAILABLE = 1 << 6
    NUMA_DISTANCE_QUERY_AVAILABLE = 1 << 7
    FREQUENCY_REGS_AVAILABLE = 1 << 8
    SYNTHETIC_MACHINE_CHECK_AVAILABLE = 1 << 9
    GUEST_CRASH_REGS_AVAILABLE = 1 << 10
    DEBUG_REGS_AVAILABLE = 1 << 11
    NPIEP1_AVAILABLE = 1 << 12
    DISABLE_HYPERVISOR_AVAILABLE = 1 << 13
    EXTENDED_GVA_RANGES_AVAILABLE = 1 << 14
    FAST_HYPERCALL_OUTPUT_AVAILABLE = 1 << 15
    SVM_FEATURES_AVAILABLE = 1 << 16          # newer headers only
    SINT_POLLING_MODE_AVAILABLE = 1 << 17
    HYPERCALL_MSR_LOCK_AVAILABLE = 1 << 18
    USE_DIRECT_SYNTHETIC_TIMERS = 1 << 19
    PAT_REGISTER_FOR_VSM = 1 << 20
    BNDCFGS_REGISTER_FOR_VSM = 1 << 21
    WATCHDOG_1 = 1 << 22                      # newer headers only
    SYNTHETIC_TIME_UNHALTED_TIMER = 1 << 23
    DEVICE_DOMAINS_AVAILABLE = 1 << 24
    S1_DEVICE_DOMAINS_AVAILABLE = 1 << 25     # newer headers only
    LBR_AVAILABLE = 1 << 26
    IPT_AVAILABLE = 1 << 27
    CROSS_VTL_FLUSH_AVAILABLE = 1 << 28
    IDLE_SPEC_CTRL_AVAILABLE = 1 << 29
    TRANSLATE_GVA_FLAGS_AVAILABLE = 1 << 30
    APIC_EOI_INTERCEPT_AVAILABLE = 1 << 31


class HvEnlightenments(Flags):
    """EAX of HV_ENLIGHTENMENTS: what the hypervisor recommends its guest to do."""

    HYPERCALL_FOR_ADDRESS_SWITCH = 1 << 0
    HYPERCALL_FOR_LOCAL_FLUSH = 1 << 1
    HYPERCALL_FOR_REMOTE_FLUSH = 1 << 2
    MSRS_FOR_APIC = 1 << 3                    # HV_EOI, HV_ICR, HV_TPR
    RESET_MSR = 1 << 4
    RELAXED_TIMING = 1 << 5                   # no watchdogs
    DMA_REMAPPING = 1 << 6                    # deprecated
    INTERRUPT_REMAPPING = 1 << 7              # deprecated
    X2APIC_MSRS = 1 << 8
    DEPRECATE_AUTO_EOI = 1 << 9
    SYNTHETIC_CLUSTER_IPI = 1 << 10
    EX_PROCESSOR_MASKS = 1 << 11
    NESTED = 1 << 12                          # this hypervisor is itself a guest of one
    INT_FOR_MBEC = 1 << 13
    ENLIGHTENED_VMCS = 1 << 14
    USE_SYNCED_TIMELINE = 1 << 15
    CORE_SCHEDULER_REQUESTED = 1 << 16        # newer headers only
    USE_DIRECT_LOCAL_FLUSH_ENTIRE = 1 << 17
    NO_NON_ARCHITECTURAL_CORE_SHARING = 1 << 18
    USE_X2APIC = 1 << 19                      # newer headers only
    RESTORE_TIME_ON_RESUME = 1 << 20
    HYPERCALL_FOR_MMIO = 1 << 21
    GPA_PINNING_HYPERCALL = 1 << 22
    WAKE_VPS = 1 << 23


class HvVersion(Register):
    """EBX of HV_VERSION. EAX is the build number, ECX the service pack."""

    WIDTH = 32

    minor = bits(15, 0)
    major = bits(31, 16)


class HvServiceVersion(Register):
    """EDX of HV_VERSION."""

    WIDTH = 32

    number = bits(23, 0)
    branch = bits(31, 24)


class HvHardwareFeatures(Register):
    """EAX of HV_HARDWARE_FEATURES: what the hypervisor itself uses of the processor."""

    WIDTH = 32

    apic_overlay_assist = bits(0)
    msr_bitmaps = bits(1)
    architectural_performance_counters = bits(2)
    second_level_address_translation = bits(3)
    dma_remapping = bits(4)
    interrupt_remapping = bits(5)
    memory_patrol_scrubber = bits(6)
    dma_protection = bits(7)
    hpet_requested = bits(8)
    synthetic_timers_volatile = bits(9)
    hypervisor_level = bits(13, 10)           # of nesting
    physical_destination_mode_required = bits(14)
    use_vmfunc_for_alias_map_switch = bits(15)
    memory_zeroing = bits(16)
    unrestricted_guest = bits(17)
    resource_allocation = bits(18)            # RDT-A
    resource_monitoring = bits(19)            # RDT-M
    child_performance_monitoring = bits(20)
    child_lbr = bits(21)
    child_ipt = bits(22)
    apic_emulation = bits(23)
    acpi_wdat = bits(24)                      # newer headers: x2APIC is recommended to children


class HvCpuManagementEax(Register):
    """EAX of HV_CPU_MANAGEMENT; the root only."""

    WIDTH = 32

    start_logical_processor = bits(0)
    create_root_virtual_processor = bits(1)
    performance_counter_sync = bits(2)        # newer headers only
    reserved_identity = bits(31)


class HvCpuManagementEbx(Register):
    """EBX of HV_CPU_MANAGEMENT; the root only."""

    WIDTH = 32

    processor_power_management = bits(0)
    mwait_idle_states = bits(1)
    logical_processor_idling = bits(2)


class HvSvmFeatures(Register):
    """EAX of HV_SVM_FEATURES."""

    WIDTH = 32

    svm_supported = bits(0)
    max_pasid_space_pasid_count = bits(31, 11)


class HvNestedFeatures(Register):
    """EAX of HV_NESTED_FEATURES."""

    WIDTH = 32

    enlightened_vmcs_low = bits(7, 0)         # lowest and highest version offered
    enlightened_vmcs_high = bits(15, 8)
    direct_virtual_flush = bits(17)
    flush_guest_physical = bits(18)
    enlightened_msr_bitmap = bits(19)
    combine_ve_with_page_fault = bits(20)
    non_zero_debugctl = bits(21)
    enlightened_tlb = bits(22)


class HvIsolationEbx(Register):
    """EBX of HV_ISOLATION. Bit 0 of EAX: a paravisor is present."""

    WIDTH = 32

    isolation_type = bits(3, 0)               # 0 none, 1 VBS, 2 SNP, 3 TDX
    shared_gpa_boundary_active = bits(5)
    shared_gpa_boundary_bits = bits(11, 6)


class HvStackFeatures(Register):
    """EAX of HV_STACK_FEATURES."""

    WIDTH = 32

    portable = bits(1)
    debug_device_present = bits(2)
    extended_ioapic_rte = bits(4)             # destination bits 14:8 in an RTE
    confidential_vmbus = bits(8)


# --- The processor's leaves ----------------------------------------------------------------------

class Signature(Register):
    """EAX of FEATURES, and EDX after INIT."""

    WIDTH = 32

    stepping = bits(3, 0)
    model = bits(7, 4)
    family = bits(11, 8)
    type = bits(13, 12)
    extended_model = bits(19, 16)
    extended_family = bits(27, 20)


class FeaturesEbx(Register):
    """EBX of FEATURES."""

    WIDTH = 32

    brand_index = bits(7, 0)
    clflush_size = bits(15, 8)                # in units of 8 bytes
    logical_processors = bits(23, 16)
    initial_apic_id = bits(31, 24)


class CacheLevel(Register):
    """EAX of CACHE_PARAMETERS, what the cache is."""

    WIDTH = 32

    type = bits(4, 0)                         # 0 none, 1 data, 2 instructions, 3 unified
    level = bits(7, 5)
    self_initializing = bits(8)
    fully_associative = bits(9)


class CacheSharing(Register):
    """EAX of CACHE_PARAMETERS, who has it. APIC IDs, of which not all need be there."""

    WIDTH = 32

    last_thread = bits(25, 14)                # of those that share the cache, counted from 0
    last_core = bits(31, 26)                  # of the package


class CacheAssociativity(Register):
    """EBX of CACHE_PARAMETERS; each number is one less than the count. ECX: sets, likewise."""

    WIDTH = 32

    last_byte = bits(11, 0)                   # of a line
    last_partition = bits(21, 12)
    last_way = bits(31, 22)


class TopologyLevel(Register):
    """ECX of TOPOLOGY. EAX: how far to shift an APIC ID right for that of the next level; EBX: logical processors of
    the level; EDX: the x2APIC ID."""

    WIDTH = 32

    number = bits(7, 0)                       # the subleaf
    type = bits(15, 8)                        # 0 none, 1 SMT, 2 core


class PowerFeatures(Register):
    """EAX of POWER."""

    WIDTH = 32

    digital_sensor = bits(0)
    turbo_boost = bits(1)
    apic_timer_always_runs = bits(2)


class L2Cache(Register):
    """ECX of L2_CACHE."""

    WIDTH = 32

    line_size = bits(7, 0)                    # bytes
    associativity = bits(15, 12)              # 8 = 16 ways
    size_kib = bits(31, 16)


class FeaturesEcx(Flags):
    """ECX of FEATURES."""

    SSE3 = 1 << 0
    PCLMULQDQ = 1 << 1
    DTES64 = 1 << 2
    MONITOR = 1 << 3
    DS_CPL = 1 << 4
    VMX = 1 << 5
    SMX = 1 << 6
    EIST = 1 << 7
    TM2 = 1 << 8
    SSSE3 = 1 << 9
    CNXT_ID = 1 << 10
    SDBG = 1 << 11
    FMA = 1 << 12
    CMPXCHG16B = 1 << 13
    XTPR = 1 << 14
    PDCM = 1 << 15
    PCID = 1 << 17
    DCA = 1 << 18
    SSE4_1 = 1 << 19
    SSE4_2 = 1 << 20
    X2APIC = 1 << 21
    MOVBE = 1 << 22
    POPCNT = 1 << 23
    TSC_DEADLINE = 1 << 24
    AES = 1 << 25
    XSAVE = 1 << 26
    OSXSAVE = 1 << 27                         # follows the guest's CR4.OSXSAVE
    AVX = 1 << 28
    F16C = 1 << 29
    RDRAND = 1 << 30
    HYPERVISOR = 1 << 31                      # leaf HV_VENDOR is valid


class FeaturesEdx(Flags):
    """EDX of FEATURES."""

    FPU = 1 << 0
    VME = 1 << 1
    DE = 1 << 2
    PSE = 1 << 3
    TSC = 1 << 4
    MSR = 1 << 5
    PAE = 1 << 6
    MCE = 1 << 7
    CX8 = 1 << 8
    APIC = 1 << 9                             # 0 while APIC_BASE.EN is 0
    SEP = 1 << 11
    MTRR = 1 << 12
    PGE = 1 << 13
    MCA = 1 << 14
    CMOV = 1 << 15
    PAT = 1 << 16
    PSE36 = 1 << 17
    PSN = 1 << 18
    CLFSH = 1 << 19
    DS = 1 << 21
    ACPI = 1 << 22
    MMX = 1 << 23
    FXSR = 1 << 24
    SSE = 1 << 25
    SSE2 = 1 << 26
    SS = 1 << 27
    HTT = 1 << 28
    TM = 1 << 29
    PBE = 1 << 31


class ExtendedFeaturesEbx(Flags):
    """EBX of EXTENDED_FEATURES, subleaf 0."""

    FSGSBASE = 1 << 0
    TSC_ADJUST = 1 << 1
    SGX = 1 << 2
    BMI1 = 1 << 3
    HLE = 1 << 4
    AVX2 = 1 << 5
    SMEP = 1 << 7
    BMI2 = 1 << 8
    ERMS = 1 << 9
    INVPCID = 1 << 10
    RTM = 1 << 11
    PQM = 1 << 12
    MPX = 1 << 14
    PQE = 1 << 15
    AVX512F = 1 << 16
    AVX512DQ = 1 << 17
    RDSEED = 1 << 18
    ADX = 1 << 19
    SMAP = 1 << 20
    AVX512_IFMA = 1 << 21
    CLFLUSHOPT = 1 << 23
    CLWB = 1 << 24
    INTEL_PT = 1 << 25
    AVX512CD = 1 << 28
    SHA = 1 << 29
    AVX512BW = 1 << 30
    AVX512VL = 1 << 31


class ExtendedFeaturesEcx(Flags):
    """ECX of EXTENDED_FEATURES, subleaf 0."""

    AVX512_VBMI = 1 << 1
    UMIP = 1 << 2
    PKU = 1 << 3
    OSPKE = 1 << 4
    WAITPKG = 1 << 5
    AVX512_VBMI2 = 1 << 6
    CET_SS = 1 << 7
    GFNI = 1 << 8
    VAES = 1 << 9
    VPCLMULQDQ = 1 << 10
    AVX512_VNNI = 1 << 11
    AVX512_BITALG = 1 << 12
    AVX512_VPOPCNTDQ = 1 << 14
    LA57 = 1 << 16
    RDPID = 1 << 22
    BUS_LOCK_DETECT = 1 << 24
    CLDEMOTE = 1 << 25
    MOVDIRI = 1 << 27
    MOVDIR64B = 1 << 28
    ENQCMD = 1 << 29
    SGX_LC = 1 << 30
    PKS = 1 << 31


class ExtendedFeaturesEdx(Flags):
    """EDX of EXTENDED_FEATURES, subleaf 0."""

    FSRM = 1 << 4
    UINTR = 1 << 5
    MD_CLEAR = 1 << 10
    SERIALIZE = 1 << 14
    HYBRID = 1 << 15
    PCONFIG = 1 << 18
    CET_IBT = 1 << 20
    IBRS = 1 << 26
    STIBP = 1 << 27
    L1D_FLUSH = 1 << 28
    ARCH_CAPABILITIES = 1 << 29
    CORE_CAPABILITIES = 1 << 30
    SSBD = 1 << 31


class ExtendedSignatureEcx(Flags):
    """ECX of EXTENDED_SIGNATURE; from SVM up AMD only."""

    LAHF_SAHF = 1 << 0
    SVM = 1 << 2
    CR8_LEGACY = 1 << 4
    LZCNT = 1 << 5
    SSE4A = 1 << 6
    MISALIGNED_SSE = 1 << 7
    PREFETCHW = 1 << 8
    XOP = 1 << 11
    FMA4 = 1 << 16


class ExtendedSignatureEdx(Flags):
    """EDX of EXTENDED_SIGNATURE."""

    SYSCALL = 1 << 11
    NX = 1 << 20
    MMX_EXT = 1 << 22
    FFXSR = 1 << 25
    PAGE_1GB = 1 << 26
    RDTSCP = 1 << 27
    LONG_MODE = 1 << 29
    AMD_3DNOW_EXT = 1 << 30
    AMD_3DNOW = 1 << 31


INVARIANT_TSC = 1 << 8                        # EDX of leaf INVARIANT_TSC
