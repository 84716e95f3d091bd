"""VM entry's checks of the guest's segment registers; SDM "Checks on Guest Segment Registers".

Selectors, bases, and all of virtual-8086 mode; the access rights are in `guest_rights.py`. The manual words each rule
once for several registers. Here each register has a rule of its own, made by one function, so that what is broken has a
name. A guest with RFLAGS.VM = 1 (virtual-8086) has other rules than all others.
"""

from __future__ import annotations

from hv.spec.vmcs import VmcsField
from hv.vmx.checks.findings import canonical, high_half_zero, zero
from hv.vmx.checks.rule import (
    BY_SECONDARY,
    GUEST_RFLAGS,
    Broken,
    Entry,
    Finding,
    Group,
    rules_of,
)

_F = VmcsField
_LDTR = _F.GUEST_LDTR_ACCESS_RIGHTS
_CS_SELECTOR, _SS_SELECTOR = _F.GUEST_CS_SELECTOR, _F.GUEST_SS_SELECTOR
_TR_SELECTOR, _LDTR_SELECTOR = _F.GUEST_TR_SELECTOR, _F.GUEST_LDTR_SELECTOR
_TI, _UNUSABLE = 4, 1 << 16
_V86_RIGHTS, _V86_LIMIT = 0xF3, 0xFFFF
_BY_MODE = (GUEST_RFLAGS,)                      # virtual-8086 mode or not
_CODE_OR_DATA = ("cs", "ss", "ds", "es", "fs", "gs")

rule = rules_of(Group.GUEST_STATE, "Checks on Guest Segment Registers")


def _part(name: str, part: str) -> VmcsField:
    return VmcsField[f"GUEST_{name.upper()}_{part}"]


# --- Selectors ---------------------------------------------------------------------------------------------------

@rule("guest-tr-selector-ti", _TR_SELECTOR)
def tr_ti(entry: Entry) -> Finding:
    """The TI flag (bit 2) of the TR selector is 0."""
    selector = entry.values[_TR_SELECTOR]
    return zero(_TR_SELECTOR, selector, _TI, "TR is in the GDT") if selector & _TI else None


@rule("guest-ldtr-selector-ti", _LDTR_SELECTOR, when=(_LDTR,))
def ldtr_ti(entry: Entry) -> Finding:
    """If LDTR is usable, the TI flag (bit 2) of its selector is 0."""
    selector = entry.values[_LDTR_SELECTOR]
    if not selector & _TI or entry.values[_LDTR] & _UNUSABLE:
        return None
    return zero(_LDTR_SELECTOR, selector, _TI, "LDTR is in the GDT")


@rule("guest-ss-rpl-equals-cs-rpl", _SS_SELECTOR, _CS_SELECTOR, when=(*_BY_MODE, *BY_SECONDARY))
def ss_rpl(entry: Entry) -> Finding:
    """If the guest is not virtual-8086 and "unrestricted guest" is 0, the RPL of SS equals the RPL of CS."""
    if entry.virtual_8086 or entry.unrestricted:
        return None
    ss, cs = entry.values[_SS_SELECTOR], entry.values[_CS_SELECTOR] & 3
    if ss & 3 == cs:
        return None
    return Broken(f"SS.RPL is {ss & 3}, CS.RPL is {cs}", "they are equal", {_SS_SELECTOR: ss & ~3 | cs})


# --- Bases -------------------------------------------------------------------------------------------------------

def _v86_base(name: str) -> None:
    selector, base = _part(name, "SELECTOR"), _part(name, "BASE")

    @rule(f"guest-{name}-base-in-v86-mode", base, selector, when=_BY_MODE,
          text=f"If the guest is virtual-8086, the base of {name.upper()} is its selector times 16.")
    def check(entry: Entry) -> Finding:
        if not entry.virtual_8086:
            return None
        found, right = entry.values[base], entry.values[selector] << 4
        return None if found == right else Broken(f"{found:#x}", f"{right:#x}, the selector times 16", {base: right})


def _canonical_base(name: str) -> None:
    base, rights = _part(name, "BASE"), _part(name, "ACCESS_RIGHTS")
    always = name != "ldtr"

    @rule(f"guest-{name}-base-canonical", base, when=() if always else (rights,),
          text=f"{'The' if always else 'If LDTR is usable, the'} base of {name.upper()} is canonical.")
    def check(entry: Entry) -> Finding:
        return canonical(entry, base, entry.values[base]) if always or not entry.values[rights] & _UNUSABLE else None


def _narrow_base(name: str) -> None:
    base, rights = _part(name, "BASE"), _part(name, "ACCESS_RIGHTS")
    always = name == "cs"

    @rule(f"guest-{name}-base-high-half", base, when=_BY_MODE if always else (*_BY_MODE, rights),
          text=f"If the guest is not virtual-8086{'' if always else f' and {name.upper()} is usable'}, bits 63:32 of "
               f"the base of {name.upper()} are 0.")
    def check(entry: Entry) -> Finding:
        value = entry.values[base]
        if not value >> 32 or entry.virtual_8086 or not (always or not entry.values[rights] & _UNUSABLE):
            return None
        return high_half_zero(base, value)


for _name in _CODE_OR_DATA:
    _v86_base(_name)
for _name in ("tr", "fs", "gs", "ldtr"):
    _canonical_base(_name)
for _name in ("cs", "ss", "ds", "es"):
    _narrow_base(_name)


# --- Limits and rights of virtual-8086 mode ----------------------------------------------------------------------

def _v86_limit(name: str) -> None:
    limit = _part(name, "LIMIT")

    @rule(f"guest-{name}-limit-in-v86-mode", limit, when=_BY_MODE,
          text=f"If the guest is virtual-8086, the limit of {name.upper()} is FFFFH.")
    def check(entry: Entry) -> Finding:
        if not entry.virtual_8086 or entry.values[limit] == _V86_LIMIT:
            return None
        return Broken(f"{entry.values[limit]:#x}", "0xffff", {limit: _V86_LIMIT})


def _v86_rights(name: str) -> None:
    rights = _part(name, "ACCESS_RIGHTS")

    @rule(f"guest-{name}-access-rights-in-v86-mode", rights, when=_BY_MODE,
          text=f"If the guest is virtual-8086, the access rights of {name.upper()} are F3H: present, read/write, "
               "accessed data of DPL 3.")
    def check(entry: Entry) -> Finding:
        if not entry.virtual_8086 or entry.values[rights] == _V86_RIGHTS:
            return None
        return Broken(f"{entry.values[rights]:#x}", "0xf3", {rights: _V86_RIGHTS})


for _name in _CODE_OR_DATA:
    _v86_limit(_name)
for _name in _CODE_OR_DATA:
    _v86_rights(_name)
