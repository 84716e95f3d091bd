"""A guest that has nothing to do, or that wants to begin again: HV_GUEST_IDLE and HV_RESET."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.msrs.registry import provide, refuse
from hv.hypervisor.reset import reset_by
from hv.spec.cpuid import HvPrivilege
from hv.spec.msrs import HvReset, Msr

if TYPE_CHECKING:
    from hv.hypervisor.vp import VirtualProcessor


def _read_guest_idle(vp: VirtualProcessor, index: int) -> int:
    """TLFS "Guest Idle": the VP idles until an interrupt is pending, which may not be deliverable as RFLAGS.IF is 0."""
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


P = HvPrivilege
provide(Msr.HV_GUEST_IDLE, _read_guest_idle, privilege=P.ACCESS_GUEST_IDLE_REG)
provide(Msr.HV_RESET, lambda vp, _: 0, _write_reset, privilege=P.ACCESS_RESET_REG)
