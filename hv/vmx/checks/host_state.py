"""VM entry's checks of the host-state area.

SDM "Checks on Host Control Registers, MSRs, and SSP", "Checks on Host Segment and Descriptor-Table Registers", "Checks
Related to Address-Space Size". HOST_RSP is not checked.
"""

from __future__ import annotations

from hv.spec.msrs import Msr
from hv.spec.vmcs import EntryControls, ExitControls, VmcsField
from hv.spec.x86 import Cr0, Cr4, Efer
from hv.vmx.checks import findings, loaded_msrs
from hv.vmx.checks.findings import canonical, high_half_zero, one, within, zero
from hv.vmx.checks.rule import ENTRY, EXIT, Broken, Entry, Finding, Group, rules_of

_F = VmcsField
_CR0, _CR3, _CR4, _RIP, _EFER = _F.HOST_CR0, _F.HOST_CR3, _F.HOST_CR4, _F.HOST_RIP, _F.HOST_IA32_EFER
_CS, _SS, _TR = _F.HOST_CS_SELECTOR, _F.HOST_SS_SELECTOR, _F.HOST_TR_SELECTOR
_SSP, _S_CET = _F.HOST_SSP, _F.HOST_S_CET
_WP, _CET, _PCIDE, _PAE = Cr0.WP.value, Cr4.CET.value, Cr4.PCIDE.value, Cr4.PAE.value
_IA32E, _HOST_64 = EntryControls.IA32E_MODE_GUEST.value, ExitControls.HOST_ADDRESS_SPACE_SIZE.value
_LOAD_EFER, _LOAD_CET = ExitControls.LOAD_EFER.value, ExitControls.LOAD_CET_STATE.value
_LONG_MODE = int(Efer.LME | Efer.LMA)
_CR0_0, _CR0_1, _CR4_0, _CR4_1 = Msr.VMX_CR0_FIXED0, Msr.VMX_CR0_FIXED1, Msr.VMX_CR4_FIXED0, Msr.VMX_CR4_FIXED1

rule = rules_of(Group.HOST_STATE, "Checks on Host Control Registers, MSRs, and SSP")


@rule("host-cr0-fixed-bits", _CR0)
def cr0_fixed(entry: Entry) -> Finding:
    """CR0 has the values that VMX operation fixes: IA32_VMX_CR0_FIXED0 and IA32_VMX_CR0_FIXED1."""
    value, must, may = entry.values[_CR0], entry.msrs[_CR0_0], entry.msrs[_CR0_1]
    return within(_CR0, value, must, may, f"IA32_VMX_CR0_FIXED0 = {must:#x}", f"IA32_VMX_CR0_FIXED1 = {may:#x}")


@rule("host-cr4-fixed-bits", _CR4)
def cr4_fixed(entry: Entry) -> Finding:
    """CR4 has the values that VMX operation fixes: IA32_VMX_CR4_FIXED0 and IA32_VMX_CR4_FIXED1."""
    value, must, may = entry.values[_CR4], entry.msrs[_CR4_0], entry.msrs[_CR4_1]
    return within(_CR4, value, must, may, f"IA32_VMX_CR4_FIXED0 = {must:#x}", f"IA32_VMX_CR4_FIXED1 = {may:#x}")


@rule("host-cr4-cet-needs-cr0-wp", _CR0, _CR4)
def cet_needs_wp(entry: Entry) -> Finding:
    """If CR4.CET is 1, CR0.WP is 1."""
    return one(_CR0, entry.values[_CR0], _WP, "CR4.CET is 1") if entry.values[_CR4] & _CET else None


@rule("host-cr3-width", _CR3)
def cr3(entry: Entry) -> Finding:
    """No bit of CR3 beyond the physical-address width is 1, but for LAM_U57 (61) and LAM_U48 (62) on a processor with
    linear-address masking."""
    return findings.cr3(entry, _CR3, entry.values[_CR3])


loaded_msrs.canonical_address(rule, "host-sysenter-esp-canonical", _F.HOST_SYSENTER_ESP, "IA32_SYSENTER_ESP")
loaded_msrs.canonical_address(rule, "host-sysenter-eip-canonical", _F.HOST_SYSENTER_EIP, "IA32_SYSENTER_EIP")
loaded_msrs.perf_global_ctrl(rule, "host-perf-global-ctrl-reserved-bits", _F.HOST_IA32_PERF_GLOBAL_CTRL, EXIT,
                             ExitControls.LOAD_PERF_GLOBAL_CTRL.value)
loaded_msrs.pat(rule, "host-pat-memory-types", _F.HOST_IA32_PAT, EXIT, ExitControls.LOAD_PAT.value)
loaded_msrs.efer_reserved(rule, "host-efer-reserved-bits", _EFER, EXIT, _LOAD_EFER)


@rule("host-efer-lma-and-lme", _EFER, when=(EXIT,))
def efer_mode(entry: Entry) -> Finding:
    """If "load IA32_EFER" is 1, LMA and LME of IA32_EFER are both equal to "host address-space size"."""
    if not entry.exit & _LOAD_EFER:
        return None
    return loaded_msrs.efer_is(_EFER, entry.values[_EFER], _LONG_MODE, entry.host_64,
                               f'"host address-space size" is {int(entry.host_64)}')


loaded_msrs.cet(rule, "host", _S_CET, _F.HOST_INTR_SSP_TABLE, EXIT, _LOAD_CET)
loaded_msrs.ssp_aligned(rule, "host-ssp-alignment", _SSP, EXIT, _LOAD_CET)
loaded_msrs.pkrs(rule, "host-pkrs-high-half", _F.HOST_IA32_PKRS, EXIT, ExitControls.LOAD_PKRS.value)

