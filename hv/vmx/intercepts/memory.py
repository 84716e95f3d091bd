"""Accesses that the EPT refuses; SDM "EPT Violations", "EPT Misconfigurations"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.faults import Access, NestedFault
from hv.spec.exits import ExitReason
from hv.vmx.ept import violation_qualification
from hv.vmx.exit import VmExit

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu


def nested(vcpu: Vcpu, detail: int) -> VmExit | None:
    gpa, access = vcpu.engine.nested_fault()
    return nested_fault(vcpu, NestedFault(gpa, Access(access)))


def nested_fault(vcpu: Vcpu, fault: NestedFault) -> VmExit:
    """EPT violation or misconfiguration; SDM "Exit Qualification for EPT Violations"."""
    walk = vcpu.second_level.walk(fault.gpa)
    if walk.misconfigured:
        exit = VmExit(ExitReason.EPT_MISCONFIGURATION)
    else:
        linear = fault.gva is not None
        what = violation_qualification(walk, fault.access, linear, not fault.during_walk)
        exit = VmExit(ExitReason.EPT_VIOLATION, what.raw)
        exit.guest_linear_address = fault.gva
    exit.guest_physical_address = fault.gpa
    return exit
