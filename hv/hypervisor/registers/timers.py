"""Timers and clocks of a VP by name: what their MSRs are to the guest."""

from __future__ import annotations

from hv.hypervisor.registers.synthetic import dispatched_msr
from hv.hypervisor.registers.table import provide
from hv.spec.hv_registers import HvRegisterName
from hv.spec.msrs import STIMER_COUNT, Msr

N = HvRegisterName

for _n in range(2 * STIMER_COUNT):
    provide(N.STIMER0_CONFIG + _n, *dispatched_msr(Msr.HV_STIMER0_CONFIG + _n))