rule = rules_of(Group.HOST_STATE, "Checks on Host Segment and Descriptor-Table Registers")


def _selector(name: str) -> None:
    field = VmcsField[f"HOST_{name.upper()}_SELECTOR"]

    @rule(f"host-{name}-selector-rpl-and-ti", field,
          text=f"RPL (bits 1:0) and TI (bit 2) of the {name.upper()} selector are 0.")
    def check(entry: Entry) -> Finding:
        return zero(field, entry.values[field], 7) if entry.values[field] & 7 else None


for _name in ("cs", "ss", "ds", "es", "fs", "gs", "tr"):
    _selector(_name)


@rule("host-cs-selector-not-null", _CS)
def cs_not_null(entry: Entry) -> Finding:
    """The CS selector is not 0000H."""
    return None if entry.values[_CS] else Broken("0000H", "the selector of a code segment", {_CS: 8})


@rule("host-tr-selector-not-null", _TR)
def tr_not_null(entry: Entry) -> Finding:
    """The TR selector is not 0000H."""
    return None if entry.values[_TR] else Broken("0000H", "the selector of a TSS", {_TR: 0x40})


@rule("host-ss-selector-not-null", _SS, when=(EXIT,))
def ss_not_null(entry: Entry) -> Finding:
    """If "host address-space size" is 0, the SS selector is not 0000H."""
    if entry.host_64 or entry.values[_SS]:
        return None
    return Broken("0000H, of a host outside IA-32e mode", "the selector of a data segment", {_SS: 0x10})


loaded_msrs.canonical_address(rule, "host-fs-base-canonical", _F.HOST_FS_BASE, "The base of FS")
loaded_msrs.canonical_address(rule, "host-gs-base-canonical", _F.HOST_GS_BASE, "The base of GS")
loaded_msrs.canonical_address(rule, "host-gdtr-base-canonical", _F.HOST_GDTR_BASE, "The base of GDTR")
loaded_msrs.canonical_address(rule, "host-idtr-base-canonical", _F.HOST_IDTR_BASE, "The base of IDTR")
loaded_msrs.canonical_address(rule, "host-tr-base-canonical", _F.HOST_TR_BASE, "The base of TR")

rule = rules_of(Group.HOST_STATE, "Checks Related to Address-Space Size")


@rule("host-address-space-size-is-the-current-mode", EXIT)
def current_mode(entry: Entry) -> Finding:
    """"Host address-space size" is 1 if the processor is in IA-32e mode at VM entry, and 0 if it is not."""
    if entry.ia32e_now is entry.host_64:
        return None
    return Broken(f'"host address-space size" is {int(entry.host_64)}, and the processor is '
                  f"{'in' if entry.ia32e_now else 'outside'} IA-32e mode",
                  f"{int(entry.ia32e_now)}", {EXIT: entry.exit ^ _HOST_64})


@rule("ia32e-mode-guest-needs-a-64-bit-host", ENTRY, EXIT)
def guest_64_host_64(entry: Entry) -> Finding:
    """If "host address-space size" is 0, or the processor is outside IA-32e mode, "IA-32e mode guest" is 0."""
    if entry.host_64 and entry.ia32e_now:
        return None
    why = '"host address-space size" is 0' if not entry.host_64 else "the processor is outside IA-32e mode"
    return zero(ENTRY, entry.entry, _IA32E, why)


@rule("host-32-bit-cr4-pcide", _CR4, when=(EXIT,))
def pcide(entry: Entry) -> Finding:
    """If "host address-space size" is 0, CR4.PCIDE is 0."""
    return None if entry.host_64 else zero(_CR4, entry.values[_CR4], _PCIDE, '"host address-space size" is 0')


@rule("host-32-bit-rip", _RIP, when=(EXIT,))
def rip_32(entry: Entry) -> Finding:
    """If "host address-space size" is 0, bits 63:32 of RIP are 0."""
    return None if entry.host_64 else high_half_zero(_RIP, entry.values[_RIP], '"host address-space size" is 0')


def _cet_32(id: str, field: VmcsField, name: str) -> None:
    @rule(id, field, when=(EXIT,), text='If "host address-space size" is 0 and "load CET state" is 1, bits 63:32 of '
                                        f"{name} are 0.")
    def check(entry: Entry) -> Finding:
        if entry.host_64 or not entry.exit & _LOAD_CET:
            return None
        return high_half_zero(field, entry.values[field], '"host address-space size" is 0')


_cet_32("host-32-bit-s-cet", _S_CET, "IA32_S_CET")
_cet_32("host-32-bit-ssp", _SSP, "SSP")


@rule("host-64-bit-cr4-pae", _CR4, when=(EXIT,))
def pae(entry: Entry) -> Finding:
    """If "host address-space size" is 1, CR4.PAE is 1."""
    return one(_CR4, entry.values[_CR4], _PAE, '"host address-space size" is 1') if entry.host_64 else None


@rule("host-64-bit-rip-canonical", _RIP, when=(EXIT,))
def rip_64(entry: Entry) -> Finding:
    """If "host address-space size" is 1, RIP is canonical."""
    return canonical(entry, _RIP, entry.values[_RIP]) if entry.host_64 else None


@rule("host-64-bit-ssp-canonical", _SSP, when=(EXIT,))
def ssp_64(entry: Entry) -> Finding:
    """If "host address-space size" and "load CET state" are 1, SSP is canonical."""
    return canonical(entry, _SSP, entry.values[_SSP]) if entry.host_64 and entry.exit & _LOAD_CET else None
