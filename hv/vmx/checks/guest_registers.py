"""VM entry's checks of the guest's control registers, debug registers and MSRs.

SDM "Checks on Guest Control Registers, Debug Registers, and MSRs". Left out with their features: IA32_RTIT_CTL,
IA32_LBR_CTL, IA32_SPEC_CTRL and the MSRs of FRED.
"""

from __future__ import annotations

from hv.spec.msrs import Debugctl, Msr
from hv.spec.vmcs import EntryControls, VmcsField
from hv.spec.x86 import Cr0, Cr4, Efer
from hv.vmx.checks import findings, loaded_msrs
from hv.vmx.checks.findings import canonical, high_half_zero, one, within, zero
from hv.vmx.checks.rule import BY_SECONDARY, ENTRY, GUEST_CR0, GUEST_CR4, Entry, Finding, Group, rules_of

_F = VmcsField
_CR3, _DR7, _DEBUGCTL, _EFER = _F.GUEST_CR3, _F.GUEST_DR7, _F.GUEST_IA32_DEBUGCTL, _F.GUEST_IA32_EFER
_BNDCFGS, _UINV = _F.GUEST_IA32_BNDCFGS, _F.GUEST_UINV
_PE, _PG, _WP = Cr0.PE.value, Cr0.PG.value, Cr0.WP.value
_PAE, _PCIDE, _CET = Cr4.PAE.value, Cr4.PCIDE.value, Cr4.CET.value
_LMA, _LME = Efer.LMA.value, Efer.LME.value
_E = EntryControls
_LOAD_DEBUG, _LOAD_EFER, _LOAD_BNDCFGS, _LOAD_UINV = (_E.LOAD_DEBUG_CONTROLS.value, _E.LOAD_EFER.value,
                                                      _E.LOAD_BNDCFGS.value, _E.LOAD_UINV.value)
_CR0_0, _CR0_1, _CR4_0, _CR4_1 = Msr.VMX_CR0_FIXED0, Msr.VMX_CR0_FIXED1, Msr.VMX_CR4_FIXED0, Msr.VMX_CR4_FIXED1
_NOT_CHECKED = int(Cr0.NW | Cr0.CD)
_BNDCFGS_RESERVED = 0xFFC

rule = rules_of(Group.GUEST_STATE, "Checks on Guest Control Registers, Debug Registers, and MSRs")


@rule("guest-cr0-fixed-bits", GUEST_CR0, when=BY_SECONDARY)
def cr0_fixed(entry: Entry) -> Finding:
    """CR0 has the values that VMX operation fixes, but for NW and CD, which are not checked, and but for PE and PG if
    "unrestricted guest" is 1."""
    free = _PE | _PG if entry.unrestricted else 0
    must, may = entry.msrs[_CR0_0] & ~(free | _NOT_CHECKED), entry.msrs[_CR0_1] | _NOT_CHECKED
    value = entry.values[GUEST_CR0]
    if value & must == must and not value & ~may:
        return None
    # A guest in real mode is what people forget the control for.
    why = ' and "unrestricted guest" = 0' if not free and ~value & must & (_PE | _PG) else ""
    exempt = " (PE and PG are free: unrestricted guest)" if free else why
    return within(GUEST_CR0, value, must, may, f"IA32_VMX_CR0_FIXED0 = {entry.msrs[_CR0_0]:#x}{exempt}",
                  f"IA32_VMX_CR0_FIXED1 = {entry.msrs[_CR0_1]:#x}")


@rule("guest-cr0-pg-needs-pe", GUEST_CR0)
def pg_needs_pe(entry: Entry) -> Finding:
    """If CR0.PG is 1, CR0.PE is 1."""
    value = entry.values[GUEST_CR0]
    return one(GUEST_CR0, value, _PE, "CR0.PG is 1") if value & _PG else None


@rule("guest-cr4-fixed-bits", GUEST_CR4)
def cr4_fixed(entry: Entry) -> Finding:
    """CR4 has the values that VMX operation fixes: IA32_VMX_CR4_FIXED0 and IA32_VMX_CR4_FIXED1."""
    value, must, may = entry.values[GUEST_CR4], entry.msrs[_CR4_0], entry.msrs[_CR4_1]
    if value & must == must and not value & ~may:
        return None
    return within(GUEST_CR4, value, must, may, f"IA32_VMX_CR4_FIXED0 = {must:#x}", f"IA32_VMX_CR4_FIXED1 = {may:#x}")


@rule("guest-cr4-cet-needs-cr0-wp", GUEST_CR0, GUEST_CR4)
def cet_needs_wp(entry: Entry) -> Finding:
    """If CR4.CET is 1, CR0.WP is 1."""
    return one(GUEST_CR0, entry.values[GUEST_CR0], _WP, "CR4.CET is 1") if entry.values[GUEST_CR4] & _CET else None


@rule("guest-debugctl-reserved-bits", _DEBUGCTL, when=(ENTRY,))
def debugctl(entry: Entry) -> Finding:
    """If "load debug controls" is 1, reserved bits of IA32_DEBUGCTL are 0."""
    if not entry.entry & _LOAD_DEBUG:
        return None
    return zero(_DEBUGCTL, entry.values[_DEBUGCTL], Debugctl.RESERVED, "every reserved bit")


