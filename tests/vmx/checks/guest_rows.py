"""The rows of the rules about guest state; see `rows.py`."""

from __future__ import annotations

from dataclasses import replace

from hv.spec.vmcs import EntryControls, PinControls
from hv.vmx.capabilities import COMPLETE, PROCESSOR
from tests.vmx.checks.rows import (
    CS,
    CURRENT,
    EXECUTION,
    EXIT_ENTRY,
    HIGH,
    HIGHEST,
    HLT,
    HOST,
    LDT,
    LDTR,
    LINKED,
    PAE,
    PROTECTED,
    SS,
    TR,
    URG,
    V86,
    VALID,
    WIDE,
    E,
    F,
    Row,
    S,
    inject,
    on_entry,
    pin,
    secondary,
)

_CET = on_entry(E.LOAD_CET_STATE)
REGISTERS = [
    Row("guest-cr0-fixed-bits", {F.GUEST_CR0: VALID[F.GUEST_CR0] & ~0x20}),
    Row("guest-cr0-fixed-bits", {F.GUEST_CR0: VALID[F.GUEST_CR0] | 1 << 32}),
    Row("guest-cr0-pg-needs-pe", {F.GUEST_CR0: 0x80000030}, URG),
    Row("guest-cr4-fixed-bits", {F.GUEST_CR4: VALID[F.GUEST_CR4] & ~0x2000}),
    Row("guest-cr4-fixed-bits", {F.GUEST_CR4: VALID[F.GUEST_CR4] | 1 << 63}),
    Row("guest-cr4-cet-needs-cr0-wp", {F.GUEST_CR0: 0x80000033}, {F.GUEST_CR4: VALID[F.GUEST_CR4] | 1 << 23}, COMPLETE),
    Row("guest-debugctl-reserved-bits", {F.GUEST_IA32_DEBUGCTL: 8}),
    Row("guest-ia32e-mode-needs-paging", {F.GUEST_CR0: 0x33}, URG),
    Row("guest-ia32e-mode-needs-pae", {F.GUEST_CR4: VALID[F.GUEST_CR4] & ~0x20}),
    Row("guest-pcide-needs-ia32e-mode", {F.GUEST_CR4: 0x22000}, PROTECTED, COMPLETE),
    Row("guest-cr3-width", {F.GUEST_CR3: WIDE}),
    Row("guest-dr7-high-half", {F.GUEST_DR7: 1 << 32 | 0x400}),
    Row("guest-sysenter-esp-canonical", {F.GUEST_SYSENTER_ESP: HIGH}),
    Row("guest-sysenter-eip-canonical", {F.GUEST_SYSENTER_EIP: HIGH}),
    Row("guest-perf-global-ctrl-reserved-bits", {F.GUEST_IA32_PERF_GLOBAL_CTRL: 1 << 63},
        on_entry(E.LOAD_PERF_GLOBAL_CTRL), COMPLETE),
    Row("guest-pat-memory-types", {F.GUEST_IA32_PAT: 0x03}, on_entry(E.LOAD_PAT)),
    Row("guest-efer-reserved-bits", {F.GUEST_IA32_EFER: 0xD00 | 1 << 12}),
    Row("guest-efer-lma-is-ia32e-mode-guest", {F.GUEST_IA32_EFER: 0x900}, URG | {F.GUEST_IA32_EFER: 0xD00},
        also=("guest-efer-lma-is-lme-with-paging",),
        why="IA-32e mode has paging, so LMA differs from the control and from LME"),
    Row("guest-efer-lma-is-lme-with-paging", {F.GUEST_IA32_EFER: 0x400}),
    Row("guest-bndcfgs-reserved-bits", {F.GUEST_IA32_BNDCFGS: 4}, on_entry(E.LOAD_BNDCFGS), COMPLETE),
    Row("guest-bndcfgs-canonical", {F.GUEST_IA32_BNDCFGS: HIGHEST}, on_entry(E.LOAD_BNDCFGS), COMPLETE),
    Row("guest-s-cet-canonical", {F.GUEST_S_CET: HIGHEST}, _CET, COMPLETE),
    Row("guest-s-cet-reserved-bits", {F.GUEST_S_CET: 0x200}, _CET, COMPLETE),
    Row("guest-interrupt-ssp-table-canonical", {F.GUEST_INTR_SSP_TABLE: HIGHEST}, _CET, COMPLETE),
    Row("guest-pkrs-high-half", {F.GUEST_IA32_PKRS: 1 << 63}, on_entry(E.LOAD_PKRS), COMPLETE),
    Row("guest-uinv-vector", {F.GUEST_UINV: 0x100}, on_entry(E.LOAD_UINV), COMPLETE),
]


