"""A small valid 64-bit guest: what a VMCS that somebody wrote down in part is completed with."""

from __future__ import annotations

from hv.spec.ept import EptMemoryType, Eptp
from hv.spec.msrs import Msr
from hv.spec.vmcs import (
    NO_VMCS,
    EntryControls,
    ExitControls,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)
from hv.spec.x86 import DR7_RESET, PAT_RESET, Cr0, Cr4, Efer
from hv.vmx.capabilities import PROCESSOR, Capabilities

_F = VmcsField
_U32 = (1 << 32) - 1
_CR0 = int(Cr0.PE | Cr0.MP | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.PG)
_CR4 = int(Cr4.PAE | Cr4.OSFXSR | Cr4.OSXMMEXCPT | Cr4.VMXE)
_EFER = int(Efer.LME | Efer.LMA | Efer.NXE)
_CODE, _DATA, _TSS, _UNUSABLE = 0xA09B, 0xC093, 0x8B, 0x10000
_WHOLE = _U32

_EXAMPLE: dict[VmcsField, int] = {
    _F.PIN_BASED_CONTROLS: int(PinControls.EXTERNAL_INTERRUPT_EXITING | PinControls.NMI_EXITING),
    _F.PRIMARY_PROC_CONTROLS: int(PrimaryControls.HLT_EXITING | PrimaryControls.UNCONDITIONAL_IO_EXITING
                                  | PrimaryControls.ACTIVATE_SECONDARY_CONTROLS),
    _F.SECONDARY_PROC_CONTROLS: int(SecondaryControls.ENABLE_EPT),
    _F.VM_EXIT_CONTROLS: int(ExitControls.SAVE_DEBUG_CONTROLS | ExitControls.HOST_ADDRESS_SPACE_SIZE
                             | ExitControls.SAVE_EFER | ExitControls.LOAD_EFER),
    _F.VM_ENTRY_CONTROLS: int(EntryControls.LOAD_DEBUG_CONTROLS | EntryControls.IA32E_MODE_GUEST
                              | EntryControls.LOAD_EFER),
    _F.EPT_POINTER: Eptp(memory_type=EptMemoryType.WB, walk_length=3, root=0x100).raw,
    _F.VMCS_LINK_POINTER: NO_VMCS,
    _F.GUEST_CR0: _CR0, _F.GUEST_CR3: 0x1000, _F.GUEST_CR4: _CR4, _F.GUEST_IA32_EFER: _EFER,
    _F.GUEST_IA32_PAT: PAT_RESET, _F.GUEST_DR7: DR7_RESET, _F.GUEST_RFLAGS: 2,
    _F.GUEST_RIP: 0x10000, _F.GUEST_RSP: 0x9000,
    _F.GUEST_CS_SELECTOR: 8, _F.GUEST_CS_LIMIT: _WHOLE, _F.GUEST_CS_ACCESS_RIGHTS: _CODE,
    _F.GUEST_SS_SELECTOR: 0x10, _F.GUEST_SS_LIMIT: _WHOLE, _F.GUEST_SS_ACCESS_RIGHTS: _DATA,
    _F.GUEST_DS_SELECTOR: 0x10, _F.GUEST_DS_LIMIT: _WHOLE, _F.GUEST_DS_ACCESS_RIGHTS: _DATA,
    _F.GUEST_ES_SELECTOR: 0x10, _F.GUEST_ES_LIMIT: _WHOLE, _F.GUEST_ES_ACCESS_RIGHTS: _DATA,
    _F.GUEST_FS_SELECTOR: 0x10, _F.GUEST_FS_LIMIT: _WHOLE, _F.GUEST_FS_ACCESS_RIGHTS: _DATA,
    _F.GUEST_GS_SELECTOR: 0x10, _F.GUEST_GS_LIMIT: _WHOLE, _F.GUEST_GS_ACCESS_RIGHTS: _DATA,
    _F.GUEST_TR_SELECTOR: 0x20, _F.GUEST_TR_LIMIT: 0x67, _F.GUEST_TR_ACCESS_RIGHTS: _TSS,
    _F.GUEST_TR_BASE: 0x8000, _F.GUEST_LDTR_ACCESS_RIGHTS: _UNUSABLE,
    _F.GUEST_GDTR_BASE: 0x7000, _F.GUEST_GDTR_LIMIT: 0x2F, _F.GUEST_IDTR_BASE: 0x6000, _F.GUEST_IDTR_LIMIT: 0xFFF,
    _F.HOST_CR0: _CR0, _F.HOST_CR3: 0x1000, _F.HOST_CR4: _CR4, _F.HOST_IA32_EFER: _EFER,
    _F.HOST_IA32_PAT: PAT_RESET,
    _F.HOST_CS_SELECTOR: 8, _F.HOST_SS_SELECTOR: 0x10, _F.HOST_DS_SELECTOR: 0x10, _F.HOST_ES_SELECTOR: 0x10,
    _F.HOST_FS_SELECTOR: 0x10, _F.HOST_GS_SELECTOR: 0x10, _F.HOST_TR_SELECTOR: 0x20,
    _F.HOST_RIP: 0x20000, _F.HOST_RSP: 0x1F000,
}
_SETTINGS = ((_F.PIN_BASED_CONTROLS, Msr.VMX_TRUE_PINBASED_CTLS),
             (_F.PRIMARY_PROC_CONTROLS, Msr.VMX_TRUE_PROCBASED_CTLS),
             (_F.VM_EXIT_CONTROLS, Msr.VMX_TRUE_EXIT_CTLS), (_F.VM_ENTRY_CONTROLS, Msr.VMX_TRUE_ENTRY_CTLS),
             (_F.SECONDARY_PROC_CONTROLS, Msr.VMX_PROCBASED_CTLS2))
_FIXED = ((_F.GUEST_CR0, Msr.VMX_CR0_FIXED0, Msr.VMX_CR0_FIXED1), (_F.HOST_CR0, Msr.VMX_CR0_FIXED0, Msr.VMX_CR0_FIXED1),
          (_F.GUEST_CR4, Msr.VMX_CR4_FIXED0, Msr.VMX_CR4_FIXED1), (_F.HOST_CR4, Msr.VMX_CR4_FIXED0, Msr.VMX_CR4_FIXED1))


def valid_guest(processor: Capabilities = PROCESSOR) -> dict[VmcsField, int]:
    """Every field of a VMCS that *processor* enters: a 64-bit guest under a 64-bit host, with EPT.

    Controls and control registers have the bits that this processor fixes; what it does not offer is left out.
    """
    values = dict.fromkeys(VmcsField, 0) | _EXAMPLE
    for field, index in _SETTINGS:
        raw = processor.msrs.get(index, 0)
        values[field] = (values[field] | raw & _U32) & raw >> 32
    for field, fixed_0, fixed_1 in _FIXED:
        values[field] = (values[field] | processor.msrs[fixed_0]) & processor.msrs[fixed_1]
    return values
