"""What a guest is told, and asks for, in case it goes on on another machine whose TSC has another frequency.

TLFS "Reenlightenment Notifications", "TSC Invariant Controls". A partition here stays where it was made, so the
interrupt that a guest asks for is never due, and no TSC is emulated: what it writes is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.hypervisor.msrs.registry import provide, refuse
from hv.spec.cpuid import HvPrivilege
from hv.spec.msrs import (
    HvReenlightenmentControl,
    HvTscEmulationControl,
    HvTscInvariantControl,
    Msr,
)

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor


def _read(vp: VirtualProcessor, index: int) -> int:
    return vp.partition.kept_msrs.get(index, 0)


def _keep(reserved: int) -> Callable[[VirtualProcessor, int, int], None]:
    """A write that is kept, and refused when it has one of the *reserved* bits."""
    def write(vp: VirtualProcessor, index: int, value: int) -> None:
        if value & reserved:
            raise refuse()
        vp.partition.kept_msrs[index] = value
    return write


def _write_emulation_status(vp: VirtualProcessor, index: int, value: int) -> None:
    """A guest can end the emulation, which never began."""
    if value:
        raise refuse()


def _write_invariant_control(vp: VirtualProcessor, index: int, value: int) -> None:
    """Once a guest has asked for it, CPUID says that its TSC is invariant; it cannot take that back."""
    if value & HvTscInvariantControl.RESERVED or (_read(vp, index) and not value):
        raise refuse()
    vp.partition.kept_msrs[index] = value
    vp.partition.cpuid.show_invariant_tsc(bool(value))


P = HvPrivilege
provide(Msr.HV_REENLIGHTENMENT_CONTROL, _read, _keep(HvReenlightenmentControl.RESERVED),
        privilege=P.ACCESS_REENLIGHTENMENT_CONTROLS)
provide(Msr.HV_TSC_EMULATION_CONTROL, _read, _keep(HvTscEmulationControl.RESERVED),
        privilege=P.ACCESS_REENLIGHTENMENT_CONTROLS)
provide(Msr.HV_TSC_EMULATION_STATUS, lambda vp, _: 0, _write_emulation_status,
        privilege=P.ACCESS_REENLIGHTENMENT_CONTROLS)
provide(Msr.HV_TSC_INVARIANT_CONTROL, _read, _write_invariant_control, privilege=P.ACCESS_TSC_INVARIANT_CONTROLS)
