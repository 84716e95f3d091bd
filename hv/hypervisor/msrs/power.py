"""Who has nothing to do, or wants to begin again: HV_GUEST_IDLE, HV_RESET, and root's power states.

Root alone manages the power of the logical processors. Each C-state has a configuration, where root notes how the
platform enters it, and a trigger, which it reads to idle.
# Simplified: a processor that is not there is as deep asleep in C1 as in C3, and no state takes time to leave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.msrs.registry import provide, refuse
from hv.hypervisor.partitions.reset import reset_by
from hv.spec.cpuid import HvPrivilege
from hv.spec.msrs import C_STATES, HvReset, Msr

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor


def _read_guest_idle(vp: VirtualProcessor, index: int) -> int:
    """The VP idles until an interrupt is pending, which may not be deliverable as RFLAGS.IF is 0.

    TLFS "Guest Idle"; of root "Processor Power States".
    """
    vp.idle()
    return 0


def _write_reset(vp: VirtualProcessor, index: int, value: int) -> None:
    """TLFS "Partition Reset": the partition is reset behind the instruction.

    # Simplified: root cannot reset itself, which would be the machine.
    """
    if value & HvReset.RESERVED or vp.partition.is_root:
        raise refuse()
    if value:
        vp.end_run_with(lambda: reset_by(vp))


def _write_config(vp: VirtualProcessor, index: int, value: int) -> None:
    vp.kept_msrs[index] = value


P = HvPrivilege
for _state in range(C_STATES):
    provide(Msr.HV_POWER_STATE_TRIGGER_C1 + _state, _read_guest_idle, privilege=P.CPU_MANAGEMENT)
    provide(Msr.HV_POWER_STATE_CONFIG_C1 + _state, lambda vp, index: vp.kept_msrs.get(index, 0), _write_config,
            privilege=P.CPU_MANAGEMENT)
provide(Msr.HV_GUEST_IDLE, _read_guest_idle, privilege=P.ACCESS_GUEST_IDLE_REG)
provide(Msr.HV_RESET, lambda vp, _: 0, _write_reset, privilege=P.ACCESS_RESET_REG)
