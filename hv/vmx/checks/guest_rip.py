"""VM entry's checks of the guest's descriptor tables, RIP, RFLAGS and SSP.

SDM "Checks on Guest Descriptor-Table Registers", "Checks on Guest RIP, RFLAGS, and SSP".
"""

from __future__ import annotations

from hv.spec.vmcs import EntryControls, VmcsField
from hv.spec.x86 import RFLAGS_DEFINED, AccessRights, Cr0, Rflags
from hv.vmx.checks import loaded_msrs
from hv.vmx.checks.findings import canonical, high_half_zero, one, zero
from hv.vmx.checks.rule import BY_INJECTION, ENTRY, GUEST_CR0, GUEST_RFLAGS, Broken, Entry, Finding, Group, rules_of

_F = VmcsField
_RIP, _CS, _SSP = _F.GUEST_RIP, _F.GUEST_CS_ACCESS_RIGHTS, _F.GUEST_SSP
_U64 = (1 << 64) - 1
_L, _TYPE = AccessRights(long=1).raw, 0x700
_PE, _IF, _VM, _FIXED = Cr0.PE.value, Rflags.IF.value, Rflags.VM.value, Rflags.FIXED.value
_RFLAGS_RESERVED = _U64 & ~RFLAGS_DEFINED
_LOAD_CET = EntryControls.LOAD_CET_STATE.value

rule = rules_of(Group.GUEST_STATE, "Checks on Guest Descriptor-Table Registers")


def _table(name: str) -> None:
    base, limit = VmcsField[f"GUEST_{name.upper()}_BASE"], VmcsField[f"GUEST_{name.upper()}_LIMIT"]

    @rule(f"guest-{name}-base-canonical", base, text=f"The base of {name.upper()} is canonical.")
    def base_canonical(entry: Entry) -> Finding:
        return canonical(entry, base, entry.values[base])

    @rule(f"guest-{name}-limit-high-half", limit, text=f"Bits 31:16 of the limit of {name.upper()} are 0.")
    def limit_16_bits(entry: Entry) -> Finding:
        value = entry.values[limit]
        return zero(limit, value, 0xFFFF_0000) if value >> 16 else None


_table("gdtr")
_table("idtr")

rule = rules_of(Group.GUEST_STATE, "Checks on Guest RIP, RFLAGS, and SSP")


@rule("guest-rip-high-half", _RIP, when=(ENTRY, _CS))
def rip_32(entry: Entry) -> Finding:
    """If "IA-32e mode guest" is 0 or L (bit 13) of CS is 0, bits 63:32 of RIP are 0."""
    value = entry.values[_RIP]
    if not value >> 32 or (entry.ia32e and entry.values[_CS] & _L):
        return None
    return high_half_zero(_RIP, value, "the guest is not in 64-bit mode")


@rule("guest-rip-bits-beyond-linear-width", _RIP, when=(ENTRY, _CS))
def rip_64(entry: Entry) -> Finding:
    """If "IA-32e mode guest" and L (bit 13) of CS are 1, the bits of RIP beyond the linear-address width are all
    equal. RIP need not be canonical."""
    return _beyond_width(entry, _RIP) if entry.ia32e and entry.values[_CS] & _L else None


def _beyond_width(entry: Entry, field: VmcsField) -> Finding:
    value, width = entry.values[field], entry.canonical_half.bit_length()
    upper = value >> width
    every = (1 << 64 - width) - 1
    if upper in (0, every):
        return None
    low = value & (1 << width) - 1
    return Broken(f"{value:#x}", f"bits 63:{width} all equal",
                  {field: low | every << width if low & entry.canonical_half else low})


@rule("guest-rflags-reserved-bits", GUEST_RFLAGS)
def rflags_reserved(entry: Entry) -> Finding:
    """Bits 63:22, 15, 5 and 3 of RFLAGS are 0."""
    value = entry.values[GUEST_RFLAGS]
    return zero(GUEST_RFLAGS, value, _RFLAGS_RESERVED) if value & _RFLAGS_RESERVED else None


@rule("guest-rflags-bit-1", GUEST_RFLAGS)
def rflags_fixed(entry: Entry) -> Finding:
    """Bit 1 of RFLAGS is 1."""
    value = entry.values[GUEST_RFLAGS]
    return None if value & _FIXED else one(GUEST_RFLAGS, value, _FIXED)


@rule("guest-rflags-vm", GUEST_RFLAGS, GUEST_CR0, when=(ENTRY,))
def rflags_vm(entry: Entry) -> Finding:
    """RFLAGS.VM is 0 if "IA-32e mode guest" is 1 or CR0.PE is 0."""
    if not entry.virtual_8086 or (entry.values[GUEST_CR0] & _PE and not entry.ia32e):
        return None
    return zero(GUEST_RFLAGS, entry.values[GUEST_RFLAGS], _VM,
                '"IA-32e mode guest" is 1' if entry.ia32e else "CR0.PE is 0")


@rule("guest-rflags-if-for-an-external-interrupt", GUEST_RFLAGS, when=BY_INJECTION)
def rflags_if(entry: Entry) -> Finding:
    """If an external interrupt is injected, RFLAGS.IF is 1."""
    if not entry.injection or entry.injection & _TYPE:
        return None
    return one(GUEST_RFLAGS, entry.values[GUEST_RFLAGS], _IF, "an external interrupt is injected")


loaded_msrs.ssp_aligned(rule, "guest-ssp-alignment", _SSP, ENTRY, _LOAD_CET)


@rule("guest-ssp-bits-beyond-linear-width", _SSP, when=(ENTRY,))
def ssp(entry: Entry) -> Finding:
    """If "load CET state" is 1, the bits of SSP beyond the linear-address width are all equal. SSP need not be
    canonical."""
    return _beyond_width(entry, _SSP) if entry.entry & _LOAD_CET else None
