"""What VMFUNC does without a VM exit; SDM "VM Functions"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.faults import GuestFault
from hv.machine.ram import read_physical
from hv.spec.exits import ExitReason
from hv.spec.vmcs import SecondaryControls, VmcsField, VmFunctions
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit
from hv.vmx.translation.controls import read_translation_controls
from hv.vmx.translation.ept_walk import is_valid_eptp

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

EPTP_SWITCHING = VmFunctions.EPTP_SWITCHING.value.bit_length() - 1
_ENABLED = SecondaryControls.ENABLE_VM_FUNCTIONS.value
_LIST_ENTRIES = 512


def vmfunc(vcpu: Vcpu, leaf: int, argument: int) -> VmExit | None:
    """VMFUNC with *leaf* in EAX and *argument* in ECX: done (None), an exit whose length is not filled in, or #UD.

    SDM "General Operation of the VMFUNC Instruction": at every privilege level; #UD without the control, or for a leaf
    of 64 and above; an exit for a function that is not enabled, or that fails.
    """
    if not vcpu.controls.secondary & _ENABLED or leaf >= 64:
        raise GuestFault(Vector.UD)
    allowed = vcpu.vmcs.read(VmcsField.VM_FUNCTION_CONTROLS) & vcpu.second_level.cached.capabilities.vm_functions
    if allowed >> leaf & 1 and leaf == EPTP_SWITCHING and switch_eptp(vcpu, argument):
        return None
    return VmExit(ExitReason.VMFUNC)


def switch_eptp(vcpu: Vcpu, index: int) -> bool:
    """Go on with entry *index* of the EPTP list; False when that is none. SDM "EPTP Switching".

    Nothing is invalidated: what was cached of either pointer is there when it is used again.
    """
    if index >= _LIST_ENTRIES:
        return False
    memory, at = vcpu.second_level.memory, vcpu.vmcs.read(VmcsField.EPTP_LIST_ADDRESS) + 8 * index
    eptp = int.from_bytes(read_physical(memory, at, 8), "little")
    if not is_valid_eptp(eptp, vcpu.second_level.cached.capabilities):
        return False
    vcpu.vmcs.store(VmcsField.EPT_POINTER, eptp)        # no software writes: nothing but translation changes
    vcpu.vmcs.store(VmcsField.EPTP_INDEX, index)
    read_translation_controls(vcpu)
    return True
