"""The SynIC's registers by MSR; TLFS "SynIC MSRs". What they do is in `hv/hypervisor/synic/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.hypervisor.msrs.registry import provide
from hv.spec.cpuid import HvPrivilege
from hv.spec.msrs import Msr

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor


def _synic_read(vp: VirtualProcessor, index: int) -> int:
    return vp.synic.read_msr(index)


def _synic_write(vp: VirtualProcessor, index: int, value: int) -> None:
    vp.synic.write_msr(index, value)


for _index in (*range(Msr.HV_SCONTROL, Msr.HV_EOM + 1), *range(Msr.HV_SINT0, Msr.HV_SINT15 + 1)):
    provide(_index, _synic_read, _synic_write, privilege=HvPrivilege.ACCESS_SYNIC_REGS)
