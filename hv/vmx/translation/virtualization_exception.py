"""#VE: an EPT violation that the guest handles itself; SDM "Virtualization Exceptions"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.ram import read_physical
from hv.spec.ept import EptEntry, VirtualizationExceptionArea
from hv.spec.exits import ExitReason
from hv.spec.vmcs import VmcsField
from hv.vmx.exit import VmExit
from hv.vmx.translation.ept_walk import EptWalk

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_SUPPRESSED = int(EptEntry(suppress_ve=1))
_BUSY = 0xFFFF_FFFF


def converts(vcpu: Vcpu, found: EptWalk, violation: VmExit) -> bool:
    """*violation*, which is not one of event delivery, is #VE instead: the information area has been filled.

    SDM "Convertible EPT Violations". Whoever asks delivers the exception, which the exception bitmap may make an exit.
    """
    if not vcpu.violations_convert or not vcpu.state.protected:
        return False
    if not found.entries or found.entries[-1].entry.raw & _SUPPRESSED:
        return False
    memory, at = vcpu.second_level.memory, vcpu.vmcs.read(VmcsField.VE_INFO_ADDRESS)
    area = VirtualizationExceptionArea.parse(read_physical(memory, at, VirtualizationExceptionArea.SIZE))
    if area.busy:                   # as where nobody answers
        return False
    memory.write(at, VirtualizationExceptionArea(
        reason=int(ExitReason.EPT_VIOLATION), busy=_BUSY, exit_qualification=violation.qualification,
        guest_linear_address=violation.guest_linear_address or 0,
        guest_physical_address=violation.guest_physical_address or 0,
        eptp_index=vcpu.vmcs.read(VmcsField.EPTP_INDEX)).pack())
    return True
