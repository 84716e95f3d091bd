"""What a processor's VMX mode offers, declared once: the capability MSRs and the VM-entry checks are computed from it.

SDM appendix "VMX Capability Reporting Facility". `PROCESSOR` is the one that is modelled here, with a reason for each
control it leaves out; `COMPLETE` offers whatever the manual names, for looking at a VMCS of some other machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from functools import cached_property

from hv.machine.control_registers import CR4_SUPPORTED
from hv.spec.ept import EptVpidCap
from hv.spec.msrs import Msr
from hv.spec.vmcs import (
    ENTRY_DEFAULT1,
    EXIT_DEFAULT1,
    PIN_DEFAULT1,
    PRIMARY_DEFAULT1,
    TRUE_ENTRY_DEFAULT1,
    TRUE_EXIT_DEFAULT1,
    TRUE_PIN_DEFAULT1,
    TRUE_PRIMARY_DEFAULT1,
    AllowedSettings,
    EntryControls,
    ExitControls,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    SecondaryExitControls,
    TertiaryControls,
    VmcsField,
    VmFunctions,
    VmxBasic,
    VmxMisc,
)
from hv.spec.x86 import PAGE_SIZE, Cr0, Cr4, MemoryType
from hv.vmx.fields import existing_fields

_U32 = (1 << 32) - 1
_CR0_FIXED, _CR4_FIXED = int(Cr0.PE | Cr0.NE | Cr0.PG), int(Cr4.VMXE)
REVISION_ID = 0x6876_6C62           # any number: that of the layout of the VMCS region in `region.py`


def every(controls: type[IntFlag]) -> int:
    """All bits of *controls* that have a name."""
    return sum(int(control) for control in controls)


@dataclass(frozen=True)
class Capabilities:
    """The controls and features of one processor. A control's bit says that it may be 1."""

    pin: int
    primary: int
    secondary: int
    tertiary: int
    exit: int
    secondary_exit: int
    entry: int
    vm_functions: int
    basic: VmxBasic
    misc: VmxMisc
    ept_vpid: EptVpidCap
    cr0_fixed: int                  # bits of CR0 that must be 1 in VMX operation
    cr4_fixed: int                  # the same of CR4
    cr4: int                        # bits of CR4 that may be 1, beside those
    physical_bits: int              # MAXPHYADDR

    @cached_property
    def msrs(self) -> dict[int, int]:
        """The capability MSRs that exist, by index."""
        settings = {
            Msr.VMX_PINBASED_CTLS: (self.pin, PIN_DEFAULT1), Msr.VMX_TRUE_PINBASED_CTLS: (self.pin, TRUE_PIN_DEFAULT1),
            Msr.VMX_PROCBASED_CTLS: (self.primary, PRIMARY_DEFAULT1),
            Msr.VMX_TRUE_PROCBASED_CTLS: (self.primary, TRUE_PRIMARY_DEFAULT1),
            Msr.VMX_EXIT_CTLS: (self.exit, EXIT_DEFAULT1), Msr.VMX_TRUE_EXIT_CTLS: (self.exit, TRUE_EXIT_DEFAULT1),
            Msr.VMX_ENTRY_CTLS: (self.entry, ENTRY_DEFAULT1),
            Msr.VMX_TRUE_ENTRY_CTLS: (self.entry, TRUE_ENTRY_DEFAULT1),
            Msr.VMX_PROCBASED_CTLS2: (self.secondary, 0),
        }
        msrs: dict[int, int] = {
            index: AllowedSettings(allowed_0=default1, allowed_1=(offered | default1) & _U32).raw
            for index, (offered, default1) in settings.items()}
        msrs |= {
            Msr.VMX_BASIC: self.basic.raw, Msr.VMX_MISC: self.misc.raw, Msr.VMX_VMCS_ENUM: self._highest_index << 1,
            Msr.VMX_CR0_FIXED0: self.cr0_fixed, Msr.VMX_CR0_FIXED1: _U32,
            Msr.VMX_CR4_FIXED0: self.cr4_fixed, Msr.VMX_CR4_FIXED1: self.cr4 | self.cr4_fixed,
        }
        if self.secondary & (SecondaryControls.ENABLE_EPT | SecondaryControls.ENABLE_VPID):
            msrs[Msr.VMX_EPT_VPID_CAP] = self.ept_vpid.raw
        if self.secondary & SecondaryControls.ENABLE_VM_FUNCTIONS:
            msrs[Msr.VMX_VMFUNC] = self.vm_functions
        if self.primary & PrimaryControls.ACTIVATE_TERTIARY_CONTROLS:
            msrs[Msr.VMX_PROCBASED_CTLS3] = self.tertiary
        if self.exit & ExitControls.ACTIVATE_SECONDARY_CONTROLS:
            msrs[Msr.VMX_EXIT_CTLS2] = self.secondary_exit
        return msrs

    @property
    def _highest_index(self) -> int:
        return max(field.index for field in existing_fields(self))

    def settings(self, field: VmcsField) -> AllowedSettings:
        """What VM entry accepts in a field of 32 control bits."""
        return AllowedSettings(self.msrs[_SETTINGS[field]])

    def fixes(self, cr0: int, cr4: int) -> bool:
        """*cr0* and *cr4* have the bits that VMX operation fixes; SDM "Restrictions on VMX Operation"."""
        return (not ~cr0 & self.cr0_fixed and not cr0 >> 32
                and not ~cr4 & self.cr4_fixed and not cr4 & ~(self.cr4 | self.cr4_fixed))

    def is_physical(self, address: int, alignment: int = PAGE_SIZE) -> bool:
        """*address* is within the physical-address width, and a multiple of *alignment*."""
        return not address & alignment - 1 and not address >> self.physical_bits