def part(name: str, suffix: str) -> F:
    return F[f"GUEST_{name.upper()}_{suffix}"]


ALL, DATA = ("cs", "ss", "ds", "es", "fs", "gs"), ("ds", "es", "fs", "gs")
USER = {F.GUEST_CS_SELECTOR: 0x2B, CS: 0xA0FB, F.GUEST_SS_SELECTOR: 0x33, SS: 0xC0F3}
SEGMENTS = [
    Row("guest-tr-selector-ti", {F.GUEST_TR_SELECTOR: 0x24}),
    Row("guest-ldtr-selector-ti", {F.GUEST_LDTR_SELECTOR: 0x34}, LDT),
    Row("guest-ss-rpl-equals-cs-rpl", {F.GUEST_CS_SELECTOR: 0x0B}),
    *(Row(f"guest-{name}-base-in-v86-mode", {part(name, "BASE"): 0x1001}, V86) for name in ALL),
    *(Row(f"guest-{name}-base-canonical", {part(name, "BASE"): HIGH}, LDT) for name in ("tr", "fs", "gs", "ldtr")),
    *(Row(f"guest-{name}-base-high-half", {part(name, "BASE"): 1 << 32}) for name in ("cs", "ss", "ds", "es")),
    *(Row(f"guest-{name}-limit-in-v86-mode", {part(name, "LIMIT"): 0xFFF}, V86) for name in ALL),
    *(Row(f"guest-{name}-access-rights-in-v86-mode", {part(name, "ACCESS_RIGHTS"): 0x93}, V86) for name in ALL),
    Row("guest-cs-type", {CS: 0xA09A}),
    Row("guest-cs-type", {CS: 0xA093}),
    Row("guest-ss-type", {SS: 0xC091}),
    *(Row(f"guest-{name}-type", {part(name, "ACCESS_RIGHTS"): 0xC092}) for name in DATA),
    *(Row(f"guest-{name}-s", {part(name, "ACCESS_RIGHTS"): VALID[part(name, "ACCESS_RIGHTS")] & ~0x10})
      for name in ALL),
    Row("guest-cs-dpl", {CS: 0xA0FB}),
    Row("guest-cs-dpl", {CS: 0xA0FF}),
    Row("guest-cs-dpl", {CS: 0xC0F3}, URG | PROTECTED),
    Row("guest-ss-dpl-equals-rpl", {SS: 0x10060}, USER | {F.GUEST_CS_SELECTOR: 8, CS: 0xA09F, F.GUEST_SS_SELECTOR: 0x10,
                                                          SS: 0xC093}),
    Row("guest-ss-dpl-zero", {SS: 0xC0F3}, URG | PROTECTED | {CS: 0xC093}),
    Row("guest-ss-dpl-zero", {SS: 0xC0F3}, URG | PROTECTED | {F.GUEST_CR0: 0x30, CS: 0xC09F}),
    *(Row(f"guest-{name}-dpl", {part(name, "SELECTOR"): 0x13}) for name in DATA),
    *(Row(f"guest-{name}-present", {part(name, "ACCESS_RIGHTS"): VALID[part(name, "ACCESS_RIGHTS")] & ~0x80})
      for name in ALL),
    *(Row(f"guest-{name}-access-rights-reserved-bits",
          {part(name, "ACCESS_RIGHTS"): VALID[part(name, "ACCESS_RIGHTS")] | bit})
      for name, bit in zip(ALL, (1 << 8, 1 << 11, 1 << 17, 1 << 31, 0xF00, 1 << 20), strict=True)),
    Row("guest-cs-l-excludes-d", {CS: 0xE09B}),
    *(Row(f"guest-{name}-granularity", {part(name, "LIMIT"): limit})
      for name, limit in (("cs", 0xFFFFFFFE), ("ss", 0x1000), ("ds", 0), ("es", 0xFFE), ("gs", 0x12345FFE))),
    Row("guest-fs-granularity", {F.GUEST_FS_ACCESS_RIGHTS: 0x4093}),
    Row("guest-tr-type", {TR: 0x89}),
    Row("guest-tr-type", {TR: 0x83}),
    Row("guest-tr-s", {TR: 0x9B}),
    Row("guest-tr-present", {TR: 0x0B}),
    Row("guest-tr-access-rights-reserved-bits", {TR: 0x18B}),
    Row("guest-tr-granularity", {F.GUEST_TR_LIMIT: 0x100000}),
    Row("guest-tr-usable", {TR: 0x1008B}),
    Row("guest-ldtr-type", {LDTR: 0x8B}, LDT),
    Row("guest-ldtr-s", {LDTR: 0x92}, LDT),
    Row("guest-ldtr-present", {LDTR: 0x02}, LDT),
    Row("guest-ldtr-access-rights-reserved-bits", {LDTR: 0x20082}, LDT),
    Row("guest-ldtr-granularity", {LDTR: 0x8082, F.GUEST_LDTR_LIMIT: 0xFFFE}, LDT),
]

