"""Which VMCS fields a processor has: many exist only where the control that needs them may be 1.

SDM chapter "Virtual Machine Control Structures": "exists only on processors that support the 1-setting of ...".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.spec.vmcs import (
    EntryControls,
    ExitControls,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    TertiaryControls,
    VmcsField,
    VmFunctions,
)

if TYPE_CHECKING:
    from hv.vmx.capabilities import Capabilities

F = VmcsField

_BY_PIN: dict[PinControls, tuple[VmcsField, ...]] = {
    PinControls.PROCESS_POSTED_INTERRUPTS: (F.POSTED_INTR_NOTIFICATION_VECTOR, F.POSTED_INTR_DESC_ADDR),
    PinControls.ACTIVATE_PREEMPTION_TIMER: (F.VMX_PREEMPTION_TIMER_VALUE,),
}
_BY_PRIMARY: dict[PrimaryControls, tuple[VmcsField, ...]] = {
    PrimaryControls.USE_MSR_BITMAPS: (F.MSR_BITMAP,),
    PrimaryControls.USE_TPR_SHADOW: (F.VIRTUAL_APIC_PAGE_ADDR, F.TPR_THRESHOLD),
    PrimaryControls.ACTIVATE_SECONDARY_CONTROLS: (F.SECONDARY_PROC_CONTROLS,),
    PrimaryControls.ACTIVATE_TERTIARY_CONTROLS: (F.TERTIARY_PROC_CONTROLS,),
}
_BY_SECONDARY: dict[SecondaryControls, tuple[VmcsField, ...]] = {
    SecondaryControls.ENABLE_VPID: (F.VPID,),
    SecondaryControls.ENABLE_EPT: (F.EPT_POINTER, F.GUEST_PHYSICAL_ADDRESS, F.GUEST_PDPTE0, F.GUEST_PDPTE1,
                                   F.GUEST_PDPTE2, F.GUEST_PDPTE3),
    SecondaryControls.EPT_VIOLATION_VE: (F.EPTP_INDEX, F.VE_INFO_ADDRESS),
    SecondaryControls.VIRTUALIZE_APIC_ACCESSES: (F.APIC_ACCESS_ADDR,),
    SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY: (F.GUEST_INTERRUPT_STATUS, F.EOI_EXIT_BITMAP0, F.EOI_EXIT_BITMAP1,
                                                   F.EOI_EXIT_BITMAP2, F.EOI_EXIT_BITMAP3),
    SecondaryControls.PAUSE_LOOP_EXITING: (F.PLE_GAP, F.PLE_WINDOW),
    SecondaryControls.ENABLE_VM_FUNCTIONS: (F.VM_FUNCTION_CONTROLS,),
    SecondaryControls.VMCS_SHADOWING: (F.VMREAD_BITMAP, F.VMWRITE_BITMAP),
    SecondaryControls.ENCLS_EXITING: (F.ENCLS_EXITING_BITMAP,),
    SecondaryControls.ENCLV_EXITING: (F.ENCLV_EXITING_BITMAP,),
    SecondaryControls.ENABLE_PML: (F.PML_ADDRESS, F.PML_INDEX),
    SecondaryControls.ENABLE_XSAVES: (F.XSS_EXITING_BITMAP,),
    SecondaryControls.PASID_TRANSLATION: (F.LOW_PASID_DIRECTORY_ADDR, F.HIGH_PASID_DIRECTORY_ADDR),
    SecondaryControls.SUB_PAGE_WRITE_PERMISSIONS: (F.SPP_TABLE_POINTER,),
    SecondaryControls.USE_TSC_SCALING: (F.TSC_MULTIPLIER,),
    SecondaryControls.ENABLE_PCONFIG: (F.PCONFIG_EXITING_BITMAP,),
    SecondaryControls.INSTRUCTION_TIMEOUT: (F.INSTRUCTION_TIMEOUT,),
}
_BY_TERTIARY: dict[TertiaryControls, tuple[VmcsField, ...]] = {
    TertiaryControls.ENABLE_HLAT: (F.HLAT_PREFIX_SIZE, F.HLAT_POINTER),
    TertiaryControls.IPI_VIRTUALIZATION: (F.LAST_PID_POINTER_INDEX, F.PID_POINTER_TABLE_ADDR),
    TertiaryControls.ENABLE_MSR_LIST: (F.MSR_DATA,),
    TertiaryControls.VIRTUALIZE_SPEC_CTRL: (F.SPEC_CTRL_MASK, F.SPEC_CTRL_SHADOW),
    TertiaryControls.APIC_TIMER_VIRTUALIZATION: (F.VIRTUAL_TIMER_VECTOR, F.GUEST_DEADLINE, F.GUEST_DEADLINE_SHADOW),
}
_BY_EXIT: dict[ExitControls, tuple[VmcsField, ...]] = {
    ExitControls.LOAD_PERF_GLOBAL_CTRL: (F.HOST_IA32_PERF_GLOBAL_CTRL,),
    ExitControls.LOAD_PAT: (F.HOST_IA32_PAT,),
    ExitControls.LOAD_EFER: (F.HOST_IA32_EFER,),
    ExitControls.LOAD_CET_STATE: (F.HOST_S_CET, F.HOST_SSP, F.HOST_INTR_SSP_TABLE),
    ExitControls.LOAD_PKRS: (F.HOST_IA32_PKRS,),
    ExitControls.ACTIVATE_SECONDARY_CONTROLS: (F.SECONDARY_VM_EXIT_CONTROLS, F.HOST_IA32_SPEC_CTRL),
}
_BY_ENTRY: dict[EntryControls, tuple[VmcsField, ...]] = {
    EntryControls.LOAD_PERF_GLOBAL_CTRL: (F.GUEST_IA32_PERF_GLOBAL_CTRL,),
    EntryControls.LOAD_PAT: (F.GUEST_IA32_PAT,),
    EntryControls.LOAD_EFER: (F.GUEST_IA32_EFER,),
    EntryControls.LOAD_BNDCFGS: (F.GUEST_IA32_BNDCFGS,),
    EntryControls.LOAD_RTIT_CTL: (F.GUEST_IA32_RTIT_CTL,),
    EntryControls.LOAD_UINV: (F.GUEST_UINV,),
    EntryControls.LOAD_CET_STATE: (F.GUEST_S_CET, F.GUEST_SSP, F.GUEST_INTR_SSP_TABLE),
    EntryControls.LOAD_LBR_CTL: (F.GUEST_IA32_LBR_CTL,),
    EntryControls.LOAD_PKRS: (F.GUEST_IA32_PKRS,),
    EntryControls.LOAD_FRED: (
        F.INJECTED_EVENT_DATA, F.ORIGINAL_EVENT_DATA,
        *(field for field in VmcsField if field.name.startswith(("GUEST_IA32_FRED", "HOST_IA32_FRED")))),
    EntryControls.LOAD_SPEC_CTRL: (F.GUEST_IA32_SPEC_CTRL,),
}
_BY_FUNCTION: dict[VmFunctions, tuple[VmcsField, ...]] = {
    VmFunctions.EPTP_SWITCHING: (F.EPTP_LIST_ADDRESS,),
}
_OF_TRUST_DOMAINS = frozenset({F.SHARED_EPT_POINTER, F.SEAM_GUEST_KEY_ID})      # no control of ours brings them


def existing_fields(processor: Capabilities) -> frozenset[VmcsField]:
    """The fields that VMREAD and VMWRITE know on *processor*; any other is VM-instruction error 12."""
    groups = ((processor.pin, _BY_PIN), (processor.primary, _BY_PRIMARY), (processor.secondary, _BY_SECONDARY),
              (processor.tertiary, _BY_TERTIARY), (processor.exit, _BY_EXIT), (processor.entry, _BY_ENTRY),
              (processor.vm_functions, _BY_FUNCTION))
    missing = {field for offered, needed in groups for control, fields in needed.items()
               if not offered & control for field in fields}
    return frozenset(VmcsField) - missing - _OF_TRUST_DOMAINS