_SETTINGS = {
    VmcsField.PIN_BASED_CONTROLS: Msr.VMX_TRUE_PINBASED_CTLS,
    VmcsField.PRIMARY_PROC_CONTROLS: Msr.VMX_TRUE_PROCBASED_CTLS,
    VmcsField.SECONDARY_PROC_CONTROLS: Msr.VMX_PROCBASED_CTLS2,
    VmcsField.VM_EXIT_CONTROLS: Msr.VMX_TRUE_EXIT_CTLS,
    VmcsField.VM_ENTRY_CONTROLS: Msr.VMX_TRUE_ENTRY_CTLS,
}

# --- The processor modelled here -----------------------------------------------------------------------------------

_NO_PMU, _NO_PT = "there are no performance-monitoring counters", "there is no Processor Trace"
_NO_SMM, _NO_SGX = "there is no system-management mode", "there are no enclaves"
_NO_CET, _NO_MPX = "there is no control-flow enforcement", "there are no bounds registers"
_NO_PKS, _NO_FRED = "there are no supervisor protection keys", "there is no flexible event delivery"
_NO_LBR, _NO_UINTR = "there are no last-branch records", "there are no user interrupts"
_NO_XSAVE, _NO_RANDOM = "there is no XSAVE", "there is no random-number generator"
_NO_BUS_TIME = "time is work: a bus lock costs nothing, and an instruction never hangs"