_BLOCKED, _TF, _IF = {F.GUEST_INTERRUPTIBILITY_STATE: 2}, {F.GUEST_RFLAGS: 0x102}, {F.GUEST_RFLAGS: 0x202}
_INTERRUPT, _NMI = inject(0x40), inject(2 << 8 | 2)
NON_REGISTERS = [
    Row("guest-gdtr-base-canonical", {F.GUEST_GDTR_BASE: HIGH}),
    Row("guest-gdtr-limit-high-half", {F.GUEST_GDTR_LIMIT: 0x10000}),
    Row("guest-idtr-base-canonical", {F.GUEST_IDTR_BASE: HIGH}),
    Row("guest-idtr-limit-high-half", {F.GUEST_IDTR_LIMIT: 1 << 31}),
    Row("guest-rip-high-half", {F.GUEST_RIP: 1 << 32}, PROTECTED),
    Row("guest-rip-high-half", {F.GUEST_RIP: 1 << 32}, {CS: 0xC09B}),
    Row("guest-rip-bits-beyond-linear-width", {F.GUEST_RIP: 1 << 48}),
    Row("guest-rflags-reserved-bits", {F.GUEST_RFLAGS: 0x8002}),
    Row("guest-rflags-bit-1", {F.GUEST_RFLAGS: 0}),
    Row("guest-rflags-vm", V86 | {F.GUEST_CR0: 0x30}, URG | PROTECTED),
    Row("guest-rflags-vm", {name: value for name, value in V86.items() if name not in PROTECTED} | {CS: 0xF3}),
    Row("guest-rflags-if-for-an-external-interrupt", _INTERRUPT),
    Row("guest-ssp-alignment", {F.GUEST_SSP: 1}, on_entry(EntryControls.LOAD_CET_STATE), COMPLETE),
    Row("guest-ssp-bits-beyond-linear-width", {F.GUEST_SSP: 1 << 57}, on_entry(EntryControls.LOAD_CET_STATE), COMPLETE),
    Row("guest-activity-state-supported", {F.GUEST_ACTIVITY_STATE: 4}),
    Row("guest-activity-state-supported", {F.GUEST_ACTIVITY_STATE: 2}, processor=replace(
        PROCESSOR, misc=type(PROCESSOR.misc)(PROCESSOR.misc.raw, activity_shutdown=0))),
    Row("guest-hlt-needs-ss-dpl-zero", HLT, USER),
    Row("guest-blocking-needs-active-state", HLT, _BLOCKED),
    Row("guest-activity-state-takes-the-event", HLT, inject(3 << 8 | 6)),
    Row("guest-activity-state-takes-the-event", {F.GUEST_ACTIVITY_STATE: 2}, inject(3 << 8 | 1)),
    Row("guest-activity-state-takes-the-event", {F.GUEST_ACTIVITY_STATE: 3}, _NMI),
    Row("guest-wait-for-sipi-not-into-smm", {F.GUEST_ACTIVITY_STATE: 3} | on_entry(E.ENTRY_TO_SMM), processor=COMPLETE,
        also=("no-entry-to-smm-outside-smm", "guest-blocking-by-smi-is-smm"),
        why="no processor here is in SMM, and only from there SMM can be entered"),
    Row("guest-interruptibility-reserved-bits", {F.GUEST_INTERRUPTIBILITY_STATE: 0x20}),
    Row("guest-blocking-by-sti-or-mov-ss-not-both", {F.GUEST_INTERRUPTIBILITY_STATE: 3}, _IF),
    Row("guest-blocking-by-sti-needs-if", {F.GUEST_INTERRUPTIBILITY_STATE: 1}),
    Row("guest-no-blocking-for-an-external-interrupt", {F.GUEST_INTERRUPTIBILITY_STATE: 1}, _IF | _INTERRUPT),
    Row("guest-no-blocking-by-mov-ss-for-an-nmi", _BLOCKED, _NMI),
    Row("guest-blocking-by-smi-is-smm", {F.GUEST_INTERRUPTIBILITY_STATE: 4}),
    Row("guest-no-virtual-nmi-blocking-for-an-nmi", {F.GUEST_INTERRUPTIBILITY_STATE: 8},
        _NMI | pin(PinControls.VIRTUAL_NMIS)),
    Row("guest-enclave-interruption", {F.GUEST_INTERRUPTIBILITY_STATE: 0x10}),
    Row("guest-enclave-interruption", {F.GUEST_INTERRUPTIBILITY_STATE: 0x12}, processor=COMPLETE),
    Row("guest-pending-debug-exceptions-reserved-bits", {F.GUEST_PENDING_DEBUG_EXCEPTIONS: 1 << 13}),
    Row("guest-pending-debug-exceptions-reserved-bits", {F.GUEST_PENDING_DEBUG_EXCEPTIONS: 1 << 16}),
    Row("guest-pending-rtm", {F.GUEST_PENDING_DEBUG_EXCEPTIONS: 0x10000}, processor=COMPLETE),
    Row("guest-pending-rtm", {F.GUEST_PENDING_DEBUG_EXCEPTIONS: 0x11001}, processor=COMPLETE),
    Row("guest-pending-rtm", {F.GUEST_PENDING_DEBUG_EXCEPTIONS: 0x15000}, _TF, processor=COMPLETE),
    Row("guest-pending-rtm", {F.GUEST_PENDING_DEBUG_EXCEPTIONS: 0x11000}, _BLOCKED, processor=COMPLETE),
    Row("guest-pending-rtm", {F.GUEST_PENDING_DEBUG_EXCEPTIONS: 0x10800}, _BLOCKED, processor=COMPLETE),
    Row("guest-pending-single-step-missing", _BLOCKED, _TF),
    Row("guest-pending-single-step-missing", HLT, _TF),
    Row("guest-pending-single-step-not-allowed", {F.GUEST_PENDING_DEBUG_EXCEPTIONS: 1 << 14}, _BLOCKED),
    Row("guest-pending-single-step-not-allowed", {F.GUEST_PENDING_DEBUG_EXCEPTIONS: 1 << 14},
        HLT | _TF | {F.GUEST_IA32_DEBUGCTL: 2}),
    Row("vmcs-link-pointer-address", {F.VMCS_LINK_POINTER: LINKED + 8}),
    Row("vmcs-link-pointer-revision", {F.VMCS_LINK_POINTER: 0x4000}),
    Row("vmcs-link-pointer-shadow-indicator", secondary(S.VMCS_SHADOWING), {F.VMCS_LINK_POINTER: LINKED},
        processor=COMPLETE),
    Row("vmcs-link-pointer-is-not-the-current-vmcs", {F.VMCS_LINK_POINTER: CURRENT}),
    *(Row(f"guest-pdpte{n}-reserved-bits", {F[f"GUEST_PDPTE{n}"]: 1 | bit}, PAE)
      for n, bit in enumerate((2, 1 << 5, 1 << 8, WIDE))),
]

ROWS = [*EXECUTION, *EXIT_ENTRY, *HOST, *REGISTERS, *SEGMENTS, *NON_REGISTERS]
