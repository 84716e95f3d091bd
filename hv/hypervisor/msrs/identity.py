"""Who the guest says it is, the hypercall page, and which VP asks.

TLFS "Reporting the Guest OS Identity", "Establishing the Hypercall Interface", "Virtual Processor Index".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.msrs.registry import provide, refuse
from hv.spec.cpuid import HvPrivilege
from hv.spec.msrs import HvGuestOsId, HvHypercallMsr, Msr
from hv.trace.events import OverlayMoved

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor


def _write_guest_os_id(vp: VirtualProcessor, index: int, value: int) -> None:
    """TLFS "Reporting the Guest OS Identity": 0 means unidentified, and takes the hypercall page away."""
    partition = vp.partition
    partition.guest_os_id = HvGuestOsId(value)
    if not value and partition.hypercall_msr.enable:
        page = partition.hypercall_msr
        partition.set_hypercall_page(HvHypercallMsr(gpfn=page.gpfn, locked=page.locked))
        _announce(vp, "hypercall page", None)


def _write_hypercall(vp: VirtualProcessor, index: int, value: int) -> None:
    """TLFS "Establishing the Hypercall Interface": no enabling before the guest has said what it is."""
    partition, new = vp.partition, HvHypercallMsr(value)
    if partition.hypercall_msr.locked or new.reserved or new.gpfn >= partition.space.page_limit:
        raise refuse()
    if not partition.guest_os_id.raw:
        new.enable = 0
    try:
        partition.set_hypercall_page(new)
    except HypercallError as error:
        raise refuse() from error      # Simplified: no memory for tables; Hyper-V asks the parent for more.
    _announce(vp, "hypercall page", new.gpfn << 12 if new.enable else None)


def _announce(vp: VirtualProcessor, name: str, gpa: int | None) -> None:
    if vp.partition.trace.listening:
        vp.partition.trace.emit(OverlayMoved(name, gpa))


P = HvPrivilege
provide(Msr.HV_GUEST_OS_ID, lambda vp, _: vp.partition.guest_os_id.raw, _write_guest_os_id,
        privilege=P.ACCESS_HYPERCALL_MSRS)
provide(Msr.HV_HYPERCALL, lambda vp, _: vp.partition.hypercall_msr.raw, _write_hypercall,
        privilege=P.ACCESS_HYPERCALL_MSRS)
provide(Msr.HV_VP_INDEX, lambda vp, _: vp.index, privilege=P.ACCESS_VP_INDEX)
