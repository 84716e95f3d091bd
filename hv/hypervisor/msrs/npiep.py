"""What a VP keeps from its programs, by MSR; TLFS "Non-Privileged Instruction Execution Prevention"."""

from __future__ import annotations

from hv.hypervisor.msrs.registry import provide
from hv.hypervisor.vps import npiep
from hv.spec.msrs import Msr

provide(Msr.HV_NPIEP_CONFIG, lambda vp, _: vp.npiep, lambda vp, _, value: npiep.set_config(vp, value))