# Why this processor does not have a control; by kind, since members of different kinds are equal numbers.
# `docs/fidelity.md` is made from this.
LEFT_OUT: dict[type[IntFlag], dict[IntFlag, str]] = {
    PrimaryControls: {
        PrimaryControls.ACTIVATE_TERTIARY_CONTROLS: "no tertiary control is offered",
    },
    SecondaryControls: {
        SecondaryControls.RDRAND_EXITING: _NO_RANDOM,
        SecondaryControls.RDSEED_EXITING: _NO_RANDOM,
        SecondaryControls.VMCS_SHADOWING: "comes with nested virtualization",
        SecondaryControls.ENCLS_EXITING: _NO_SGX,
        SecondaryControls.ENCLV_EXITING: _NO_SGX,
        SecondaryControls.CONCEAL_VMX_FROM_PT: _NO_PT,
        SecondaryControls.PT_USES_GUEST_PHYSICAL: _NO_PT,
        SecondaryControls.ENABLE_XSAVES: _NO_XSAVE,
        SecondaryControls.PASID_TRANSLATION: "there is no ENQCMD",
        SecondaryControls.MODE_BASED_EXECUTE_CONTROL: "the engine's tables know one right to execute for all modes",
        SecondaryControls.SUB_PAGE_WRITE_PERMISSIONS: "the engine's tables know pages only",
        SecondaryControls.ENABLE_USER_WAIT_AND_PAUSE: "the engine takes UMWAIT and TPAUSE for MFENCE",
        SecondaryControls.ENABLE_PCONFIG: "there is no memory encryption",
        SecondaryControls.BUS_LOCK_DETECTION: _NO_BUS_TIME,
        SecondaryControls.INSTRUCTION_TIMEOUT: _NO_BUS_TIME,
    },
    ExitControls: {
        ExitControls.LOAD_PERF_GLOBAL_CTRL: _NO_PMU,
        ExitControls.SAVE_PERF_GLOBAL_CTRL: _NO_PMU,
        ExitControls.CLEAR_BNDCFGS: _NO_MPX,
        ExitControls.CONCEAL_VMX_FROM_PT: _NO_PT,
        ExitControls.CLEAR_RTIT_CTL: _NO_PT,
        ExitControls.CLEAR_LBR_CTL: _NO_LBR,
        ExitControls.CLEAR_UINV: _NO_UINTR,
        ExitControls.LOAD_CET_STATE: _NO_CET,
        ExitControls.LOAD_PKRS: _NO_PKS,
        ExitControls.ACTIVATE_SECONDARY_CONTROLS: "no secondary VM-exit control is offered",
    },
    EntryControls: {
        EntryControls.ENTRY_TO_SMM: _NO_SMM,
        EntryControls.DEACTIVATE_DUAL_MONITOR: _NO_SMM,
        EntryControls.LOAD_PERF_GLOBAL_CTRL: _NO_PMU,
        EntryControls.LOAD_BNDCFGS: _NO_MPX,
        EntryControls.CONCEAL_VMX_FROM_PT: _NO_PT,
        EntryControls.LOAD_RTIT_CTL: _NO_PT,
        EntryControls.LOAD_UINV: _NO_UINTR,
        EntryControls.LOAD_CET_STATE: _NO_CET,
        EntryControls.LOAD_LBR_CTL: _NO_LBR,
        EntryControls.LOAD_PKRS: _NO_PKS,
        EntryControls.LOAD_FRED: _NO_FRED,
        EntryControls.LOAD_SPEC_CTRL: "there is no speculation to control",
    },
    TertiaryControls: dict.fromkeys(TertiaryControls, "needs the tertiary controls, of which none is offered"),
    SecondaryExitControls: dict.fromkeys(SecondaryExitControls,
                                         "needs the secondary VM-exit controls, of which none is offered"),
}


def _offered(controls: type[IntFlag]) -> int:
    return every(controls) & ~sum(int(control) for control in LEFT_OUT.get(controls, ()))


_BASIC = VmxBasic(revision_id=REVISION_ID, region_size=PAGE_SIZE, memory_type=MemoryType.WB, io_instruction_info=1,
                  true_controls=1)
_MISC = VmxMisc(preemption_timer_shift=5, saves_lma=1, activity_hlt=1, activity_shutdown=1, activity_wait_for_sipi=1,
                cr3_target_count=4, write_any_field=1, zero_length_injection=1)

PROCESSOR = Capabilities(
    pin=_offered(PinControls), primary=_offered(PrimaryControls), secondary=_offered(SecondaryControls), tertiary=0,
    exit=_offered(ExitControls), secondary_exit=0, entry=_offered(EntryControls), vm_functions=_offered(VmFunctions),
    basic=_BASIC, misc=_MISC,
    ept_vpid=EptVpidCap(execute_only=1, walk_length_4=1, memory_type_uc=1, memory_type_wb=1, page_2m=1, page_1g=1,
                        invept=1, accessed_dirty=1, advanced_violation_information=1, invept_single_context=1,
                        invept_all_context=1, invvpid=1, invvpid_individual_address=1, invvpid_single_context=1,
                        invvpid_all_context=1, invvpid_single_context_retaining_globals=1),
    cr0_fixed=_CR0_FIXED, cr4_fixed=_CR4_FIXED, cr4=CR4_SUPPORTED, physical_bits=46)

COMPLETE = Capabilities(
    pin=every(PinControls), primary=every(PrimaryControls), secondary=every(SecondaryControls),
    tertiary=every(TertiaryControls), exit=every(ExitControls), secondary_exit=every(SecondaryExitControls),
    entry=every(EntryControls), vm_functions=every(VmFunctions), basic=_BASIC, misc=_MISC,
    ept_vpid=EptVpidCap(PROCESSOR.ept_vpid.raw, walk_length_5=1, shadow_stack=1),
    cr0_fixed=_CR0_FIXED, cr4_fixed=_CR4_FIXED, cr4=every(Cr4), physical_bits=52)
