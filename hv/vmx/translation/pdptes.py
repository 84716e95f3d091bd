"""The four page-directory-pointer-table entries of PAE paging, which a processor loads and keeps.

SDM "PDPTE Registers", "EPT and Memory Accesses". What was loaded is in the VMCS's guest-state area, as a VM exit would
save it.
# Simplified: the engine reads them from memory at each walk, so a guest that changes them there need not load CR3 to
see it, and what VM entry loads from the VMCS is what a hypervisor reads back, not what translates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.machine.paging import PagingFormat, PagingMode, load_pdptes
from hv.spec.vmcs import VmcsField
from hv.spec.x86 import Cr0, Cr4, Efer

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

FIELDS = (VmcsField.GUEST_PDPTE0, VmcsField.GUEST_PDPTE1, VmcsField.GUEST_PDPTE2, VmcsField.GUEST_PDPTE3)
_LME = Efer.LME.value
# A change of these loads the entries, when PAE paging is in use afterwards.
_LOADING_CR0, _LOADING_CR4 = int(Cr0.CD | Cr0.NW | Cr0.PG), int(Cr4.PAE | Cr4.PGE | Cr4.PSE | Cr4.SMEP)


def load_by_cr3(vcpu: Vcpu, cr3: int) -> None:
    """MOV to CR3 of *cr3*: GuestFault for a reserved bit, NestedFault (without a linear address) when EPT refuses."""
    _load(vcpu, int(vcpu.state.cr0), cr3, int(vcpu.state.cr4))


def load_by_control_register(vcpu: Vcpu, register: int, value: int) -> None:
    """The same for MOV to CR0 or CR4 (*register* 0 or 4) of *value*."""
    state = vcpu.state
    cr0, cr4 = int(state.cr0), int(state.cr4)
    if register == 0 and (value ^ cr0) & _LOADING_CR0:
        _load(vcpu, value, int(state.cr3), cr4)
    elif register == 4 and (value ^ cr4) & _LOADING_CR4:
        _load(vcpu, cr0, int(state.cr3), value)


def _load(vcpu: Vcpu, cr0: int, cr3: int, cr4: int) -> None:
    if vcpu.state.efer & _LME:
        return
    mode = PagingMode.of_values(cr0, cr3, cr4, 0)
    if mode.format is PagingFormat.PAE:
        for field, raw in zip(FIELDS, load_pdptes(mode, vcpu.memory.load_entry), strict=True):
            vcpu.vmcs.store(field, raw)
