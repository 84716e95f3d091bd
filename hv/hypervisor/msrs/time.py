"""Time by MSR: the reference counter and its page, a VP's run time, the frequencies. TLFS "Timers and Clocks"."""

from __future__ import annotations

from hv.hypervisor.msrs.registry import provide
from hv.machine.clock import APIC_BUS_HZ, TSC_HZ
from hv.spec.cpuid import HvPrivilege
from hv.spec.msrs import Msr

P = HvPrivilege
provide(Msr.HV_VP_RUNTIME, lambda vp, _: vp.runtime_100ns, privilege=P.ACCESS_VP_RUN_TIME_REG)
provide(Msr.HV_TIME_REF_COUNT, lambda vp, _: vp.partition.reference_time,
        privilege=P.ACCESS_PARTITION_REFERENCE_COUNTER)
provide(Msr.HV_REFERENCE_TSC, lambda vp, _: vp.partition.reference_tsc.msr.raw,
        lambda vp, _, value: vp.partition.reference_tsc.set_msr(value), privilege=P.ACCESS_PARTITION_REFERENCE_TSC)
provide(Msr.HV_TSC_FREQUENCY, lambda vp, _: TSC_HZ, privilege=P.ACCESS_FREQUENCY_REGS)
provide(Msr.HV_APIC_FREQUENCY, lambda vp, _: APIC_BUS_HZ, privilege=P.ACCESS_FREQUENCY_REGS)
