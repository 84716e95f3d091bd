"""What both halves of the VMCS say of what entry and exit load: linear addresses, IA32_PAT, IA32_EFER and the like."""

from __future__ import annotations

from hv.spec.vmcs import VmcsField
from hv.spec.x86 import Efer
from hv.vmx.checks.findings import canonical, high_half_zero, memory_types, zero
from hv.vmx.checks.rule import Broken, Entry, Finding, RulesOf

_EFER_BITS = int(Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE)
_LME, _LMA = Efer.LME.value, Efer.LMA.value
_U64 = (1 << 64) - 1
# Eight general counters, four fixed ones, and the metrics; CPUID leaf 0AH would say how many there are.
_PERF_GLOBAL_CTRL = 0x0001_000F_0000_00FF
_S_CET_RESERVED = 0x3C0         # bits 9:6
_SUPPRESS, _TRACKER = 1 << 10, 1 << 11


def perf_global_ctrl(rule: RulesOf, id: str, field: VmcsField, controls: VmcsField, control: int) -> None:
    """The rule of IA32_PERF_GLOBAL_CTRL in *field*, loaded when *control* is 1 in *controls*."""
    @rule(id, field, when=(controls,),
          text='If "load IA32_PERF_GLOBAL_CTRL" is 1, reserved bits of IA32_PERF_GLOBAL_CTRL are 0.')
    def check(entry: Entry) -> Finding:
        if not entry.values[controls] & control:
            return None
        return zero(field, entry.values[field], _U64 & ~_PERF_GLOBAL_CTRL, "there are no such counters")


def canonical_address(rule: RulesOf, id: str, field: VmcsField, name: str) -> None:
    """The rule of a linear address that is called *name*."""
    @rule(id, field, text=f"{name} is canonical.")
    def check(entry: Entry) -> Finding:
        return canonical(entry, field, entry.values[field])


def pat(rule: RulesOf, id: str, field: VmcsField, controls: VmcsField, control: int) -> None:
    """The rule of IA32_PAT."""
    @rule(id, field, when=(controls,),
          text='If "load IA32_PAT" is 1, each byte of IA32_PAT is 0, 1, 4, 5, 6 or 7.')
    def check(entry: Entry) -> Finding:
        return memory_types(field, entry.values[field]) if entry.values[controls] & control else None


def efer_reserved(rule: RulesOf, id: str, field: VmcsField, controls: VmcsField, control: int) -> None:
    """The rule of the reserved bits of IA32_EFER."""
    @rule(id, field, when=(controls,), text='If "load IA32_EFER" is 1, reserved bits of IA32_EFER are 0.')
    def check(entry: Entry) -> Finding:
        if not entry.values[controls] & control:
            return None
        return zero(field, entry.values[field], _U64 & ~_EFER_BITS, "every reserved bit")


def efer_is(field: VmcsField, efer: int, mask: int, wanted: bool, why: str) -> Finding:
    """LMA and LME, as far as they are in *mask*, are *wanted* in *efer*."""
    right = mask if wanted else 0
    if efer & mask == right:
        return None
    names = " and ".join(name for name, bit in (("LMA", _LMA), ("LME", _LME)) if mask & bit)
    found = ", ".join(f"{name} is {int(bool(efer & bit))}" for name, bit in (("LMA", _LMA), ("LME", _LME))
                      if mask & bit)
    return Broken(found, f"{names} {'is' if mask.bit_count() == 1 else 'are'} {int(wanted)}: {why}",
                  {field: efer & ~mask | right})


def cet(rule: RulesOf, prefix: str, s_cet: VmcsField, ssp_table: VmcsField, controls: VmcsField, control: int) -> None:
    """The rules of IA32_S_CET and IA32_INTERRUPT_SSP_TABLE_ADDR."""
    @rule(f"{prefix}-s-cet-canonical", s_cet, when=(controls,),
          text='If "load CET state" is 1, IA32_S_CET is canonical.')
    def s_cet_canonical(entry: Entry) -> Finding:
        return canonical(entry, s_cet, entry.values[s_cet]) if entry.values[controls] & control else None

    @rule(f"{prefix}-s-cet-reserved-bits", s_cet, when=(controls,),
          text='If "load CET state" is 1, bits 9:6 of IA32_S_CET are 0, and bits 10 (SUPPRESS) and 11 (TRACKER) are '
               "not both 1.")
    def s_cet_reserved(entry: Entry) -> Finding:
        if not entry.values[controls] & control:
            return None
        value = entry.values[s_cet]
        both = value & (_SUPPRESS | _TRACKER) == _SUPPRESS | _TRACKER
        return zero(s_cet, value, _S_CET_RESERVED | (_SUPPRESS if both else 0))

    @rule(f"{prefix}-interrupt-ssp-table-canonical", ssp_table, when=(controls,),
          text='If "load CET state" is 1, IA32_INTERRUPT_SSP_TABLE_ADDR is canonical.')
    def table_canonical(entry: Entry) -> Finding:
        return canonical(entry, ssp_table, entry.values[ssp_table]) if entry.values[controls] & control else None


def ssp_aligned(rule: RulesOf, id: str, ssp: VmcsField, controls: VmcsField, control: int) -> None:
    """The rule of the shadow-stack pointer's low bits."""
    @rule(id, ssp, when=(controls,), text='If "load CET state" is 1, bits 1:0 of SSP are 0.')
    def check(entry: Entry) -> Finding:
        return zero(ssp, entry.values[ssp], 3) if entry.values[controls] & control else None


def pkrs(rule: RulesOf, id: str, field: VmcsField, controls: VmcsField, control: int) -> None:
    """The rule of IA32_PKRS."""
    @rule(id, field, when=(controls,), text='If "load PKRS" is 1, bits 63:32 of IA32_PKRS are 0.')
    def check(entry: Entry) -> Finding:
        return high_half_zero(field, entry.values[field]) if entry.values[controls] & control else None
