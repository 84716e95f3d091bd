"""The synthetic timers by MSR; TLFS "Synthetic Timers". What they do is in `hv/hypervisor/timers/stimer.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.msrs.registry import provide
from hv.spec.cpuid import HvPrivilege
from hv.spec.msrs import STIMER_COUNT, Msr, stimer_msrs

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

_FIRST = Msr.HV_STIMER0_CONFIG.value


def _write_config(vp: VirtualProcessor, index: int, value: int) -> None:
    vp.timers[index - _FIRST >> 1].set_config(value)


def _write_count(vp: VirtualProcessor, index: int, value: int) -> None:
    vp.timers[index - _FIRST >> 1].set_count(value)


provide(Msr.HV_STIME_UNHALTED_TIMER_CONFIG, lambda vp, _: vp.timers.unhalted.config.raw,
        lambda vp, _, value: vp.timers.unhalted.set_config(value))
provide(Msr.HV_STIME_UNHALTED_TIMER_COUNT, lambda vp, _: vp.timers.unhalted.count,
        lambda vp, _, value: vp.timers.unhalted.set_count(value))
for _timer in range(STIMER_COUNT):
    _config, _count = stimer_msrs(_timer)
    provide(_config, lambda vp, index: vp.timers[index - _FIRST >> 1].config.raw, _write_config,
            privilege=HvPrivilege.ACCESS_SYNTHETIC_TIMER_REGS)
    provide(_count, lambda vp, index: vp.timers[index - _FIRST >> 1].count, _write_count,
            privilege=HvPrivilege.ACCESS_SYNTHETIC_TIMER_REGS)
