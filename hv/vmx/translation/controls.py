"""The controls of a VMCS that decide about translation: EPT, VPID and the page-modification log.

SDM "VM-Execution Control Fields": "Extended-Page-Table Pointer (EPTP)", "Virtual-Processor Identifier (VPID)",
"Page-Modification Logging".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hv.machine.ram import write_physical
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.spec.x86 import PAGE_SIZE

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_EPT, _VPID = SecondaryControls.ENABLE_EPT.value, SecondaryControls.ENABLE_VPID.value
_PML, _VE = SecondaryControls.ENABLE_PML.value, SecondaryControls.EPT_VIOLATION_VE.value
_LOG_ENTRIES = PAGE_SIZE // 8


def read_translation_controls(vcpu: Vcpu) -> None:
    """A control was written: translate by what the VMCS says now."""
    read, secondary = vcpu.vmcs.read, vcpu.controls.secondary
    ept = secondary & _EPT
    vcpu.violations_convert = bool(ept and secondary & _VE)
    vcpu.second_level.select(read(VmcsField.EPT_POINTER) if ept else None,
                             read(VmcsField.VPID) if secondary & _VPID else 0,
                             partial(log_page, vcpu) if ept and secondary & _PML else None)


def log_page(vcpu: Vcpu, gpa: int) -> bool:
    """Enter *gpa* into the page-modification log; False when it is full. SDM "Page-Modification Logging"."""
    index = vcpu.vmcs.read(VmcsField.PML_INDEX)
    if index >= _LOG_ENTRIES:
        return False
    memory, at = vcpu.second_level.memory, vcpu.vmcs.read(VmcsField.PML_ADDRESS) + 8 * index
    write_physical(memory, at, gpa.to_bytes(8, "little"))
    vcpu.vmcs.store(VmcsField.PML_INDEX, index - 1)         # from 0 to FFFF
    return True