@rule("guest-ia32e-mode-needs-paging", GUEST_CR0, when=(ENTRY,))
def ia32e_paging(entry: Entry) -> Finding:
    """If "IA-32e mode guest" is 1, CR0.PG is 1."""
    return one(GUEST_CR0, entry.values[GUEST_CR0], _PG, '"IA-32e mode guest" is 1') if entry.ia32e else None


@rule("guest-ia32e-mode-needs-pae", GUEST_CR4, when=(ENTRY,))
def ia32e_pae(entry: Entry) -> Finding:
    """If "IA-32e mode guest" is 1, CR4.PAE is 1."""
    return one(GUEST_CR4, entry.values[GUEST_CR4], _PAE, '"IA-32e mode guest" is 1') if entry.ia32e else None


@rule("guest-pcide-needs-ia32e-mode", GUEST_CR4, when=(ENTRY,))
def pcide(entry: Entry) -> Finding:
    """If "IA-32e mode guest" is 0, CR4.PCIDE is 0."""
    return None if entry.ia32e else zero(GUEST_CR4, entry.values[GUEST_CR4], _PCIDE, '"IA-32e mode guest" is 0')


@rule("guest-cr3-width", _CR3)
def cr3(entry: Entry) -> Finding:
    """No bit of CR3 beyond the physical-address width is 1, but for LAM_U57 (61) and LAM_U48 (62) on a processor with
    linear-address masking."""
    return findings.cr3(entry, _CR3, entry.values[_CR3])


@rule("guest-dr7-high-half", _DR7, when=(ENTRY,))
def dr7(entry: Entry) -> Finding:
    """If "load debug controls" is 1, bits 63:32 of DR7 are 0."""
    return high_half_zero(_DR7, entry.values[_DR7]) if entry.entry & _LOAD_DEBUG else None


loaded_msrs.canonical_address(rule, "guest-sysenter-esp-canonical", _F.GUEST_SYSENTER_ESP, "IA32_SYSENTER_ESP")
loaded_msrs.canonical_address(rule, "guest-sysenter-eip-canonical", _F.GUEST_SYSENTER_EIP, "IA32_SYSENTER_EIP")
loaded_msrs.perf_global_ctrl(rule, "guest-perf-global-ctrl-reserved-bits", _F.GUEST_IA32_PERF_GLOBAL_CTRL, ENTRY,
                             _E.LOAD_PERF_GLOBAL_CTRL.value)
loaded_msrs.pat(rule, "guest-pat-memory-types", _F.GUEST_IA32_PAT, ENTRY, _E.LOAD_PAT.value)
loaded_msrs.efer_reserved(rule, "guest-efer-reserved-bits", _EFER, ENTRY, _LOAD_EFER)


@rule("guest-efer-lma-is-ia32e-mode-guest", _EFER, when=(ENTRY,))
def efer_lma(entry: Entry) -> Finding:
    """If "load IA32_EFER" is 1, IA32_EFER.LMA is equal to "IA-32e mode guest"."""
    if not entry.entry & _LOAD_EFER:
        return None
    return loaded_msrs.efer_is(_EFER, entry.values[_EFER], _LMA, entry.ia32e,
                               f'"IA-32e mode guest" is {int(entry.ia32e)}')


@rule("guest-efer-lma-is-lme-with-paging", _EFER, GUEST_CR0, when=(ENTRY,))
def efer_lme(entry: Entry) -> Finding:
    """If "load IA32_EFER" and CR0.PG are 1, IA32_EFER.LMA is equal to IA32_EFER.LME."""
    if not entry.entry & _LOAD_EFER or not entry.values[GUEST_CR0] & _PG:
        return None
    efer = entry.values[_EFER]
    lma = bool(efer & _LMA)
    return loaded_msrs.efer_is(_EFER, efer, _LME, lma, f"LMA is {int(lma)}, and CR0.PG is 1")


@rule("guest-bndcfgs-reserved-bits", _BNDCFGS, when=(ENTRY,))
def bndcfgs_reserved(entry: Entry) -> Finding:
    """If "load IA32_BNDCFGS" is 1, bits 11:2 of IA32_BNDCFGS are 0."""
    return zero(_BNDCFGS, entry.values[_BNDCFGS], _BNDCFGS_RESERVED) if entry.entry & _LOAD_BNDCFGS else None


@rule("guest-bndcfgs-canonical", _BNDCFGS, when=(ENTRY,))
def bndcfgs_canonical(entry: Entry) -> Finding:
    """If "load IA32_BNDCFGS" is 1, the linear address in bits 63:12 of IA32_BNDCFGS is canonical."""
    return canonical(entry, _BNDCFGS, entry.values[_BNDCFGS]) if entry.entry & _LOAD_BNDCFGS else None


loaded_msrs.cet(rule, "guest", _F.GUEST_S_CET, _F.GUEST_INTR_SSP_TABLE, ENTRY, _E.LOAD_CET_STATE.value)
loaded_msrs.pkrs(rule, "guest-pkrs-high-half", _F.GUEST_IA32_PKRS, ENTRY, _E.LOAD_PKRS.value)


@rule("guest-uinv-vector", _UINV, when=(ENTRY,))
def uinv(entry: Entry) -> Finding:
    """If "load UINV" is 1, bits 15:8 of the guest UINV are 0."""
    return zero(_UINV, entry.values[_UINV], 0xFF00) if entry.entry & _LOAD_UINV else None
