"""Instructions that the engine refuses with #GP where the processor does something else; they are decoded at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.vmx.exit import VmExit
from hv.vmx.intercepts.tasks import far_transfer

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu


def refused(vcpu: Vcpu) -> VmExit | bool:
    """After a #GP of the engine: the exit, True when the instruction is done now, False when the fault stands."""
    return far_transfer(vcpu) if vcpu.state.transfers_in_software else False
