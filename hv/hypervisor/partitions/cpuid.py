"""What CPUID answers in a partition: a fixed processor, and the hypervisor's leaves from the partition's privileges.

TLFS "Feature and Interface Discovery". The architectural leaves describe a subset of what the engine executes (a plain
64-bit processor with SSE3 and CMPXCHG16B), the same on every host; a bit is offered only if what it promises is there.
"""

from __future__ import annotations

import struct

from hv.hypervisor.interrupts.routing import DEVICE_VECTORS
from hv.spec.cpuid import (
    HV_INTERFACE_SIGNATURE,
    HV_VENDOR_TEXT,
    INVARIANT_TSC,
    CpuidLeaf,
    ExtendedSignatureEcx,
    ExtendedSignatureEdx,
    FeaturesEbx,
    FeaturesEcx,
    FeaturesEdx,
    HvEnlightenments,
    HvFeatures,
    HvHardwareFeatures,
    HvPowerFeatures,
    HvPrivilege,
    HvVersion,
    Signature,
)
from hv.spec.msrs import C_STATES
from hv.spec.processor_features import CPUID_BITS
from hv.spec.vtd import GUEST_ADDRESS_WIDTH

Answer = tuple[int, int, int, int]      # EAX, EBX, ECX, EDX

P = HvPrivilege
CHILD_PRIVILEGES = int(
    P.ACCESS_VP_RUN_TIME_REG
    | P.ACCESS_PARTITION_REFERENCE_COUNTER
    | P.ACCESS_SYNIC_REGS
    | P.ACCESS_SYNTHETIC_TIMER_REGS
    | P.ACCESS_PARTITION_REFERENCE_TSC
    | P.ACCESS_INTR_CTRL_REGS
    | P.ACCESS_HYPERCALL_MSRS
    | P.ACCESS_VP_INDEX
    | P.ACCESS_FREQUENCY_REGS
    | P.ACCESS_GUEST_IDLE_REG
    | P.ACCESS_RESET_REG
    | P.ACCESS_REENLIGHTENMENT_CONTROLS
    | P.ACCESS_TSC_INVARIANT_CONTROLS
    | P.POST_MESSAGES
    | P.SIGNAL_EVENTS
    | P.START_VIRTUAL_PROCESSOR
    | P.FAST_HYPERCALL_OUTPUT
    | P.ENABLE_EXTENDED_GVA_RANGES
    | P.ACCESS_STATS_REG
    | P.ENABLE_EXTENDED_HYPERCALLS
    | P.ACCESS_DEBUG_MSRS
    | P.DEBUGGING
)
ROOT_PRIVILEGES = CHILD_PRIVILEGES | int(
    P.CREATE_PARTITIONS
    | P.ACCESS_PARTITION_ID
    | P.ACCESS_MEMORY_POOL
    | P.CREATE_PORT
    | P.CONNECT_PORT
    | P.CPU_MANAGEMENT
    | P.ACCESS_VP_REGISTERS
    | P.ACCESS_STATS
)

FEATURES = int(
    HvFeatures.FREQUENCY_REGS_AVAILABLE
    | HvFeatures.GUEST_CRASH_REGS_AVAILABLE
    | HvFeatures.GUEST_IDLE_AVAILABLE
    | HvFeatures.SINT_POLLING_MODE_AVAILABLE
    | HvFeatures.HYPERCALL_MSR_LOCK_AVAILABLE
    | HvFeatures.USE_DIRECT_SYNTHETIC_TIMERS
    | HvFeatures.XMM_REGISTERS_FOR_FAST_HYPERCALL_AVAILABLE
    | HvFeatures.FAST_HYPERCALL_OUTPUT_AVAILABLE
    | HvFeatures.GUEST_DEBUGGING_AVAILABLE
    | HvFeatures.DEBUG_REGS_AVAILABLE
    | HvFeatures.EXTENDED_GVA_RANGES_AVAILABLE
    | HvFeatures.TRANSLATE_GVA_FLAGS_AVAILABLE
    | HvFeatures.SYNTHETIC_TIME_UNHALTED_TIMER
    | HvFeatures.APIC_EOI_INTERCEPT_AVAILABLE
    | HvFeatures.DEVICE_DOMAINS_AVAILABLE
    | HvFeatures.NPIEP1_AVAILABLE
)
# Not for the local flush and the switch of address spaces: INVLPG and MOV to CR3 do not exit.
RECOMMENDATIONS = int(
    HvEnlightenments.RELAXED_TIMING
    | HvEnlightenments.HYPERCALL_FOR_REMOTE_FLUSH
    | HvEnlightenments.SYNTHETIC_CLUSTER_IPI
    | HvEnlightenments.EX_PROCESSOR_MASKS
)
MSRS_FOR_APIC = int(HvEnlightenments.MSRS_FOR_APIC)     # where an access by the page or by x2APIC MSR would exit
NO_AUTO_EOI = int(HvEnlightenments.DEPRECATE_AUTO_EOI)  # which takes interrupts out of the processor's hands
LONG_SPIN_WAIT = 4096                   # tries of a lock before NotifyLongSpinWait is worth its exit
MAX_VPS, MAX_LPS = 64, 64
ADDRESS_BITS_PHYSICAL, ADDRESS_BITS_LINEAR = 40, 48
BUILD, MAJOR, MINOR = 1, 10, 0          # of this hypervisor; informational

VENDOR = b"GenuineIntel"                # EBX, EDX, ECX of leaf 0
BRAND = b"hvlab virtual processor"
MAX_BASIC_LEAF = CpuidLeaf.EXTENDED_FEATURES
MAX_HV_LEAF = CpuidLeaf.HV_NESTED_FEATURES
MAX_EXTENDED_LEAF = CpuidLeaf.ADDRESS_SIZES
NOTHING: Answer = (0, 0, 0, 0)

