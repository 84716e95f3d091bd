"""What CPUID answers in a partition: a fixed processor (`processor_leaves.py`), and the hypervisor's leaves from the
partition's privileges.

TLFS "Feature and Interface Discovery". A bit is offered only if what it promises is there.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from hv.hypervisor.interrupts.routing import DEVICE_VECTORS
from hv.hypervisor.partitions.processor_leaves import (
    ADDRESS_BITS_PHYSICAL,
    NOTHING,
    Answer,
    caches,
    features,
    processor_leaves,
    topology,
)
from hv.spec.cpuid import (
    HV_INTERFACE_SIGNATURE,
    HV_VENDOR_TEXT,
    INVARIANT_TSC,
    CpuidLeaf,
    HvEnlightenments,
    HvFeatures,
    HvHardwareFeatures,
    HvPowerFeatures,
    HvPrivilege,
    HvVersion,
)
from hv.spec.msrs import C_STATES
from hv.spec.processor_features import CPUID_BITS
from hv.spec.vtd import GUEST_ADDRESS_WIDTH

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

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
BUILD, MAJOR, MINOR = 1, 10, 0          # of this hypervisor; informational

MAX_HV_LEAF = CpuidLeaf.HV_NESTED_FEATURES
_NO_VPS: Mapping[int, VirtualProcessor] = MappingProxyType({})
_OF_VP = frozenset(map(int, (CpuidLeaf.FEATURES, CpuidLeaf.CACHE_PARAMETERS, CpuidLeaf.TOPOLOGY)))


class CpuidTable:
    """The answers of one partition, computed once. *disabled* are HvProcessorFeatures that it shall not have."""

    def __init__(self, privileges: int, apic_virtualization: bool = False, disabled: int = 0,
                 vps: Mapping[int, VirtualProcessor] = _NO_VPS) -> None:
        self._vps = vps
        recommendations = RECOMMENDATIONS | (NO_AUTO_EOI if apic_virtualization else MSRS_FOR_APIC)
        self._answers = {**processor_leaves(), **_hypervisor_leaves(privileges, recommendations)}
        for feature, (leaf, place, bit) in CPUID_BITS.items():
            if feature & disabled:
                answer = list(self._answers.get(leaf, NOTHING))
                answer[place] &= ~bit
                self._answers[leaf] = (answer[0], answer[1], answer[2], answer[3])

    @property
    def processor_features(self) -> int:
        """The HvProcessorFeatures that it reports."""
        return sum(feature for feature, (leaf, place, bit) in CPUID_BITS.items()
                   if self._answers.get(leaf, NOTHING)[place] & bit)

    def lookup(self, leaf: int, subleaf: int, apic_id: int = 0) -> Answer:
        """(EAX, EBX, ECX, EDX); zeros for a leaf that is not there. *apic_id* is the asking VP's initial one."""
        if leaf in _OF_VP:
            return self._of_vp(leaf, subleaf, apic_id)
        return self._answers.get(leaf, NOTHING)

    def _of_vp(self, leaf: int, subleaf: int, apic_id: int) -> Answer:
        vp, count = self._vps.get(apic_id), max(len(self._vps), 1)
        if leaf == CpuidLeaf.TOPOLOGY:
            return topology(subleaf, apic_id, count)
        if leaf == CpuidLeaf.CACHE_PARAMETERS:
            return caches(subleaf, count)
        return features(self._answers[leaf], apic_id, count, vp is None or vp.apic.is_present)

    def show_invariant_tsc(self, shown: bool) -> None:
        """Report the TSC as invariant, which it is, to a guest that asks for it; HV_TSC_INVARIANT_CONTROL."""
        self._answers[CpuidLeaf.INVARIANT_TSC] = (0, 0, 0, INVARIANT_TSC if shown else 0)

    def inspect(self) -> dict[str, list[int]]:
        """Plain data: every leaf that is not zero."""
        return {f"{leaf:#x}": list(answer) for leaf, answer in sorted(self._answers.items())}


def _hypervisor_leaves(privileges: int, recommendations: int) -> dict[int, Answer]:
    ebx, ecx, edx = struct.unpack("<3I", HV_VENDOR_TEXT)
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
