"""One row for each rule of VM entry: from a valid VMCS, the change that breaks this rule and no other.

`before` makes another valid VMCS of the small 64-bit guest, `breaks` is the change that is tested. Where two rules
break together of necessity, `also` names the other one and `why` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hv.machine.ram import PhysicalMemory
from hv.spec.vmcs import (
    EntryControls,
    ExitControls,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)
from hv.vmx.capabilities import COMPLETE, PROCESSOR, Capabilities
from hv.vmx.checks.example import valid_guest
from hv.vmx.checks.rule import Entry

F, P, S, X, E = VmcsField, PrimaryControls, SecondaryControls, ExitControls, EntryControls
Values = dict[VmcsField, int]
LINKED, CURRENT, VIRTUAL_APIC = 0x5000, 0x6000, 0x7000


@dataclass(frozen=True)
class Row:
    """*breaks* over *before* over the valid guest of *processor* breaks the rule *id*, and *also*."""

    id: str
    breaks: Values
    before: Values = field(default_factory=dict)
    processor: Capabilities = PROCESSOR
    also: tuple[str, ...] = ()
    why: str = ""
    ia32e_now: bool = True

    def entry(self, memory: PhysicalMemory, broken: bool = True) -> Entry:
        """The attempt, with or without what breaks it."""
        values = valid_guest(self.processor) | self.before | (self.breaks if broken else {})
        return Entry(values, self.processor, memory, self.ia32e_now, CURRENT)


def memory() -> PhysicalMemory:
    """RAM with a VMCS and a virtual-APIC page whose VTPR is 30H."""
    ram = PhysicalMemory(1 << 16)
    ram.write_u32(LINKED, PROCESSOR.basic.revision_id)
    ram.write_u32(CURRENT, PROCESSOR.basic.revision_id)
    ram.write(VIRTUAL_APIC + 0x80, b"\x30")
    return ram


VALID = valid_guest()


def pin(*controls: PinControls) -> Values:
    return {F.PIN_BASED_CONTROLS: VALID[F.PIN_BASED_CONTROLS] | sum(map(int, controls))}


def primary(*controls: PrimaryControls) -> Values:
    return {F.PRIMARY_PROC_CONTROLS: VALID[F.PRIMARY_PROC_CONTROLS] | sum(map(int, controls))}


def secondary(*controls: SecondaryControls) -> Values:
    """With EPT, as the valid guest has."""
    return {F.SECONDARY_PROC_CONTROLS: S.ENABLE_EPT | sum(map(int, controls))}


def on_exit(*controls: ExitControls) -> Values:
    return {F.VM_EXIT_CONTROLS: VALID[F.VM_EXIT_CONTROLS] | sum(map(int, controls))}


def on_entry(*controls: EntryControls, without: int = 0) -> Values:
    return {F.VM_ENTRY_CONTROLS: (VALID[F.VM_ENTRY_CONTROLS] | sum(map(int, controls))) & ~without}


def inject(info: int, error_code: int = 0, length: int = 0) -> Values:
    return {F.VM_ENTRY_INTERRUPTION_INFO: 1 << 31 | info, F.VM_ENTRY_EXCEPTION_ERROR_CODE: error_code,
            F.VM_ENTRY_INSTRUCTION_LENGTH: length}


WIDE = 1 << 46                      # beyond the physical-address width of the modelled processor
HIGH = 1 << 47                      # not canonical
HIGHEST = 1 << 56                   # not canonical where linear addresses have 57 bits
URG = secondary(S.UNRESTRICTED_GUEST)
APIC = primary(P.USE_TPR_SHADOW) | {F.VIRTUAL_APIC_PAGE_ADDR: VIRTUAL_APIC}
CS, SS, TR, LDTR = (F[f"GUEST_{name}_ACCESS_RIGHTS"] for name in ("CS", "SS", "TR", "LDTR"))
# A guest in protected mode with 32-bit paging, in PAE paging, in virtual-8086 mode; a host outside IA-32e mode.
PROTECTED: Values = on_entry(without=E.IA32E_MODE_GUEST) | {
    F.GUEST_CR4: 0x2000, F.GUEST_IA32_EFER: 0, CS: 0xC09B}
PAE: Values = PROTECTED | {F.GUEST_CR4: 0x2020}
V86: Values = PROTECTED | {F.GUEST_RFLAGS: 0x20002}
for _name in ("CS", "SS", "DS", "ES", "FS", "GS"):
    V86 |= {F[f"GUEST_{_name}_SELECTOR"]: 0x100, F[f"GUEST_{_name}_BASE"]: 0x1000, F[f"GUEST_{_name}_LIMIT"]: 0xFFFF,
            F[f"GUEST_{_name}_ACCESS_RIGHTS"]: 0xF3}
HOST_32: Values = PROTECTED | {F.VM_EXIT_CONTROLS: VALID[F.VM_EXIT_CONTROLS] & ~int(X.HOST_ADDRESS_SPACE_SIZE),
                               F.HOST_IA32_EFER: 0}
GUEST_64: Values = {name: VALID[name] for name in PROTECTED}
LDT: Values = {F.GUEST_LDTR_SELECTOR: 0x30, F.GUEST_LDTR_LIMIT: 0xFFFF, LDTR: 0x82}
HLT: Values = {F.GUEST_ACTIVITY_STATE: 1}


def bare(**parts: int) -> Capabilities:
    """The modelled processor with other features of EPT."""
    cap = type(PROCESSOR.ept_vpid)(PROCESSOR.ept_vpid.raw, **parts)
    return replace(PROCESSOR, ept_vpid=cap)


# --- Execution controls ------------------------------------------------------------------------------------------

_SWITCHING = secondary(S.ENABLE_VM_FUNCTIONS) | {F.VM_FUNCTION_CONTROLS: 1}
_VID = APIC | secondary(S.VIRTUAL_INTERRUPT_DELIVERY)
_POSTED = _VID | pin(PinControls.PROCESS_POSTED_INTERRUPTS) | on_exit(X.ACKNOWLEDGE_INTERRUPT)
EXECUTION = [
    Row("pin-based-controls", {F.PIN_BASED_CONTROLS: VALID[F.PIN_BASED_CONTROLS] & ~2}),
    Row("pin-based-controls", {F.PIN_BASED_CONTROLS: VALID[F.PIN_BASED_CONTROLS] | 1 << 31}),
    Row("primary-processor-based-controls", primary(P.ACTIVATE_TERTIARY_CONTROLS)),
    Row("secondary-processor-based-controls", secondary(S.ENCLS_EXITING)),
    Row("tertiary-processor-based-controls", {F.TERTIARY_PROC_CONTROLS: 1 << 63},
        primary(P.ACTIVATE_TERTIARY_CONTROLS), COMPLETE),
    Row("cr3-target-count", {F.CR3_TARGET_COUNT: 5}),
    Row("io-bitmap-a-address", {F.IO_BITMAP_A: 0x1001}, primary(P.USE_IO_BITMAPS)),
    Row("io-bitmap-b-address", {F.IO_BITMAP_B: WIDE}, primary(P.USE_IO_BITMAPS)),
    Row("msr-bitmap-address", {F.MSR_BITMAP: 0x1800}, primary(P.USE_MSR_BITMAPS)),
    Row("virtual-apic-address", {F.VIRTUAL_APIC_PAGE_ADDR: 0x7800}, APIC),
    Row("tpr-threshold-reserved-bits", {F.TPR_THRESHOLD: 0x10}, APIC),
    Row("tpr-threshold-not-above-vtpr", {F.TPR_THRESHOLD: 4}, APIC),
    Row("virtual-nmis-need-nmi-exiting", {F.PIN_BASED_CONTROLS: 0x37}, {F.PIN_BASED_CONTROLS: 0x1F}),
    Row("nmi-window-exiting-needs-virtual-nmis", primary(P.NMI_WINDOW_EXITING)),
    Row("apic-access-address", {F.APIC_ACCESS_ADDR: 8}, APIC | secondary(S.VIRTUALIZE_APIC_ACCESSES)),
    Row("apic-virtualization-needs-tpr-shadow", secondary(S.APIC_REGISTER_VIRTUALIZATION)),
    Row("x2apic-mode-excludes-apic-accesses", secondary(S.VIRTUALIZE_X2APIC_MODE, S.VIRTUALIZE_APIC_ACCESSES), APIC),
    Row("virtual-interrupt-delivery-needs-external-interrupt-exiting", {F.PIN_BASED_CONTROLS: 0x1E}, _VID),
    Row("posted-interrupts-need-virtual-interrupt-delivery", secondary(), _POSTED),
    Row("posted-interrupts-need-acknowledge-on-exit", on_exit(), _POSTED),
    Row("posted-interrupt-notification-vector", {F.POSTED_INTR_NOTIFICATION_VECTOR: 0x1F2}, _POSTED),
    Row("posted-interrupt-descriptor-address", {F.POSTED_INTR_DESC_ADDR: 0x20}, _POSTED),
    Row("vpid-not-zero", secondary(S.ENABLE_VPID)),
    Row("eptp-memory-type", {F.EPT_POINTER: 0x10001C}),
    Row("eptp-page-walk-length", {F.EPT_POINTER: 0x100026}),
    Row("eptp-accessed-dirty", {F.EPT_POINTER: 0x10005E}, processor=bare(accessed_dirty=0)),
    Row("eptp-supervisor-shadow-stack", {F.EPT_POINTER: 0x10009E}),
    Row("eptp-reserved-bits", {F.EPT_POINTER: 0x10011E}),
    Row("eptp-reserved-bits", {F.EPT_POINTER: WIDE | 0x10001E}),
    Row("unrestricted-guest-needs-ept", {F.SECONDARY_PROC_CONTROLS: S.UNRESTRICTED_GUEST}),
    Row("mode-based-execute-control-needs-ept", {F.SECONDARY_PROC_CONTROLS: S.MODE_BASED_EXECUTE_CONTROL},
        processor=COMPLETE),
    Row("pml-needs-ept", {F.SECONDARY_PROC_CONTROLS: S.ENABLE_PML}),
    Row("pml-address", {F.PML_ADDRESS: 0x123}, secondary(S.ENABLE_PML)),
    Row("sub-page-write-permissions-need-ept", {F.SECONDARY_PROC_CONTROLS: S.SUB_PAGE_WRITE_PERMISSIONS},
        processor=COMPLETE),
    Row("sub-page-permission-table-pointer", {F.SPP_TABLE_POINTER: 1 << 52}, secondary(S.SUB_PAGE_WRITE_PERMISSIONS),
        COMPLETE),
    Row("virtualization-exception-information-address", {F.VE_INFO_ADDRESS: 4}, secondary(S.EPT_VIOLATION_VE)),
    Row("vm-function-controls", {F.VM_FUNCTION_CONTROLS: 2}, secondary(S.ENABLE_VM_FUNCTIONS)),
    Row("eptp-switching-needs-ept", {F.SECONDARY_PROC_CONTROLS: S.ENABLE_VM_FUNCTIONS}, _SWITCHING),
    Row("eptp-list-address", {F.EPTP_LIST_ADDRESS: 0x10}, _SWITCHING),
    Row("vmread-bitmap-address", {F.VMREAD_BITMAP: 0x10}, secondary(S.VMCS_SHADOWING), processor=COMPLETE),
    Row("vmwrite-bitmap-address", {F.VMWRITE_BITMAP: 0x10}, secondary(S.VMCS_SHADOWING), processor=COMPLETE),
    Row("tsc-multiplier-not-zero", secondary(S.USE_TSC_SCALING)),
]

# --- Exit and entry controls -------------------------------------------------------------------------------------

_32_BIT_EXCEPTIONS = replace(PROCESSOR, misc=type(PROCESSOR.misc)(PROCESSOR.misc.raw, zero_length_injection=0))
EXIT_ENTRY = [
    Row("vm-exit-controls", on_exit(X.LOAD_PKRS)),
    Row("secondary-vm-exit-controls", {F.SECONDARY_VM_EXIT_CONTROLS: 1 << 40}, on_exit(X.ACTIVATE_SECONDARY_CONTROLS),
        COMPLETE),
    Row("save-preemption-timer-needs-the-timer", on_exit(X.SAVE_PREEMPTION_TIMER)),
    Row("exit-msr-store-area", {F.VM_EXIT_MSR_STORE_ADDR: 8}, {F.VM_EXIT_MSR_STORE_COUNT: 1}),
    Row("exit-msr-load-area", {F.VM_EXIT_MSR_LOAD_ADDR: WIDE - 16}, {F.VM_EXIT_MSR_LOAD_COUNT: 2}),
    Row("vm-entry-controls", on_entry(E.LOAD_BNDCFGS)),
    Row("injected-event-type", inject(1 << 8 | 40)),
    Row("injected-event-type", inject(7 << 8), processor=replace(
        PROCESSOR, primary=PROCESSOR.primary & ~int(P.MONITOR_TRAP_FLAG))),
    Row("injected-event-vector", inject(2 << 8 | 3)),
    Row("injected-event-vector", inject(3 << 8 | 32)),
    Row("injected-event-vector", inject(7 << 8 | 1)),
    Row("injected-error-code-missing", inject(3 << 8 | 14)),
    Row("injected-error-code-missing", inject(3 << 8 | 21), processor=COMPLETE),
    Row("injected-error-code-not-allowed", inject(1 << 11 | 3 << 8 | 6)),
    Row("injected-error-code-not-allowed", inject(1 << 11 | 3 << 8 | 21)),
    Row("injected-error-code-not-allowed", inject(1 << 11 | 3 << 8 | 13),
        PROTECTED | URG | {F.GUEST_CR0: 0x30}),
    Row("injected-event-reserved-bits", inject(1 << 12 | 3 << 8 | 6)),
    Row("injected-error-code-width", inject(1 << 11 | 3 << 8 | 14, 0x10000)),
    Row("injected-instruction-length", inject(4 << 8 | 0x80, length=16)),
    Row("injected-instruction-length", inject(6 << 8 | 3), processor=_32_BIT_EXCEPTIONS),
    Row("entry-msr-load-area", {F.VM_ENTRY_MSR_LOAD_ADDR: 0x1004}, {F.VM_ENTRY_MSR_LOAD_COUNT: 1}),
    Row("no-entry-to-smm-outside-smm", on_entry(E.DEACTIVATE_DUAL_MONITOR), processor=COMPLETE),
]

# --- Host state --------------------------------------------------------------------------------------------------

_EXIT_CET, _ENTRY_CET = on_exit(X.LOAD_CET_STATE), on_entry(E.LOAD_CET_STATE)
_EXIT_CET_32 = {F.VM_EXIT_CONTROLS: HOST_32[F.VM_EXIT_CONTROLS] | int(X.LOAD_CET_STATE)}
HOST = [
    Row("host-cr0-fixed-bits", {F.HOST_CR0: VALID[F.HOST_CR0] & ~0x20}),
    Row("host-cr4-fixed-bits", {F.HOST_CR4: VALID[F.HOST_CR4] & ~0x2000}),
    Row("host-cr4-cet-needs-cr0-wp", {F.HOST_CR0: 0x80000033}, {F.HOST_CR4: VALID[F.HOST_CR4] | 1 << 23}, COMPLETE),
    Row("host-cr3-width", {F.HOST_CR3: WIDE | 0x1000}),
    Row("host-sysenter-esp-canonical", {F.HOST_SYSENTER_ESP: HIGH}),
    Row("host-sysenter-eip-canonical", {F.HOST_SYSENTER_EIP: 1 << 63}),
    Row("host-perf-global-ctrl-reserved-bits", {F.HOST_IA32_PERF_GLOBAL_CTRL: 1 << 40},
        on_exit(X.LOAD_PERF_GLOBAL_CTRL), COMPLETE),
    Row("host-pat-memory-types", {F.HOST_IA32_PAT: 0x0007040600070206}, on_exit(X.LOAD_PAT)),
    Row("host-efer-reserved-bits", {F.HOST_IA32_EFER: 0xD02}),
    Row("host-efer-lma-and-lme", {F.HOST_IA32_EFER: 0x100}),
    Row("host-s-cet-canonical", {F.HOST_S_CET: HIGHEST}, _EXIT_CET, COMPLETE),
    Row("host-s-cet-reserved-bits", {F.HOST_S_CET: 0xC00}, _EXIT_CET, COMPLETE),
    Row("host-s-cet-reserved-bits", {F.HOST_S_CET: 0x40}, _EXIT_CET, COMPLETE),
    Row("host-interrupt-ssp-table-canonical", {F.HOST_INTR_SSP_TABLE: HIGHEST}, _EXIT_CET, COMPLETE),
    Row("host-ssp-alignment", {F.HOST_SSP: 0x1002}, _EXIT_CET, COMPLETE),
    Row("host-pkrs-high-half", {F.HOST_IA32_PKRS: 1 << 32}, on_exit(X.LOAD_PKRS), COMPLETE),
    *(Row(f"host-{name}-selector-rpl-and-ti", {F[f"HOST_{name.upper()}_SELECTOR"]: 0x18 | wrong})
      for name, wrong in (("cs", 1), ("ss", 2), ("ds", 3), ("es", 4), ("fs", 4), ("gs", 7), ("tr", 3))),
    Row("host-cs-selector-not-null", {F.HOST_CS_SELECTOR: 0}),
    Row("host-tr-selector-not-null", {F.HOST_TR_SELECTOR: 0}),
    Row("host-ss-selector-not-null", {F.HOST_SS_SELECTOR: 0}, HOST_32, ia32e_now=False),
    *(Row(f"host-{name}-base-canonical", {F[f"HOST_{name.upper()}_BASE"]: HIGH})
      for name in ("fs", "gs", "gdtr", "idtr", "tr")),
    Row("host-address-space-size-is-the-current-mode", {F.VM_EXIT_CONTROLS: 0x36DFB | 4},
        PROTECTED | {F.VM_EXIT_CONTROLS: 0x36DFB | 4 | X.HOST_ADDRESS_SPACE_SIZE}),
    Row("ia32e-mode-guest-needs-a-64-bit-host", GUEST_64, HOST_32, ia32e_now=False),
    Row("host-32-bit-cr4-pcide", {F.HOST_CR4: 0x22000}, HOST_32, COMPLETE, ia32e_now=False),
    Row("host-32-bit-rip", {F.HOST_RIP: 1 << 32}, HOST_32, ia32e_now=False),
    Row("host-32-bit-s-cet", {F.HOST_S_CET: 1 << 32}, HOST_32 | _EXIT_CET_32, COMPLETE, ia32e_now=False),
    Row("host-32-bit-ssp", {F.HOST_SSP: 1 << 32}, HOST_32 | _EXIT_CET_32, COMPLETE, ia32e_now=False),
    Row("host-64-bit-cr4-pae", {F.HOST_CR4: VALID[F.HOST_CR4] & ~0x20}),
    Row("host-64-bit-rip-canonical", {F.HOST_RIP: HIGH}),
    Row("host-64-bit-ssp-canonical", {F.HOST_SSP: HIGHEST}, _EXIT_CET, COMPLETE),
]