_E, _D = FeaturesEcx, FeaturesEdx
_ECX = _E.SSE3 | _E.CMPXCHG16B | _E.X2APIC | _E.HYPERVISOR
_EDX = (_D.FPU | _D.DE | _D.PSE | _D.TSC | _D.MSR | _D.PAE | _D.CX8 | _D.APIC | _D.SEP | _D.PGE | _D.CMOV | _D.PAT
        | _D.PSE36 | _D.CLFSH | _D.MMX | _D.FXSR | _D.SSE | _D.SSE2)
_EXTENDED_EDX = ExtendedSignatureEdx.SYSCALL | ExtendedSignatureEdx.NX | ExtendedSignatureEdx.LONG_MODE


class CpuidTable:
    """The answers of one partition, computed once. *disabled* are HvProcessorFeatures that it shall not have."""

    def __init__(self, privileges: int, apic_virtualization: bool = False, disabled: int = 0) -> None:
        recommendations = RECOMMENDATIONS | (NO_AUTO_EOI if apic_virtualization else MSRS_FOR_APIC)
        self._answers = {**_processor_leaves(), **_hypervisor_leaves(privileges, recommendations)}
        for feature, (leaf, place, bit) in CPUID_BITS.items():
            if feature & disabled:
                answer = list(self._answers.get(leaf, NOTHING))
                answer[place] &= ~bit
                self._answers[leaf] = (answer[0], answer[1], answer[2], answer[3])
        self._features = self._answers[CpuidLeaf.FEATURES]

    @property
    def processor_features(self) -> int:
        """The HvProcessorFeatures that it reports."""
        return sum(feature for feature, (leaf, place, bit) in CPUID_BITS.items()
                   if self._answers.get(leaf, NOTHING)[place] & bit)

    def lookup(self, leaf: int, subleaf: int, apic_id: int = 0) -> Answer:
        """(EAX, EBX, ECX, EDX); zeros for a leaf that is not there. *apic_id* is the asking VP's initial one."""
        if leaf == 1:
            eax, ebx, ecx, edx = self._features
            return eax, ebx | (apic_id & 0xFF) << 24, ecx, edx
        return self._answers.get(leaf, NOTHING)

    def show_invariant_tsc(self, shown: bool) -> None:
        """Report the TSC as invariant, which it is, to a guest that asks for it; HV_TSC_INVARIANT_CONTROL."""
        self._answers[CpuidLeaf.INVARIANT_TSC] = (0, 0, 0, INVARIANT_TSC if shown else 0)

    def inspect(self) -> dict[str, list[int]]:
        """Plain data: every leaf that is not zero."""
        return {f"{leaf:#x}": list(answer) for leaf, answer in sorted(self._answers.items())}


def _words(text: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(text) // 4}I", text)


def _processor_leaves() -> dict[int, Answer]:
    first, second, third = _words(VENDOR)
    brand = _words(BRAND.ljust(48, b"\0"))
    features = FeaturesEbx(clflush_size=8, logical_processors=1)
    answers = {
        CpuidLeaf.VENDOR: (int(MAX_BASIC_LEAF), first, third, second),
        CpuidLeaf.FEATURES: (Signature(family=6, model=0xF, stepping=1).raw, features.raw, int(_ECX), int(_EDX)),
        CpuidLeaf.EXTENDED_MAX: (int(MAX_EXTENDED_LEAF), 0, 0, 0),
        CpuidLeaf.EXTENDED_SIGNATURE: (0, 0, int(ExtendedSignatureEcx.LAHF_SAHF), int(_EXTENDED_EDX)),
        CpuidLeaf.ADDRESS_SIZES: (ADDRESS_BITS_PHYSICAL | ADDRESS_BITS_LINEAR << 8, 0, 0, 0),
    }
    for n, leaf in enumerate((CpuidLeaf.BRAND_0, CpuidLeaf.BRAND_1, CpuidLeaf.BRAND_2)):
        answers[leaf] = (brand[4 * n], brand[4 * n + 1], brand[4 * n + 2], brand[4 * n + 3])
    return {int(leaf): answer for leaf, answer in answers.items()}


def _hypervisor_leaves(privileges: int, recommendations: int) -> dict[int, Answer]:
    ebx, ecx, edx = _words(HV_VENDOR_TEXT)
    hardware = HvHardwareFeatures(msr_bitmaps=1, second_level_address_translation=1, dma_remapping=1,
                                  interrupt_remapping=1, unrestricted_guest=1, apic_emulation=1)
    power = HvPowerFeatures(max_c_state=C_STATES if privileges & P.CPU_MANAGEMENT else 0)
    answers = {
        CpuidLeaf.HV_VENDOR: (int(MAX_HV_LEAF), ebx, ecx, edx),
        CpuidLeaf.HV_INTERFACE: (HV_INTERFACE_SIGNATURE, 0, 0, 0),
        CpuidLeaf.HV_VERSION: (BUILD, HvVersion(major=MAJOR, minor=MINOR).raw, 0, 0),
        CpuidLeaf.HV_FEATURES: (privileges & 0xFFFF_FFFF, privileges >> 32, power.raw, FEATURES),
        CpuidLeaf.HV_ENLIGHTENMENTS: (recommendations, LONG_SPIN_WAIT, ADDRESS_BITS_PHYSICAL, 0),
        CpuidLeaf.HV_LIMITS: (MAX_VPS, MAX_LPS, len(DEVICE_VECTORS), 0),
        CpuidLeaf.HV_HARDWARE_FEATURES: (hardware.raw, GUEST_ADDRESS_WIDTH, 0, 0),
    }
    return {int(leaf): answer for leaf, answer in answers.items()}
