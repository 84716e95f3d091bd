"""Synthetic MSRs, and leaves of CPUID, as registers by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.msrs import registry as msrs
from hv.hypervisor.registers.table import Get, Put, as_bytes, integer, provide
from hv.machine.faults import GuestFault
from hv.spec.cpuid import CpuidLeaf
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus
from hv.spec.msrs import C_STATES, Msr

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

N = HvRegisterName


def dispatched_msr(msr: int) -> tuple[Get | None, Put | None]:
    """A synthetic or APIC MSR: same rules as for RDMSR and WRMSR, but the parent needs no privilege of the child's."""
    _, read, write = msrs.MSRS[msr]

    def get(vp: VirtualProcessor) -> bytes:
        try:
            return as_bytes(msrs.read_unchecked(vp, msr))
        except GuestFault as fault:
            raise HypercallError(HvStatus.INVALID_PARAMETER, f"msr {msr:#x} cannot be read now") from fault

    def put(vp: VirtualProcessor, value: bytes) -> None:
        msrs.write_unchecked(vp, msr, integer(value))
    return get if read else None, put if write else None


def _cpuid_leaf(leaf: CpuidLeaf) -> tuple[Get, None]:
    def get(vp: VirtualProcessor) -> bytes:
        return b"".join(word.to_bytes(4, "little") for word in vp.partition.cpuid.lookup(leaf, 0))
    return get, None


_DISPATCHED = {N.APIC_BASE: Msr.APIC_BASE, N.HYPERCALL: Msr.HV_HYPERCALL, N.GUEST_OS_ID: Msr.HV_GUEST_OS_ID,
               N.VP_INDEX: Msr.HV_VP_INDEX, N.VP_RUNTIME: Msr.HV_VP_RUNTIME, N.TIME_REF_COUNT: Msr.HV_TIME_REF_COUNT,
               N.VP_ASSIST_PAGE: Msr.HV_VP_ASSIST_PAGE, N.PROCESSOR_CLOCK_FREQUENCY: Msr.HV_TSC_FREQUENCY,
               N.INTERRUPT_CLOCK_FREQUENCY: Msr.HV_APIC_FREQUENCY, N.EOI: Msr.HV_EOI, N.ICR: Msr.HV_ICR,
               N.TPR: Msr.HV_TPR, N.SCONTROL: Msr.HV_SCONTROL, N.SVERSION: Msr.HV_SVERSION, N.SIEFP: Msr.HV_SIEFP,
               N.SIMP: Msr.HV_SIMP, N.TSC_DEADLINE: Msr.TSC_DEADLINE, N.EOM: Msr.HV_EOM,
               N.GUEST_CRASH_CTL: Msr.HV_CRASH_CTL,
               N.STATS_PARTITION_RETAIL: Msr.HV_STATS_PARTITION_RETAIL_PAGE,
               N.STATS_PARTITION_INTERNAL: Msr.HV_STATS_PARTITION_INTERNAL_PAGE,
               N.STATS_VP_RETAIL: Msr.HV_STATS_VP_RETAIL_PAGE, N.STATS_VP_INTERNAL: Msr.HV_STATS_VP_INTERNAL_PAGE}
_LEAVES = {N.HYPERVISOR_VERSION: CpuidLeaf.HV_VERSION, N.PRIVILEGES_AND_FEATURES_INFO: CpuidLeaf.HV_FEATURES,
           N.FEATURES_INFO: CpuidLeaf.HV_ENLIGHTENMENTS, N.IMPLEMENTATION_LIMITS_INFO: CpuidLeaf.HV_LIMITS,
           N.HARDWARE_FEATURES_INFO: CpuidLeaf.HV_HARDWARE_FEATURES,
           N.CPU_MANAGEMENT_FEATURES_INFO: CpuidLeaf.HV_CPU_MANAGEMENT, N.SVM_FEATURES_INFO: CpuidLeaf.HV_SVM_FEATURES,
           N.SKIP_LEVEL_FEATURES_INFO: CpuidLeaf.HV_NESTED_PRIVILEGES,
           N.NESTED_VIRT_FEATURES_INFO: CpuidLeaf.HV_NESTED_FEATURES}

for _name, _msr in _DISPATCHED.items():
    provide(_name, *dispatched_msr(_msr))
for _n in range(16):
    provide(N.SINT0 + _n, *dispatched_msr(Msr.HV_SINT0 + _n))
for _n in range(C_STATES):
    provide(N.POWER_STATE_CONFIG_C1 + _n, *dispatched_msr(Msr.HV_POWER_STATE_CONFIG_C1 + _n))
for _n in range(5):
    provide(N.GUEST_CRASH_P0 + _n, *dispatched_msr(Msr.HV_CRASH_P0 + _n))
for _name, _leaf in _LEAVES.items():
    provide(_name, *_cpuid_leaf(_leaf))
