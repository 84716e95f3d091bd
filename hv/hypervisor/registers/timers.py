"""Timers and clocks of a VP by name: what their MSRs are to the guest."""

from __future__ import annotations

from hv.hypervisor.registers.synthetic import dispatched_msr
from hv.hypervisor.registers.table import as_bytes, provide
from hv.spec.hv_registers import HvRegisterName
from hv.spec.msrs import STIMER_COUNT, Msr

N = HvRegisterName

provide(N.REFERENCE_TSC, *dispatched_msr(Msr.HV_REFERENCE_TSC))
provide(N.REFERENCE_TSC_SEQUENCE, lambda vp: as_bytes(vp.partition.reference_tsc.sequence))
provide(N.UNHALTED_TIMER_CONFIG, *dispatched_msr(Msr.HV_STIME_UNHALTED_TIMER_CONFIG))
provide(N.UNHALTED_TIMER_COUNT, *dispatched_msr(Msr.HV_STIME_UNHALTED_TIMER_COUNT))
for _n in range(2 * STIMER_COUNT):
    provide(N.STIMER0_CONFIG + _n, *dispatched_msr(Msr.HV_STIMER0_CONFIG + _n))
